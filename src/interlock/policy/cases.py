"""Tables of cases for `interlock policy test`: requests and their expected decisions.

The data of a file is `{"cases": [...]}` or the list itself. A case:

    - name: large payments are held
      agent: coder
      action: pay                 # a tool, or a built-in action with its resource
      parameters: {amount: 9000}
      expect: hold                # allow, deny or hold
      policies: [big-payments]    # optional: exactly these policies decide
      reason: held                # optional
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, Literal

import msgspec

from interlock.detect import FLAGS
from interlock.model import typed
from interlock.model.decision import Decision, Request
from interlock.model.errors import ConfigurationError
from interlock.policy.judge import PolicyJudge
from interlock.policy.policies import nearest
from interlock.policy.world import BUILT_IN, about

_PROPOSAL: Final[dict[str, Any]] = {"id": "case", "source": "case", "action_count": 1}


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the table."""

    expect: Literal["allow", "deny", "hold"]
    action: str
    name: str = ""
    agent: str | None = None
    """The agent; the project's default agent if omitted."""
    groups: tuple[str, ...] = ()
    resource: str | None = None
    """The state key, host or tool of a built-in action; for a tool call it is the tool."""
    parameters: dict[str, Any] = {}
    state: dict[str, Any] = {}
    session: dict[str, Any] = {}
    proposal: dict[str, Any] = msgspec.field(default_factory=_PROPOSAL.copy)
    flags: tuple[str, ...] = ()
    approved: tuple[str, ...] = ()
    """Ids of `@hold` policies that a person has approved."""
    policies: tuple[str, ...] | None = None
    reason: str | None = None


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cases: tuple[Case, ...]


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a case. `message` says what differs; it is empty if the case passed."""

    name: str
    passed: bool
    message: str
    decision: Decision


def read_cases(data: Any, name: str) -> tuple[Case, ...]:
    """The cases in the parsed data of the file `name`. Raises: ConfigurationError, which names the field."""
    try:
        cases = typed.convert({"cases": data} if isinstance(data, list) else data, _Table).cases
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        raise ConfigurationError(
            f"the cases cannot be read: {message[:1].lower()}{message[1:]}",
            code="policy",
            path=f"{name}:{path.strip('`')}" if path else name,
            hint="a case has `action`, `expect` and the fields of the request; the guide to policies lists them",
        ) from None
    for at, case in enumerate(cases):
        if about(case.action, case.resource, case.parameters)[0] is None:
            raise ConfigurationError(
                f"`{case.action}` is about a {BUILT_IN[case.action][0]}: the case needs a `resource`",
                code="policy",
                path=f"{name}:$.cases[{at}]",
            )
        for flag in case.flags:
            if flag not in FLAGS:
                message = f"no detector has the flag `{flag}`{nearest(flag, FLAGS)}"
                raise ConfigurationError(message, code="policy", path=f"{name}:$.cases[{at}].flags")
    return cases


def run_cases(judge: PolicyJudge, cases: tuple[Case, ...]) -> tuple[CaseResult, ...]:
    """Judge each case and compare."""
    names = Counter(case.name or f"case {at}" for at, case in enumerate(cases, 1))
    contents = {policy.id: policy.content for policy in judge.policies}
    results = []
    for at, case in enumerate(cases, 1):
        decision = judge.decide(_request(case, contents))
        message = "; ".join(_differences(case, decision, contents))
        name = case.name or f"case {at}"
        label = name if names[name] == 1 else f"{name} (case {at})"
        results.append(CaseResult(name=label, passed=not message, message=message, decision=decision))
    return tuple(results)


def _request(case: Case, contents: dict[str, str]) -> Request:
    resource_type = BUILT_IN[case.action][0] if case.action in BUILT_IN else "Tool"
    resource, parameters = about(case.action, case.resource, case.parameters)
    return Request(
        agent=case.agent or "agent",
        action=case.action,
        resource_type=typed.convert(resource_type, Literal["Tool", "StateKey", "Host"]),
        resource=resource or "",
        groups=case.groups,
        session=case.session,
        parameters=parameters,
        state=case.state,
        proposal=case.proposal,
        flags=case.flags,
        discharged=frozenset(contents[name] for name in case.approved if name in contents),
    )


def _differences(case: Case, decision: Decision, contents: dict[str, str]) -> list[str]:
    found = [f"`approved` names `{name}`, which is not a policy" for name in case.approved if name not in contents]
    if decision.decision != case.expect:
        why = f" ({decision.detail})" if decision.detail else ""
        found.append(f"expected {case.expect}, got {decision.decision}{why}")
    if case.policies is not None and set(case.policies) != set(decision.policies):
        listed = ", ".join(decision.policies) or "none"
        found.append(f"expected the policies {', '.join(case.policies) or 'none'}, got {listed}")
    if case.reason is not None and case.reason != decision.reason:
        found.append(f"expected the reason {case.reason}, got {decision.reason}")
    return found
