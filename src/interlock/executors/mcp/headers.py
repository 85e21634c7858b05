"""HTTP headers that repeat parts of a request, so that intermediaries need not read the body.

A tool's schema marks a parameter with `x-mcp-header: NAME`; its value is then also sent as `Mcp-Param-NAME`. Header and
body must agree; otherwise an intermediary would route by a value other than the one that is executed. Source: the
specification, "Transports", of 2026-07-28.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, Final

from interlock.lazy import lazy_pattern

_MARK: Final = "x-mcp-header"
_PREFIX: Final = "Mcp-Param-"
_TOKEN: Final = lazy_pattern(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLAIN: Final = lazy_pattern(r"[\x20-\x7e]*")
_ENCODED: Final = lazy_pattern(r"=\?base64\?(.*)\?=")
_TYPES: Final = ("string", "integer", "boolean")
_DATA: Final = frozenset(("const", "enum", "default", "examples"))
_MAPS: Final = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))

Path = tuple[str, ...]


def encode_value(text: str) -> str:
    """Encode a text as a header value."""
    if _PLAIN.fullmatch(text) and text == text.strip() and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def decode_value(value: str) -> str | None:
    """Decode a header value; None if it is invalid."""
    encoded = _ENCODED.fullmatch(value)
    if encoded is None:
        return value
    try:
        found = base64.b64decode(encoded[1], validate=True)
        return found.decode() if base64.b64encode(found).decode() == encoded[1] else None
    except ValueError:
        return None


def marked_parameters(schema: Mapping[str, Any]) -> dict[Path, str]:
    """Maps the path of each parameter that is repeated in a header to the header's name.

    Raises: ValueError, with the reason, if the schema marks a parameter that cannot be a header.
    """
    found: dict[Path, str] = {}
    for path, node in _nodes(schema, ()):
        name = node.get(_MARK)
        if name is None:
            continue
        if not path:
            raise ValueError(f"`{_MARK}` is on a schema that can describe more than one parameter")
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError(f"`{_MARK}` is not the name of a header")
        if node.get("type") not in _TYPES:
            raise ValueError(f"`{_MARK}` is on a parameter that is not text, an integer or a boolean")
        if f"{_PREFIX}{name}".lower() in {each.lower() for each in found.values()}:
            raise ValueError(f"`{_MARK}` names the same header twice")
        found[path] = f"{_PREFIX}{name}"
    return found


def headers_of(marked: Mapping[Path, str], arguments: Mapping[str, Any]) -> dict[str, str]:
    """Returns the headers of a call, encoded."""
    shown = {name: _shown(_at(arguments, path)) for path, name in marked.items()}
    return {name: encode_value(text) for name, text in shown.items() if text is not None}


def find_mismatch(
    marked: Mapping[Path, str], arguments: Mapping[str, Any], headers: Mapping[bytes, bytes]
) -> str | None:
    """Returns the first header that does not match the arguments; None if all match. Names in `headers` are in lower case."""
    for path, name in marked.items():
        given = headers.get(name.lower().encode())
        wanted = _shown(_at(arguments, path))
        said = None if given is None else decode_value(given.decode("latin-1").strip())
        if (given is None) != (wanted is None) or said != wanted:
            return name
    return None


def _nodes(node: Any, path: Path | None) -> Iterator[tuple[Path | None, Mapping[str, Any]]]:
    """Yields all schemas within a schema, with the paths of those that always describe the same parameter."""
    if not isinstance(node, Mapping):
        return
    yield path, node
    for keyword, value in node.items():
        if keyword in _MAPS and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from _nodes(inner, (*path, name) if keyword == "properties" and path is not None else None)
        elif keyword not in _DATA:
            for inner in value if isinstance(value, list) else [value]:
                yield from _nodes(inner, None)


def _at(arguments: Mapping[str, Any], path: Path) -> Any:
    found: Any = arguments
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _shown(value: Any) -> str | None:
    """Returns a value in its header form; None for a value that is not sent in a header."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():  # 1.0 is the integer 1
        value = int(value)
    return str(value) if isinstance(value, str | int) else None
