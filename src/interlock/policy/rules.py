"""Short rules (`[rules]` in `interlock.toml`) as Cedar: one language underneath, and `interlock policy show` prints it.

An entry is the name of a tool or of a built-in action (`state_write` ...), a glob over tool names (`fs.*`; `*` stands for any
text), or `tag:NAME`. An allowed entry is a permit, a denied one a forbid, and one to ask about is both: a permit, and a forbid
with `@hold`. A glob is a condition on `resource.name`, so that it holds for tools that appear later too; which tools it
means is settled once for each tool (see `index`), not at each decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from interlock.policy.policies import Problem, nearest
from interlock.policy.terms import quote
from interlock.policy.world import CALL, ActionType

FILE: Final = "rules"


class DenyParam(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deny calls of `tool` whose string parameter `param` is like the pattern (as Cedar's `like` reads it)."""

    tool: str
    param: str
    like: str


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The short rules, as `[rules]` has them."""

    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    deny_param: tuple[DenyParam, ...] = ()


def to_cedar(rules: Rules) -> str:
    """The Cedar text of short rules: a policy or two for each entry, with an id that says which."""
    return "\n".join(text for _, text in statements(rules))


def statements(rules: Rules) -> list[tuple[str, str]]:
    """The Cedar text of each entry, with its place (`rules.ask[0]`). An entry that is listed again adds nothing."""
    found: dict[str, str] = {}
    for at, entry in enumerate(rules.allow):
        found.setdefault(_policy("permit", f"allow:{entry}", entry), f"{FILE}.allow[{at}]")
    for at, entry in enumerate(rules.ask):
        notes = ("@hold", f"@reason({quote(f'the rules say to ask: {entry}')})")
        found.setdefault(_policy("permit", f"ask:{entry}:permit", entry), f"{FILE}.ask[{at}]")
        found.setdefault(_policy("forbid", f"ask:{entry}", entry, notes=notes), f"{FILE}.ask[{at}]")
    for at, entry in enumerate(rules.deny):
        found.setdefault(_policy("forbid", f"deny:{entry}", entry), f"{FILE}.deny[{at}]")
    for at, rule in enumerate(rules.deny_param):
        name = quote(rule.param)
        conditions = (f"context.params has {name}", f"context.params[{name}] like {pattern(rule.like)}")
        label = f"deny_param:{rule.tool}:{rule.param}:{rule.like}"
        found.setdefault(_policy("forbid", label, rule.tool, conditions=conditions), f"{FILE}.deny_param[{at}]")
    return [(place, text) for text, place in found.items()]


def _policy(effect: str, name: str, entry: str, *, notes: Iterable[str] = (), conditions: Iterable[str] = ()) -> str:
    scope, wanted = "", list(conditions)
    if entry.startswith("tag:"):
        scope = f"action in Action::{quote(entry)}"
    elif "*" in entry:
        scope = f'action in Action::"{CALL}"'
        if entry.strip("*"):
            wanted.insert(0, f"resource.name like {pattern(entry)}")
    else:
        scope = f"action == Action::{quote(entry)}"
    when = f"\nwhen {{ {' && '.join(wanted)} }}" if wanted else ""
    return "\n".join((f"@id({quote(name)})", *notes, f"{effect}(principal, {scope}, resource){when};\n"))


def pattern(text: str) -> str:
    """A Cedar pattern literal: `*` stands for any text, a star after a backslash for a star, the rest for itself."""
    stars = text.split("\\*")
    return '"' + "\\*".join(quote(part)[1:-1] for part in stars) + '"'


def check(rules: Rules, actions: dict[str, ActionType], groups: set[str]) -> list[Problem]:
    """Entries that mean nothing: an unknown tool or tag, a glob that no tool matches."""
    found: list[Problem] = []
    lists: list[tuple[str, Iterable[str]]] = [
        ("allow", rules.allow),
        ("ask", rules.ask),
        ("deny", rules.deny),
        ("deny_param", (rule.tool for rule in rules.deny_param)),
    ]
    for name, entries in lists:
        for at, entry in enumerate(entries):
            if message := _unknown(entry, actions, groups):
                found.append(Problem(f"{FILE}.{name}[{at}]", message))
    return found


def _unknown(entry: str, actions: dict[str, ActionType], groups: set[str]) -> str | None:
    if entry.startswith("tag:"):
        known = {group for group in groups if group.startswith("tag:")}
        return None if entry in known else f"no tool has the tag of `{entry}`{nearest(entry, known)}"
    if "*" in entry:
        parts = re.escape(entry).replace(r"\*", ".*")
        tools = [name for name, action in actions.items() if CALL in action.groups]
        matched = any(re.fullmatch(parts, name, re.DOTALL) for name in tools)
        return None if matched or entry == "*" else f"no tool matches `{entry}`"
    return None if entry in actions else f"no tool is named `{entry}`{nearest(entry, actions)}"
