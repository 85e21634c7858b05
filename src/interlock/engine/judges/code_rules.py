"""Rules that a program gives as Python predicates: they can forbid a call, or have it asked about, and never allow one.

A rule that raises, or answers anything but what it may, forbids. It is on record by its name, like a policy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from interlock.model.canonical import digest
from interlock.model.decision import Decision, Request, Requirement
from interlock.model.errors import UsageError
from interlock.model.exceptions import describe
from interlock.model.globs import name_matcher

PREFIX: Final = "code:"
"""Of the names of these rules in decisions, where those of policies stand too."""
Predicate = Callable[[Request], bool | str | None]
"""Is asked about a call, with a copy of what policies may see. True, or a text (the reason), objects; False and None do not."""


class CodeRule(NamedTuple):
    """One rule."""

    name: str
    predicate: Predicate
    matches: Callable[[str], bool]
    effect: Literal["deny", "ask"]
    state_keys: tuple[str, ...]

    @property
    def content(self) -> str:
        """What an approval discharges."""
        return digest("code_rule", self.name)

    def judge(self, request: Request) -> Decision | None:
        """The objection to a call; None if there is none. Never raises."""
        name = PREFIX + self.name
        try:
            # A copy: a predicate that changes the parameters must not change the call.
            answer: object = self.predicate(copy.deepcopy(request))
        except Exception as error:  # noqa: BLE001 - whatever it is, it denies
            return Decision(
                decision="deny", policies=(name,), reason="policy_error", errors=(f"{name}: {describe(error)}",),
                detail=f"`{name}` could not be evaluated: {type(error).__name__}",
            )  # fmt: skip
        if answer is None or answer is False:
            return None
        if answer is not True and not isinstance(answer, str):
            kind = type(answer).__name__
            return Decision(
                decision="deny", policies=(name,), reason="policy_error", errors=(f"{name}: it answered a `{kind}`",),
                detail=f"`{name}` answered neither a boolean nor a reason, but a `{kind}`",
            )  # fmt: skip
        reason = answer if isinstance(answer, str) else ""
        if self.effect == "ask":
            if self.content in request.discharged:
                return None
            need = Requirement(
                policy=name, content=self.content, reason=reason or f"the rule in code `{self.name}` says to ask"
            )
            return Decision(
                decision="hold", policies=(name,), reason="held", detail=f"held by {name}", requirements=(need,)
            )
        return Decision(
            decision="deny", policies=(name,), reason="policy_denied",
            detail=f"forbidden by {name}" + (f": {reason}" if reason else ""),
        )  # fmt: skip


class CodeRules:
    """The rules of one runtime, by name. What uses them looks at each decision, so a change counts from the next one on."""

    def __init__(self, rules: dict[str, CodeRule] | None = None) -> None:
        """None yet, or these."""
        self._rules = dict(rules or {})

    def __bool__(self) -> bool:
        """True if there are any."""
        return bool(self._rules)

    def copy(self) -> CodeRules:
        """The same rules, to which others can be added."""
        return CodeRules(self._rules)

    def add(
        self,
        name: str,
        predicate: Predicate,
        *,
        tools: Sequence[str],
        effect: Literal["deny", "ask"],
        state_keys: Sequence[str],
    ) -> None:
        """Add a rule, or replace its namesake. Raises UsageError for a name that is empty or not printable."""
        if not name or not name.isprintable():
            raise UsageError(
                "a rule in code needs a printable name", hint="it is what refusals and the journal call it"
            )
        if effect not in ("deny", "ask"):
            raise UsageError(f"a rule in code denies or asks: its effect cannot be `{effect}`")
        self._rules[name] = CodeRule(name, predicate, name_matcher(tools), effect, tuple(state_keys))

    def remove(self, name: str) -> None:
        """Remove a rule. Raises UsageError `not_found`."""
        if self._rules.pop(name, None) is None:
            raise UsageError(f"there is no rule in code `{name}`", code="not_found")

    def cover(self, action: str) -> list[CodeRule]:
        """The rules about an action: the name of a tool, or `state_read`, `state_write`, `assert`."""
        return [rule for rule in tuple(self._rules.values()) if rule.matches(action)]


def objection(rules: Sequence[CodeRule], request: Request, state: Callable[[str], Any]) -> Decision | None:
    """What the rules say about a call: the first denial, else all that ask. `state` gives the entry of a key, or None."""
    asked: Decision | None = None
    for rule in rules:
        values = {key: entry.value for key in rule.state_keys if (entry := state(key)) is not None}
        found = rule.judge(msgspec.structs.replace(request, state={**request.state, **values}))
        if found is None:
            continue
        if found.decision == "deny":
            return found
        asked = (
            found
            if asked is None
            else msgspec.structs.replace(
                asked,
                policies=(*asked.policies, *found.policies),
                detail=f"{asked.detail}; {found.detail}",
                requirements=(*asked.requirements, *found.requirements),
            )
        )
    return asked
