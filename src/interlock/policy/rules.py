"""Translates short rules (`[rules]` in `interlock.toml`) to Cedar. `interlock policy show` prints the result.

An entry is the name of a tool or of a built-in action (`state_write` ...), a glob over tool names (`fs.*`; `*` stands
for any text; `*` alone is every tool, and the actions on state), `tag:NAME`, commands of a tool that runs command lines
(`shell(git diff *)`), or `path(GLOB)`. An `allow` entry becomes a permit, a `deny` entry a forbid, and an `ask` entry
both: a permit, and a forbid with `@hold`. A glob is a condition on `resource.name`, so that it also applies to tools
registered later. It is matched once per tool (see `index`), not for each decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from interlock.lazy import lazy_pattern
from interlock.model.globs import name_matcher
from interlock.policy.policies import Absence, Problem, nearest
from interlock.policy.terms import quote
from interlock.policy.world import CALL, ON_STATE, ActionType

FILE: Final = "rules"
PATH: Final = "path"
_SPECIAL: Final = lazy_pattern(r"([^()\s]+)\((.+)\)", re.DOTALL)
_WHY: Final = {
    "plain": "what this command runs, reads or writes cannot be determined in advance, so no rule about commands applies",
    "literal": "what this command runs cannot be determined in advance, and there are rules about commands",
}


class DenyParam(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deny calls of `tool` whose string parameter `param` matches the pattern (as Cedar's `like`)."""

    tool: str
    param: str
    like: str


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The short rules, as in `[rules]`."""

    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    deny_param: tuple[DenyParam, ...] = ()


def to_cedar(rules: Rules) -> str:
    """The Cedar text of short rules: one or two policies per entry, with an id that names the entry."""
    return "\n".join(text for _, text in statements(rules))


def statements(rules: Rules) -> list[tuple[str, str]]:
    """The Cedar text of each entry, with its place (`rules.ask[0]`). Repeated entries are skipped."""
    found: dict[str, str] = {}
    for at, entry in enumerate(rules.allow):
        found.setdefault(_policy("permit", f"allow:{entry}", entry), f"{FILE}.allow[{at}]")
    for at, entry in enumerate(rules.ask):
        notes = ("@hold", f"@reason({quote(f'the rules say to ask: {entry}')})")
        found.setdefault(_policy("permit", f"ask:{entry}:permit", entry), f"{FILE}.ask[{at}]")
        found.setdefault(_policy("forbid", f"ask:{entry}", entry, notes=notes), f"{FILE}.ask[{at}]")
    for at, entry in enumerate(rules.deny):
        found.setdefault(_policy("forbid", f"deny:{entry}", entry), f"{FILE}.deny[{at}]")
    for place, text in _unclear(rules):
        found.setdefault(text, place)
    for at, rule in enumerate(rules.deny_param):
        name = quote(rule.param)
        conditions = (f"context.params has {name}", f"context.params[{name}] like {pattern(rule.like)}")
        label = f"deny_param:{rule.tool}:{rule.param}:{rule.like}"
        found.setdefault(_policy("forbid", label, rule.tool, conditions=conditions), f"{FILE}.deny_param[{at}]")
    return [(place, text) for text, place in found.items()]


def _policy(effect: str, name: str, entry: str, *, notes: Iterable[str] = (), conditions: Iterable[str] = ()) -> str:
    scope, wanted = "", list(conditions)
    if special := parse_entry(entry):
        entry, text = special
        if entry == PATH:
            entry, condition = "*", f"context.paths.contains({quote(text)})"
        else:
            condition = _command(text, strict=effect == "permit" and not notes and not name.startswith("ask:"))
        wanted.insert(0, condition)
    if entry.startswith("tag:"):
        scope = f"action in Action::{quote(entry)}"
    elif "*" in entry:
        scope = f'action in Action::"{CALL}"'
        if entry.strip("*"):
            wanted.insert(0, f"resource.name like {pattern(entry)}")
        elif not wanted:  # a condition on parameters applies only to tools
            scope = f"action in [{', '.join(f'Action::{quote(name)}' for name in (CALL, *ON_STATE))}]"
    else:
        scope = f"action == Action::{quote(entry)}"
    when = f"\nwhen {{ {' && '.join(wanted)} }}" if wanted else ""
    return "\n".join((f"@id({quote(name)})", *notes, f"{effect}(principal, {scope}, resource){when};\n"))


def parse_entry(entry: str) -> tuple[str, str] | None:
    """Split `shell(git push *)` into tool and pattern, `path(~/.ssh/**)` into `path` and glob; None for other entries."""
    found = _SPECIAL.fullmatch(entry)
    return (found[1], found[2]) if found else None


def _command(text: str, *, strict: bool) -> str:
    """The condition that a command matches a pattern.

    A permit (`strict`) compares the program as written and accepts only plain words. An `ask` or `deny` rule also
    compares the program's base name.
    """

    def like(where: str) -> str:
        bare = text.removesuffix(" *")
        if bare != text:
            exact = f"{where} like {pattern(bare)}" if "*" in bare else f"{where} == {quote(bare)}"
            return f"({exact} || {where} like {pattern(text)})"
        return f"{where} like {pattern(text)}" if "*" in text else f"{where} == {quote(text)}"

    if strict:
        return f"context.command.plain && {like('context.command.line')}"
    return f"({like('context.command.line')} || {like('context.command.by_name')})"


def _unclear(rules: Rules) -> Iterable[tuple[str, str]]:
    """For each tool with rules about commands: a hold for command lines that cannot be analysed."""
    lists = (("allow", rules.allow), ("ask", rules.ask), ("deny", rules.deny))
    entries = [(f"{FILE}.{kind}[{at}]", kind, each) for kind, listed in lists for at, each in enumerate(listed)]
    tools: dict[str, tuple[str, bool]] = {}
    for place, kind, entry in entries:
        special = parse_entry(entry)
        if special is not None and special[0] != PATH:
            where, narrow = tools.get(special[0], (place, False))
            tools[special[0]] = where, narrow or kind == "allow"
    whole = name_matcher(each for each in (*rules.allow, *rules.ask) if parse_entry(each) is None and ":" not in each)
    for tool, (place, narrow) in tools.items():
        attribute = "plain" if narrow and not whole(tool) else "literal"
        name = f"ask:{tool}:unclear"
        notes = ("@hold", f"@reason({quote(_WHY[attribute])})")
        conditions = (f"!context.command.{attribute}",)
        yield place, _policy("permit", f"{name}:permit", tool, conditions=conditions)
        yield place, _policy("forbid", name, tool, notes=notes, conditions=conditions)


def pattern(text: str) -> str:
    r"""A Cedar pattern literal: `*` matches any text, `\*` a star, and every other character itself."""
    stars = text.split("\\*")
    return '"' + "\\*".join(quote(part)[1:-1] for part in stars) + '"'


def check(rules: Rules, actions: dict[str, ActionType], groups: set[str]) -> list[Problem]:
    """The problems of invalid entries, and an Absence for each unknown tool or tag and each glob that no tool matches."""
    found: list[Problem] = []
    lists: list[tuple[str, Iterable[str]]] = [
        ("allow", rules.allow),
        ("ask", rules.ask),
        ("deny", rules.deny),
        ("deny_param", (rule.tool for rule in rules.deny_param)),
    ]
    for name, entries in lists:
        for at, entry in enumerate(entries):
            place = f"{FILE}.{name}[{at}]"
            if message := _special(name, entry, actions):
                found.append(Problem(place, message))
            elif message := _unknown(entry, actions, groups):
                found.append(Absence(place, message, kind="Action", name=entry))
    return found


def _special(kind: str, entry: str, actions: dict[str, ActionType]) -> str | None:
    """The problem with an entry about commands or paths."""
    special = parse_entry(entry)
    if special is None:
        return f"`{entry}` is not a rule; write `TOOL(PATTERN)`" if set("()") & set(entry) else None
    tool, text = special
    if kind == "deny_param":
        return "`deny_param` needs the name of a tool"
    if tool == PATH:
        return "a `path(...)` rule can only ask or deny; use a grant to allow paths" if kind == "allow" else None
    action = actions.get(tool)
    if action is not None and action.command is None:
        return f"`{tool}` does not run command lines, so `{entry}` never applies"
    if text != text.strip():
        return f"the pattern of `{entry}` starts or ends with a space"
    return None


def _unknown(entry: str, actions: dict[str, ActionType], groups: set[str]) -> str | None:
    if special := parse_entry(entry):
        entry = special[0]
        if entry == PATH:
            return None
    if entry.startswith("tag:"):
        known = {group for group in groups if group.startswith("tag:")}
        return None if entry in known else f"no tool has the tag of `{entry}`{nearest(entry, known)}"
    if "*" in entry:
        parts = re.escape(entry).replace(r"\*", ".*")
        tools = [name for name, action in actions.items() if CALL in action.groups]
        matched = any(re.fullmatch(parts, name, re.DOTALL) for name in tools)
        return None if matched or entry == "*" else f"no tool matches `{entry}`"
    return None if entry in actions else f"no tool is named `{entry}`{nearest(entry, actions)}"
