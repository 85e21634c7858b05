"""Strict JSON values: the checks that apply to every document, whoever sent it.

`parse_json` turns bytes into builtins and refuses duplicate keys, NaN, lone surrogates and text after the value.
`check_value` walks the parsed value and refuses what JSON readers disagree about: infinities (`1e400`), integers beyond
2^53 - 1, and nesting deeper than `Limits.depth`. `plain` does the same for a library user's Python value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.lazy import lazy, lazy_pattern
from interlock.model.errors import ProposalError
from interlock.model.limits import INTEGER_MAX, Limits
from interlock.model.text import starts_foreign, why_not_utf8, without_bom

if TYPE_CHECKING:
    import difflib

    import jiter
else:
    difflib = lazy("difflib")
    jiter = lazy("jiter")

RESERVED: Final = frozenset(("__entity", "__extn"))
"""Keys that Cedar's JSON form reads as an entity or an extension value, so that an agent could forge one."""

_ATOMS: Final = frozenset((str, bool, type(None)))
_AT: Final = lazy_pattern(r" at (line \d+ column \d+)$")
_IDENTIFIER: Final = lazy_pattern(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def parse_json(data: bytes) -> Any:
    """Parse a JSON document (RFC 8259, UTF-8; a byte order mark is skipped).

    Raises: ProposalError (`malformed_proposal`, or `limit_exceeded` beyond 200 levels) with line and column as its
    path. Infinities and large integers are accepted; `check_value` refuses them where the field is known.
    """
    try:
        return jiter.from_json(without_bom(data), catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        if starts_foreign(data):
            raise ProposalError(why_not_utf8(data)) from None
        message = str(error)
        found = _AT.search(message)
        where = found[1].replace(" column", ", column") if found else None
        what = message[: found.start()] if found else message
        if what.startswith("recursion limit"):
            raise ProposalError(
                "the document is nested deeper than 200 levels", code="limit_exceeded", path=where
            ) from None
        if what.startswith("Detected duplicate key"):
            name = what.removeprefix('Detected duplicate key "').removesuffix('"')
            raise ProposalError(f"the key {quoted(name)} occurs twice in one object", path=where) from None
        raise ProposalError(f"not JSON: {what}", path=where) from None


def check_value(value: Any, path: str, limits: Limits, *, reserved: bool = False, foreign: bool = False) -> None:
    """Refuse a value that is not plain JSON; `path` names the value in the error.

    A container directly at `path` has depth 1. With `reserved`, the keys in `RESERVED` are refused at any depth; with
    `foreign`, the value does not come from `parse_json`, so keys, types and strings are checked too.
    Raises: ProposalError (`malformed_proposal`, `limit_exceeded`).
    """
    # Wrapped in a list of depth 0, the top value needs no special case.
    found = _search([value], limits.depth, reserved, foreign)
    if found:
        keys = reversed(found.keys[:-1])
        raise ProposalError(found.problem, code=found.code, path=path + "".join(step(key) for key in keys))


class _Found:
    """A problem, with the keys that lead to it, innermost first."""

    def __init__(self, problem: str, *keys: str | int, code: str | None = None) -> None:
        self.problem = problem
        self.code = code
        self.keys = list(keys)


def _search(container: Any, depth_left: int, reserved: bool, foreign: bool) -> _Found | None:
    """Find the first problem. The depth limit bounds the recursion, and a path is built only while an error propagates."""
    items: Iterable[tuple[Any, Any]]
    if container.__class__ is dict:
        if (reserved or foreign) and (found := _search_keys(container, reserved, foreign)):
            return found
        items = container.items()
    else:
        items = enumerate(container)
    for key, item in items:
        cls = item.__class__
        if cls is dict or cls is list:
            if not depth_left:
                return _Found("the value is nested too deeply (limit `depth`)", key, code="limit_exceeded")
            found = _search(item, depth_left - 1, reserved, foreign) if item else None
            if found:
                found.keys.append(key)
                return found
        elif cls is int and -INTEGER_MAX <= item <= INTEGER_MAX:
            continue
        elif cls not in _ATOMS or (foreign and cls is str and not item.isascii()):
            problem = _problem(item)
            if problem:
                return _Found(problem, key)
    return None


def _search_keys(container: dict[Any, Any], reserved: bool, foreign: bool) -> _Found | None:
    if reserved and not RESERVED.isdisjoint(container):
        name = next(key for key in container if key in RESERVED)
        return _Found(f"the key `{name}` is reserved", name)
    if foreign:
        for key in container:
            if key.__class__ is not str or not (key.isascii() or _is_text(key)):
                return _Found("an object has a key that is not a string")
    return None


def _problem(item: Any) -> str | None:
    """The problem with a scalar value, or None."""
    match item:
        case None | bool():
            return None
        case str():
            return None if _is_text(item) else "a string contains a lone surrogate"
        case int():
            return None if -INTEGER_MAX <= item <= INTEGER_MAX else "the integer is beyond +-(2^53 - 1)"
        case float():
            return None if isfinite(item) else "the number is not finite"
        case _:
            return f"a {item.__class__.__name__} is not a JSON value"


def plain(value: Any, limits: Limits) -> Any:
    """A Python value as plain JSON builtins, copied: structs, enums, tuples and dates become their JSON form.

    Raises: ProposalError, as `check_value` does, and for objects that have no JSON form.
    """
    try:
        copy = _lists(msgspec.to_builtins(value))
    except RecursionError:
        raise ProposalError("the value is nested too deeply, or contains itself", code="limit_exceeded") from None
    except (TypeError, ValueError) as error:
        raise ProposalError(f"the value is not JSON: {error}") from None
    # The document around a field's value may be four levels deep. Each field is checked separately later.
    check_value(copy, "$", msgspec.structs.replace(limits, depth=limits.depth + 4), foreign=True)
    return copy


def _lists(value: Any) -> Any:
    """Convert tuples to lists. Dictionaries and lists are changed in place, because they are copies already."""
    cls = value.__class__
    if cls is dict:
        for key, item in value.items():
            if item.__class__ not in _ATOMS:
                value[key] = _lists(item)
    elif cls is list:
        for at, item in enumerate(value):
            if item.__class__ not in _ATOMS:
                value[at] = _lists(item)
    elif cls is tuple:
        return [item if item.__class__ in _ATOMS else _lists(item) for item in value]
    return value


def with_floats(value: Any) -> Any:
    """Values parsed from canonical JSON, with the floats that were written as integers beyond 2^53 - 1 (RFC 8785: 1e20).

    No integer is that large where a value is accepted. Dictionaries and lists are changed in place.
    """
    cls = value.__class__
    if cls is dict:
        for key, item in value.items():
            if item.__class__ not in _ATOMS:
                value[key] = with_floats(item)
    elif cls is list:
        for at, item in enumerate(value):
            if item.__class__ not in _ATOMS:
                value[at] = with_floats(item)
    elif cls is int and not -INTEGER_MAX <= value <= INTEGER_MAX:
        return float(value)
    return value


def count_exceeds(value: Any, most: int) -> bool:
    """True if a parsed document has more values than the limit, including containers."""
    count = 1
    stack = [value]
    while stack and count <= most:
        container = stack.pop()
        if container.__class__ is dict or container.__class__ is list:
            count += len(container)
            items = container.values() if container.__class__ is dict else container
            stack.extend(item for item in items if item.__class__ is dict or item.__class__ is list)
    return count > most


def nearest_name(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant; None if none has a similarity of at least `cutoff` (0 to 1)."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def quoted(name: str) -> str:
    """A name from user input, in backticks: cut to 80 characters, with terminal control characters escaped."""
    text = name if len(name) <= 80 else name[:80] + "..."
    return "`" + (text if text.isprintable() else json.dumps(text)[1:-1]) + "`"


def step(key: str | int) -> str:
    """One step of a field path: `[3]`, `.name`, or `["any other key"]`."""
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if _IDENTIFIER.match(key) and len(key) <= 80 else f"[{json.dumps(key[:80])}]"


def _is_text(value: str) -> bool:
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False
