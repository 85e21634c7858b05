"""Converts an ended proposal to a trace for learning, and a template with arguments back to a proposal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.services import EndedProposal, Services
from interlock.learning.align import PARAMETER, REFERENCE, Step, Template, Trace, bindings, is_marker, keeps_apart
from interlock.model.errors import ProposalError
from interlock.model.proposal import Action, Proposal
from interlock.verify.references import Path, References

RUN_TOOL: Final = "skills.run"
SKILL_SOURCE: Final = "skill/"
"""The prefix of a proposal's `source` if it is a use of a skill: `skill/NAME@VERSION`."""
TEST_SOURCE: Final = "skill-test"
NOT_LEARNT: Final = ("compensation", "assumptions", "invocation_mode", "metadata", "read_set", "write_set")
"""Fields of an action that a template does not have. The last three are dropped; an action with another one is not learnt."""
_LEFT_OUT: Final = NOT_LEARNT[3:]
_OWN: Final = ("type", "id", "tool", "parameters", "dependencies", *_LEFT_OUT)
_STATE_KEYS: Final = 100
STEPS_MIN: Final = 2
STEPS_MAX: Final = 100
_OWN_ID: Final = re.compile(r"s[0-9]+")


def trace_of(services: Services, ended: EndedProposal) -> tuple[Trace, dict[str, str]] | None:
    """The trace of a proposal in its redacted view, with the versions of its tools; None if it cannot be learnt from."""
    proposal = ended.proposal
    if not _is_learnable(ended) or not STEPS_MIN <= len(proposal.actions) <= STEPS_MAX:
        return None
    tools = {}
    for action in proposal.actions:
        found = services.registry.find(action.tool)
        if action.tool is not None:
            if found is None or is_never_in_skill(action.tool):
                return None
            tools[action.tool] = found.version
    steps = _steps(
        services,
        [
            msgspec.structs.replace(action, parameters=ended.edited.get(index, action.parameters))
            for index, action in enumerate(proposal.actions)
        ],
    )
    if steps is None:
        return None
    goal = proposal.context.get("goal")
    shown = services.redactor.redact_text(goal)[:500] if isinstance(goal, str) and not keeps_apart(goal) else ""
    return Trace(order=proposal.order, steps=steps, goal="" if keeps_apart(shown) else shown), tools


def state_before(services: Services, ended: EndedProposal) -> dict[str, Any]:
    """The state before a proposal, as far as conditions on it may be stored: keys with a short, plain, non-secret
    value.

    Keys that the proposal changed have their earlier value. If someone else changed a key meanwhile, its present value
    is used.
    """
    found: dict[str, Any] = {key: entry.value for key, entry in services.store.snapshot().items()}
    for key in [key for row in ended.result.results for key in row.state_changes]:
        own = (ended.run_id, ended.proposal.id)
        before = [one for one in services.store.history(key) if (one.run, one.proposal) != own]
        if before and not before[-1].deleted:
            found[key] = before[-1].value
        else:
            found.pop(key, None)
    plain = {key: value for key, value in sorted(found.items()) if _is_plain(key) and _is_plain(value)}
    return {key: value for key, value in list(plain.items())[:_STATE_KEYS] if services.redactor.redact(value) == value}


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, bool | int)
        or (isinstance(value, str) and len(value) <= 200 and not keeps_apart(value))
    )


def step_of(services: Services, ended: EndedProposal) -> Step | None:
    """The trace of a proposal with one action, as a step; None if it cannot be learnt from."""
    action = ended.proposal.actions[0]
    if not _is_learnable(ended) or action.tool is None or is_never_in_skill(action.tool):
        return None
    found = _steps(services, [msgspec.structs.replace(action, parameters=ended.edited.get(0, action.parameters))])
    return None if found is None or services.registry.find(action.tool) is None else found[0]


def is_use_of(services: Services, proposal: Proposal, template: Template) -> bool:
    """True if a proposal equals the template's result. Its `source` alone is only its author's claim."""
    actions = proposal.actions[1:] if proposal.actions[0].tool == RUN_TOOL else proposal.actions
    steps = _steps(services, actions)
    return steps is not None and bindings(template, Trace(order=proposal.order, steps=steps)) is not None


def is_never_in_skill(tool: str) -> bool:
    """True for a tool that no skill may call, because it decides by itself what is done."""
    return tool == UNDO_TOOL or tool.startswith("skills.")


def _steps(services: Services, actions: Sequence[Action]) -> tuple[Step, ...] | None:
    """The actions as steps; None if they cannot be steps."""
    number = {action.id: index for index, action in enumerate(actions)}
    references = References(number)
    found = [_step(services, action, action.parameters, number, references) for action in actions]
    return None if None in found else tuple(step for step in found if step is not None)


def _is_learnable(ended: EndedProposal) -> bool:
    source = ended.proposal.source
    return (
        ended.result.status == "succeeded"
        and not ended.dry_run
        and not ended.proposal.by_client
        and not source.startswith((SKILL_SOURCE, TEST_SOURCE))
        and all(row.status == "succeeded" for row in ended.result.results)
    )


def _step(
    services: Services, action: Action, parameters: dict[str, Any], number: dict[str, int], references: References
) -> Step | None:
    if is_marker(parameters):
        return None
    plain = msgspec.to_builtins(action)
    if any(name in plain for name in NOT_LEARNT if name not in _LEFT_OUT):
        return None
    more = {name: value for name, value in plain.items() if name not in _OWN}
    if keeps_apart(more) or is_marker(more) or services.redactor.redact(more) is not more:
        return None
    found = services.registry.find(action.tool)
    try:
        resolved = references.resolve(parameters, lambda name, path: {REFERENCE: f"s{number[name] + 1}{_suffix(path)}"})
    except ProposalError:
        return None
    redacted = services.redactor.redact(resolved, () if found is None else found.secrets)
    needs = tuple(sorted(number[name] for name in action.dependencies if name in number))
    return Step(type=action.type, tool=action.tool, parameters=msgspec.to_builtins(redacted), needs=needs, more=more)


def _suffix(path: Path) -> str:
    steps = (f"[{one}]" if isinstance(one, int) else f'["{one}"]' if "'" in one else f"['{one}']" for one in path)
    return ".output" + "".join(steps)


def document_of(
    template: Template, arguments: dict[str, Any], *, after: str | None = None, **fields: Any
) -> dict[str, Any]:
    """The proposal of a template with its arguments. `after` is the id of another action, which runs first."""
    first = "s" if after is None or not _OWN_ID.fullmatch(after) else "step"
    names = [f"{first}{index + 1}" for index in range(len(template.steps))]
    references = References((*names, *([] if after is None else [after])))
    before = [] if after is None else [after]
    actions = [
        {
            **step.more,
            "type": step.type,
            "id": names[index],
            **({} if step.tool is None else {"tool": step.tool}),
            "parameters": _with_references(step.parameters, arguments, references, first),
            "dependencies": [names[need] for need in step.needs] or before,
        }
        for index, step in enumerate(template.steps)
    ]
    return {"order": template.order, "actions": actions, **fields}


def _with_references(value: Any, arguments: dict[str, Any], references: References, first: str) -> Any:
    """Parameters of an action: references as text, and everything else as plain text, whatever it looks like."""
    if isinstance(value, dict):
        if len(value) == 1 and REFERENCE in value:
            return f"${first}{value[REFERENCE].removeprefix('s')}"
        if len(value) == 1 and isinstance(value.get(PARAMETER), str):
            return references.escape(arguments[value[PARAMETER]])
        return {key: _with_references(inner, arguments, references, first) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_references(inner, arguments, references, first) for inner in value]
    return references.escape(value)
