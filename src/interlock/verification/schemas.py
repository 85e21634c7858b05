"""Checks values against the published JSON Schemas, the only thing that the verifier shares with the writer."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema_rs

DIRECTORY: Final = Path(__file__).resolve().parents[1] / "evidence" / "schemas"
_SHOWN_CHARS: Final = 300

Check = Callable[[Any], str | None]
"""Returns what is wrong with a value; None if nothing is."""


@cache
def document(name: str) -> Check:
    """Returns the check for a document, such as `manifest`."""
    return _check(_read(name))


@cache
def part(name: str, definition: str) -> Check:
    """Returns the check for a part of a document, such as `JournalHead` of `manifest`."""
    schema = _read(name)
    return _check({"$schema": schema["$schema"], "$defs": schema["$defs"], "$ref": f"#/$defs/{definition}"})


@cache
def line(name: str) -> Check:
    """Returns the check for a line, such as `kernel-line`, chosen by the line's `kind`."""
    schema = _read(name)
    checks = {kind: _check(own) for kind, own in _by_kind(schema).items()}
    other = _check(schema)

    def check(value: Any) -> str | None:
        kind = value.get("kind") if isinstance(value, dict) else None
        return (checks.get(kind, other) if isinstance(kind, str) else other)(value)

    return check


def _read(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((DIRECTORY / f"{name}.schema.json").read_bytes())
    return schema


def _by_kind(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Split the schema by kind of line: equivalent to the whole schema, but much faster, because no other kind is tried.

    A schema of lines is either a choice with a `discriminator`, or has an `if` for each kind.
    """
    shared = {"$schema": schema["$schema"], "$defs": schema.get("$defs", {})}
    if "discriminator" in schema:
        return {kind: {**shared, "$ref": ref} for kind, ref in schema["discriminator"]["mapping"].items()}
    if "if" in schema:
        common = {name: part for name, part in schema["else"].items() if name != "allOf"}
        found = {schema["if"]["properties"]["kind"]["const"]: {**shared, **schema["then"]}}
        for one in schema["else"]["allOf"]:
            found[one["if"]["properties"]["kind"]["const"]] = {**shared, "allOf": [common, one["then"]]}
        return found
    return {}


def _check(schema: dict[str, Any]) -> Check:
    validator = jsonschema_rs.validator_for(schema)
    is_valid, errors = validator.is_valid, validator.iter_errors

    def check(value: Any) -> str | None:
        try:
            if is_valid(value):
                return None
            for error in errors(value):
                place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
                return f"{error.message[:_SHOWN_CHARS]} - at `${place[:_SHOWN_CHARS]}`"
        except ValueError as error:  # for example an integer out of range
            return str(error)[:_SHOWN_CHARS]
        return "it does not fit its schema"

    return check
