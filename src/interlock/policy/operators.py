"""Closures for Cedar's operators: each function here combines the closures of its operands into one.

A closure is called with the context record and the `Situation` (who, what, on what), and returns a term (see `terms`) or
raises EvaluationError, exactly where Cedar has a value or an error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import msgspec

from interlock.policy.terms import (
    LONG_MAX,
    LONG_MIN,
    Datetime,
    Duration,
    EvaluationError,
    Uid,
    equal,
    key,
    mistyped,
)


class Entity(msgspec.Struct, frozen=True):
    """An entity's data: all its ancestors, its attributes and its tags."""

    ancestors: frozenset[Uid] = frozenset()
    attributes: dict[str, Any] = {}
    tags: dict[str, Any] = {}


class Situation(msgspec.Struct):
    """The fixed part of a request. `entities` is shared by all requests, `local` belongs to this one."""

    principal: Uid
    action: Uid
    resource: Uid
    entities: dict[Uid, Entity]
    local: dict[Uid, Entity] = {}

    def entity(self, uid: Uid) -> Entity | None:
        """The data of an entity, or None."""
        return self.local.get(uid) or self.entities.get(uid)


Closure = Callable[[dict[str, Any], Situation], Any]


def constant(value: Any) -> Closure:
    """A closure that returns this value."""
    return lambda _c, _s: value


def negate(arg: Closure) -> Closure:
    """`!a`"""

    def run(c: dict[str, Any], s: Situation) -> bool:
        value = arg(c, s)
        if value is True:
            return False
        if value is False:
            return True
        raise mistyped("Bool", value)

    return run


def both(left: Closure, right: Closure) -> Closure:
    """`a && b`: the right side is not evaluated if the left is false."""

    def run(c: dict[str, Any], s: Situation) -> bool:
        value = left(c, s)
        if value is True:
            value = right(c, s)
            if value is True or value is False:
                return bool(value)
        elif value is False:
            return False
        raise mistyped("Bool", value)

    return run


def either(left: Closure, right: Closure) -> Closure:
    """`a || b`: the right side is not evaluated if the left is true."""

    def run(c: dict[str, Any], s: Situation) -> bool:
        value = left(c, s)
        if value is False:
            value = right(c, s)
            if value is True or value is False:
                return bool(value)
        elif value is True:
            return True
        raise mistyped("Bool", value)

    return run


def choose(condition: Closure, then: Closure, otherwise: Closure) -> Closure:
    """`if a then b else c`"""

    def run(c: dict[str, Any], s: Situation) -> Any:
        value = condition(c, s)
        if value is True:
            return then(c, s)
        if value is False:
            return otherwise(c, s)
        raise mistyped("Bool", value)

    return run


def equals(left: Closure, right: Closure) -> Closure:
    """`a == b`"""
    return lambda c, s: equal(left(c, s), right(c, s))


def equals_text(left: Closure, text: str) -> Closure:
    """`a == "text"`: no other term is equal to a Python string."""
    return lambda c, s: left(c, s) == text


def differs(left: Closure, right: Closure) -> Closure:
    """`a != b`"""
    return lambda c, s: not equal(left(c, s), right(c, s))


_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "less": operator.lt,
    "less_eq": operator.le,
    "greater": operator.gt,
    "greater_eq": operator.ge,
}


def ordered(name: str, left: Closure, right: Closure) -> Closure:
    """`<`, `<=`, `>`, `>=` of two Longs, two datetimes or two durations."""
    compare = _ORDER[name]

    def run(c: dict[str, Any], s: Situation) -> bool:
        a, b = left(c, s), right(c, s)
        cls = type(a)
        if cls is int and type(b) is int:
            return compare(a, b)
        if cls is Datetime or cls is Duration:
            if type(b) is not cls:
                raise mistyped("a value of the same type", b)
            return compare(a.ms, b.ms)
        raise mistyped("Long", b if cls is int else a)

    return run


def ordered_number(name: str, left: Closure, number: int) -> Closure:
    """Comparison with a literal, such as `a < 5`."""
    compare = _ORDER[name]

    def run(c: dict[str, Any], s: Situation) -> bool:
        a = left(c, s)
        if type(a) is int:
            return compare(a, number)
        raise mistyped("Long", a)

    return run


_ARITHMETIC: Final[dict[str, Callable[[int, int], int]]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
}


def arithmetic(name: str, left: Closure, right: Closure) -> Closure:
    """`+`, `-`, `*` of Longs. A result outside the range of a Long is an error."""
    compute = _ARITHMETIC[name]

    def run(c: dict[str, Any], s: Situation) -> int:
        a, b = left(c, s), right(c, s)
        if type(a) is not int:
            raise mistyped("Long", a)
        if type(b) is not int:
            raise mistyped("Long", b)
        result = compute(a, b)
        if LONG_MIN <= result <= LONG_MAX:
            return result
        raise EvaluationError("integer overflow")

    return run


def minus(arg: Closure) -> Closure:
    """`-a`"""

    def run(c: dict[str, Any], s: Situation) -> int:
        value = arg(c, s)
        if type(value) is not int:
            raise mistyped("Long", value)
        if value == LONG_MIN:
            raise EvaluationError("integer overflow")
        return -value

    return run


def like(base: Closure, pattern: tuple[str | None, ...]) -> Closure:
    """`a like "x*y"`; `pattern` holds characters, and None for each wildcard. Linear time, whatever the pattern."""
    parts: list[str] = [""]
    for element in pattern:
        if element is None:
            parts.append("")
        else:
            parts[-1] += element
    head, *rest = parts
    tail = rest[-1] if rest else ""
    middle = [part for part in rest[:-1] if part]

    if not head and not tail and len(middle) == 1:
        return _within(base, middle[0])

    def run(c: dict[str, Any], s: Situation) -> bool:
        text = base(c, s)
        if type(text) is not str:
            raise mistyped("String", text)
        if not rest:
            return text == head
        end = len(text) - len(tail)
        if not text.startswith(head) or not text.endswith(tail):
            return False
        at = len(head)
        for part in middle:
            found = text.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return at <= end

    return run


def _within(base: Closure, part: str) -> Closure:
    """`a like "*x*"`, the most common pattern."""

    def run(c: dict[str, Any], s: Situation) -> bool:
        text = base(c, s)
        if type(text) is str:
            return part in text
        raise mistyped("String", text)

    return run


def contains(left: Closure, right: Closure) -> Closure:
    """`set.contains(x)`"""

    def run(c: dict[str, Any], s: Situation) -> bool:
        a, b = left(c, s), right(c, s)
        if type(a) is not frozenset:
            raise mistyped("Set", a)
        return key(b) in a

    return run


def _sets(left: Closure, right: Closure, compare: Callable[[Any, Any], bool]) -> Closure:
    def run(c: dict[str, Any], s: Situation) -> bool:
        a, b = left(c, s), right(c, s)
        if type(a) is not frozenset:
            raise mistyped("Set", a)
        if type(b) is not frozenset:
            raise mistyped("Set", b)
        return compare(a, b)

    return run


def contains_all(left: Closure, right: Closure) -> Closure:
    """`set.containsAll(other)`"""
    return _sets(left, right, frozenset.issuperset)


def contains_any(left: Closure, right: Closure) -> Closure:
    """`set.containsAny(other)`"""
    return _sets(left, right, lambda a, b: not a.isdisjoint(b))


def is_empty(arg: Closure) -> Closure:
    """`set.isEmpty()`"""

    def run(c: dict[str, Any], s: Situation) -> bool:
        value = arg(c, s)
        if type(value) is not frozenset:
            raise mistyped("Set", value)
        return not value

    return run


def member(left: Closure, right: Closure) -> Closure:
    """`a in b`, `a in [b, c]`: the same entity, or a descendant of it."""

    def run(c: dict[str, Any], s: Situation) -> bool:
        a, b = left(c, s), right(c, s)
        if type(a) is not Uid:
            raise mistyped("Entity", a)
        if type(b) is Uid:
            return a == b or is_in(a, b, s)
        if type(b) is not frozenset:
            raise mistyped("Entity or Set of Entity", b)
        for element in b:
            if type(element) is not Uid:
                raise EvaluationError("type error: expected a Set of Entity")
        return a in b or ((known := s.entity(a)) is not None and not known.ancestors.isdisjoint(b))

    return run


def is_in(a: Uid, b: Uid, s: Situation) -> bool:
    """True if `a` is `b` or is below it."""
    return a == b or ((known := s.entity(a)) is not None and b in known.ancestors)


def is_type(arg: Closure, name: str) -> Closure:
    """`a is Type`"""

    def run(c: dict[str, Any], s: Situation) -> bool:
        value = arg(c, s)
        if type(value) is not Uid:
            raise mistyped("Entity", value)
        return value.type == name

    return run


def attribute(base: Closure, name: str) -> Closure:
    """`a.name`, `a["name"]` of a record or an entity."""

    def run(c: dict[str, Any], s: Situation) -> Any:
        value = base(c, s)
        if type(value) is dict:
            try:
                return value[name]
            except KeyError:
                raise EvaluationError(f"the record has no attribute `{name}`") from None
        if type(value) is not Uid:
            raise mistyped("Record or Entity", value)
        known = s.entity(value)
        if known is None:
            raise EvaluationError(f"the entity with the attribute `{name}` does not exist")
        try:
            return known.attributes[name]
        except KeyError:
            raise EvaluationError(f"the {value.type} has no attribute `{name}`") from None

    return run


def context_path(names: tuple[str, ...]) -> Closure:
    """`context.a.b`: the fast path for nested records."""
    if len(names) == 1:
        return attribute(lambda c, _s: c, names[0])
    slow = attribute(lambda c, _s: c, names[0])
    for name in names[1:]:
        slow = attribute(slow, name)
    if len(names) != 2:
        return slow
    first, second = names

    def run(c: dict[str, Any], s: Situation) -> Any:
        try:
            return c[first][second]
        except (KeyError, TypeError):
            # missing, or not a record: the general function raises the right error
            return slow(c, s)

    return run


def context_has(record: str, name: str) -> Closure:
    """`context.record has name`"""
    slow = has(context_path((record,)), name)

    def run(c: dict[str, Any], s: Situation) -> bool:
        value = c.get(record)
        return name in value if type(value) is dict else bool(slow(c, s))

    return run


def has(base: Closure, name: str) -> Closure:
    """`a has name` for a record or an entity; false for an unknown entity."""

    def run(c: dict[str, Any], s: Situation) -> bool:
        value = base(c, s)
        if type(value) is dict:
            return name in value
        if type(value) is not Uid:
            raise mistyped("Record or Entity", value)
        known = s.entity(value)
        return known is not None and name in known.attributes

    return run


def has_tag(left: Closure, right: Closure) -> Closure:
    """`entity.hasTag(name)`"""

    def run(c: dict[str, Any], s: Situation) -> bool:
        known, name = _tagged(left(c, s), right(c, s), s)
        return known is not None and name in known.tags

    return run


def get_tag(left: Closure, right: Closure) -> Closure:
    """`entity.getTag(name)`"""

    def run(c: dict[str, Any], s: Situation) -> Any:
        known, name = _tagged(left(c, s), right(c, s), s)
        if known is None or name not in known.tags:
            raise EvaluationError("the entity does not have the tag")
        return known.tags[name]

    return run


def _tagged(base: Any, name: Any, s: Situation) -> tuple[Entity | None, str]:
    if type(base) is not Uid:
        raise mistyped("Entity", base)
    if type(name) is not str:
        raise mistyped("String", name)
    return s.entity(base), name


def make_set(elements: tuple[Closure, ...]) -> Closure:
    """`[a, b]`"""
    return lambda c, s: frozenset([key(element(c, s)) for element in elements])


def make_record(fields: tuple[tuple[str, Closure], ...]) -> Closure:
    """`{a: 1, b: 2}`"""
    return lambda c, s: {name: field(c, s) for name, field in fields}
