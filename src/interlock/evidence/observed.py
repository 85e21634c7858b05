"""Gathers, in one pass over the events and layers of a run, the facts behind health, surface and correlation.

Memory grows with the number of actions, recorders and SDK calls, and up to a limit with the distinct values of the
surface, but never with the number of lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import msgspec

from interlock.evidence.format import VALUE_BYTES_MAX, VALUES_MAX
from interlock.model.canonical import canonical
from interlock.model.errors import IntegrityError
from interlock.model.kernel_layer import EXECS, LINKS, OPENS, RENAMES, REROOTS

Pair = tuple[str, str]
"""Ids of a proposal and an action."""
Attempt = tuple[str, str, int]

_OUTCOMES: Final = {
    "action_succeeded": "succeeded",
    "action_failed": "failed",
    "action_unknown_outcome": "unknown",
    "action_cancelled": "cancelled",
    "action_rejected": "rejected",
    "action_deduplicated": "deduplicated",
    "action_skipped": "skipped",
}
_COMMAND_ENDS: Final = {"command_finished": "finished", "spawn_failed": "spawn_failed", "command_lost": "lost"}
_CHANGES: Final = frozenset(
    (
        "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "mknod", "mknodat", "chmod", "fchmodat", "fchmodat2", "chown",
        "lchown", "fchownat", "truncate", "setxattr", "lsetxattr", "removexattr", "lremovexattr", "symlink", "symlinkat",
    )
)  # fmt: skip
_SENDS: Final = frozenset(("connect", "sendto", "sendmsg", "sendmmsg"))
KERNEL_WORDS: Final = OPENS | _CHANGES | RENAMES | LINKS | EXECS | _SENDS | REROOTS | {"inet", "inet6"}
"""Values of kernel lines from which claims follow."""


class KernelLine(msgspec.Struct, frozen=True, gc=False):
    """A line of the kernel layer, reduced to the members that are used."""

    kind: Literal["recorder_started", "call", "recorder_ended"]
    schema: Literal["interlock.layer.kernel.v1"]
    run_id: str
    seq: int
    recorder: str
    proposal: str | None = None
    action: str | None = None
    attempt: int | None = None
    call: str = ""
    grade: Literal["attempt", "outcome"] = "attempt"
    error: str | None = None
    path: str | None = None
    real: str | None = None
    to: str | None = None
    access: str | None = None
    flags: tuple[str, ...] = ()
    family: str | None = None
    host: str | None = None
    port: int | None = None
    unreadable: bool = False
    dropped: int = 0
    refused: int = 0
    lost: bool = False


class Values:
    """A list of the surface while it is being gathered."""

    def __init__(self) -> None:
        """Starts empty."""
        self.values: set[str] = set()
        self.cut = False
        self.grade: Literal["attempt", "outcome"] | None = None
        self._bytes = 0

    def add(self, value: str, grade: Literal["attempt", "outcome"] | None = None) -> None:
        """Add a value, unless the list is full."""
        if value not in self.values:
            if self.cut:
                return
            size = self._bytes + len(value.encode("utf-8", "surrogatepass"))
            if len(self.values) >= VALUES_MAX or size > VALUE_BYTES_MAX:
                self.cut = True
                return
            self._bytes = size
            self.values.add(value)
        if grade is not None and self.grade != "attempt":
            self.grade = grade


class ActionFacts(msgspec.Struct):
    """Everything that belongs to one action."""

    on_record: bool = False
    """False if only the kernel layer names it."""
    tool: str | None = None
    decided_tool: str | None = None
    decision: str | None = None
    decision_seq: int | None = None
    attempts: int = 0
    outcome: str | None = None
    recorders: int = 0
    kernel_records: int = 0
    connections: int = 0


class CallFacts(msgspec.Struct):
    """An SDK's reports about one call."""

    started: int = 0
    completed: int = 0
    shim_made: bool = False


class RecorderFacts(msgspec.Struct):
    """One kernel recorder."""

    pair: Pair | None
    ended: bool = False
    lost: bool = False


class RecorderEnd(NamedTuple):
    """The journal's record of a recorder's lines."""

    lines: int
    digest: str
    totals: tuple[int, int, bool]
    """`dropped`, `refused` and `lost`, which the line `recorder_ended` repeats."""


class Observed:
    """The facts of one run. Takes the events first, then the lines of the layers."""

    def __init__(self, run_id: str, *, platform: str = "linux", agent_shim: str = "none") -> None:
        """`platform` and `agent_shim` are used if no event names them."""
        self.run_id, self.platform, self.agent_shim = run_id, platform, agent_shim
        self.events = 0
        self.version = 1
        self.finished = False
        self.command: dict[str, Any] | None = None
        self.command_ends: list[str] = []
        self.actions: dict[Pair, ActionFacts] = {}
        self.attempts: dict[Attempt, bool] = {}
        """Maps each attempt to whether its network was closed or watched."""
        self.postures: set[bytes] = set()
        self.recorders: dict[str, RecorderFacts] = {}
        self.recorder_ends: dict[str, RecorderEnd] = {}
        self.recorded: set[Attempt] = set()
        self.programs_of: dict[str, Pair] = {}
        """The action that started each background program."""
        self.command_recorders = 0
        self.stray_records = 0
        """Kernel records that belong to no action; in a measured run, those of the command."""
        self.kernel_lines = self.kernel_dropped = self.kernel_refused = 0
        self.rerooted = False
        """True if a process may have changed what paths lead to."""
        self.decisions = 0
        self.sdk_lines = 0
        self.sdk_closed: dict[str, Any] | None = None
        self.calls: dict[str, CallFacts] = {}
        self.redacted = False
        self.read, self.written, self.programs, self.hosts = Values(), Values(), Values(), Values()
        self.tools, self.tools_reported, self.decided = Values(), Values(), Values()

    # -- events

    def event(self, event: dict[str, Any]) -> None:
        """Add an event. Raises: IntegrityError `evidence_contradiction`."""
        self.events += 1
        kind = event["kind"]
        proposal, action = event.get("proposal"), event.get("action")
        if proposal is not None and action is not None:
            self._action_event(kind, event, (proposal, action))
        elif kind == "run_started":
            self.version = event.get("version", 1)
        elif kind == "run_finished":
            self.finished = True
        elif kind == "command_started":
            self._require(self.command is None, "the command was started twice")
            self.command = event
            self.platform, self.agent_shim = event["platform"], event["agent_shim"]
            self._posture(event)
        elif kind in _COMMAND_ENDS:
            self._command_end(kind, event)
        elif kind == "sdk_recorded":
            self.sdk_closed = event
        elif kind == "action_connection":
            self._connection(event)
        if kind == "action_recorded":
            handle = event.get("handle")
            self._require(
                handle is None or self.programs_of.get(handle) == (proposal, action),
                f"recorder `{event['recorder']}` names a program that its action did not start",
            )
            self.recorder_ends[event["recorder"]] = RecorderEnd(
                event.get("lines", 0),
                event.get("digest", ""),
                (event["dropped"], event["refused"], event.get("lost", False)),
            )

    def _action_event(self, kind: str, event: dict[str, Any], pair: Pair) -> None:
        facts = self.actions.get(pair)
        if facts is None:
            facts = self.actions[pair] = ActionFacts(on_record=True)
        if kind == "process_started":
            self.programs_of[event["handle"]] = pair
        elif kind == "action_intent":
            facts.attempts += 1
            facts.tool = event.get("tool")
            self.attempts.setdefault((*pair, event["attempt"]), False)
            if facts.tool is not None:
                self.tools.add(facts.tool)
            self._posture(event)
        elif kind == "action_connection":
            facts.connections += 1
            self._connection(event)
        elif (outcome := _OUTCOMES.get(kind)) is not None:
            facts.outcome = outcome
            if kind in ("action_succeeded", "action_failed"):
                self._posture(event)
                attempt = (*pair, event["attempt"])
                if attempt in self.attempts and _is_closed(event):
                    self.attempts[attempt] = True

    def decision(self, event: dict[str, Any]) -> dict[str, Any]:
        """Add a `policy_decided` event, after `event`. Returns its line of the policy layer."""
        pair = (event.get("proposal"), event.get("action"))
        tool = event.get("tool")
        if (facts := self.actions.get(pair)) is not None:  # type: ignore[arg-type]
            facts.decision, facts.decision_seq = event["decision"], self.decisions
            facts.decided_tool = tool
        self.decided.add(f"{event['decision']}:{'?' if tool is None else tool}")
        line = {
            "schema": "interlock.layer.policy.v1", "run_id": self.run_id, "seq": self.decisions, "kind": "decision",
            "event": event["seq"], "ts": event["ts"], "proposal": pair[0], "action": pair[1], "tool": tool,
            "decision": event["decision"], "policies": event.get("policies", []), "errors": event.get("errors", []),
            "digest": event.get("digest"),
        }  # fmt: skip
        self.decisions += 1
        return line

    def _command_end(self, kind: str, event: dict[str, Any]) -> None:
        self._require(self.command is not None, f"`{kind}` without `command_started`")
        self._require(not self.command_ends, "the command has ended twice")
        if kind == "command_finished":
            both = (event.get("exit_code") is None) == (event.get("signal") is None)
            self._require(not both, "the command has ended with both an exit code and a signal, or with neither")
            success = event.get("success", False)
            self._require(success == (event.get("exit_code") == 0), "`success` is not what the exit code says")
        self.command_ends.append(_COMMAND_ENDS[kind])

    def _connection(self, event: dict[str, Any]) -> None:
        if event["outcome"] == "connected":
            self.hosts.add(_host(event["host"], event.get("port")))

    def _posture(self, event: dict[str, Any]) -> None:
        if event.get("posture"):
            self.postures.add(canonical(event["posture"]))

    # -- layers

    def kernel(self, line: KernelLine) -> None:
        """Add a line of the kernel layer. Raises: IntegrityError `evidence_contradiction`."""
        self.kernel_lines += 1
        # Records of a measured run's command have the proposal "".
        pair = (line.proposal, line.action) if line.proposal and line.action is not None else None
        if line.kind == "recorder_started":
            self._recorder_started(line, pair)
            return
        recorder = self.recorders.get(line.recorder)
        self._require(
            recorder is not None and not recorder.ended and recorder.pair == pair,
            f"line {line.seq} of the kernel layer does not belong to a recorder that was started and has not ended",
        )
        assert recorder is not None
        if line.kind == "recorder_ended":
            recorder.ended, recorder.lost = True, line.lost
            end = self.recorder_ends.get(line.recorder)
            self._require(
                end is None or end.totals == (line.dropped, line.refused, line.lost),
                f"the end of recorder `{line.recorder}` is not as in the journal",
            )
            self.kernel_dropped += line.dropped
            self.kernel_refused += line.refused
            return
        if pair is None:
            self.stray_records += 1
        else:
            self.actions.setdefault(pair, ActionFacts()).kernel_records += 1
        self.rerooted = self.rerooted or line.call in REROOTS
        if line.error is None and not line.unreadable:
            self._effect(line)

    def _recorder_started(self, line: KernelLine, pair: Pair | None) -> None:
        self._require(line.recorder not in self.recorders, f"recorder `{line.recorder}` was started twice")
        self.recorders[line.recorder] = RecorderFacts(pair)
        if pair is None:
            self.command_recorders += 1
            return
        self.actions.setdefault(pair, ActionFacts()).recorders += 1
        if line.attempt is not None:
            self.recorded.add((*pair, line.attempt))

    def _effect(self, line: KernelLine) -> None:
        call, grade = line.call, line.grade
        if call in _SENDS:
            if line.family in ("inet", "inet6") and line.host is not None:
                self.hosts.add(_host(line.host, line.port), grade)
        elif call in LINKS:
            self._written(line.to, grade)
        elif call in OPENS:
            self._opened(line)
        elif call in EXECS:
            if (path := _place(line)) is not None:
                self.programs.add(path, grade)
        elif call in _CHANGES:
            self._written(_place(line), grade)
        elif call in RENAMES:
            self._written(_place(line), grade)
            self._written(line.to, grade)

    def _opened(self, line: KernelLine) -> None:
        path, access = _place(line), line.access
        if path is not None and access in ("read", "read_write"):
            self.read.add(path, line.grade)
        if access in ("write", "read_write") or "create" in line.flags or "truncate" in line.flags:
            self._written(path, line.grade)

    def _written(self, path: str | None, grade: Literal["attempt", "outcome"]) -> None:
        if path is not None:
            self.written.add(path, grade)

    def sdk(self, line: dict[str, Any]) -> None:
        """Add a line of the SDK layer."""
        self.sdk_lines += 1
        call_id = line.get("tool_call_id")
        if call_id is None:
            return
        self.tools_reported.add(line["tool"])
        facts = self.calls.setdefault(call_id, CallFacts())
        facts.shim_made = facts.shim_made or line["call_id_source"] == "shim"
        if line["kind"] == "tool_call_started":
            facts.started += 1
        else:
            facts.completed += 1

    # -- contradictions

    def check(self) -> None:
        """Check for contradictions after the last line. Raises: IntegrityError `evidence_contradiction`."""
        self._require(
            not self.sdk_lines or self.agent_shim != "none", "an SDK has reported, but there is no agent shim"
        )
        recorder = "none" if self.command is None else self.command.get("recorder", "none")
        if self.command is not None and recorder == "none":
            self._require(not self.kernel_lines, "there are kernel records, but the command had no recorder")
        self._require(
            not self.kernel_lines or self.platform == "linux", "there are kernel records from another platform"
        )

    def _require(self, true: bool, otherwise: str) -> None:
        if not true:
            raise IntegrityError(
                f"the evidence of run `{self.run_id}` contradicts itself: {otherwise}",
                code="evidence_contradiction",
                hint="nothing was written; `interlock runs check` shows whether the journal is intact",
            )


def bound_calls(observed: Observed) -> dict[Pair, str]:
    """Maps each action to the SDK call with its id, if the id is unique."""
    named: dict[str, list[Pair]] = {}
    for pair, facts in observed.actions.items():
        if facts.on_record and pair[1] in observed.calls:
            named.setdefault(pair[1], []).append(pair)
    return {pairs[0]: call for call, pairs in named.items() if len(pairs) == 1 and not observed.calls[call].shim_made}


def doubled_calls(observed: Observed) -> Iterable[str]:
    """Ids that belong to more than one call or action."""
    actions: dict[str, int] = {}
    for (_, action), facts in observed.actions.items():
        actions[action] = actions.get(action, 0) + facts.on_record
    return (call for call, ends in observed.calls.items() if ends.started > 1 or actions.get(call, 0) > 1)


def _place(line: KernelLine) -> str | None:
    return line.path if line.real is None else line.real


def _is_closed(event: dict[str, Any]) -> bool:
    return str(event.get("posture", {}).get("net", "")).startswith("active")


def command_is_closed(command: dict[str, Any]) -> bool:
    """Returns True if the command's network was closed or watched."""
    return _is_closed(command)


def _host(host: str, port: int | None) -> str:
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
