"""Rules that a program adds as Python predicates: they can forbid a call or require approval, but never allow one.

A rule that raises, or returns an invalid answer, forbids. It is recorded by its name, like a policy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from interlock.model import typed
from interlock.model.canonical import digest
from interlock.model.decision import Decision, Request, Requirement
from interlock.model.errors import UsageError
from interlock.model.exceptions import describe
from interlock.model.globs import name_matcher

PREFIX: Final = "code:"
"""Prefix of these rules' names in decisions, which also name policies."""
Predicate = Callable[[Request], bool | str | None]
"""Gets a copy of the request that policies see, for each call. True, or a text (the reason), objects; False and None do not."""


class CodeRule(NamedTuple):
    """One rule."""

    name: str
    predicate: Predicate
    matches: Callable[[str], bool]
    effect: Literal["deny", "ask"]
    state_keys: tuple[str, ...]

    @property
    def content(self) -> str:
        """The content hash that an approval discharges."""
        return digest("code_rule", self.name)

    def judge(self, request: Request) -> Decision | None:
        """The rule's objection to a call; None if it has none. Never raises."""
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
    """The rules of one runtime, by name. They are read at each decision, so a change applies from the next one on."""

    def __init__(self, rules: dict[str, CodeRule] | None = None) -> None:
        """Without `rules`, there are none yet."""
        self._rules = dict(rules or {})

    def __bool__(self) -> bool:
        """True if there are any rules."""
        return bool(self._rules)

    def copy(self) -> CodeRules:
        """A copy, to which other rules can be added."""
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
        """Add a rule, or replace the rule of that name. Raises UsageError for a bad name, predicate or list."""
        if not name or not name.isprintable():
            raise UsageError(
                "a rule in code needs a printable name", hint="it is what refusals and the journal call it"
            )
        if effect not in ("deny", "ask"):
            raise UsageError(f"a rule in code denies or asks: its effect cannot be `{effect}`")
        typed.require_function(predicate, "predicate")
        globs, keys = typed.require_names(tools, "tools"), typed.require_names(state_keys, "state_keys")
        self._rules[name] = CodeRule(name, predicate, name_matcher(globs), effect, keys)

    def remove(self, name: str) -> None:
        """Remove a rule. Raises UsageError `not_found`."""
        if self._rules.pop(name, None) is None:
            raise UsageError(f"there is no rule in code `{name}`", code="not_found")

    def cover(self, action: str) -> list[CodeRule]:
        """The rules about an action: the name of a tool, or `state_read`, `state_write`, `assert`."""
        return [rule for rule in tuple(self._rules.values()) if rule.matches(action)]


def objection(rules: Sequence[CodeRule], request: Request, state: Callable[[str], Any]) -> Decision | None:
    """The rules' decision about a call: the first denial, otherwise all that ask. `state` returns the entry of a key, or None."""
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
