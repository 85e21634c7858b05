"""The JSON Schema of `interlock.toml`, for editors. `python -m` prints the `interlock.schema.json` beside it.

It is generated from the types that decode the file, so the two cannot differ, and it ships with the package. `interlock
init` copies it into the project and names the copy in the first line of the configuration; `interlock trust` updates
the copy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.disk import Disk
from interlock.model.errors import StoreError
from interlock.model.units import DURATION_PATTERN, SIZE_PATTERN
from interlock.settings.decode import fields_of, shown, unit_of
from interlock.settings.sections import DURATION, Settings, Tools

FILE: Final = Path(__file__).resolve().with_name("interlock.schema.json")
"""The schema in the installed package."""
PLACE: Final = "./.interlock/interlock.schema.json"
"""Its copy in a project, as named in the first line of `interlock.toml`."""

_PATTERNS = {True: DURATION_PATTERN, False: SIZE_PATTERN}


def json_schema() -> dict[str, Any]:
    """The schema (2020-12) as a JSON value."""
    schema = msgspec.json.schema(Settings)
    definitions: dict[str, Any] = schema["$defs"]
    for section in _sections(Settings):
        _with_units(definitions[section.__name__]["properties"], section)
    tools = definitions[Tools.__name__]
    # The settings of single tools are directly in `[tools]`, beside `modules`.
    tools["additionalProperties"] = tools["properties"].pop("by_name")["additionalProperties"]
    _without_null(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "interlock.toml",
        "description": "Configuration of Interlock. In pyproject.toml the same keys are in [tool.interlock].",
        **schema,
    }


def install(root: Path, disk: Disk) -> bool:
    """Copy the schema to `PLACE` in the project at `root`. Returns False if that is impossible. Follows no link.

    Beside the configuration, everyone with a copy of the project finds the schema, wherever Interlock is installed.
    """
    path = root / PLACE
    try:
        if path.parent.is_symlink():
            return False
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.is_symlink() or path.read_bytes() != FILE.read_bytes():
            disk.write_atomic(path, FILE.read_bytes(), 0o644, durable=False)
    except (OSError, StoreError):
        return False
    return True


def as_text() -> str:
    """The text of the published schema."""
    return json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _with_units(properties: dict[str, Any], section: type) -> None:
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(section)}
    for key, (_, hint) in fields_of(section).items():
        unit = unit_of(hint)
        if unit is None:
            continue
        text: dict[str, Any] = {"type": "string", "pattern": _PATTERNS[unit == DURATION]}
        if "description" in properties[key]:
            text["description"] = properties[key]["description"]
        if isinstance(defaults[key], int):
            text["default"] = shown(defaults[key], hint)
        properties[key] = text


def _without_null(node: Any) -> None:
    """Remove null from a type: TOML has none, and optional keys are omitted."""
    if isinstance(node, dict):
        if node.get("default", 0) is None:
            del node["default"]
        choices = node.get("anyOf")
        if isinstance(choices, list):
            choices[:] = [choice for choice in choices if choice != {"type": "null"}]
            if len(choices) == 1:
                node |= node.pop("anyOf")[0] | {key: node[key] for key in ("description",) if key in node}
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _without_null(child)


def _sections(top: type) -> list[type]:
    """`top` and all Struct classes beneath it."""
    _, components = msgspec.json.schema_components([top])
    found: list[type] = []
    stack: list[Any] = [top]
    while stack:
        kind = stack.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind not in found:
                found.append(kind)
                stack.extend(hint for _, hint in fields_of(kind).values())
        else:
            stack.extend(getattr(kind, "__args__", ()))
    assert {kind.__name__ for kind in found} == set(components)
    return found


if __name__ == "__main__":
    sys.stdout.write(as_text())
