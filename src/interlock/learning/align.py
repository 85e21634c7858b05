"""Aligns traces of one shape: values that differ become parameters, equal values stay. Pure and deterministic.

A trace is a proposal without its ids: its steps in order, and references as `{"$reference": "s1.output.path"}`. A
template is a trace in which `{"$parameter": NAME}` stands for each value that differs. Secrets, and texts with an
absolute path, are never kept: they become parameters even if all traces agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from interlock.detect.redact import DONE
from interlock.model.canonical import canonical, digest

REFERENCE: Final = "$reference"
PARAMETER: Final = "$parameter"
_ABSOLUTE: Final = re.compile(r"(?:^|[\s=:'\"(,;<>|&])(?:~[\w.-]*)?/[\w.~-]")
_NAME: Final = re.compile(r"[^A-Za-z0-9_]+")
_TYPES: Final = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
    type(None): "null",
}
JSON_TYPES: Final = frozenset(_TYPES.values())
"""JSON types that a parameter of a template can have."""


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One action of a trace or a template."""

    type: str
    tool: str | None = None
    parameters: dict[str, Any] = {}
    needs: tuple[int, ...] = ()
    """Numbers of the steps that this step depends on, from 0."""
    more: dict[str, Any] = {}
    """Other fields of the action: the same in all traces of a shape."""


class Trace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A proposal that succeeded."""

    order: str
    steps: tuple[Step, ...]
    goal: str = ""

    @property
    def shape(self) -> str:
        """Returns a digest of what traces must have in common to be aligned: tools, edges, order, names, and references."""
        steps = [
            [
                one.type,
                one.tool,
                list(one.needs),
                one.more,
                sorted(one.parameters),
                sorted(_references(one.parameters, "")),
            ]
            for one in self.steps
        ]
        return digest("skill_shape", [self.order, steps])


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parametrised proposal."""

    order: str
    steps: tuple[Step, ...]
    parameters: dict[str, Any]
    """JSON Schema of each parameter, by name."""


class UnalignableError(Exception):
    """The traces differ where a parameter is not possible, such as in a reference."""


def align(traces: Sequence[Trace]) -> Template:
    """Returns the template of traces of one shape, regardless of their order. Raises: UnalignableError."""
    merging = _Merging()
    first = traces[0]
    steps = []
    for number, step in enumerate(first.steps):
        values = [trace.steps[number].parameters for trace in traces]
        merged = merging.merge(values, (step.tool or step.type,), top=True)
        steps.append(msgspec.structs.replace(step, parameters=merged))
    return Template(order=first.order, steps=tuple(steps), parameters=merging.schemas())


def bindings(template: Template, trace: Trace) -> dict[str, Any] | None:
    """Returns the arguments with which the template yields the trace; None if it does not."""
    if template.order != trace.order or len(template.steps) != len(trace.steps):
        return None
    found: dict[str, Any] = {}
    for ours, theirs in zip(template.steps, trace.steps, strict=True):
        if (ours.type, ours.tool, ours.needs, ours.more) != (theirs.type, theirs.tool, theirs.needs, theirs.more):
            return None
        if not _match(ours.parameters, theirs.parameters, found):
            return None
    return found


def fill(value: Any, arguments: dict[str, Any]) -> Any:
    """Returns the value with its parameters replaced by arguments."""
    if isinstance(value, dict):
        name = value.get(PARAMETER)
        if len(value) == 1 and isinstance(name, str):
            return arguments[name]
        return {key: fill(inner, arguments) for key, inner in value.items()}
    return [fill(inner, arguments) for inner in value] if isinstance(value, list) else value


def keeps_apart(value: Any) -> bool:
    """Returns True if a value must not be kept in a template: it contains a redacted secret or an absolute path."""
    if isinstance(value, str):
        return DONE.search(value) is not None or _ABSOLUTE.search(value) is not None
    if isinstance(value, dict):
        return any(keeps_apart(key) or keeps_apart(inner) for key, inner in value.items())
    return isinstance(value, list | tuple) and any(map(keeps_apart, value))


def is_marker(value: Any) -> bool:
    """Returns True if a value looks like a mark of a trace or a template: nothing is learnt from such a proposal."""
    if isinstance(value, dict):
        return REFERENCE in value or PARAMETER in value or any(map(is_marker, value.values()))
    return isinstance(value, list | tuple) and any(map(is_marker, value))


class _Merging:
    """One alignment: the parameters found so far."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}
        self._values: dict[str, list[Any]] = {}

    def merge(self, values: list[Any], place: tuple[str, ...], *, top: bool = False) -> Any:
        if _is_reference(values[0]) or any(map(_is_reference, values)):
            if any(value != values[0] for value in values):
                raise UnalignableError
            return values[0]
        if all(isinstance(value, dict) for value in values) and len({frozenset(value) for value in values}) == 1:
            if not any(keeps_apart(key) for key in values[0]):
                return {key: self.merge([v[key] for v in values], (*place, key)) for key in sorted(values[0])}
        elif all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
            return [self.merge([v[i] for v in values], place) for i in range(len(values[0]))]
        if top or any(next(_references(value, ""), None) is not None for value in values):
            raise UnalignableError
        if len({canonical(value) for value in values}) == 1 and not keeps_apart(values[0]):
            return values[0]
        return {PARAMETER: self._name(values, place)}

    def _name(self, values: list[Any], place: tuple[str, ...]) -> str:
        """Returns the name of a parameter. The same values at two places are one parameter."""
        key = canonical(values)
        known = self._names.get(key)
        if known is not None:
            return known
        base = _NAME.sub("_", place[-1]).strip("_").lower() or "value"
        name, number = base, 2
        while name in self._values:
            name, number = f"{base}_{number}", number + 1
        self._names[key], self._values[name] = name, values
        return name

    def schemas(self) -> dict[str, Any]:
        found = {}
        for name, values in self._values.items():
            types = sorted({_TYPES[type(value)] for value in values})
            if types == ["integer", "number"]:
                types = ["number"]
            found[name] = {"type": types[0] if len(types) == 1 else types}
        return found


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and REFERENCE in value


def _references(value: Any, path: str) -> Iterator[str]:
    """Yields the places of references, with their targets."""
    if _is_reference(value):
        yield f"{path} {value[REFERENCE]}"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _references(inner, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _references(inner, f"{path}/{index}")


def _match(ours: Any, theirs: Any, found: dict[str, Any]) -> bool:
    if isinstance(ours, dict) and len(ours) == 1 and PARAMETER in ours:
        name = ours[PARAMETER]
        if name in found:
            return canonical(found[name]) == canonical(theirs)
        found[name] = theirs
        return True
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_match(ours[key], theirs[key], found) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(_match(a, b, found) for a, b in zip(ours, theirs, strict=True))
    return type(ours) is type(theirs) and bool(canonical(ours) == canonical(theirs))
