"""The events of a run's journal: one small struct per kind, one tagged union.

Format version history: 1 (2026-11): first.

On disk an event is one line of JSON: `{"kind", "seq", "ts", "mono", "proposal"?, "action"?, "step"?, ...}`, without absent
fields. `seq` counts from 0 in the run; `ts` is microseconds since the epoch; `mono` is nanoseconds of the writer's monotonic
clock; `step` is the number of the gate's step. A reader shows an unknown kind (`Unknown`), but does not resume the run. Values
are redacted: a `Kept` has the view, and the digest of the original, which is in the run's `private/` if it differs.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from interlock.model.capsule_events import CapsuleEvent
from interlock.model.event import APART as APART
from interlock.model.event import Event as Event
from interlock.model.event import Kept as Kept
from interlock.model.result import HostUse, NotUndone

FORMAT_VERSION: Final = 2
"""Version of the journal's format. 1: digests of kept values are SHA-256. 2: those of redacted values are keyed HMACs."""
READABLE_VERSIONS: Final = (1, 2)


class RunStarted(Event, kw_only=True, tag="run_started"):
    """The first event of a run. `boot` tells whether `pid` can still be the same process."""

    version: int = 1
    """Version of the format. Omitted in version 1."""
    run: str
    interlock: str
    workspace: str
    agent: str
    session: str | None = None
    configuration: str
    """Digest of the configuration in force."""
    durability: str = "full"
    pid: int = 0
    boot: str = ""


class RunResumed(Event, kw_only=True, tag="run_resumed"):
    """A later process resumed the run."""

    pid: int = 0
    boot: str = ""
    configuration: str = ""


class ConfigurationChanged(Event, kw_only=True, tag="configuration_changed"):
    """The configuration was edited during the run. With a `problem`, the old one stays in force."""

    configuration: str
    """Digest of the configuration in force from now on."""
    problem: str | None = None


class StopRequested(Event, kw_only=True, tag="stop_requested"):
    """A person stopped the run: running actions are cancelled, and none starts. Without a proposal, nothing was running."""

    by: str
    surface: str
    reason: str = ""


class RunFinished(Event, kw_only=True, tag="run_finished"):
    """The run has ended: only undo records may follow."""

    status: str


class ProposalReceived(Event, kw_only=True, tag="proposal_received"):
    """Step 1 passed. The proposal itself is kept (redacted view; the original in `private/`)."""

    source: str
    agent: str
    action_count: int
    digest: str
    document: Kept
    dry_run: bool = False
    grant_token: str | None = None
    """Id of the presented grant token, which then is the agent's only grant, also after a resume."""
    grant_token_digest: str | None = None


class ProposalRejected(Event, kw_only=True, tag="proposal_rejected"):
    """Step 1 refused: no action was examined."""

    code: str
    message: str
    path: str | None = None


class ActionRejected(Event, kw_only=True, tag="action_rejected"):
    """Steps 2 to 7 refused the action."""

    reason: str
    detail: str = ""
    telemetry: dict[str, Any] | None = None
    """The state of the machine at that time; see `action_succeeded`."""


class PolicyDecided(Event, kw_only=True, tag="policy_decided"):
    """Step 5 answered."""

    decision: str
    tool: str | None = None
    policies: tuple[str, ...] = ()
    digest: str | None = None
    """Keyed digest of tool, tool version and raw parameters, as in `action_intent`."""
    errors: tuple[str, ...] = ()


class ActionHeld(Event, kw_only=True, tag="action_held"):
    """Step 5 held the action, and the hold is in the database. `parameters` are those of the held call."""

    approval: str
    parameters: Kept | None = None


class HoldResolved(Event, kw_only=True, tag="hold_resolved"):
    """Step 6: the hold was answered, expired, or was cancelled."""

    approval: str
    decision: str
    approver: str | None = None
    parameters: Kept | None = None
    """The parameters as edited by an approver, which are used from now on."""


class ToolAsked(Event, kw_only=True, tag="tool_asked"):
    """Step 9: the tool asks people while it runs. Its time-out is suspended until `tool_answered`."""

    approval: str
    summary: str


class ToolAnswered(Event, kw_only=True, tag="tool_answered"):
    """The tool's question was answered, expired, or was withdrawn."""

    approval: str
    decision: str
    approver: str | None = None


class ActionDeduplicated(Event, kw_only=True, tag="action_deduplicated"):
    """Step 7 found the stored result of an identical idempotent call, or a cached one."""

    source: str
    """`run/proposal/action` of the first call, or `cache`."""
    output: Kept
    state_changes: dict[str, Any] = {}


class ActionWaiting(Event, kw_only=True, tag="action_waiting"):
    """Step 6 or 7 waits for `what`, at most this long. `reading` is the guard's. Without an action the whole proposal waits."""

    cause: str
    what: str = ""
    wait_max_ms: float | None = None
    reading: dict[str, float] = {}


class ActionSkipped(Event, kw_only=True, tag="action_skipped"):
    """The action will not run."""

    reason: str
    detail: str = ""
    would: Kept | None = None
    """The effects that the tool announced in a dry run."""


class ActionValidated(Event, kw_only=True, tag="action_validated"):
    """Steps 2 to 7 passed."""


class MachineSampled(Event, kw_only=True, tag="machine_sampled"):
    """One measurement of the machine, for all actions that began or ended under it: their telemetry names its `seq`."""

    sample: dict[str, Any]


class ActionIntent(Event, kw_only=True, tag="action_intent"):
    """Step 8: on disk before any effect. The posture is the planned one; the outcome has the actual one."""

    attempt: int
    tool: str | None
    version: str | None = None
    digest: str | None = None
    """Digest of tool, tool version and raw parameters."""
    parameters: Kept | None = None
    posture: dict[str, str] = {}
    read_only: bool = False
    idempotent: bool = False
    recoverable: bool = False
    """True if the tool's files can be restored, or it has a probe: then an unknown outcome may be settled without a person."""
    tokens: int = 0
    """Tokens reserved for the attempt; `cost` likewise."""
    cost: float = 0.0


class ActionRetrying(Event, kw_only=True, tag="action_retrying"):
    """An attempt failed, and another one follows after a delay."""

    attempt: int
    delay_ms: int


class ActionSucceeded(Event, kw_only=True, tag="action_succeeded"):
    """Step 10."""

    attempt: int
    duration_ms: float
    output: Kept
    waited_ms: float = 0.0
    cost: float = 0.0
    tokens: int = 0
    cost_unknown: bool = False
    """True if the call did not report its usage: `cost` and `tokens` are the reserved amounts."""
    posture: dict[str, str] = {}
    telemetry: dict[str, Any] | None = None
    """`before` and `after` are numbers of `machine_sampled` events; `change` is omitted if they are the same."""
    not_undoable: tuple[str, ...] = ()
    hosts: tuple[HostUse, ...] = ()
    """The network use of the action's processes, by host. Each attempt has an earlier `action_connection` event."""
    resolved_by: str | None = None
    """Set if the tool did not report this itself: `probe`, or the name of the person who settled an unknown outcome."""


class ActionFailed(Event, kw_only=True, tag="action_failed"):
    """Step 10. `final` is False if a retry follows."""

    attempt: int
    reason: str
    error: str
    duration_ms: float = 0.0
    waited_ms: float = 0.0
    final: bool = True
    output: Kept | None = None
    cost: float = 0.0
    tokens: int = 0
    cost_unknown: bool = False
    posture: dict[str, str] = {}
    telemetry: dict[str, Any] | None = None
    not_undoable: tuple[str, ...] = ()
    hosts: tuple[HostUse, ...] = ()
    resolved_by: str | None = None


class ActionUnknown(Event, kw_only=True, tag="action_unknown_outcome"):
    """Recovery found an intent without an outcome, or a call that was stopped or lost may have had an effect (a thread, an
    MCP server).
    """

    attempt: int
    reason: str
    detail: str = ""
    cost: float = 0.0
    tokens: int = 0
    cost_unknown: bool = False


class OutcomeSettled(Event, kw_only=True, tag="outcome_settled"):
    """How an unknown outcome was settled: `again` (the action runs once more), `succeeded`, `failed` or `undo`.

    `by` is the basis of the decision: `read_only`, `idempotent`, `reversible`, `probe`, or the name of the person.
    """

    decision: str
    by: str


class ActionCancelled(Event, kw_only=True, tag="action_cancelled"):
    """The action was stopped while it ran. `duration_ms` is the time until the stop."""

    attempt: int
    reason: str
    detail: str = ""
    duration_ms: float = 0.0
    hosts: tuple[HostUse, ...] = ()
    cost: float = 0.0
    tokens: int = 0
    cost_unknown: bool = False


class ActionLog(Event, kw_only=True, tag="action_log"):
    """A line for people that the tool logged."""

    message: str


class ActionConnection(Event, kw_only=True, tag="action_connection"):
    """A network access that a process tried, as seen by the egress proxy: one connection, or `count` of the same kind.

    `outcome` is `connected`, `refused` or `failed`; `via` is `dns` (a name was looked up), `connect` or `http` (by the proxy),
    `transparent` (a program that uses no proxy) or `program` (inside the walls: `host` is the handle of a background program).
    """

    host: str
    port: int | None = None
    via: str
    outcome: str
    reason: str | None = None
    address: str | None = None
    """The address that was checked and connected to."""
    server_name: str | None = None
    """The name in the TLS hello, if it differs from `host`."""
    sent_bytes: int = 0
    received_bytes: int = 0
    duration_ms: float = 0.0
    count: int = 1


class ActionRecorded(Event, kw_only=True, tag="action_recorded"):
    """The kernel recorder of a process of the action has ended; its lines are in the run's kernel layer."""

    recorder: str
    """The `recorder` field of those lines."""
    calls: int
    dropped: int
    refused: int
    lost: bool = False
    """This and the next three fields are as in the line `recorder_ended`."""
    lines: int = 0
    """The number of lines of this recorder."""
    digest: str = ""
    """`sha256:...` of these lines in order, including newlines."""
    handle: str | None = None
    """The handle of the recorded background program, if it outlived the action that started it."""


class ProcessStarted(Event, kw_only=True, tag="process_started"):
    """A program outlives the action that started it. The intent of that action has the command line.

    Without a `process_ended`, it was killed together with its runtime.
    """

    handle: str
    agent: str
    until: str
    """`run` or `session`: the program is stopped at the end of it."""


class ProcessEnded(Event, kw_only=True, tag="process_ended"):
    """A background program has ended; `action` is the one that stopped it, or detected its end.

    `why` is `exited` (by itself), `stopped`, `process_limit`, `memory_limit`, `cpu_limit`, `proposal_aborted`, `run_ended`,
    `session_ended`, or, if the program was killed with its recorder or supervisor, `recorder_lost` or `lost`.
    """

    handle: str
    why: str
    agent: str | None = None
    """The agent that stopped it; absent if it was not an agent."""
    exit_code: int | None = None
    signal: str | None = None
    strays_ended: int = 0
    duration_ms: float = 0.0
    """Time from its start to its end."""


class StateChanged(Event, kw_only=True, tag="state_changed"):
    """Step 10: a write in the proposal's buffer. For a removal, the value is `null` and `deleted` is true."""

    key: str
    old_version: int
    new_version: int
    value: Kept
    deleted: bool = False


class EffectDivergence(Event, kw_only=True, tag="effect_divergence"):
    """The agent's claim (`expected_effects`) differs from what was observed."""

    key: str


class UndoIntent(Event, kw_only=True, tag="undo_intent"):
    """A step of undo is about to run; `how` is `files`, `compensation` or `idempotency`."""

    how: str
    detail: str = ""
    of: str | None = None
    """The action that the tool `undo` undoes: `run/proposal/action`. Absent if it is the event's own action."""


class UndoDone(Event, kw_only=True, tag="undo_done"):
    """The step of undo has ended; `problem` gives the reason if it failed."""

    how: str
    status: str
    """`rolled_back`, `compensated` or `not_undone`; `redone` if the undo itself was undone later."""
    problem: str | None = None
    of: str | None = None
    """As in the intent."""


class StateRolledBack(Event, kw_only=True, tag="state_rolled_back"):
    """The proposal's buffer was discarded."""

    state: Kept | None = None
    """For each written key: its `dropped` value, and the present `value` and `version` if it exists. None without writes."""


class WorkspaceCommitted(Event, kw_only=True, tag="workspace_committed"):
    """The database transaction that commits the proposal's state and files follows. It is idempotent by (run, seq)."""

    keys: tuple[str, ...] = ()


class LayerOpened(Event, kw_only=True, tag="layer_opened"):
    """The proposal works in a layer from now on. `layer` is its number in the run, `how` is `overlay` or `copy(why)`.

    With `absent` there is no layer, and it works on the files themselves; `how` gives the reason.
    """

    layer: int | None = None
    how: str
    absent: bool = False
    again: bool = False
    """True if the layer was reopened after the process that created it had ended."""


class LayerCommitIntent(Event, kw_only=True, tag="layer_commit_intent"):
    """The layer's changes are about to be made in the workspace. If no `layer_committed` follows, the commit is repeated."""

    layer: int
    changes: int


class LayerCommitted(Event, kw_only=True, tag="layer_committed"):
    """The layer's changes are in the workspace, except for the paths in `blocked`, with the reasons (see `LayerKept`)."""

    layer: int
    changes: int
    blocked: dict[str, str] = {}


class LayerKept(Event, kw_only=True, tag="layer_kept"):
    """The layer, or a part of it, waits for `interlock commit` or `interlock discard`.

    `why` is `ask`, `never`, `stopped`, `conflict`, `failed` or `blocked`; `blocked` names paths (the first thousand) with
    `conflict`, `protected`, `runs_later`, `denied` or `unsupported`.
    """

    layer: int
    why: str
    changes: int
    blocked: dict[str, str] = {}
    reason: str = ""
    """For `conflict` and `failed`: the reason code."""
    detail: str = ""
    """What went wrong, for people."""
    not_restored: dict[str, str] = {}
    """Paths that the commit may have changed and that were not restored, with the reasons."""


class LayerDiscarded(Event, kw_only=True, tag="layer_discarded"):
    """The layer was discarded with everything in it. `why` is `aborted`, `undone` or `asked`."""

    layer: int
    why: str


class CommandStarted(Event, kw_only=True, tag="command_started"):
    """A measured run is about to start its command. Its window begins here."""

    agent_shim: str
    platform: str
    command: tuple[str, ...]
    """The command line, redacted."""
    env_keys: tuple[str, ...] = ()
    """Sorted names of the variables that were set for this run. Their values are not stored."""
    window_elapsed_ms: int = 0
    profile: str = "none"
    network: str = "none"
    recorder: str = "none"
    """The recorder of effects in the kernel; `none`: effects are not observed."""
    posture: dict[str, str] = {}


class CommandFinished(Event, kw_only=True, tag="command_finished"):
    """The command of a measured run has ended. Exactly one of `exit_code` and `signal` is set."""

    exit_code: int | None = None
    signal: int | None = None
    success: bool
    window_elapsed_ms: int
    """Time since `command_started`, on the same monotonic clock."""
    timed_out: bool = False
    strays_ended: int = 0
    """Processes that the command left behind, and that were killed when it ended."""


class SpawnFailed(Event, kw_only=True, tag="spawn_failed"):
    """The command of a measured run was never started."""

    failed_step: str
    """`exec`: the program could not be executed. Otherwise the step before it that failed."""
    error: str
    """Symbolic name of the errno, such as `ENOENT`."""
    window_elapsed_ms: int


class CommandLost(Event, kw_only=True, tag="command_lost"):
    """The outcome of a measured run's command is unknown."""

    detail: str
    window_elapsed_ms: int | None = None
    """Absent if the process that measured it has also died."""


class SdkRecorded(Event, kw_only=True, tag="sdk_recorded"):
    """The reports of an agent's SDK during a measured run are complete; their lines are the run's sdk layer."""

    shim: str
    hooked: int
    """Number of processes in which the shim hooked into the SDK."""
    writers: int
    """Number of processes that reported anything."""
    records: int
    """Number of lines in the layer."""
    dropped: int
    """Lines left out because of the layer's size limit."""
    rejected: int
    """Lines that did not have the layer's format."""
    problems: tuple[str, ...] = ()
    """The first rejections: writer, line and field."""
    digest: str
    """`sha256:...` of the lines in order, including newlines."""


COMMAND_KINDS: Final = frozenset({"command_started", "command_finished", "spawn_failed", "command_lost"})
"""The events of a measured run."""


class ProposalFinished(Event, kw_only=True, tag="proposal_finished"):
    """The proposal has ended."""

    status: str
    cost: dict[str, float]
    not_undone: tuple[NotUndone, ...] = ()


class SkillDistilled(Event, kw_only=True, tag="skill_distilled"):
    """Skill candidates were created from successful proposals. Recorded in a separate run with the source `learning`."""

    count: int
    names: tuple[str, ...]


class EvolutionTriggered(Event, kw_only=True, tag="evolution_triggered"):
    """A skill (`domain`) was degraded, because too few of its last uses succeeded. Recorded in a separate run, as above."""

    domain: str
    rate: float
    repairs: tuple[str, ...] = ()
    """Candidates that repair it: `NAME@VERSION`."""


class Unknown(msgspec.Struct, kw_only=True):
    """An event kind that this version does not know. It is shown, but the run is not resumed."""

    kind: str
    seq: int
    fields: dict[str, Any]


AnyEvent = (
    RunStarted | RunResumed | ConfigurationChanged | StopRequested | RunFinished | ProposalReceived | ProposalRejected
    | MachineSampled | ActionRejected | PolicyDecided | ActionHeld | HoldResolved | ToolAsked | ToolAnswered
    | ActionDeduplicated | ActionWaiting | CapsuleEvent
    | ActionSkipped | ActionValidated | ActionIntent | ActionRetrying | OutcomeSettled | ActionSucceeded
    | ActionFailed | ActionUnknown | ActionCancelled | ActionLog | ActionConnection
    | ActionRecorded
    | ProcessStarted | ProcessEnded | StateChanged | EffectDivergence
    | UndoIntent | UndoDone | StateRolledBack | WorkspaceCommitted | LayerOpened | LayerCommitIntent | LayerCommitted | LayerKept
    | LayerDiscarded | CommandStarted | CommandFinished | SpawnFailed | CommandLost | SdkRecorded | ProposalFinished
    | SkillDistilled | EvolutionTriggered
)  # fmt: skip


class Seal(msgspec.Struct, kw_only=True, tag_field="kind", tag="seal"):
    """The last line of a batch: covers events `first` to `last`, `bytes` long, and links to the previous seal.

    `digest` is SHA-256 over the other fields and the batch's bytes; `prev` of the first seal is the digest of run id
    and format version. `interlock.journal.sealing` has the formulas.
    """

    first: int
    last: int
    bytes: int
    epoch: int
    """The number of processes that have written this journal so far."""
    prev: str
    digest: str
