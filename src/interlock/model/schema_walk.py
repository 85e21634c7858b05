"""Walks over JSON Schemas without running them: is the structure harmless, and which arguments are marked as paths or hosts?

Both follow the same table of which keyword holds subschemas and where in the value they apply. What the table does not name
(`const`, `enum`, `default`, `examples`, unknown keywords) is data, never a schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

import msgspec

MARKS: Final = frozenset(("path.read", "path.write", "host", "secret"))
"""What `x-interlock` may say about a property (engine.md, Tool)."""

SUBSCHEMAS_MAX: Final = 200_000
"""Subschemas of one schema, counted again at each reference: `$defs` that double at each level stay below it or are refused."""

_REFERENCE_DEPTH_MAX: Final = 200
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")

Step = str | int | frozenset[str]
"""One step into a value: a key, an index, or every element and every key that is not in the set."""

_EVERY: Final[frozenset[str]] = frozenset()
_HERE_ONE: Final = ("not", "if", "then", "else")
_HERE_LIST: Final = ("allOf", "anyOf", "oneOf")
_EVERY_ONE: Final = ("contains", "additionalItems", "unevaluatedItems", "unevaluatedProperties")
_STORES: Final = ("$defs", "definitions")


class Problem(msgspec.Struct, frozen=True):
    """Why a schema is refused."""

    message: str
    path: str
    hint: str | None = None


class Mark(msgspec.Struct, frozen=True):
    """One `x-interlock` mark: what it says, and the way to the arguments that it is about."""

    kind: str
    """One of `MARKS`."""
    steps: tuple[Step, ...]

    @property
    def pattern(self) -> str:
        """The way as people read it: `$.files[*].path`."""
        return "$" + "".join(
            f"[{s}]" if isinstance(s, int) else "[*]" if isinstance(s, frozenset) else f".{s}" for s in self.steps
        )

    def find(self, parameters: Any) -> Iterator[tuple[str, Any]]:
        """The marked arguments in these parameters, as (path such as `$.files[0].path`, value). Absent ones are left out.

        A value is whatever stands there; a judge must refuse one that it does not understand.
        """
        yield from _find(parameters, self.steps, "$")


class MarkError(ValueError):
    """A mark that cannot be honoured. `args[0]` is the sentence, `args[1]` the place in the schema."""


def marks(definition: dict[str, Any]) -> tuple[Mark, ...]:
    """All `x-interlock` marks of a schema, references followed.

    Raises: MarkError for an unknown mark, and for one that cannot be tied to arguments (on property names, in a
    recursive schema, or in a place that no argument reaches): a mark that is ignored would be a hole.
    """
    found: dict[Mark, None] = {}
    seen: set[int] = set()
    # A node with its steps and the nodes above it on this way (to see recursion).
    stack: list[tuple[Any, tuple[Step, ...], frozenset[int]]] = [(definition, (), frozenset())]
    budget = SUBSCHEMAS_MAX
    while stack:
        node, steps, above = stack.pop()
        if not isinstance(node, dict):
            continue
        budget -= 1
        if budget < 0:
            raise MarkError("too many subschemas", "$")
        if id(node) in above:
            if _holds_mark(definition, node):
                raise MarkError("a recursive schema cannot hold x-interlock marks", Mark("", steps).pattern)
            continue
        seen.add(id(node))
        if "x-interlock" in node:
            found[Mark(_kind(node["x-interlock"], steps), steps)] = None
        below = above | {id(node)}
        stack.extend((child, steps if step is None else (*steps, step), below) for step, child in _applied(node))
        stack.extend((_resolve(definition, ref), steps, below) for ref in _references(node))
    for node, path in _everything(definition):
        if "x-interlock" in node and id(node) not in seen:
            raise MarkError("an x-interlock mark stands where no argument reaches it", path)
    return tuple(sorted(found, key=lambda m: (m.pattern, m.kind)))


def check_structure(definition: dict[str, Any], *, depth_max: int) -> Problem | None:
    """The first reason to refuse a schema before any validator sees it, or None.

    Nesting beyond `depth_max`, a reference that leaves the document, an embedded `$id` or `$schema` (they change what `#`
    means), and references that multiply or nest beyond the limits.
    """
    if _deeper(definition, depth_max):
        return Problem(f"the schema is nested deeper than {depth_max}", "$")
    for node, path in _everything(definition):
        for keyword in _REFERENCES:
            reference = node.get(keyword)
            if reference is not None and not (isinstance(reference, str) and reference.startswith("#")):
                hint = "put the definition into `$defs` and refer to it as `#/$defs/NAME`"
                return Problem(f"`{keyword}` leaves the document; nothing is ever fetched", path, hint)
        if node is not definition and ("$id" in node or "$schema" in node):
            return Problem(
                "an embedded `$id` or `$schema` is refused", path, "put it at the top of the schema, or nowhere"
            )
    try:
        count = _expanded(definition, definition, {}, 0)
    except RecursionError:
        return Problem(f"references nest deeper than {_REFERENCE_DEPTH_MAX}", "$")
    if count > SUBSCHEMAS_MAX:
        return Problem(f"the schema has more than {SUBSCHEMAS_MAX} subschemas once references are followed", "$")
    return None


def _applied(node: dict[str, Any]) -> Iterator[tuple[Step | None, Any]]:
    """The subschemas that apply to the value (step None) or to a part of it. References are not followed."""
    for keyword in _HERE_ONE:
        yield None, node.get(keyword)
    for keyword in _HERE_LIST:
        for child in _list(node.get(keyword)):
            yield None, child
    for keyword in ("dependentSchemas", "dependencies"):
        for child in _map(node.get(keyword)).values():
            yield None, child
    properties = _map(node.get("properties"))
    yield from properties.items()
    for child in _map(node.get("patternProperties")).values():
        yield _EVERY, child
    yield frozenset(properties), node.get("additionalProperties")
    for keyword in _EVERY_ONE:
        yield _EVERY, node.get(keyword)
    items = node.get("items")
    yield from enumerate(_list(node.get("prefixItems")))
    if isinstance(items, list):  # before 2020-12
        yield from enumerate(items)
    else:
        yield _EVERY, items


def _everything(definition: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Each subschema written in the document with its place, used or not. References are not followed."""
    stack: list[tuple[Any, str]] = [(definition, "$")]
    while stack:
        node, path = stack.pop()
        if not isinstance(node, dict):
            continue
        yield node, path
        for step, child in _applied(node):
            stack.append((child, path if step is None else Mark("", (step,)).pattern.replace("$", path, 1)))
        stack.append((node.get("propertyNames"), path))
        for keyword in _STORES:
            stack.extend((child, f"{path}.{keyword}.{name}") for name, child in _map(node.get(keyword)).items())


def _expanded(root: Any, node: Any, done: dict[int, int], depth: int) -> int:
    """How many subschemas one value can meet at `node`, references followed; a circle counts once (validators remember)."""
    if depth > _REFERENCE_DEPTH_MAX:
        raise RecursionError
    if not isinstance(node, dict):
        return 1
    if id(node) in done:
        return done[id(node)]
    done[id(node)] = 1
    count = 1 + sum(_expanded(root, child, done, depth + 1) for _, child in _applied(node))
    count += sum(_expanded(root, _resolve(root, ref), done, depth + 1) for ref in _references(node))
    done[id(node)] = count
    return count


def _references(node: dict[str, Any]) -> Iterator[str]:
    return (node[keyword] for keyword in _REFERENCES if isinstance(node.get(keyword), str))


def _resolve(root: Any, reference: str) -> Any:
    """The subschema that a local reference names: a JSON Pointer (RFC 6901) or an anchor. None if there is none."""
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        anchors = ("$anchor", "$dynamicAnchor")
        return next((n for n, _ in _everything(root) if any(n.get(a) == fragment for a in anchors)), None)
    node = root
    for part in fragment.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(key)
        elif isinstance(node, list) and key.isascii() and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def _holds_mark(root: Any, start: dict[str, Any]) -> bool:
    stack: list[Any] = [start]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        if "x-interlock" in node:
            return True
        stack.extend(child for _, child in _applied(node))
        stack.extend(_resolve(root, ref) for ref in _references(node))
    return False


def _kind(value: Any, steps: tuple[Step, ...]) -> str:
    if not isinstance(value, str) or value not in MARKS:
        raise MarkError(f"`x-interlock` must be one of {', '.join(sorted(MARKS))}", Mark("", steps).pattern)
    return value


def _find(value: Any, steps: tuple[Step, ...], path: str) -> Iterator[tuple[str, Any]]:
    if not steps:
        yield path, value
        return
    step, rest = steps[0], steps[1:]
    if isinstance(value, dict) and not isinstance(step, int):
        keys = [k for k in value if k not in step] if isinstance(step, frozenset) else [step] if step in value else []
        for key in keys:
            yield from _find(value[key], rest, f"{path}.{key}")
    elif isinstance(value, list | tuple) and not isinstance(step, str):
        indices = range(len(value)) if isinstance(step, frozenset) else [step] if step < len(value) else []
        for index in indices:
            yield from _find(value[index], rest, f"{path}[{index}]")


def _deeper(definition: Any, depth_max: int) -> bool:
    level = [definition]
    for _ in range(depth_max):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
        ]
        if not level:
            return False
    return True


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
