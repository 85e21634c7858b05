"""Walks over JSON Schemas without validating: checks that the structure is harmless, and finds marked arguments.

Both use the same table of the keywords that contain subschemas, and where in the value these apply. Keywords that are
not in the table (`const`, `enum`, `default`, `examples`, unknown keywords) contain data, never schemas.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from interlock.model.errors import Fault, InterlockError

MARKS: Final = frozenset(("path.read", "path.write", "host", "secret", "command", "environment", "model"))
"""The values of `x-interlock` on a property."""

SUBSCHEMAS_MAX: Final = 200_000
"""Maximum subschemas of one schema, counted again at each reference, so that `$defs` that double at each level are refused."""

_REFERENCE_DEPTH_MAX: Final = 200
_DEFAULT_SCHEMAS_MAX: Final = 10_000
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")

_STORES: Final = ("$defs", "definitions")
Applied = Iterable[tuple[str, Any]]
"""Subschemas, each with the step from the value to the part it describes."""


class SchemaError(InterlockError):
    """A tool's schema cannot be used: it is not JSON Schema, has a reference outside the document, or exceeds a limit."""

    exit_code = 2
    fault: Fault = "tool"
    default_code = "invalid_schema"


def marks(definition: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """All `x-interlock` marks of a schema, with references followed, as (pointer pattern, mark), sorted.

    A pointer pattern is a JSON Pointer (RFC 6901) in which `*` stands for every element or key: `/files/*/path`. A mark
    on `additionalProperties` also covers the declared properties beside it: one check too many is harmless.

    Raises: SchemaError for an unknown mark, and for one that cannot be tied to arguments (on property names, in a
    recursive schema, or in a place that no argument reaches), because ignoring a mark would be a security hole.
    """
    with contextlib.suppress(TypeError, ValueError, RecursionError):  # not JSON: the walk looks at what it can
        if b'"x-interlock"' not in msgspec.json.encode(definition):
            return ()
    found: set[tuple[str, str]] = set()
    seen: set[int] = set()
    # A node, the pointer to the part it describes, and the nodes above it (to detect recursion).
    stack: list[tuple[Any, str, frozenset[int]]] = [(definition, "", frozenset())]
    budget = SUBSCHEMAS_MAX
    while stack:
        node, pointer, above = stack.pop()
        if not isinstance(node, dict):
            continue
        budget -= 1
        if budget < 0:
            raise SchemaError("too many subschemas", path="$")
        if id(node) in above:
            if _holds_mark(definition, node):
                raise SchemaError("a recursive schema cannot have x-interlock marks", path=pointer)
            continue
        seen.add(id(node))
        if "x-interlock" in node:
            found.add((pointer, _mark(node["x-interlock"], pointer)))
        below = above | {id(node)}
        stack.extend((child, pointer + step, below) for step, child in _applied(node))
        stack.extend((_resolve(definition, ref), pointer, below) for ref in _references(node))
    for node, path in _everything(definition):
        if "x-interlock" in node and id(node) not in seen:
            raise SchemaError("an x-interlock mark is in a place that no argument reaches", path=path)
    return tuple(sorted(found))


def defaults(definition: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """The defaults of omitted properties by path (`*` for every element), outer ones first.

    A null default counts as none. A value with several possible forms has no known defaults, unless null is the only
    alternative.
    """
    found: dict[tuple[str, ...], Any] = {}
    # A node, the path to the part it describes, and the nodes above it: a recursive schema is read once. Near nodes
    # come first, so that many mutual references cannot use up the budget before their siblings.
    queue: deque[tuple[Any, tuple[str, ...], frozenset[int]]] = deque([(definition, (), frozenset())])
    budget = _DEFAULT_SCHEMAS_MAX
    while queue and budget:
        node, path, above = queue.popleft()
        budget -= 1
        if not isinstance(node, dict) or id(node) in above:
            continue
        below = above | {id(node)}
        if path and path[-1] != "*" and node.get("default") is not None:
            found.setdefault(path, node["default"])
        queue.extend((part, (*path, name), below) for name, part in _map(node.get("properties")).items())
        queue.append((node.get("items"), (*path, "*"), below))
        forms = [
            form for keyword in ("anyOf", "oneOf") for form in _list(node.get(keyword)) if form != {"type": "null"}
        ]
        same = [*_list(node.get("allOf")), *(_resolve(definition, ref) for ref in _references(node))]
        queue.extend((form, path, below) for form in (*same, *(forms if len(forms) == 1 else ())))
    return dict(sorted(found.items(), key=lambda each: len(each[0])))


def check_structure(definition: dict[str, Any], *, depth_max: int) -> None:
    """Refuse a schema that could harm a validator, before any validator sees it.

    Raises: SchemaError for nesting beyond `depth_max`, a reference that leaves the document, an embedded `$id` or
    `$schema` (they change what `#` means), and references that multiply or nest beyond the limits.
    """
    if _deeper(definition, depth_max):
        raise SchemaError(f"the schema is nested deeper than {depth_max}", path="$")
    for node, path in _everything(definition):
        for keyword in _REFERENCES:
            reference = node.get(keyword)
            if reference is not None and not (isinstance(reference, str) and reference.startswith("#")):
                hint = "put the definition into `$defs` and refer to it as `#/$defs/NAME`"
                raise SchemaError(f"`{keyword}` leaves the document; schemas are never fetched", path=path, hint=hint)
        if node is not definition and ("$id" in node or "$schema" in node):
            raise SchemaError(
                "an embedded `$id` or `$schema` is refused",
                path=path,
                hint="put it at the top of the schema, or omit it",
            )
    if _expanded(definition, definition, {}, 0) > SUBSCHEMAS_MAX:
        raise SchemaError(
            f"the schema has more than {SUBSCHEMAS_MAX} subschemas once references are followed", path="$"
        )


def _applied(node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The subschemas that apply to the value (step empty) or to a part of it (`/name`, `/*`). References are not followed."""
    for keyword, value in node.items():
        subschemas = _SUBSCHEMAS.get(keyword)
        if subschemas is not None:
            yield from subschemas(value)


def _same(value: Any) -> Applied:
    return (("", value),)


def _same_each(value: Any) -> Applied:
    return (("", child) for child in _list(value))


def _same_named(value: Any) -> Applied:
    return (("", child) for child in _map(value).values())


def _every(value: Any) -> Applied:
    return (("/*", value),)


def _every_named(value: Any) -> Applied:
    return (("/*", child) for child in _map(value).values())


def _named(value: Any) -> Applied:
    return (("/" + str(name).replace("~", "~0").replace("/", "~1"), child) for name, child in _map(value).items())


def _numbered(value: Any) -> Applied:
    return ((f"/{index}", child) for index, child in enumerate(_list(value)))


def _items(value: Any) -> Applied:
    return _numbered(value) if isinstance(value, list) else _every(value)  # a list: drafts before 2020-12


_SUBSCHEMAS: Final[dict[str, Callable[[Any], Applied]]] = {
    **dict.fromkeys(("not", "if", "then", "else"), _same),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _same_each),
    **dict.fromkeys(("dependentSchemas", "dependencies"), _same_named),
    "properties": _named,
    "patternProperties": _every_named,
    **dict.fromkeys(
        ("additionalProperties", "contains", "additionalItems", "unevaluatedItems", "unevaluatedProperties"), _every
    ),
    "items": _items,
    "prefixItems": _numbered,
}
"""The subschemas in the value of a keyword, with what each applies to: the value itself, every part of it, or a named part."""


def _everything(definition: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every subschema in the document with its place, used or not. References are not followed."""
    stack: list[tuple[Any, str]] = [(definition, "#")]
    while stack:
        node, path = stack.pop()
        if not isinstance(node, dict):
            continue
        yield node, path
        stack.extend((child, path + step) for step, child in _applied(node))
        stack.append((node.get("propertyNames"), path))
        for keyword in _STORES:
            stack.extend((child, f"{path}/{keyword}/{name}") for name, child in _map(node.get(keyword)).items())


def _expanded(root: Any, node: Any, done: dict[int, int], depth: int) -> int:
    """How many subschemas can apply to one value at `node`, with references followed. A cycle counts once (validators cache)."""
    if depth > _REFERENCE_DEPTH_MAX:
        raise SchemaError(f"references nest deeper than {_REFERENCE_DEPTH_MAX}", path="$")
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
    """The subschema of a local reference: a JSON Pointer (RFC 6901) or an anchor. None if there is none."""
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


def _mark(value: Any, pointer: str) -> str:
    if not isinstance(value, str) or value not in MARKS:
        raise SchemaError(f"`x-interlock` must be one of {', '.join(sorted(MARKS))}", path=pointer)
    return value


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
