"""Results for the caller: one row per action, in declared order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from interlock.lazy import lazy

if TYPE_CHECKING:
    from interlock.model import result_html
else:
    result_html = lazy("interlock.model.result_html")

Status = Literal[
    "succeeded", "failed", "rejected", "skipped", "held", "rolled_back", "compensated", "not_undone", "unknown_outcome",
    "cancelled",
]  # fmt: skip
RunStatus = Literal["succeeded", "failed", "rejected", "held", "cancelled", "interrupted"]
"""Status of a proposal: `succeeded` only if every action did; `failed` covers skipped and rolled-back ones."""


class HostUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The use of one host by the processes of an action: connected, refused, or not reached."""

    host: str
    """The name; the address if no name was known."""
    port: int | None = None
    """None for a name that was only looked up."""
    outcome: Literal["connected", "refused", "failed"]
    reason: str | None = None
    """Why it was refused or failed: a code of `interlock.model.codes.REASONS`."""
    count: int = 1
    """The number of accesses."""
    sent_bytes: int = 0
    received_bytes: int = 0

    def __str__(self) -> str:
        """`host:port`, or the name alone."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class ActionResult(msgspec.Struct, gc=False):
    """One row. `reason` is a code of `interlock.model.codes.REASONS`; `error` explains it in a sentence."""

    action_id: str
    status: Status
    reason: str | None = None
    output: Any = None
    error: str | None = None
    state_changes: dict[str, Any] = {}
    attempts: int = 0
    duration_ms: float = 0.0
    """Execution time of the last attempt."""
    waited_ms: float = 0.0
    """Time spent waiting for holds, rate limits, the guard, the write lease, and back-off."""
    timestamp: int = 0
    """Time of the outcome, integer microseconds since the epoch."""
    seq: int | None = None
    """Journal sequence number of the outcome event; null with durability `off`."""
    deduplicated_from: str | None = None
    posture: dict[str, str] | None = None
    telemetry: dict[str, Any] | None = None
    hosts: tuple[HostUse, ...] | None = None
    """The hosts that processes of the action connected to or were refused; null if none tried."""
    waited_for: tuple[str, ...] = ()
    """What it waited for, as phrases for people: `an answer to appr_1`, or the writer in the workspace."""

    def _repr_html_(self) -> str:
        """HTML for notebooks."""
        return result_html.rows_html([self])


class CallResult(ActionResult, gc=False, kw_only=True):
    """The result of one call (`Runtime.call`): its row, with the tool and the run, which can be undone."""

    tool: str
    """The tool's own name (`fs.read`)."""
    run_id: str
    """The run of this call, as needed for `undo`."""

    @property
    def ok(self) -> bool:
        """True if the call succeeded."""
        return self.status == "succeeded"

    def for_model(self) -> str:
        """The result as text for a model: the tool's output, or the whole failure with its partial output."""
        if self.ok:
            return self.output if isinstance(self.output, str) else format_result(self) or "Done; nothing was returned."
        text = f"[{self.status.upper()}] {self.reason}: {self.error or ''}".rstrip(": ")
        if self.status == "rejected":
            text += ". Nothing was done."
        return text if self.output is None else f"{text}\n{msgspec.json.encode(self.output).decode()}"


class Cost(msgspec.Struct, kw_only=True):
    """The resources that a proposal spent."""

    tool_calls: int = 0
    actions_executed: int = 0
    actions_rejected: int = 0
    actions_skipped: int = 0
    retries: int = 0
    total_duration_ms: float = 0.0
    cost: float = 0.0
    tokens: int = 0
    """Tokens that models read and wrote."""
    cost_unknown: int = 0
    """Calls whose usage was not reported: `cost` and `tokens` include the reserved amounts, if prices are known."""


class NotUndone(msgspec.Struct, frozen=True, kw_only=True):
    """An effect that could not be undone, and why."""

    action_id: str
    reason: str
    detail: str = ""


class LayerResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The state of a layer after its proposal has ended."""

    status: Literal["committed", "kept", "discarded"]
    """`kept`: it waits for `interlock commit` or `interlock discard`; if `changes` were committed, only the rest does."""
    changes: int = 0
    """Number of paths that were committed, or (if none was) that wait."""
    blocked: dict[str, str] = {}
    """Paths that were not committed: `conflict`, `protected`, `runs_later`, `denied`, `unsupported`."""
    reason: str | None = None
    """The reason code, if a requested commit failed: `workspace_conflict`, `workspace_full`, `access_denied` ..."""
    detail: str | None = None
    """What went wrong in that case, with the path, for people."""
    not_restored: dict[str, str] = {}
    """Paths that the failed commit may have changed and that were not restored, with the reasons."""


def advice(reason: str) -> str:
    """What a person has to do before committing the layer again."""
    return _ADVICE.get(reason, "check why the path cannot be written")


_ADVICE: Final = {
    "workspace_conflict": "check what was changed meanwhile",
    "workspace_full": "free space on the workspace's file system",
    "backup_failed": "free space on the file system of the state directory",
    "access_denied": "get write permission there",
    "file_busy": "stop the program that uses the file",
}


class ProposalResult(msgspec.Struct, kw_only=True):
    """The result of a proposal."""

    run_id: str
    proposal_id: str
    status: RunStatus
    results: list[ActionResult]
    cost: Cost
    not_undone: list[NotUndone] = []
    replaced: list[str] = []
    """The runs of the failed proposals before this one, if a `planner` was given."""
    workspace: LayerResult | None = None
    """The state of the proposal's layer; null if it worked on the files themselves."""

    @property
    def ok(self) -> bool:
        """True if every action succeeded."""
        return self.status == "succeeded"

    def __getitem__(self, action_id: str) -> ActionResult:
        """The row of an action by its id."""
        for row in self.results:
            if row.action_id == action_id:
                return row
        raise KeyError(action_id)

    def _repr_html_(self) -> str:
        """HTML for notebooks."""
        return result_html.rows_html(
            self.results, title=f"{self.proposal_id}: {self.status}", note=f"run {self.run_id}"
        )


def format_result(row: ActionResult) -> str:
    """A row as text for a model: the output as JSON, or `[STATUS]` with the problem."""
    if row.status == "succeeded":
        return "" if row.output is None else msgspec.json.encode(row.output).decode()
    text = row.error or row.reason or ""
    return f"[{row.status.upper()}] {text}".rstrip()
