"""Stands for a client in the engine: where another executor would work, it waits until the client says how the call ended."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.surfaces.clients.hooks import NativeCall
from interlock.workspace import Origin
from interlock.workspace.client_changes import ClientChange

OUTPUT_BYTES_MAX: Final = 256 * 1024
"""Of a client's report of an outcome, no more is kept."""
_SHELLS: Final = frozenset({"shell", "exec"})


class Performer:
    """One call of one client; a `ClientExecutor`. It goes ahead when `release` is called, after `ready`."""

    def __init__(self, client: str, call: NativeCall) -> None:
        """On the event loop on which the call is judged."""
        self.client = client
        self.released = False
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when everything is checked, and the intent is on disk: the id of the run."""
        self._call = call
        self._ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def execute(self, tool: str, parameters: dict[str, Any], ctx: Context) -> Any:
        """See `ToolExecutor`. Raises: ToolError, also for a protected path, or parameters that a person has edited."""
        if any(parameters.get(name) != value for name, value in self._call.parameters.items()):
            shown = msgspec.json.encode(parameters).decode()
            raise ToolError(
                f"a person has changed the call; make it so, with your own tool: {shown}",
                code="client_edited",
                retryable=False,
            )
        change = await self._keep(parameters, ctx)
        if tool in _SHELLS:
            ctx.not_exactly_undoable(f"`{self.client}` ran the command itself, and what it changed is not known")
        ctx.posture(walls=f"absent({self.client} carries it out itself)")
        if not self.ready.done():
            self.ready.set_result(ctx.run_id)
        try:
            return await self._ended
        finally:
            if change is not None:
                await asyncio.shield(asyncio.to_thread(change.end))

    def release(self) -> None:
        """The client is told to go ahead."""
        self.released = True

    def end(self, output: Any) -> None:
        """The client says that the call has ended so."""
        if not self._ended.done():
            self._ended.set_result(_bounded(output))

    def fail(self, message: str) -> None:
        """The client says that the call has failed."""
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
