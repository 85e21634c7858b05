"""JSON Schemas of tools: compiled once, safe against hostile definitions, with errors that never repeat values.

A definition may come from an MCP server, a capsule or a decorator, so it is treated as hostile. References must stay
inside the document (`#...`; others are refused before a validator is built, and the validator's retriever always
refuses too). Size, depth and the number of subschemas after following references are limited. Patterns run on a linear
engine, or with limited backtracking if they need look-around; a value that reaches the limit is invalid.

Draft 2020-12 unless `$schema` names an older one. Source: https://json-schema.org/draft/2020-12/json-schema-core
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import jsonschema_rs
import msgspec

from interlock.lazy import lazy_pattern
from interlock.model.limits import DEFAULT_LIMITS, Limits
from interlock.model.schema_walk import SchemaError, check_structure, defaults, marks
from interlock.model.text_forms import KEYWORD, Form
from interlock.model.values import nearest_name

__all__ = ["Schema", "SchemaError", "defaults", "marks"]

BACKTRACK_MAX: Final = 20_000
"""Steps that a pattern with look-around or back-references may take on one string."""

_ERRORS_MAX: Final = 20
_SHOWN_CHARS_MAX: Final = 200
_MASK: Final = "the value"
_PLAIN_NAME: Final = lazy_pattern(r"[A-Za-z_$][A-Za-z0-9_.-]{0,31}", re.ASCII)
_DRAFTS: Final = lazy_pattern(
    r"https?://json-schema\.org/(draft/2020-12/schema|draft/2019-09/schema|draft-0[467]/schema)#?", re.ASCII
)


class Schema:
    """A compiled schema. Immutable, and safe to share between threads."""

    __slots__ = ("_known", "_validator", "definition")

    def __init__(self, definition: dict[str, Any], validator: jsonschema_rs.Validator) -> None:
        """Called by `Schema.compile`."""
        self.definition = definition
        self._validator = validator
        self._known = _property_names(definition)

    @classmethod
    def compile(cls, definition: Any, *, limits: Limits = DEFAULT_LIMITS) -> Schema:
        """Check and compile a definition (a JSON object). Uses neither network nor disk. Raises: SchemaError."""
        if not isinstance(definition, dict):
            raise SchemaError("a schema must be an object", path="$")
        check_structure(definition, depth_max=limits.depth)
        draft = definition.get("$schema")
        if draft is not None and not (isinstance(draft, str) and _DRAFTS.fullmatch(draft)):
            raise SchemaError(
                "`$schema` names an unknown dialect",
                path="$['$schema']",
                hint="omit it (2020-12), or name a draft published at json-schema.org",
            )
        try:
            size = len(msgspec.json.encode(definition))
        except (TypeError, ValueError, RecursionError):
            raise SchemaError("a schema must be JSON") from None
        if size > limits.schema_bytes:
            raise SchemaError(f"the schema has {size} bytes; schema_bytes is {limits.schema_bytes}")
        try:
            validator = jsonschema_rs.validator_for(
                definition,
                retriever=_refuse,
                validate_formats=False,
                mask=_MASK,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_MAX),
                keywords={KEYWORD: Form},
            )
        except jsonschema_rs.ValidationError as error:
            raise SchemaError(f"not a valid schema: {_first_line(error.message)}", path=_place(error, None)) from None
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"not a valid schema: {_first_line(str(error))}") from None
        return cls(definition, validator)

    def is_valid(self, value: Any) -> bool:
        """True if the value fits. False for values that are not JSON, as far as the schema inspects them. Never raises."""
        try:
            return self._validator.is_valid(value)
        except ValueError:  # bytes, a lone surrogate, a key that is not a string, nested beyond the validator's limit
            return False

    def errors(self, value: Any) -> list[tuple[str, str]]:
        """The errors of a value as (path such as `$.files[0].mode`, message), at most 20; empty if the value fits.

        Neither contains the offending value. Property names that the schema does not declare are shown only if they are
        short and plain, because a name can be a secret too.
        """
        found: list[tuple[str, str]] = []
        try:
            for error in self._validator.iter_errors(value):
                found.append((_place(error, self._known), _message(error, self._known)))
                if len(found) == _ERRORS_MAX:
                    break
        except ValueError:
            return [
                ("$", "is not a JSON value (bytes, invalid Unicode, a key that is not a string, or nested too deeply)")
            ]
        return found


def _refuse(_uri: str) -> Any:
    raise ValueError("references outside the schema are refused")


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _SHOWN_CHARS_MAX else line[:_SHOWN_CHARS_MAX] + "..."


def _property_names(definition: Any) -> frozenset[str]:
    names: set[str] = set()
    stack = [definition]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            properties = node.get("properties")
            if isinstance(properties, dict):
                names.update(properties)
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return frozenset(names)


def _name(name: str, known: frozenset[str] | None) -> str | None:
    """A property name that may be shown, or None."""
    return name if known is None or name in known or _PLAIN_NAME.fullmatch(name) else None


def _place(error: jsonschema_rs.ValidationError, known: frozenset[str] | None) -> str:
    return "$" + "".join(_step(step, known) for step in error.instance_path)


def _step(step: str | int, known: frozenset[str] | None) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    name = _name(step, known)
    if name is None:
        return "[...]"
    return f".{name}" if _PLAIN_NAME.fullmatch(name) else f"[{name!r}]"


def _message(error: jsonschema_rs.ValidationError, known: frozenset[str]) -> str:
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=names) | (
            jsonschema_rs.ValidationErrorKind.UnevaluatedProperties(unexpected=names)
        ):
            return "; ".join(_unexpected(names, known))
        case (
            jsonschema_rs.ValidationErrorKind.AnyOf(context=forms)
            | jsonschema_rs.ValidationErrorKind.OneOfNotValid(context=forms)
        ) if forms:
            each = dict.fromkeys(_message(form[0], known) for form in forms[:5] if form)
            return "fits none of its forms: " + ", or ".join(each)
        case jsonschema_rs.ValidationErrorKind.Required(property=name):
            return f"`{name}` is a required property"
        case jsonschema_rs.ValidationErrorKind.PropertyNames():
            return "a property name is not allowed"
        case jsonschema_rs.ValidationErrorKind.BacktrackLimitExceeded():
            return "could not be matched against the pattern within the limit"
    return _first_line(error.message)


def _unexpected(names: list[str], known: frozenset[str]) -> Iterator[str]:
    for name in names[:5]:
        shown = _name(name, known)
        near = nearest_name(name, known)
        yield ("an unknown property" if shown is None else f"unknown property `{shown}`") + (
            f" (did you mean `{near}`?)" if near else ""
        )
    if len(names) > 5:
        yield f"and {len(names) - 5} more unknown properties"
