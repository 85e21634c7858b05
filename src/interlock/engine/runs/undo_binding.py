"""The definition of the tool `undo`. Its function is in `undo_tool.py`, which is loaded with the first call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.services import Services
from interlock.lazy import lazy
from interlock.model.errors import ToolError
from interlock.model.tool import Binding, Context, Tool

if TYPE_CHECKING:
    from interlock.engine.runs import undo_tool
else:
    undo_tool = lazy("interlock.engine.runs.undo_tool")

_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "run": {"type": "string", "minLength": 1, "description": "Id of the run to undo."},
        "action": {"type": "string", "description": "Id of one action of it; all of them if left out."},
        "force": {
            "type": "boolean",
            "default": False,
            "description": "Overwrite what others changed since (kept as a backup).",
        },
        "skip_changed": {
            "type": "boolean",
            "default": False,
            "description": "Leave what others changed since as it is, and undo the rest. Not together with `force`.",
        },
    },
    "required": ["run"],
    "additionalProperties": False,
}


def binding(services: Services) -> Binding:
    """The tool, for the runs of these services."""

    async def undo(parameters: dict[str, Any], ctx: Context) -> Any:
        assert isinstance(ctx, ActionContext)
        force, skip_changed = parameters.get("force", False), parameters.get("skip_changed", False)
        if force and skip_changed:
            raise ToolError(
                "`force` and `skip_changed` contradict each other: one overwrites what was changed since, the other leaves it",
                code="usage",
                path="$.parameters.skip_changed",
                retryable=False,
            )
        one = undo_tool.Undo(services, ctx, force=force, skip_changed=skip_changed)
        return await one.undo(parameters["run"], parameters.get("action"))

    return Binding(
        tool=Tool(
            name=UNDO_TOOL,
            description="Undo what an earlier run did: files, state, and what has a compensation.",
            parameters=_SCHEMA,
            destructive=True,
            open_world=False,
            reversibility="reversible",
            timeout_ms=600_000,
            tags=("builtin",),
        ),
        function=undo,
    )
