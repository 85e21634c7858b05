"""Decodes bytes to a proposal, strictly: any defect is one error that names the field, before anything runs.

The document is parsed strictly (`interlock.model.values`), converted to structs (msgspec: no unknown field, no
coercion), and then checked action by action for what types cannot express: limits, names, and the parameters of each
type of action. `interlock.verify` checks that ids are unique and references resolve.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from interlock.lazy import lazy, lazy_pattern
from interlock.model import typed
from interlock.model.errors import ProposalError
from interlock.model.limits import DEFAULT_LIMITS, INTEGER_MAX, Limits
from interlock.model.proposal import (
    INVOCATION_MODES,
    Action,
    ActionCompensation,
    ActionType,
    Assumption,
    Budget,
    FailureBehavior,
    Operator,
    Order,
    Precondition,
    Proposal,
    Reversibility,
    ToolCompensation,
)
from interlock.model.values import (
    RESERVED,
    check_value,
    count_exceeds,
    nearest_name,
    parse_json,
    plain,
    quoted,
    step,
    with_floats,
)

if TYPE_CHECKING:
    from interlock.model import yaml
else:
    yaml = lazy("interlock.model.yaml")

STATE_PARAMETERS: Final = {
    "state_write": frozenset(("key", "value")),
    "state_read": frozenset(("key",)),
    "assertion": frozenset(("key", "expected")),
}
_ATOMS: Final = frozenset((str, bool, type(None)))
_POINTER: Final = lazy_pattern(r"(/([^~/]|~[01])*)*\Z")
_LARGE_NUMBER: Final = lazy_pattern(rb"[0-9]{16}")
_MSGSPEC_PATH: Final = lazy_pattern(r" - at (?:`key` in )?`(\$[^`]*)`\Z")
_UNKNOWN_FIELD: Final = lazy_pattern(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_MISSING_FIELD: Final = lazy_pattern(r"Object missing required field `(.*)`\Z")
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "type": get_args(ActionType),
    "operator": get_args(Operator),
    "order": get_args(Order),
    "reversibility": get_args(Reversibility),
    "failure_behavior": get_args(FailureBehavior),
    "compensation": ("tool", "action_ref"),
}
_SHAPES: Final[dict[str, tuple[type, ...]]] = {
    "": (Proposal,),
    "actions": (Action,),
    "preconditions": (Precondition,),
    "assumptions": (Assumption,),
    "compensation": (ToolCompensation, ActionCompensation),
    "budget": (Budget,),
}


def decode_proposal(
    data: bytes,
    *,
    format: Literal["json", "yaml"] = "json",  # noqa: A002 - callers write `format="yaml"`
    limits: Limits = DEFAULT_LIMITS,
) -> Proposal:
    """Decode a JSON (RFC 8259) or YAML (`interlock.model.yaml`) document.

    Actions without `id` get `a1`, `a2`, ... by position. Raises: ProposalError, whose `path` is the field
    (`$.actions[3].parameters.x`), or line and column for a syntax error.
    """
    name, most = ("proposal_bytes", limits.proposal_bytes) if format == "json" else ("yaml_bytes", limits.yaml_bytes)
    if len(data) > most:
        raise _limit(f"the document has {len(data)} bytes, more than {most}", name)
    document = parse_json(data) if format == "json" else yaml.parse_yaml(data, limits)
    # In JSON each value but the first opens its container or follows a comma, so this bound usually suffices.
    few = format == "json" and data.count(b",") + data.count(b"[") + data.count(b"{") < limits.values
    if not few and count_exceeds(document, limits.values):
        raise _limit(f"the document has more than {limits.values} values", "values")
    return _proposal(document, limits, measure=len(data) > limits.parameters_bytes)


def decode_value(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Decode one JSON value, with the same checks as the values of a proposal. Raises: ProposalError."""
    if len(data) > limits.proposal_bytes:
        raise _limit(f"the document has {len(data)} bytes, more than {limits.proposal_bytes}", "proposal_bytes")
    value = parse_json(data)
    check_value(value, "$", limits)
    return value


def proposal_from_builtins(document: Proposal | Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> Proposal:
    """Convert a Python value: a mapping shaped like the JSON document, or a `Proposal` created in code.

    The value is copied. Tuples, enums, dates and dataclasses become their JSON form. Raises: ProposalError.
    """
    value = plain(document, limits)  # an empty id in a struct is the default, so it is omitted
    return _proposal(value, limits, measure=True)


def proposal_from_original(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Proposal:
    """Decode a proposal that Interlock itself has decoded before, and kept as canonical JSON, quickly.

    Equal to the proposal that was kept. Raises: ProposalError.
    """
    if _LARGE_NUMBER.search(data):
        return proposal_from_builtins(with_floats(msgspec.json.decode(data)), limits)
    try:
        proposal = typed.decode(data, Proposal)
    except msgspec.ValidationError as error:
        raise _shape_error(str(error)) from None
    return _checked(proposal, limits, measure=True)


def _proposal(document: Any, limits: Limits, *, measure: bool) -> Proposal:
    if document.__class__ is dict:
        actions = document.get("actions")
        if actions.__class__ is list:
            if len(actions) > limits.actions:
                raise _limit(f"{len(actions)} actions, more than {limits.actions}", "actions", "$.actions")
            _give_ids(actions)
        if document.get("id") == "":
            raise ProposalError("the id is empty", path="$.id")
    try:
        proposal = typed.convert(document, Proposal)
    except msgspec.ValidationError as error:
        raise _shape_error(str(error)) from None
    return _checked(proposal, limits, measure=measure)


def _checked(proposal: Proposal, limits: Limits, *, measure: bool) -> Proposal:
    _check_proposal(proposal, limits)
    for index, action in enumerate(proposal.actions):
        _check_action(action, index, limits, measure)
    return proposal


def _give_ids(actions: list[Any]) -> None:
    """Name actions without an id by position, so that `$a1.output` always refers to the first action."""
    missing = [i for i, a in enumerate(actions) if a.__class__ is dict and "id" not in a]
    if not missing:
        return
    taken = {a["id"] for a in actions if a.__class__ is dict and a.get("id").__class__ is str}
    for i in missing:
        name, n = f"a{i + 1}", 2
        while name in taken:
            name, n = f"a{i + 1}_{n}", n + 1
        taken.add(name)
        actions[i]["id"] = name


def _check_proposal(proposal: Proposal, limits: Limits) -> None:
    if proposal.id:
        _name(proposal.id, "$.id", limits.id_chars, "id_chars")
    for field in ("source", "agent", "session"):
        value = getattr(proposal, field)
        if value is not None:
            _name(value, f"$.{field}", limits.name_chars, "name_chars")
    if proposal.deadline_ms is not None:
        _range(proposal.deadline_ms, "$.deadline_ms", 1, limits.deadline_ms, "deadline_ms")
    check_value(proposal.timestamp, "$.timestamp", limits)
    check_value(proposal.context, "$.context", limits)
    budget = proposal.budget
    if budget is not None:
        for field in ("actions", "tool_calls", "duration_ms", "tokens"):
            value = getattr(budget, field)
            if value is not None:
                _range(value, f"$.budget.{field}", 0, INTEGER_MAX)
        if budget.cost is not None and not (isfinite(budget.cost) and budget.cost >= 0):
            raise ProposalError("a budget must be a finite number, zero or more", path="$.budget.cost")


def _check_action(action: Action, index: int, limits: Limits, measure: bool) -> None:
    """Check one action. Paths are built only for an error, because this runs once per action of every proposal."""
    name = action.id
    if not name or name[0] == "$" or len(name) > limits.id_chars or not name.isprintable():
        _name(name, f"$.actions[{index}].id", limits.id_chars, "id_chars")
        # `$$ID.output` is the escape of a reference, so nothing could refer to such an id.
        raise ProposalError("the id of an action must not begin with `$`", path=f"$.actions[{index}].id")
    if action.type != "tool_call":
        _check_state_action(action, f"$.actions[{index}]", limits)
    else:
        tool = action.tool
        if tool is None:
            raise ProposalError("a tool_call needs a `tool`", path=f"$.actions[{index}].tool")
        if not tool or len(tool) > limits.name_chars or not tool.isprintable():
            _name(tool, f"$.actions[{index}].tool", limits.name_chars, "name_chars")
    parameters = action.parameters
    if parameters:
        if not (RESERVED.isdisjoint(parameters) and _is_flat(parameters)):
            check_value(parameters, f"$.actions[{index}].parameters", limits, reserved=True)
        if measure:
            _measure(parameters, f"$.actions[{index}].parameters", limits)
    if action.dependencies:
        _check_names(action.dependencies, index, "dependencies", "id_chars", limits)
    if action.timeout_ms is not None or action.max_retries != 3 or action.invocation_mode != "one_shot":
        _check_settings(action, f"$.actions[{index}]", limits)
    if action.state_dependencies or action.read_set or action.write_set or action.preconditions or action.assumptions:
        _check_keys(action, index, limits)
    if action.expected_effects or action.metadata or action.compensation is not None:
        _check_claims(action, index, limits)


def _is_flat(values: dict[str, Any]) -> bool:
    """True if no value is a container or needs a range check. This holds for most objects, which then need no other check."""
    for value in values.values():
        cls = value.__class__
        if cls not in _ATOMS and (cls is not int or not -INTEGER_MAX <= value <= INTEGER_MAX):
            return False
    return True


def _check_settings(action: Action, path: str, limits: Limits) -> None:
    if action.timeout_ms is not None:
        _range(action.timeout_ms, f"{path}.timeout_ms", 1, limits.timeout_ms, "timeout_ms")
    _range(action.max_retries, f"{path}.max_retries", 0, limits.retries, "retries")
    if action.invocation_mode not in INVOCATION_MODES:
        raise ProposalError(
            f"the invocation mode must be one of {', '.join(f'`{mode}`' for mode in INVOCATION_MODES)}",
            code="unsupported_invocation_mode",
            path=f"{path}.invocation_mode",
        )


def _check_state_action(action: Action, path: str, limits: Limits) -> None:
    if action.tool is not None:
        raise ProposalError(f"a {action.type} must not have a `tool`", path=f"{path}.tool")
    allowed = STATE_PARAMETERS[action.type]
    for name in action.parameters:
        if name not in allowed:
            raise ProposalError(
                f"a {action.type} has no parameter {quoted(name)}",
                path=f"{path}.parameters{step(name)}",
                hint=f"the parameters are {', '.join(f'`{n}`' for n in sorted(allowed))}",
            )
    key = action.parameters.get("key")
    if not isinstance(key, str):
        raise ProposalError(f"a {action.type} needs a `key`, a string", path=f"{path}.parameters.key")
    _name(key, f"{path}.parameters.key", limits.key_chars, "key_chars")
    if key.startswith("$"):
        # A reference would hide which key is read or written until the action runs.
        raise ProposalError("a state key must not begin with `$`", path=f"{path}.parameters.key")


def _check_keys(action: Action, index: int, limits: Limits) -> None:
    if action.state_dependencies:
        _check_names(action.state_dependencies, index, "state_dependencies", "key_chars", limits)
    if action.read_set:
        _check_names(action.read_set, index, "read_set", "key_chars", limits)
    if action.write_set:
        _check_names(action.write_set, index, "write_set", "key_chars", limits)
    if action.preconditions:
        _check_conditions(action.preconditions, f"$.actions[{index}]", limits)
    if action.assumptions:
        _check_assumptions(action.assumptions, f"$.actions[{index}]", limits)


def _check_names(names: tuple[str, ...], index: int, field: str, limit: str, limits: Limits) -> None:
    if len(names) > limits.dependencies:
        raise _limit(
            f"{len(names)} entries, more than {limits.dependencies}", "dependencies", f"$.actions[{index}].{field}"
        )
    most: int = getattr(limits, limit)
    for i, name in enumerate(names):
        if not name or len(name) > most or not name.isprintable():
            _name(name, f"$.actions[{index}].{field}[{i}]", most, limit)


def _check_conditions(conditions: tuple[Precondition, ...], path: str, limits: Limits) -> None:
    _count(conditions, f"{path}.preconditions", limits.preconditions, "preconditions")
    for i, condition in enumerate(conditions):
        where = f"{path}.preconditions[{i}]"
        _name(condition.key, f"{where}.key", limits.key_chars, "key_chars")
        check_value(condition.value, f"{where}.value", limits)
        if condition.path is not None and not _POINTER.match(condition.path):
            raise ProposalError("not a JSON Pointer (RFC 6901)", path=f"{where}.path", hint="for example `/files/0`")


def _check_assumptions(assumptions: tuple[Assumption, ...], path: str, limits: Limits) -> None:
    _count(assumptions, f"{path}.assumptions", limits.preconditions, "preconditions")
    for i, assumption in enumerate(assumptions):
        where = f"{path}.assumptions[{i}]"
        _name(assumption.key, f"{where}.key", limits.key_chars, "key_chars")
        if assumption.expected_value is not msgspec.UNSET:
            check_value(assumption.expected_value, f"{where}.expected_value", limits)
        if assumption.read_version is not None:
            _range(assumption.read_version, f"{where}.read_version", 0, INTEGER_MAX)


def _check_claims(action: Action, index: int, limits: Limits) -> None:
    effects = action.expected_effects
    if effects:
        if not _is_flat(effects):
            check_value(effects, f"$.actions[{index}].expected_effects", limits)
        for key in effects:
            if not key or len(key) > limits.key_chars or not key.isprintable():
                _name(key, f"$.actions[{index}].expected_effects{step(key)}", limits.key_chars, "key_chars")
    if action.metadata:
        check_value(action.metadata, f"$.actions[{index}].metadata", limits)
    if action.compensation is not None:
        _check_compensation(action.compensation, f"$.actions[{index}].compensation", limits)


def _check_compensation(given: ToolCompensation | ActionCompensation, where: str, limits: Limits) -> None:
    match given:
        case ToolCompensation(tool=tool, parameters=parameters):
            _name(tool, f"{where}.tool", limits.name_chars, "name_chars")
            check_value(parameters, f"{where}.parameters", limits, reserved=True)
            _measure(parameters, f"{where}.parameters", limits)
        case ActionCompensation(action_id=name):
            _name(name, f"{where}.action_id", limits.id_chars, "id_chars")


def _measure(parameters: dict[str, Any], path: str, limits: Limits) -> None:
    size = len(msgspec.json.encode(parameters))
    if size > limits.parameters_bytes:
        raise _limit(f"{size} bytes of parameters, more than {limits.parameters_bytes}", "parameters_bytes", path)


def _name(value: str, path: str, most: int, limit: str) -> None:
    """Refuse a name that is empty, too long, or has characters that are not printable (Unicode, `str.isprintable`)."""
    if not value:
        raise ProposalError("the name is empty", path=path)
    if len(value) > most:
        raise _limit(f"{len(value)} characters, more than {most}", limit, path)
    if not value.isprintable():
        raise ProposalError("the name contains control or invisible characters", path=path)


def _count(items: tuple[Any, ...], path: str, most: int, limit: str) -> None:
    if len(items) > most:
        raise _limit(f"{len(items)} entries, more than {most}", limit, path)


def _range(value: int, path: str, least: int, most: int, limit: str | None = None) -> None:
    if value < least:
        raise ProposalError(f"the number must be {least} or more", path=path)
    if value > most:
        if limit is None:
            raise ProposalError("the integer is beyond +-(2^53 - 1)", path=path)
        raise _limit(f"the number must be {most} or less", limit, path)


def _limit(message: str, limit: str, path: str | None = None) -> ProposalError:
    return ProposalError(f"{message} (limit `{limit}`)", code="limit_exceeded", path=path)


def _shape_error(text: str) -> ProposalError:
    """Convert msgspec's "MESSAGE - at `PATH`" to an error, with a hint if possible, and without values."""
    found = _MSGSPEC_PATH.search(text)
    path, message = (found[1], text[: found.start()]) if found else ("$", text)
    if unknown := _UNKNOWN_FIELD.match(message):
        name = unknown[1]
        fields = [f.encode_name for shape in _SHAPES.get(_field(path), ()) for f in msgspec.structs.fields(shape)]
        near = nearest_name(name[:80], fields)
        hint = f"did you mean `{near}`?" if near else None
        return ProposalError(f"unknown field {quoted(name)}", path=path + step(name), hint=hint)
    if missing := _MISSING_FIELD.match(message):
        where = path + step(missing[1])
        return ProposalError(f"the field `{missing[1]}` is missing", path=where, hint=_choices(where))
    if message.startswith("Invalid"):
        return ProposalError("the value is not allowed", path=path, hint=_choices(path))
    hint = 'a proposal is an object with a list of actions: `{"actions": [...]}`' if path == "$" else None
    return ProposalError(message[:1].lower() + message[1:], path=path, hint=hint)


def _choices(path: str) -> str | None:
    """The allowed values of the field at a path, for a hint; None if any value is allowed."""
    choices = _CHOICES.get("compensation" if ".compensation." in path else _field(path), ())
    return "one of " + ", ".join(f"`{choice}`" for choice in choices) if choices else None


def _field(path: str) -> str:
    """The name of the last field in a path: `actions` for `$.actions[3]`, empty for `$`."""
    return re.sub(r"\[\d+\]\Z", "", path).rpartition(".")[2].removeprefix("$")
