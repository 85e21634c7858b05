"""Step 4: checks an action's preconditions and assumptions against the state that it would find.

Values are compared as JSON values: 1 equals 1.0, true is not 1, strings are ordered by code point, and there is no
order between values of different types (such a comparison does not hold; it is not an error). An absent key, or a path
that leads nowhere in its value, fails every operator that needs a value. Refusals name key and operator, never a value
of the state: an agent that may not read a key must not learn its value from an error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import UNSET

from interlock.model.decision import Refusal
from interlock.model.proposal import Assumption, Precondition

Lookup = Callable[[str], tuple[Any, int] | None]
"""Returns value and version of a state key, or None if it is absent."""

_ABSENT: Final = object()
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "gt": operator.gt,
    "lt": operator.lt,
    "gte": operator.ge,
    "lte": operator.le,
}


def check_preconditions(conditions: Iterable[Precondition], lookup: Lookup) -> Refusal | None:
    """Returns the refusal (`precondition_failed`) for the first condition that does not hold, or None."""
    for number, condition in enumerate(conditions):
        if not holds(condition, lookup(condition.key)):
            where = f" at `{condition.path}`" if condition.path else ""
            return Refusal(
                "precondition_failed",
                f"precondition `{condition.operator}` on state key `{condition.key}`{where} does not hold",
                f"$.preconditions[{number}]",
            )
    return None


def check_assumptions(assumptions: Iterable[Assumption], lookup: Lookup) -> Refusal | None:
    """Returns the refusal (`precondition_failed`) for the first assumption that is wrong, or None.

    An absent key has version 0 and the value null, as in `state_read`.
    """
    for number, assumption in enumerate(assumptions):
        value, version = lookup(assumption.key) or (None, 0)
        wrong = None
        if assumption.read_version is not None and assumption.read_version != version:
            wrong = "is not at the version that was read"
        elif assumption.expected_value is not UNSET and not equal(value, assumption.expected_value):
            wrong = "does not have the value that was assumed"
        if wrong:
            return Refusal("precondition_failed", f"state key `{assumption.key}` {wrong}", f"$.assumptions[{number}]")
    return None


def holds(condition: Precondition, found: tuple[Any, int] | None) -> bool:
    """Returns True if the condition holds for the value and version of its key."""
    value = _ABSENT if found is None else found[0]
    if condition.path:
        value = _follow(value, condition.path)
    match condition.operator:
        case "exists":
            return value is not _ABSENT
        case "not_exists":
            return value is _ABSENT
        case _ if value is _ABSENT:
            return False
        case "eq":
            return equal(value, condition.value)
        case "neq":
            return not equal(value, condition.value)
        case "contains":
            return _contains(value, condition.value)
        case order:
            return _comparable(value, condition.value) and _ORDER[order](value, condition.value)


def equal(a: Any, b: Any) -> bool:
    """JSON equality: numbers compare as numbers (1 = 1.0), and a boolean is not a number."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def _comparable(a: Any, b: Any) -> bool:
    return (isinstance(a, str) and isinstance(b, str)) or (_is_number(a) and _is_number(b))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _contains(value: Any, wanted: Any) -> bool:
    """Returns True if `wanted` is part of a string, an element of an array, or a key of an object."""
    if isinstance(value, list):
        return any(equal(item, wanted) for item in value)
    return isinstance(value, str | dict) and isinstance(wanted, str) and wanted in value


def _follow(value: Any, pointer: str) -> Any:
    """Returns the value that a JSON Pointer (RFC 6901) leads to, or `_ABSENT`."""
    for part in pointer.split("/")[1:]:
        step = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(step, _ABSENT)
        elif isinstance(value, list) and _is_index(step) and int(step) < len(value):
            value = value[int(step)]
        else:
            return _ABSENT
    return value


def _is_index(step: str) -> bool:
    """RFC 6901 section 4: digits without a leading zero. Digits longer than the length of any array are not converted."""
    return step.isascii() and step.isdigit() and len(step) < 19 and (step == "0" or step[0] != "0")
