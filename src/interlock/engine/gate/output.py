"""Checks a tool's return value before the engine relies on it: is it JSON, within the limit, and valid under `returns`?"""

from __future__ import annotations

from typing import Any

from interlock.engine.proposals.action_run import ActionRun
from interlock.engine.proposals.attempt import Failure, Output
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.tools.tool_errors import read_tool_error
from interlock.model.canonical import CanonicalError, canonical
from interlock.model.errors import ToolError
from interlock.model.exceptions import describe

_ATOMS = frozenset((str, int, bool, float, type(None)))


def check_output(action: ActionRun, attempt: ActionContext, value: Any) -> Output | Failure:
    """A copy of the output, which later changes by the tool do not affect, or the failure that makes it unusable."""
    if value is None and (action.tool is None or action.tool.returns is None):
        return Output(value)
    limit = action.run.services.bounds.limits.output_bytes
    if isinstance(value, ToolError):
        return failure_of(action, attempt, value)
    data: bytes | None = None
    if value is not None and not (value.__class__ is str and value.isascii() and len(value) <= limit):
        try:
            value = copy_value(value)
            data = canonical(value)
        except CanonicalError as error:
            return _invalid(attempt, f"the tool returned a value that is not JSON: {error.message}")
        except RecursionError:
            return _invalid(attempt, "the tool returned a value that is nested too deep, or contains itself")
        except Exception as error:  # noqa: BLE001 - from a class of the tool's own, or a value that its thread is still changing
            return _invalid(attempt, f"the tool returned a value that cannot be read: {describe(error)}")
    if data is not None and len(data) > limit:
        return _invalid(attempt, f"the tool returned more than {limit} bytes")
    # Not for a dry run, which has no output, nor for a client's tools, whose outputs Interlock does not define.
    checked = action.tool is not None and not action.run.dry_run and action.run.client is None
    returns = action.tool.returns if action.tool is not None and checked else None
    if returns is not None and not returns.is_valid(value):
        path, message = returns.errors(value)[0]
        return _invalid(attempt, f"the output does not fit the tool's `returns`: {path}: {message}")
    return Output(value, data)


def failure_of(action: ActionRun, attempt: ActionContext, error: ToolError) -> Failure:
    """The failure that a tool describes by its error."""
    code, message, output = read_tool_error(error, action.run.services.bounds.limits.output_bytes)
    if is_unknown(action, error):
        return Failure(attempt, code, message, retryable=False, output=output, status="unknown_outcome")
    return Failure(attempt, code, message, retryable=bool(error.retryable), output=output)


def is_unknown(action: ActionRun, error: BaseException) -> bool:
    """True if the tool says that its call may have had an effect nevertheless, and it does not only read."""
    reads = action.tool is not None and action.tool.read_only
    return isinstance(error, ToolError) and bool(error.unknown_outcome) and not reads


def copy_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """A copy for the tool: its changes do not affect the next attempt, a compensation, or the caller."""
    copied = parameters.copy()
    for key, value in parameters.items():
        if value.__class__ not in _ATOMS:
            copied[key] = copy_value(value)
    return copied


def copy_value(value: Any) -> Any:
    """A deep copy of a JSON value."""
    if isinstance(value, dict):
        return {k: v if v.__class__ in _ATOMS else copy_value(v) for k, v in value.items()}
    return [copy_value(item) for item in value] if isinstance(value, list | tuple) else value


def _invalid(attempt: ActionContext, message: str) -> Failure:
    return Failure(attempt, "invalid_output", message, retryable=False)
