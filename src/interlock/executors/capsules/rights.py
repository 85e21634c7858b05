"""What the engine decides for the host functions of a call. It is passed in, because executors make no decisions."""

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
"""The built-in tools that correspond to host functions, with the access that each needs to a path."""


class Denied(NamedTuple):
    """A host function that was refused."""

    capsule: str
    instance: str
    function: str
    reason: str
    detail: str


class Rights(Protocol):
    """The caller's rights, for everything that a capsule does outside its own memory. Its manifest can only narrow them."""

    def for_files(
        self, ctx: Context, tool: FileTool, declared: Callable[[str], bool], stopped: Callable[[], bool]
    ) -> Context:
        """Returns a context whose workspace is the proposal's, and in which every path is checked.

        A path must be `declared` by the manifest and within the caller's grants, and no policy may object to a call of
        the built-in `tool` with it. The context is cancelled once `stopped` returns True.
        """
        ...

    def network(self, ctx: Context) -> Policy:
        """Returns the hosts that the caller's grants allow."""
        ...

    def refuse_connection(self, ctx: Context, there: Endpoint) -> str | None:
        """Returns the reason code of the policy that refuses a connection; None if no policy refuses it."""
        ...

    def record_connections(self, ctx: Context, records: Sequence[Record]) -> None:
        """Record what was attempted on the network."""
        ...

    async def call_tool(self, ctx: Context, name: str, parameters: dict[str, Any], left_ms: int) -> Any:
        """Call a tool as a part of the call, within `left_ms`. Raises: ToolError."""
        ...

    async def have_handled(self, ctx: Context, tool: str, message: dict[str, Any]) -> str | None:
        """Call a tool that handles a message, in a run of the same agent. Returns the problem, or None."""
        ...

    def record_loaded(self, ctx: Context, capsule: str, version: str, instance: str, component: str) -> None:
        """Record that the call loaded a capsule: its instance, and the SHA-256 of its component."""
        ...

    def record_denied(self, ctx: Context, about: Denied) -> None:
        """Record that a host function was refused."""
        ...

    def record_reset(self, ctx: Context, capsule: str, instance: str, reason: str) -> None:
        """Record that a lasting store was discarded, because a call in it ended for this reason."""
        ...

    def record_refused(self, ctx: Context, capsule: str, detail: str) -> None:
        """Record that a capsule was not loaded."""
        ...
