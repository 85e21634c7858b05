"""Checks a single action without running anything: does its tool exist, do its parameters fit?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from interlock.lazy import lazy_pattern
from interlock.model.errors import ProposalError
from interlock.model.proposal import Action, ToolCompensation
from interlock.model.schema import Schema
from interlock.model.tool import Tool, open_schema
from interlock.model.values import nearest_name
from interlock.verify.references import References, has_dollar

_NAME: Final = lazy_pattern(r"[A-Za-z_$][A-Za-z0-9_.-]{0,31}", re.ASCII)
_LEVEL_OF_ITS_OWN: Final = lazy_pattern(r"is a required property$|^(an )?unknown property")
"""Messages about an object itself, which stay true whatever values its references get."""


class Problem(NamedTuple):
    """A reason why an action cannot run: a code of `REASONS`, and a sentence."""

    code: str
    message: str


class Calls:
    """Checks actions against tools; compiles each schema once."""

    def __init__(self, tools: Mapping[str, Tool], references: References) -> None:
        """`tools` by name; `references` tells references from text in the proposal."""
        self._tools = tools
        self._references = references
        self._schemas: dict[str, Schema | None] = {}

    def problems(self, action: Action) -> list[Problem]:
        """Returns what is wrong with the action and its compensation.

        Raises: SchemaError for a tool that cannot be called at all.
        """
        found: list[Problem] = []
        if action.invocation_mode != "one_shot":
            tool = self._tools.get(action.tool or "") if action.type == "tool_call" else None
            if (problem := mode_problem(action, tool)) is not None:
                found.append(Problem("unsupported_invocation_mode", problem))
        if action.type == "tool_call":
            self._look_at(action.tool or "", action.parameters, "", found)
        if isinstance(action.compensation, ToolCompensation):
            self._look_at(action.compensation.tool, action.compensation.parameters, "compensation: ", found)
        return found

    def _look_at(self, name: str, parameters: dict[str, Any], where: str, found: list[Problem]) -> None:
        tool = self._tools.get(name)
        if tool is None:
            near = nearest_name(name, list(self._tools))
            hint = f" (did you mean `{near}`?)" if near else ""
            found.append(Problem("unknown_tool", f"{where}no tool `{name}` is registered{hint}"))
            return
        schema = self._schema(tool)
        if schema is None or schema.is_valid(parameters):
            return
        open_places = self._open_places(parameters, "$") if has_dollar(parameters) else []
        for path, message in schema.errors(parameters):
            if not _depends_on_reference(path, message, open_places):
                found.append(Problem("invalid_parameters", f"{where}{path}: {message}"))

    def _schema(self, tool: Tool) -> Schema | None:
        if tool.name not in self._schemas:
            self._schemas[tool.name] = None if tool.parameters == open_schema() else Schema.compile(tool.parameters)
        return self._schemas[tool.name]

    def _open_places(self, value: Any, path: str) -> list[str]:
        """Returns where references are, as paths in the notation of `Schema.errors`."""
        if isinstance(value, str):
            return [path] if self._refers(value) else []
        if isinstance(value, dict):
            return [
                place
                for key, item in value.items()
                for place in self._open_places(item, f"{path}.{key}" if _NAME.fullmatch(key) else f"{path}[{key!r}]")
            ]
        if isinstance(value, list):
            return [place for i, item in enumerate(value) for place in self._open_places(item, f"{path}[{i}]")]
        return []

    def _refers(self, text: str) -> bool:
        try:
            return self._references.read(text) is not None
        except ProposalError:
            return True  # reported for the proposal as a whole


def _depends_on_reference(path: str, message: str, open_places: list[str]) -> bool:
    """Returns True if the error could vanish once the references have their values."""
    if path in open_places:
        return True
    inside = any(place.startswith((path + ".", path + "[")) for place in open_places)
    return inside and not _LEVEL_OF_ITS_OWN.search(message)


def mode_problem(action: Action, tool: Tool | None) -> str | None:
    """Returns why an action cannot have its `invocation_mode`, or None if it can.

    `tool` is None if the action calls no known tool.
    """
    modes = ("one_shot",) if tool is None else tool.invocation_modes
    if action.invocation_mode in modes:
        return None
    known = ", ".join(f"`{mode}`" for mode in modes)
    return f"`{action.tool or action.type}` can be called as {known} only"
