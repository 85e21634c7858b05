"""Tools: their definition, their declared properties, and how they are called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, Final, Literal, NamedTuple, Protocol, Unpack

import msgspec

from interlock.model.canonical import digest
from interlock.model.hold_answer import AskOptions, HoldAnswer
from interlock.model.proposal import Reversibility

Mode = Literal["async", "thread", "inline"]
"""How a tool's function is called: awaited on the loop, on a daemon thread, or directly on the loop (`inline`)."""


def open_schema() -> dict[str, Any]:
    """The schema of a tool that was registered only by name: any object."""
    return {"type": "object"}


DATA_TAG: Final = "mcp_data"
"""The tag of tools for the resources and prompts of an MCP server. Models do not see these tools."""


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token bucket: `calls` tokens, refilled evenly over `per_ms` milliseconds."""

    calls: int
    per_ms: int


class CompensationTemplate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The call that undoes a call of this tool. `$parameters.x` and `$output.y` in `parameters` are replaced."""

    tool: str
    parameters: dict[str, Any] = {}


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of a tool. `version` is the digest of everything else, so a changed definition counts as another tool."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=open_schema)
    """JSON Schema 2020-12. `x-interlock` marks the kind of a property, such as `path.read` or `secret` (`schema_walk.MARKS`)."""
    returns: dict[str, Any] | None = None
    read_only: bool = False
    destructive: bool = True
    open_world: bool = True
    reversibility: Reversibility = "irreversible"
    compensation: CompensationTemplate | None = None
    idempotent: bool = False
    effects: dict[str, Any] = {}
    """State keys that a successful call sets, as declared by the operator; values may contain `$parameters.x` and `$output.y`."""
    probe: str | None = None
    """Name of a read-only tool that takes the same parameters and returns `{"happened": true|false}`."""
    cache_ttl_ms: int | None = None
    rate_limit: RateLimit | None = None
    timeout_ms: int = 30_000
    inline: bool = False
    supports_dry_run: bool = False
    """True if the function supports `ctx.dry_run`: in a dry run it changes nothing, and returns what it would do."""
    invocation_modes: tuple[str, ...] = ("one_shot",)
    """The allowed values of `invocation_mode` in an action that calls the tool."""
    isolation: str | None = None
    tags: tuple[str, ...] = ()

    def definition(self) -> dict[str, Any]:
        """The definition as a JSON value, without the version."""
        value = msgspec.to_builtins(self)
        assert isinstance(value, dict)
        return value

    @property
    def version(self) -> str:
        """`sha256:...` of the canonical definition. It is computed on each access, so store it for frequent use."""
        return digest("tool", self.definition())


class Context(Protocol):
    """The runtime's interface for a running tool (`ctx: interlock.Context`). One instance per attempt."""

    @property
    def run_id(self) -> str:
        """The id of the run."""
        ...

    @property
    def proposal_id(self) -> str:
        """The id of the proposal."""
        ...

    @property
    def action_id(self) -> str:
        """The id of the action."""
        ...

    @property
    def attempt(self) -> int:
        """The number of the attempt, from 1."""
        ...

    @property
    def agent(self) -> str:
        """The acting agent."""
        ...

    @property
    def session(self) -> str | None:
        """The session of the run, if it has one."""
        ...

    @property
    def invocation_mode(self) -> str:
        """The action's `invocation_mode`: `one_shot`, or how long a program that it starts may live (`run`, `session`)."""
        ...

    @property
    def dry_run(self) -> bool:
        """True in a dry run, in which nothing may be changed."""
        ...

    @property
    def workspace(self) -> Any:
        """`interlock.workspace.Workspace` of the run: files beneath its root, by descriptor."""
        ...

    @property
    def backups(self) -> Any:
        """`interlock.workspace.Backups` of the run. Use it before changing a file. None with durability `off`."""
        ...

    @property
    def deadline_ns(self) -> int:
        """Time at which this attempt is stopped, in monotonic nanoseconds (`Clock.mono_ns`)."""
        ...

    @property
    def cancelled(self) -> bool:
        """True once the action was cancelled or timed out. A plain `def` tool should check it regularly."""
        ...

    async def ask(
        self, summary: str, reason: str = "", context: Any = None, **options: Unpack[AskOptions]
    ) -> HoldAnswer:
        """Ask people before continuing, and wait for the answer, which is true only if it was approved.

        `summary` is the line to approve; `reason` and `context` (any JSON value) are shown with it, redacted. Options:
        `kind` (`delegate`, `schedule`, `other`), `group` (of approvers that decide), `timeout_ms` (after which it is
        denied; by default `approvals.ttl`). The tool's time-out is suspended meanwhile, and others may write in the
        workspace, so read again what you rely on. Questions of one call are asked one after the other. Raises:
        ToolError `approval_required` if nobody can be asked, or with the reason if the gate refuses the call by now.
        """
        ...

    def ask_sync(
        self, summary: str, reason: str = "", context: Any = None, **options: Unpack[AskOptions]
    ) -> HoldAnswer:
        """`ask` for a plain `def` tool, which runs on a thread."""
        ...

    def log(self, message: str) -> None:
        """Write a line for people to the run's journal (redacted)."""
        ...

    def progress(self, done: float, total: float | None = None) -> None:
        """Report progress; shown at a terminal, not journaled."""
        ...

    def report_cost(self, cost: float) -> None:
        """Add to the action's cost, which counts towards budgets."""
        ...

    def posture(self, **layers: str) -> None:
        """Add to the action's posture: `layer="active"` or `layer="absent(reason)"`."""
        ...

    def not_exactly_undoable(self, what: str) -> None:
        """Declare an effect that undo cannot exactly reverse (listed in `not_undone`)."""
        ...

    def resources(self, usage: dict[str, Any]) -> None:
        """Attach the action's own measured CPU, memory and I/O (`cpu_ms`, `memory_bytes`, `read_bytes` ...); `pids` is a list."""
        ...


PROCESS_RAN = "a process ran in the workspace itself, where not every change is recorded"
LAYERED_PROCESS_RAN = "a process ran in a layer, without walls that keep it from files and hosts outside"
PROCESS_NOTES = frozenset({PROCESS_RAN, LAYERED_PROCESS_RAN})
"""The notes about processes that may write.

If the tool's compensation has worked, these notes are irrelevant; all other notes are not.
"""


def checked_cost(cost: float) -> float:
    """Check a cost that a tool reports. Raises: ValueError for an invalid amount, which could disable a budget or refill it."""
    if not 0 <= cost < inf:
        raise ValueError("a cost must be a finite number, 0 or more")
    return float(cost)


Function = Callable[[dict[str, Any], Context], Any | Awaitable[Any]]
"""The signature that the engine calls: parameters (already checked against the schema) and the context."""


Writes = Literal["anywhere", "marked", "nothing"]
"""What a call may write in the workspace: anything; only the parameters that its schema marks `path.write`; or nothing."""


class FilePreview(NamedTuple):
    """One file before and after a call that was not made, to be shown to an approver."""

    path: Any
    """The parameter that names it."""
    before: str | None = None
    """The present text; None if there is no file."""
    after: str | None = None
    """The text after the call; None if the call would remove the file."""
    sha256: str | None = None
    """Hex digest of the bytes that `before` was read from; None without one."""
    note: str = ""
    """A sentence instead of the texts: why they cannot be shown, or that the call would fail."""
    permissions: str = ""
    """The change of the file's permissions, if there is one; otherwise empty."""


class Estimate(NamedTuple):
    """The maximum usage of a call. It is reserved in every budget before the call, and then replaced by the actual usage."""

    tokens: int
    cost: float | None
    """None if the prices are unknown; then the call is refused if a budget counts cost."""


class MeteredContext(Context, Protocol):
    """The context of a call with a reservation from `Binding.estimates`."""

    @property
    def reserved(self) -> Estimate | None:
        """The amounts that are reserved for this attempt."""
        ...

    def report_usage(self, tokens: int, cost: float | None, *, known: bool = True) -> None:
        """Report the call's usage, which replaces the reservation; the last report counts.

        Without one the reservation is spent.

        `cost` is None if the prices are unknown; `known` is False if part of the amounts is an upper bound.
        """
        ...


Estimates = Callable[[dict[str, Any]], Sequence[Estimate]]
"""The possible usage of a call with these parameters: the largest first, then smaller amounts for smaller budgets."""


Preview = Callable[[dict[str, Any], Any], Sequence[FilePreview]]
"""The files that a call with these parameters would change in a workspace.

Changes nothing. Raises: ToolError if the call would fail.
"""


class Expansion(NamedTuple):
    """The proposal that a call stands for."""

    actions: Sequence[dict[str, Any]]
    """Actions in the form of a proposal's document, without the call itself, on which they depend."""
    order: str
    source: str


Expand = Callable[[str, dict[str, Any]], Expansion | None]
"""The proposal that the call of an action (id and parameters) stands for; None if there is none, as its function explains."""


Walls = Callable[[], dict[str, str]]
"""The posture that a call's processes will have. Raises: ToolError if none can start."""


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """A tool with its function, which executors register with the engine."""

    tool: Tool
    function: Function
    mode: Mode = "async"
    writes: Writes = "anywhere"
    """Calls that may write the same files wait for each other.

    Declare less than `anywhere` only if the function cannot do more.
    """
    in_layer: bool = False
    """True if the function accesses files only through its context, or in processes that it starts through the
    executors; then it works in the layer of its proposal.
    """
    one_file: bool = False
    """True if a call changes one file at most, in one atomic step: the file that its parameter `path` names. It checks
    the path with the workspace's guard. Alone in a proposal, such a call needs no layer.
    """
    preview: Preview | None = None
    estimates: Estimates | None = None
    """For a tool that uses tokens or money: the amounts to reserve. Its context is a `MeteredContext`."""
    walls: Walls | None = None
    """For a tool that runs in processes: their posture, for the intent of its calls."""
    expand: Expand | None = None
    """For a tool whose call stands for further actions of its proposal; it must be the only proposed action."""


class ToolExecutor(Protocol):
    """Executes calls by name, for `rt.execute(..., executor=)`. Parameters are checked before it is called."""

    async def execute(self, tool: str, parameters: dict[str, Any], ctx: Context) -> Any:
        """Execute the call and return a JSON value. Raises: ToolError (or anything) to fail."""
        ...


class ClientExecutor(ToolExecutor, Protocol):
    """A coding agent that executes a call with its own tool, once the gate has allowed it: `Runtime.call(client=)`."""

    @property
    def client(self) -> str:
        """The client's name, such as `claude-code`."""
        ...

    @property
    def released(self) -> bool:
        """True once the client was told to proceed. From then on nothing here can stop the call."""
        ...
