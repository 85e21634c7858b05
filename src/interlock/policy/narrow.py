"""Narrows many policies to those that can match a call, by what their conditions require of one value.

A policy whose condition needs `context.params.path like "*secret*"`, `context.params.to == "eve"` or `context.params
has x` is false if this requirement is not met, whatever its other conditions. Policies with a requirement on the same
attribute are tested together: one search for all their texts, one look-up among all their constants. Only the remaining
policies are evaluated, by their own closures, so this module affects the speed of a decision, never its result.

That includes errors: a condition may be skipped only if Cedar would not evaluate anything that can fail. So a
requirement counts only if it is preceded by nothing but `has` guards on the path to its attribute. If the context lacks
a part of the path for which there is no guard, the policies are evaluated.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from interlock.detect.literals import literal_finder
from interlock.policy import extensions, syntax
from interlock.policy.index import Residue
from interlock.policy.operators import Closure, Situation
from interlock.policy.terms import Decimal, EvaluationError, Uid, key
from interlock.policy.uses import path_of
from interlock.policy.verdict import matching

FEW: Final = 4
"""Up to this many policies are evaluated one by one, because narrowing would cost as much."""

Path = tuple[str, ...]
Member = tuple[int, tuple[Closure, ...]]
"""A policy's bit and its tests."""
Members = tuple[tuple[int, ...], tuple[tuple[Closure, ...], ...]]
"""The bits and the tests of several policies."""
Match = Callable[[dict[str, Any], Situation], int]
_ABSENT: Final = object()
_BOUNDS: Final = {
    "greater": (True, False),
    "greater_eq": (True, True),
    "less": (False, False),
    "less_eq": (False, True),
    "decimal_greater": (True, False),
    "decimal_greater_eq": (True, True),
    "decimal_less_than": (False, False),
    "decimal_less_eq": (False, True),
}
"""Comparisons with a constant: do they accept values above it, and do they accept the constant itself?"""
_NOBODY: Final[Members] = ((), ())


def no_match(_c: dict[str, Any], _s: Situation) -> int:
    """The matcher for an empty list of policies."""
    return 0


class Need(msgspec.Struct, frozen=True):
    """A policy's requirement on the value at `path`: that it exists, is one of `keys`, is within a bound, or contains a text."""

    path: Path
    absent: tuple[bool, ...]
    """For each name of the path: True if the policy is false, and not in error, when that name is missing."""
    kind: str
    texts: tuple[str, ...] = ()
    keys: tuple[Any, ...] = ()


class _Group(msgspec.Struct, frozen=True):
    path: Path
    absent: tuple[bool, ...]
    select: Callable[[Any], Members]
    members: Members


def one_by_one(residues: Sequence[Residue]) -> Match:
    """A function that returns a bit set of the matching policies. It raises EvaluationError if one of them fails."""
    tests = tuple(each.tests for each in residues)
    return (lambda c, s: matching(tests, c, s)) if tests else no_match


def narrowed(residues: Sequence[Residue], few: int = FEW) -> Match:
    """The same function, but it skips policies that cannot match."""
    together: dict[tuple[Path, tuple[bool, ...], str], list[tuple[Need, Member]]] = {}
    rest: list[Member] = []
    for at, residue in enumerate(residues):
        need, member = _need(residue.conditions), (1 << at, residue.tests)
        if need is None:
            rest.append(member)
        else:
            together.setdefault((need.path, need.absent, need.kind), []).append((need, member))
    groups: list[_Group] = []
    for (path, absent, kind), found in together.items():
        these = [member for _, member in found]
        if len(found) <= few:
            rest.extend(these)
        else:
            members = _members(these)
            groups.append(_Group(path, absent, _SELECT[kind](found, members), members))
    if not groups:
        return one_by_one(residues)
    others = _members(rest)
    return lambda c, s: _matching(groups, others, c, s)


def _members(found: Iterable[Member]) -> Members:
    members = list(found)
    return tuple(bit for bit, _ in members), tuple(tests for _, tests in members)


def _matching(groups: Sequence[_Group], others: Members, c: dict[str, Any], s: Situation) -> int:
    hits = _hits(others, c, s)
    for group in groups:
        value: Any = c
        left = group.members
        for absent, name in zip(group.absent, group.path, strict=True):
            if type(value) is not dict:
                break
            value = value.get(name, _ABSENT)
            if value is _ABSENT:
                if absent:
                    left = _NOBODY
                break
        else:
            left = group.select(value)
        hits |= _hits(left, c, s)
    return hits


def _hits(members: Members, c: dict[str, Any], s: Situation) -> int:
    bits, tests = members
    found = matching(tests, c, s) if tests else 0
    return sum(bit for at, bit in enumerate(bits) if found >> at & 1) if found else 0


def _need(conditions: Sequence[syntax.Expr | None]) -> Need | None:
    """The first requirement of a policy's conditions, in evaluation order, that is evaluated before anything can fail."""
    guards: list[Path] = []
    for condition in conditions:
        if isinstance(condition, syntax.HasAttr) and len(condition.attrs) == 1:
            base = path_of(condition.base)
            if base is not None and (not guards or base == guards[-1] or base == guards[-1][:-1]):
                guards.append((*base, condition.attrs[0]))
                continue
        if condition is not None and (found := _of_value(condition)) is not None:
            path, kind, texts, keys = found
            # a guard tests a record; `_matching` checks that each part of the path but the last is one
            if all(len(guard) <= len(path) and guard[:-1] == path[: len(guard) - 1] for guard in guards):
                return Need(path, _absent(path, guards), kind, texts, keys)
        break
    return Need(guards[-1], _absent(guards[-1], guards), "present") if guards else None


def _absent(path: Path, guards: Sequence[Path]) -> tuple[bool, ...]:
    """For each part of the path: is it tested by a guard before it is used, so that the policy is false if it is missing?"""
    ways = [path[: depth + 1] for depth in range(len(path))]
    return tuple(next((guard for guard in guards if guard[: len(way)] == way), None) == way for way in ways)


def _of_value(condition: syntax.Expr) -> tuple[Path, str, tuple[str, ...], tuple[Any, ...]] | None:
    """The context attribute that a condition tests, and the requirement on it."""
    match condition:
        case syntax.Like(base=base, pattern=pattern):
            path = path_of(base)
            found = _literal(pattern)
            return (path, found[0], (found[1],), ()) if path and found else None
        case syntax.BinaryOp(op="eq", left=left, right=right):
            for place, literal in ((left, right), (right, left)):
                path = path_of(place)
                if path and (keys := _constant(literal)):
                    return path, "equal", (), keys
            return None
        case syntax.BinaryOp(op=op, left=left, right=right) if op in _BOUNDS:
            mirrored = path_of(left) is None
            path = path_of(right if mirrored else left)
            bound = _number(left if mirrored else right, decimal=op.startswith("decimal_"))
            return (path, *_bound(op, bound, mirrored)) if path and bound is not None else None
        case syntax.BinaryOp(op="contains", left=syntax.Set(elements=elements), right=right):
            path = path_of(right)
            each = [_constant(element) for element in elements]
            return (path, "equal", (), tuple(k for keys in each for k in keys)) if path and all(each) else None
        case _:
            return None


def _number(node: syntax.Expr, *, decimal: bool) -> int | None:
    """The value of a Long literal, or the units of a decimal literal; None for other nodes."""
    match node:
        case syntax.LongLit(value=value) if not decimal:
            return int(value)
        case syntax.UnaryOp(op="decimal", arg=syntax.StringLit(value=text)) if decimal:
            with suppress(EvaluationError):
                return extensions.decimal(text).units
    return None


def _bound(op: str, bound: int, mirrored: bool) -> tuple[str, tuple[str, ...], tuple[Any, ...]]:
    """The kind of a comparison with a constant, and its inclusive bound. `mirrored`: the constant is on the left."""
    above, inside = _BOUNDS[op]
    above = above != mirrored
    within = bound if inside else bound + 1 if above else bound - 1
    kind = ("decimal " if op.startswith("decimal_") else "") + ("at least" if above else "at most")
    return kind, (), (within,)


def _literal(pattern: Sequence[Any]) -> tuple[str, str] | None:
    """The most selective literal of a `like` pattern: a required prefix, suffix or substring."""
    parts = [""]
    for element in pattern:
        if isinstance(element, syntax.Char):
            parts[-1] += element.value
        else:
            parts.append("")
    if parts[0]:
        return "begins", parts[0]
    if parts[-1]:
        return "ends", parts[-1]
    longest = max(parts, key=len)
    return ("holds", longest) if longest else None


def _constant(node: syntax.Expr) -> tuple[Any, ...]:
    match node:
        case syntax.BoolLit(value=value) | syntax.LongLit(value=value) | syntax.StringLit(value=value):
            return (key(value),)
        case syntax.EntityLit(value=named):
            return (Uid(str(named.type), named.id),)
        case _:
            return ()


def _present(_found: Sequence[tuple[Need, Member]], members: Members) -> Callable[[Any], Members]:
    return lambda _value: members


def _equal(found: Sequence[tuple[Need, Member]], _all: Members) -> Callable[[Any], Members]:
    by_key: dict[Any, dict[Member, None]] = {}
    for need, member in found:
        for one in need.keys:
            by_key.setdefault(one, {})[member] = None
    chosen = {one: _members(these) for one, these in by_key.items()}
    return lambda value: chosen.get(value if type(value) is str else key(value), _NOBODY)


def _begins(found: Sequence[tuple[Need, Member]], members: Members) -> Callable[[Any], Members]:
    texts = tuple(dict.fromkeys(need.texts[0] for need, _ in found))
    return lambda value: members if type(value) is not str or value.startswith(texts) else _NOBODY


def _ends(found: Sequence[tuple[Need, Member]], members: Members) -> Callable[[Any], Members]:
    texts = tuple(dict.fromkeys(need.texts[0] for need, _ in found))
    return lambda value: members if type(value) is not str or value.endswith(texts) else _NOBODY


def _holds(found: Sequence[tuple[Need, Member]], members: Members) -> Callable[[Any], Members]:
    texts = {need.texts[0] for need, _ in found}
    search = literal_finder(texts).search
    return lambda value: members if type(value) is not str or search(value) else _NOBODY


def _at_least(found: Sequence[tuple[Need, Member]], members: Members) -> Callable[[Any], Members]:
    bounds, (bits, tests) = _sorted(found, 1)

    def select(value: Any) -> Members:
        if type(value) is not int:
            return members
        count = bisect_right(bounds, value)
        return bits[:count], tests[:count]

    return select


def _at_most(found: Sequence[tuple[Need, Member]], members: Members) -> Callable[[Any], Members]:
    bounds, (bits, tests) = _sorted(found, -1)

    def select(value: Any) -> Members:
        if type(value) is not int:
            return members
        count = bisect_right(bounds, -value)
        return bits[:count], tests[:count]

    return select


def _sorted(found: Sequence[tuple[Need, Member]], sign: int) -> tuple[list[int], Members]:
    ordered = sorted(((sign * need.keys[0], member) for need, member in found), key=lambda each: (each[0], each[1][0]))
    return [bound for bound, _ in ordered], _members(member for _, member in ordered)


def _of_units(select: Callable[..., Callable[[Any], Members]]) -> Callable[..., Callable[[Any], Members]]:
    def of_decimals(found: Sequence[tuple[Need, Member]], members: Members) -> Callable[[Any], Members]:
        of_number = select(found, members)
        return lambda value: of_number(value.units) if type(value) is Decimal else members

    return of_decimals


_SELECT: Final = {
    "decimal at least": _of_units(_at_least),
    "decimal at most": _of_units(_at_most),
    "at least": _at_least,
    "at most": _at_most,
    "present": _present,
    "equal": _equal,
    "begins": _begins,
    "ends": _ends,
    "holds": _holds,
}
