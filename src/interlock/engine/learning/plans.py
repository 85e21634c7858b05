"""Converts a skill with arguments to a proposal, and checks that its content allows this."""

from __future__ import annotations

from typing import Any

from interlock.engine.learning.traces import NOT_LEARNT, document_of, is_never_in_skill
from interlock.engine.proposals.decoding import decode
from interlock.learning.align import JSON_TYPES, PARAMETER, REFERENCE
from interlock.learning.skills import Content, Skill
from interlock.model.errors import UsageError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.schema import Schema
from interlock.verify.references import References


def parameters_of(skill: Skill) -> dict[str, Any]:
    """The JSON Schema of a skill's arguments."""
    properties = skill.content.template.parameters
    return {"type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}


def proposal_of(skill: Skill, arguments: dict[str, Any], *, source: str, after: str | None = None) -> dict[str, Any]:
    """The skill as a proposal with these arguments; `after` as in `document_of`. Raises: UsageError `skill_arguments`."""
    errors = Schema.compile(parameters_of(skill)).errors(arguments)
    if errors:
        where, what = errors[0]
        raise UsageError(
            f"the arguments of `{skill.name}` do not fit: {where}: {what}",
            code="skill_arguments",
            hint=f"`interlock skills show {skill.name}` shows its parameters",
        )
    return document_of(skill.content.template, arguments, source=source, after=after)


def check_content(content: Content, what: str = "the file is not an exported skill") -> None:
    """Raises: UsageError if the template cannot become a proposal."""
    template = content.template
    used = set(_parameters([step.parameters for step in template.steps]))
    needs = all(0 <= need < len(template.steps) for step in template.steps for need in step.needs)
    if used != set(template.parameters) or not needs or not template.steps:
        raise UsageError(f"{what}: its steps and parameters do not match")
    if {step.tool for step in template.steps if step.tool} != set(content.tools):
        raise UsageError(f"{what}: it does not name the tools that it calls")
    if never := sorted(filter(is_never_in_skill, content.tools)):
        raise UsageError(f"a skill cannot call `{never[0]}`, which decides by itself what is done")
    for name, schema in template.parameters.items():
        if not isinstance(schema, dict) or not _is_type(schema.get("type")) or len(schema) != 1:
            raise UsageError(f"{what}: its parameter `{name}` has no plain JSON type")
    if extra := sorted({name for step in template.steps for name in step.more if name in NOT_LEARNT}):
        raise UsageError(f"{what}: its steps cannot have `{extra[0]}`")
    steps = {f"s{index + 1}" for index in range(len(template.steps))}
    if not all(_is_reference(one, steps) for one in _references([step.parameters for step in template.steps])):
        raise UsageError(f"{what}: it contains a reference to no step")
    examples = dict.fromkeys(template.parameters, "x")
    decode(document_of(template, examples), DEFAULT_LIMITS)


def _is_type(value: Any) -> bool:
    """True for a type that `align` can give to a parameter."""
    names = [value] if isinstance(value, str) else value
    return isinstance(names, list) and bool(names) and all(isinstance(one, str) and one in JSON_TYPES for one in names)


def _is_reference(value: Any, steps: set[str]) -> bool:
    """True if this becomes a reference, and not a text that only a `$` was put before."""
    found = References(steps).read(f"${value}") if isinstance(value, str) else None
    return found is not None and found.id in steps


def _references(value: Any) -> list[Any]:
    if isinstance(value, dict):
        if len(value) == 1 and REFERENCE in value:
            return [value[REFERENCE]]
        return [one for inner in value.values() for one in _references(inner)]
    return [one for inner in value for one in _references(inner)] if isinstance(value, list) else []


def _parameters(value: Any) -> list[str]:
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get(PARAMETER), str):
            return [value[PARAMETER]]
        return [name for inner in value.values() for name in _parameters(inner)]
    return [name for inner in value for name in _parameters(inner)] if isinstance(value, list) else []
