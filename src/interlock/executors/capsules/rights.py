"""What the engine decides for the host functions of a call: handed in, because nothing here may judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from interlock.isolation.egress.client import Policy
from interlock.isolation.egress.wire import Record
from interlock.model.hosts import Endpoint
from interlock.model.tool import Context

Access = Literal["read", "write"]
FileTool = Literal["fs.read", "fs.list", "fs.write", "fs.delete"]
FILE_TOOLS: Final[dict[FileTool, Access]] = {
    "fs.read": "read", "fs.list": "read", "fs.write": "write", "fs.delete": "write",
}  # fmt: skip
"""The built-in tools that do what a host function does, and what for they reach a path."""


class Denied(NamedTuple):
    """A host function that was refused."""

    capsule: str
    instance: str
    function: str
    reason: str
    detail: str


class Rights(Protocol):
    """The rights of the caller, for whatever a capsule wants beyond its own memory. Its manifest can only narrow them."""

    def for_files(
        self, ctx: Context, tool: FileTool, declared: Callable[[str], bool], stopped: Callable[[], bool]
    ) -> Context:
        """A context whose workspace is the proposal's, in which every path is judged: it must be `declared` by the manifest,
        within the caller's grants, and no policy may object to a call of the built-in `tool` with it. It is cancelled once
        `stopped`.
        """
        ...

    def network(self, ctx: Context) -> Policy:
        """What the caller's grants let the call reach."""
        ...

    def refuse_connection(self, ctx: Context, there: Endpoint) -> str | None:
        """The reason code of the policy that objects to a connection; None if none does."""
        ...

    def record_connections(self, ctx: Context, records: Sequence[Record]) -> None:
        """Write down what was tried on the network."""
        ...

    async def call_tool(self, ctx: Context, name: str, parameters: dict[str, Any], left_ms: int) -> Any:
        """Call a tool as a part of the call, within `left_ms`. Raises: ToolError."""
        ...

    async def have_handled(self, ctx: Context, tool: str, message: dict[str, Any]) -> str | None:
        """Call a tool that handles a message, as a run of the same agent. Returns what went wrong, or None."""
        ...

    def record_loaded(self, ctx: Context, capsule: str, version: str, instance: str, component: str) -> None:
        """Write down that the call had a capsule loaded: its instance, and the SHA-256 of its component."""
        ...

    def record_denied(self, ctx: Context, about: Denied) -> None:
        """Write down that a host function was refused to the call."""
        ...

    def record_reset(self, ctx: Context, capsule: str, instance: str, reason: str) -> None:
        """Write down that a store that lasted was given up, because a call ended in it for this reason."""
        ...

    def record_refused(self, ctx: Context, capsule: str, detail: str) -> None:
        """Write down that a capsule was not loaded."""
        ...
