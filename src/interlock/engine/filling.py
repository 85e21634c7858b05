"""Parameters with their references filled in, within the limits: outputs are an agent's words too.

A reference is a few characters, and what it stands for may be megabytes; a parameter may hold thousands of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from interlock.model.errors import ProposalError, ToolError
from interlock.model.values import check_value
from interlock.verify.graph import resolve

if TYPE_CHECKING:
    from interlock.engine.execution import Execution


def filled(x: Execution, parameters: dict[str, Any]) -> dict[str, Any]:
    """A copy of the parameters in which every `$ID.output` reference is the value that it stands for.

    Raises: ToolError `reference_failed` if one stands for nothing, if together they stand for more than `output_bytes`, or if
    they bring in what no proposal may hold.
    """
    limits = x.services.limits
    sizes: dict[tuple[str, tuple[str | int, ...]], int] = {}
    left = limits.output_bytes

    def lookup(action_id: str, path: tuple[str | int, ...]) -> Any:
        nonlocal left
        value = x.outputs(action_id, path)
        size = sizes.get((action_id, path))
        if size is None:
            size = sizes[action_id, path] = len(msgspec.json.encode(value))
        left -= size
        if left < 0:
            raise _refused(f"the references stand for more than {limits.output_bytes} bytes (limit `output_bytes`)")
        return value

    found: dict[str, Any] = resolve(parameters, lookup)
    try:
        check_value(found, "$.parameters", limits, reserved=True)
    except ProposalError as error:
        raise _refused(error.message, error.path) from error
    return found


def _refused(message: str, path: str | None = "$.parameters") -> ToolError:
    return ToolError(message, code="reference_failed", path=path, retryable=False)
