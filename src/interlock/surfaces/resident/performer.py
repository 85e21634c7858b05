"""Represents a client in the engine: instead of executing, it waits until the client reports how the call ended."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.surfaces.clients.hooks import NativeCall
from interlock.surfaces.resident.exact_edits import check_edit
from interlock.workspace import Origin
from interlock.workspace.client_changes import ClientChange

OUTPUT_BYTES_MAX: Final = 256 * 1024
"""Maximum size stored of a client's report."""
_SHELLS: Final = frozenset({"shell", "exec"})


class Performer:
    """One call of one client; a `ClientExecutor`. It proceeds when `release` is called, after `ready`."""

    def __init__(self, client: str, call: NativeCall) -> None:
        """Create it on the event loop on which the call is judged."""
        self.client = client
        self.released = False
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolves to the run's id once everything is checked and the intent is on disk."""
        self._call = call
        self._ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def execute(self, tool: str, parameters: dict[str, Any], ctx: Context) -> Any:
        """See `ToolExecutor`.

        Raises: ToolError, also for a protected path, parameters that a person has edited, or an edit that does not fit the file.
        """
        if any(parameters.get(name) != value for name, value in self._call.parameters.items()):
            shown = msgspec.json.encode(parameters).decode()
            raise ToolError(
                f"a person has changed the call; make the changed call with your own tool: {shown}",
                code="client_edited",
                retryable=False,
            )
        if tool == "fs.edit":
            path = ctx.workspace.locate(parameters["path"])
            await asyncio.to_thread(check_edit, ctx.workspace, path, parameters, self._call.parts)
        change = await self._keep(parameters, ctx)
        if tool in _SHELLS:
            ctx.not_exactly_undoable(f"`{self.client}` ran the command itself, so its changes are unknown")
        ctx.posture(walls=f"absent({self.client} executes it itself)")
        if not self.ready.done():
            self.ready.set_result(ctx.run_id)
        try:
            return await self._ended
        finally:
            if change is not None:
                await asyncio.shield(asyncio.to_thread(change.end))

    def release(self) -> None:
        """Let the client proceed."""
        self.released = True

    def end(self, output: Any) -> None:
        """Finish with the output that the client reported."""
        if not self._ended.done():
            self._ended.set_result(_bounded(output))

    def fail(self, message: str) -> None:
        """Fail with the message that the client reported."""
        if not self._ended.done():
            self._ended.set_exception(ToolError(message, code="tool_failed", retryable=False))

    async def _keep(self, parameters: dict[str, Any], ctx: Context) -> ClientChange | None:
        name = self._call.writes
        if name is None:
            return None
        workspace = ctx.workspace
        path = workspace.locate(parameters[name], name)
        if ctx.backups is None:
            workspace.guard().check(path, name)
            ctx.not_exactly_undoable("files were changed and no backups are kept, because durability is off")
            return None
        change = ClientChange(workspace, ctx.backups, Origin(ctx.proposal_id, ctx.action_id, ctx.attempt), path)
        await asyncio.to_thread(change.begin)
        return change


def _bounded(output: Any) -> Any:
    data = msgspec.json.encode(output)
    if len(data) <= OUTPUT_BYTES_MAX:
        return output
    return {"truncated": True, "bytes": len(data), "begins": data[:OUTPUT_BYTES_MAX].decode(errors="replace")}
