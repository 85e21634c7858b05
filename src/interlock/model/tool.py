"""Tools: their definition, their declared properties, and how they are called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, Literal, NamedTuple, Protocol, Unpack

import msgspec

from interlock.model.canonical import digest
from interlock.model.hold_answer import AskOptions, HoldAnswer
from interlock.model.proposal import Reversibility

Mode = Literal["async", "thread", "inline"]
"""How a binding's function is called: awaited on the loop, on a daemon thread, or directly on the loop (`inline`)."""


def open_schema() -> dict[str, Any]:
    """The schema of a tool that was registered by name only: any object."""
    return {"type": "object"}


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token bucket: `calls` tokens, refilled evenly over `per_ms` milliseconds."""

    calls: int
    per_ms: int


class CompensationTemplate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The call that undoes a call of this tool. `$parameters.x` and `$output.y` in `parameters` are replaced."""

    tool: str
    parameters: dict[str, Any] = {}


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of a tool. `version` is the digest of everything else, so a changed definition is another tool."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=open_schema)
    """JSON Schema 2020-12. `x-interlock` marks the kind of a property: `path.read`, `path.write`, `host`, `secret`, `command`,
    `environment` or `model`.
    """
    returns: dict[str, Any] | None = None
    read_only: bool = False
    destructive: bool = True
    open_world: bool = True
    reversibility: Reversibility = "irreversible"
    compensation: CompensationTemplate | None = None
    idempotent: bool = False
    effects: dict[str, Any] = {}
    """State keys that a success sets, as declared by the operator; values may hold `$parameters.x` and `$output.y`."""
    probe: str | None = None
    """Name of a read-only tool that takes the same parameters and returns `{"happened": true|false}`."""
    cache_ttl_ms: int | None = None
    rate_limit: RateLimit | None = None
    timeout_ms: int = 30_000
    inline: bool = False
    supports_dry_run: bool = False
    """True if the function looks at `ctx.dry_run`: in a dry run it is called, changes nothing, and returns what it would do."""
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
        """`sha256:...` over the canonical definition. Computed on each access, so keep it if it is needed often."""
        return digest("tool", self.definition())


class Context(Protocol):
    """The runtime's interface for a running tool (`ctx: interlock.Context`). One per attempt."""

    @property
    def run_id(self) -> str:
        """The run."""
        ...

    @property
    def proposal_id(self) -> str:
        """The proposal."""
        ...

    @property
    def action_id(self) -> str:
        """The action."""
        ...

    @property
    def attempt(self) -> int:
        """Counts from 1."""
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
        """The action's `invocation_mode`: `one_shot`, or how long a program that it starts lives (`run`, `session`)."""
        ...

    @property
    def dry_run(self) -> bool:
        """True if nothing may be changed."""
        ...

    @property
    def workspace(self) -> Any:
        """`interlock.workspace.Workspace` of the run: files beneath its root, by descriptor."""
        ...

    @property
    def backups(self) -> Any:
        """`interlock.workspace.Backups` of the run: call it before changing a file. None with durability `off`."""
        ...

    @property
    def deadline_ns(self) -> int:
        """Monotonic nanoseconds (`Clock.mono_ns`) at which this attempt is stopped."""
        ...

    @property
    def cancelled(self) -> bool:
        """True once the action was cancelled or timed out; a plain `def` tool should check it now and then."""
        ...

    async def ask(
        self, summary: str, reason: str = "", context: Any = None, **options: Unpack[AskOptions]
    ) -> HoldAnswer:
        """Ask people before continuing, and wait for the answer, which is true only if it was approved.

        `summary` is the line that is approved; `reason` and `context` (any JSON value) are shown with it, redacted. Options:
        `kind` (`delegate`, `schedule`, `other`), `group` (of approvers that decide), `timeout_ms` (then it is refused; else
        `approvals.ttl`). The tool's time-out does not run meanwhile, and others may write in the workspace: read again what you
        rely on. Questions of one call are asked one after the other. Raises: ToolError `approval_required` where no one can be
        asked, or with the reason why the gate refuses the call by now.
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
        """Add to the action's cost, which budgets count."""
        ...

    def posture(self, **layers: str) -> None:
        """Add to the action's posture: `layer="active"` or `layer="absent(reason)"`."""
        ...

    def not_exactly_undoable(self, what: str) -> None:
        """Declare an effect that undo cannot exactly reverse (shown in `not_undone`)."""
        ...

    def resources(self, usage: dict[str, Any]) -> None:
        """Attach the action's own measured CPU, memory and I/O (`cpu_ms`, `memory_bytes`, `read_bytes` ...); `pids` is a list."""
        ...


PROCESS_RAN = "a process ran in the workspace itself, where not every change is recorded"
LAYERED_PROCESS_RAN = "a process ran in a layer, without walls that keep it from files and hosts outside"
PROCESS_NOTES = frozenset({PROCESS_RAN, LAYERED_PROCESS_RAN})
"""The notes of processes that may write. Where the tool's compensation has worked, that a process ran says nothing more; every
other note does."""


def checked_cost(cost: float) -> float:
    """Check a cost that a tool reports. Raises ValueError for an invalid amount, which could disable a budget or refill it."""
    if not 0 <= cost < inf:
        raise ValueError("a cost is a finite number, 0 or more")
    return float(cost)


Function = Callable[[dict[str, Any], Context], Any | Awaitable[Any]]
"""The signature that the engine calls: parameters (already checked against the schema) and the context."""


Writes = Literal["anywhere", "marked", "nothing"]
"""What a call may write in the workspace: anything, the parameters that its schema marks `path.write` and no other path, or
nothing."""


class FilePreview(NamedTuple):
    """One file before and after a call that was not made: what an approver is shown."""

    path: Any
    """The parameter that names it."""
    before: str | None = None
    """Its text; None if there is no file."""
    after: str | None = None
    """None if the call would remove it."""
    sha256: str | None = None
    """Hex digest of the bytes that `before` was read from; None without one."""
    note: str = ""
    """One sentence in place of the texts: why they cannot be shown, or that the call would fail."""
    permissions: str = ""
    """What becomes of the file's permissions, beside its text; empty if there is nothing to say."""


class Estimate(NamedTuple):
    """The most that a call can use. It is reserved in every budget before the call, and then replaced by the actual use."""

    tokens: int
    cost: float | None
    """None if the prices are not known: then the call is refused where a budget counts cost."""


class MeteredContext(Context, Protocol):
    """The context of a call for which `Binding.estimates` has reserved."""

    @property
    def reserved(self) -> Estimate | None:
        """The amounts that are reserved for this attempt."""
        ...

    def report_usage(self, tokens: int, cost: float | None, *, known: bool = True) -> None:
        """What the call has used, in place of the reservation; the last report counts. Without one the reservation is spent.

        `cost` is None if the prices are not known; `known` is False if the amounts are partly the most that it can have been.
        """
        ...


Estimates = Callable[[dict[str, Any]], Sequence[Estimate]]
"""What a call with these parameters can use: the largest first, then smaller amounts that do where a budget leaves no more."""


Preview = Callable[[dict[str, Any], Any], Sequence[FilePreview]]
"""The files that a call with these parameters would change in a workspace. Changes nothing. Raises: ToolError if the call would
fail."""


class Expansion(NamedTuple):
    """The proposal that a call stands for."""

    actions: Sequence[dict[str, Any]]
    """As in a proposal's document, without the call itself, on which they depend."""
    order: str
    source: str


Expand = Callable[[str, dict[str, Any]], Expansion | None]
"""What the call of an action (its id and parameters) stands for; None if it stands for nothing, which its function explains."""


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """A tool with its function, which executors register with the engine."""

    tool: Tool
    function: Function
    mode: Mode = "async"
    writes: Writes = "anywhere"
    in_layer: bool = False
    """True if the function reads and writes files only through its context, or in processes that it starts through the
    executors: then it works in the layer of its proposal."""
    """Calls that may write the same files wait for each other. Say less than `anywhere` only if the function can do no more."""
    preview: Preview | None = None
    estimates: Estimates | None = None
    """Given for a tool that uses tokens or money: what to reserve. Its context is a `MeteredContext`."""
    expand: Expand | None = None
    """Given for a tool whose call stands for further actions of its proposal, of which it is the only one that was proposed."""


class ToolExecutor(Protocol):
    """Performs calls by name, for `rt.execute(..., executor=)`. Parameters are checked before it is called."""

    async def execute(self, tool: str, parameters: dict[str, Any], ctx: Context) -> Any:
        """Perform the call and return a JSON value. Raises ToolError (or anything) to fail."""
        ...


class ClientExecutor(ToolExecutor, Protocol):
    """A coding agent that carries out a call with a tool of its own, once the gate has let it: `Runtime.call(client=)`."""

    @property
    def client(self) -> str:
        """The client's name, such as `claude-code`."""
        ...

    @property
    def released(self) -> bool:
        """True once the client was told to go ahead: from then on nothing here can stop the call."""
        ...
