"""A tool's parameters as a model should see them: smaller and simpler than the gate's schema, and never stricter.

Keywords that only Interlock reads (such as `x-interlock` and `$schema`), and those that vendors refuse at the top of a schema,
are omitted. A path is plain text here: with the form for names that are not UTF-8, models write objects instead of text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_MAPS: Final = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_DATA: Final = frozenset(("const", "enum", "default", "examples", "required", "dependentRequired"))
_NOT_AT_TOP: Final = frozenset(("anyOf", "oneOf", "allOf", "not", "if", "then", "else", "enum", "const", "$ref"))
_FORMS: Final = ("anyOf", "oneOf")


def model_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema for a model. Everything valid under the tool's own schema, except unusual path names, is valid here."""
    slim = _slim(dict(parameters))
    top = {name: value for name, value in slim.items() if name not in _NOT_AT_TOP}
    return {**top, "type": "object", "properties": top.get("properties", {})}


def _slim(node: Any) -> Any:
    if isinstance(node, list):
        return [_slim(each) for each in node]
    if not isinstance(node, dict):
        return node
    if str(node.get("x-interlock", "")).startswith("path."):
        node = _as_text(node)
    found: dict[str, Any] = {}
    for keyword, value in node.items():
        if keyword.startswith("x-interlock") or keyword == "$schema":
            continue
        if keyword in _MAPS and isinstance(value, dict):
            found[keyword] = {name: _slim(each) for name, each in value.items()}
        else:
            found[keyword] = value if keyword in _DATA else _slim(value)
    return found


def _as_text(node: dict[str, Any]) -> dict[str, Any]:
    """A path parameter that may be text or an object, as text (or null, if that is allowed too)."""
    for keyword in _FORMS:
        forms = [form for form in node.get(keyword, ()) if isinstance(form, dict) and form.get("type") != "object"]
        if len(forms) == len(node.get(keyword, ())) or not any(form.get("type") == "string" for form in forms):
            continue
        rest = {name: value for name, value in node.items() if name != keyword}
        return {**forms[0], **rest} if len(forms) == 1 else {**rest, keyword: forms}
    return node
