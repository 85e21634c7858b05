"""Pydantic types as parameters and results, for tool modules that import pydantic.

Pydantic provides the schema, the conversion and the serialization of its types. The schema is checked in step 3 like
any other. A constraint that only code can check (a validator) fails the call with an error that names the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from interlock.model.errors import ToolError
from interlock.model.text_forms import KEYWORD
from interlock.model.values import step

_FORMS: Final = {"date": "date", "date-time": "date-time", "time": "time", "duration": "duration", "uuid": "uuid"}
_LENGTHS: Final = ("minLength", "maxLength")
_INAPPLICABLE: Final = {"integer": _LENGTHS, "number": _LENGTHS, "boolean": _LENGTHS, "string": ("multiple_of",)}
"""Constraints that pydantic accepts for a type of this name, and that fail for each of its values."""
_OF_THE_AUTHOR: Final = ("value_error", "assertion_error")
"""Kinds of error whose text comes from the validator and may contain the value."""


def schema_of(kind: Any, prefix: str, *, output: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the schema of a type and its definitions, with `prefix` in their names. Raises: TypeError."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - optional
    from pydantic.errors import PydanticUserError  # noqa: PLC0415 - optional

    try:
        found = TypeAdapter(kind).json_schema(
            ref_template=f"#/$defs/{prefix}.{{model}}", mode="serialization" if output else "validation"
        )
    except PydanticUserError as error:
        raise TypeError(error.message.partition("\n")[0]) from None
    definitions = {f"{prefix}.{name}": schema for name, schema in found.pop("$defs", {}).items()}
    for schema in (found, *definitions.values()):
        _tighten(schema)
    return found, definitions


def converter(name: str, kind: Any, whole: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a function that converts a parameter's JSON value to the type, or raises ToolError `invalid_parameters`.

    `whole` converts numbers such as 3.0 to integers, because JSON does not distinguish them. Raises: TypeError.
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - optional
    from pydantic.errors import PydanticUserError  # noqa: PLC0415 - optional

    try:
        adapter = TypeAdapter(kind)
    except PydanticUserError as error:
        raise TypeError(error.message.partition("\n")[0]) from None

    def convert(value: Any) -> Any:
        try:
            # Validate as JSON: there, strict types accept the text of a date, but not as a Python value.
            return adapter.validate_json(msgspec.json.encode(whole(value)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            why = "a validator refused it" if first["type"] in _OF_THE_AUTHOR else first["msg"]
            path = "".join(step(part) if isinstance(part, str) else f"[{part}]" for part in first["loc"])
            raise ToolError(
                f"`{name}{path}` does not match its type: {why}",
                code="invalid_parameters",
                retryable=False,
                path=f"$.{name}{path}",
            ) from None

    return convert


def _tighten(schema: Any) -> None:
    """Close objects, mark secrets, and add text formats. Raises: TypeError for a constraint that no value can meet."""
    if isinstance(schema, list):
        for each in schema:
            _tighten(each)
    if not isinstance(schema, dict):
        return
    _check_constraints(schema)
    if isinstance(schema.get("properties"), dict):
        schema.setdefault("additionalProperties", False)
    if schema.get("type") == "string":
        if schema.get("format") in _FORMS:
            schema.setdefault(KEYWORD, _FORMS[schema["format"]])
        if schema.get("format") == "password":
            schema.setdefault("x-interlock", "secret")
    schema.pop("uniqueItems", None)
    for keyword, child in schema.items():
        if keyword in ("properties", "patternProperties"):
            for each in child.values():
                _tighten(each)
        elif keyword in ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties", "propertyNames"):
            _tighten(child)


def _check_constraints(schema: dict[str, Any]) -> None:
    named = schema.get("type")
    for constraint in _INAPPLICABLE.get(named, ()) if isinstance(named, str) else ():
        if constraint in schema:
            raise TypeError(f"the constraint `{constraint}` does not apply to values of the type {named}")
