"""Gathers from events and layers the facts that `conclusions` needs.

Memory grows with actions, recorders and SDK calls, and with the distinct values of the surface up to a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from interlock.verification.findings import Findings
from interlock.verification.strict_json import canonical

Pair = tuple[str, str]
"""Ids of a proposal and an action."""
Line = dict[str, Any]

VALUES_MAX: Final = 65_536
VALUE_BYTES_MAX: Final = 16 * 1024**2
_OUTCOMES: Final = {
    "action_succeeded", "action_failed", "action_unknown_outcome", "action_cancelled", "action_rejected",
    "action_deduplicated", "action_skipped",
}  # fmt: skip
_REROOTING: Final = {"chroot", "mount", "move_mount", "pivot_root", "setns"}
_COMMAND_ENDS: Final = {"command_finished": "finished", "spawn_failed": "spawn_failed", "command_lost": "lost"}


class ValueList:
    """Gathers the values of one claim of the surface."""

    def __init__(self) -> None:
        """Starts empty."""
        self.values: set[str] = set()
        self.grades: set[str] = set()
        self.cut = False
        self._bytes = 0

    def take(self, value: str, grade: str | None = None) -> None:
        """Add a value, and the grade of the call line in which it was found."""
        if value not in self.values:
            size = self._bytes + len(value.encode())
            self.cut = self.cut or len(self.values) == VALUES_MAX or size > VALUE_BYTES_MAX
            if self.cut:
                return
            self._bytes = size
            self.values.add(value)
        if grade is not None:
            self.grades.add(grade)


@dataclass
class Action:
    """Everything that belongs to one pair."""

    in_events: bool = False
    intents: list[int] = field(default_factory=list)
    """The attempt numbers of the intents."""
    tool: str | None = None
    decided_tool: str | None = None
    decision: str | None = None
    decision_seq: int | None = None
    outcome: str | None = None
    connections: int = 0
    recorders: int = 0
    kernel_records: int = 0


@dataclass
class Call:
    """One id of the SDK layer."""

    starts: int = 0
    ends: int = 0
    from_shim: bool = False


@dataclass
class Recorder:
    """One recorder of the kernel layer."""

    pair: Pair | None
    """None if it recorded the command."""
    ended: bool = False
    lost: bool = False


@dataclass
class Facts:
    """The facts of one run. Takes the events first, then the layers."""

    findings: Findings
    run_id: str | None = None
    redacted: bool = False
    # events
    events: int = 0
    version: int = 1
    run_finished: bool = False
    command: Line | None = None
    command_ends: list[str] = field(default_factory=list)
    actions: dict[Pair, Action] = field(default_factory=dict)
    attempts: dict[tuple[str, str, int], bool] = field(default_factory=dict)
    """Maps each attempt to whether its posture says that its network was closed or watched."""
    postures: dict[bytes, dict[str, str]] = field(default_factory=dict)
    recorders_closed: dict[str, Line] = field(default_factory=dict)
    """Maps each recorder to its `action_recorded` event."""
    started_by: dict[str, Pair] = field(default_factory=dict)
    """The action that started each background program."""
    sdk_recorded: Line | None = None
    decisions: int = 0
    # kernel
    kernel_lines: int = 0
    kernel_dropped: int = 0
    kernel_refused: int = 0
    paths_rerooted: bool = False
    """True if a call may have changed what paths lead to."""
    recorders: dict[str, Recorder] = field(default_factory=dict)
    attempts_recorded: set[tuple[str, str, int]] = field(default_factory=set)
    command_recorders: int = 0
    command_records: int = 0
    # sdk
    sdk_lines: int = 0
    calls: dict[str, Call] = field(default_factory=dict)
    # surface
    files_read: ValueList = field(default_factory=ValueList)
    files_written: ValueList = field(default_factory=ValueList)
    programs: ValueList = field(default_factory=ValueList)
    hosts: ValueList = field(default_factory=ValueList)
    tools: ValueList = field(default_factory=ValueList)
    tools_reported: ValueList = field(default_factory=ValueList)
    decided: ValueList = field(default_factory=ValueList)

    # -- events

    def take_event(self, event: Line, where: str) -> None:
        """Add an event. Contradictions are reported as findings."""
        self.events += 1
        kind = event["kind"]
        pair = _pair_of_event(event)
        action = None
        if pair is not None:
            action = self.actions.setdefault(pair, Action())
            action.in_events = True
        if kind == "action_connection":
            self._connection(event, action)
        elif pair is None or action is None:
            self._event_of_run(kind, event, where)
        elif kind == "action_intent":
            self._intent(event, pair, action)
        elif kind in _OUTCOMES:
            self._outcome(kind, event, pair, action)
        elif kind == "process_started":
            self.started_by[event["handle"]] = pair
        if kind == "action_recorded":
            handle = event.get("handle")
            if handle is not None and (pair is None or self.started_by.get(handle) != pair):
                self.findings.add("contradiction", where, "the recorder names a program that its action did not start")
            self.recorders_closed[event["recorder"]] = event

    def _event_of_run(self, kind: str, event: Line, where: str) -> None:
        if kind == "run_started":
            self.version = event.get("version", 1)
            if event["run"] != self.run_id:
                self.findings.add("run_id_mismatch", where, "it starts a different run")
        elif kind == "run_finished":
            self.run_finished = True
        elif kind == "sdk_recorded":
            self.sdk_recorded = event
        elif kind == "command_started":
            if self.command is not None:
                self.findings.add("contradiction", where, "the command is started twice")
            self.command = event
            self._posture(event)
        elif kind in _COMMAND_ENDS:
            self._command_end(kind, event, where)

    def _command_end(self, kind: str, event: Line, where: str) -> None:
        if self.command is None:
            self.findings.add("contradiction", where, f"`{kind}` without `command_started`")
        if self.command_ends:
            self.findings.add("contradiction", where, "the command ends twice")
        if kind == "command_finished" and (event.get("exit_code") is None) == (event.get("signal") is None):
            self.findings.add("contradiction", where, "both an exit code and a signal, or neither")
        if kind == "command_finished" and event.get("success", False) != (event.get("exit_code") == 0):
            self.findings.add("contradiction", where, "`success` is not what the exit code says")
        self.command_ends.append(_COMMAND_ENDS[kind])

    def _intent(self, event: Line, pair: Pair, action: Action) -> None:
        action.intents.append(event["attempt"])
        action.tool = event["tool"]
        if action.tool is not None:
            self.tools.take(action.tool)
        self.attempts.setdefault((*pair, event["attempt"]), False)
        self._posture(event)

    def _outcome(self, kind: str, event: Line, pair: Pair, action: Action) -> None:
        action.outcome = {"action_unknown_outcome": "unknown"}.get(kind, kind.removeprefix("action_"))
        if kind in ("action_succeeded", "action_failed"):
            self._posture(event)
            key = (*pair, event["attempt"])
            if key in self.attempts and is_network_closed(event):
                self.attempts[key] = True

    def _connection(self, event: Line, action: Action | None) -> None:
        if action is not None:
            action.connections += 1
        if event["outcome"] == "connected":
            self.hosts.take(host_of(event["host"], event.get("port")))

    def _posture(self, event: Line) -> None:
        posture = event.get("posture")
        if posture:
            self.postures[canonical(posture)] = posture

    def take_decision(self, event: Line) -> Line:
        """Add a `policy_decided` event. Returns its line of the policy layer."""
        pair, tool, decision = _pair_of_event(event), event.get("tool"), event["decision"]
        seq, self.decisions = self.decisions, self.decisions + 1
        if pair is not None:
            action = self.actions[pair]
            action.decision, action.decision_seq, action.decided_tool = decision, seq, tool
        self.decided.take(f"{decision}:{'?' if tool is None else tool}")
        return {
            "schema": "interlock.layer.policy.v1",
            "run_id": self.run_id,
            "seq": seq,
            "kind": "decision",
            "event": event["seq"],
            "decision": decision,
            "tool": tool,
            **{name: event.get(name) for name in ("ts", "proposal", "action", "digest")},
            **{name: event.get(name, []) for name in ("policies", "errors")},
        }

    # -- layers

    def take_kernel(self, line: Line, where: str) -> bool:
        """Add a line of the kernel layer. Returns True for a `call` whose effects count.

        Returns False for other lines, and for those out of order.
        """
        self.kernel_lines += 1
        pair = pair_of_kernel(line)
        kind, name = line["kind"], line["recorder"]
        recorder = self.recorders.get(name)
        if kind == "recorder_started":
            if recorder is not None:
                self.findings.add("recorder_mismatch", where, f"recorder `{name[:80]}` is started twice")
                return False
            self.recorders[name] = Recorder(pair)
            if pair is None:
                self.command_recorders += 1
            else:
                self.actions.setdefault(pair, Action()).recorders += 1
                if line.get("attempt") is not None:
                    self.attempts_recorded.add((*pair, line["attempt"]))
            return False
        if recorder is None or recorder.ended or recorder.pair != pair:
            self.findings.add(
                "recorder_mismatch",
                where,
                f"recorder `{name[:80]}` was not started, has ended, or belongs to another action",
            )
            return False
        if kind == "recorder_ended":
            recorder.ended, recorder.lost = True, line.get("lost", False)
            closed = self.recorders_closed.get(name)
            if closed is not None and _totals(closed) != _totals(line):
                self.findings.add("contradiction", where, f"the end of recorder `{name[:80]}` is not as in the journal")
            self.kernel_dropped += line["dropped"]
            self.kernel_refused += line["refused"]
            return False
        if pair is None:
            self.command_records += 1
        else:
            action = self.actions.get(pair)
            if action is None:
                action = self.actions[pair] = Action()
            action.kernel_records += 1
        if line["call"] in _REROOTING:
            self.paths_rerooted = True
        return line.get("error") is None and not line.get("unreadable")

    def take_sdk(self, line: Line) -> None:
        """Add a line of the SDK layer."""
        self.sdk_lines += 1
        if "tool_call_id" not in line:
            return
        self.tools_reported.take(line["tool"])
        call = self.calls.setdefault(line["tool_call_id"], Call())
        call.from_shim |= line["call_id_source"] == "shim"
        call.starts += line["kind"] == "tool_call_started"
        call.ends += line["kind"] == "tool_call_completed"

    # -- used by several conclusions

    @property
    def agent_shim(self) -> str:
        """The shim of the command."""
        return "none" if self.command is None else str(self.command["agent_shim"])

    def bound(self) -> dict[Pair, str]:
        """Maps each pair to the call bound to it, if there is one."""
        having: dict[str, list[Pair]] = {}
        for pair, action in self.actions.items():
            if action.in_events and pair[1] in self.calls:
                having.setdefault(pair[1], []).append(pair)
        return {pairs[0]: call for call, pairs in having.items() if len(pairs) == 1 and not self.calls[call].from_shim}


def is_network_closed(event: Line) -> bool:
    """Returns True if the posture in an event says that the network was closed or watched."""
    return str((event.get("posture") or {}).get("net", "")).startswith("active")


def host_of(host: str, port: int | None) -> str:
    """Returns a host as written in the surface."""
    shown = f"[{host}]" if ":" in host and port is not None else host
    return shown if port is None else f"{shown}:{port}"


def pair_of_kernel(line: Line) -> Pair | None:
    """Returns the action to which a line of the kernel layer belongs; None for the command."""
    proposal, action = line.get("proposal"), line.get("action")
    return (proposal, action) if proposal and action is not None else None


def _pair_of_event(event: Line) -> Pair | None:
    proposal, action = event.get("proposal"), event.get("action")
    return None if proposal is None or action is None else (proposal, action)


def _totals(end: Line) -> tuple[Any, ...]:
    """What the journal and the layer both say about the end of a recorder."""
    return end.get("dropped", 0), end.get("refused", 0), end.get("lost", False)
