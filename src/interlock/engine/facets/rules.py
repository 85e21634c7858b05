"""`runtime.rules`: rules in code, in addition to those of the configuration. They can only restrict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from interlock.engine.judges.code_rules import Predicate
from interlock.engine.services import Services


class CodeRules:
    """The rules that a program adds as predicates."""

    def __init__(self, services: Services) -> None:
        """Use `runtime.rules`."""
        self._judges = services.judges

    def add(
        self,
        name: str,
        predicate: Predicate,
        *,
        tools: Sequence[str] = ("*",),
        effect: Literal["deny", "ask"] = "deny",
        state_keys: Sequence[str] = (),
    ) -> None:
        """Add a rule in code: step 5 calls `predicate` for each call of these `tools` (globs; `state_write` ... too).

        It gets a copy of the `interlock.Request`, with the values of `state_keys`. True or a text (the reason) forbids the
        call, or with `effect="ask"` requires approval; False or None does not. It cannot allow a call. If it raises or returns
        something else, the call is denied (`policy_error`). Journal and refusals name it `code:NAME`; forks of this runtime
        inherit it. It must return at once. Raises UsageError for a bad name.
        """
        self._judges.code_rules.add(name, predicate, tools=tools, effect=effect, state_keys=state_keys)
        self._judges.expire()

    def remove(self, name: str) -> None:
        """Remove a rule in code. Raises UsageError `not_found`."""
        self._judges.code_rules.remove(name)
        self._judges.expire()
