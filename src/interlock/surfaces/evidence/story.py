"""Collects the facts of a run from the lines of a verified archive, for a page.

Limited in size: of repeated items (actions, processes, paths, calls) the first ones are kept, and the rest is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from interlock.verification import container
from interlock.verification.effects import take_effect
from interlock.verification.facts import host_of
from interlock.verification.findings import Findings

ACTIONS_MAX: Final = 1000
PROCESSES_MAX: Final = 500
"""Maximum processes of one action."""
PLACES_MAX: Final = 200
"""Maximum paths of one kind of one action."""
CALLS_MAX: Final = 1000
_REFERENCE: Final = re.compile(r"\$([A-Za-z0-9_.-]+?)\.output")
_ENDS: Final = {
    "action_succeeded": "succeeded",
    "action_failed": "failed",
    "action_rejected": "rejected",
    "action_skipped": "skipped",
    "action_cancelled": "cancelled",
    "action_unknown_outcome": "unknown outcome",
    "action_deduplicated": "succeeded, with the result of an identical earlier call",
    "action_held": "held",
}
Pair = tuple[str, str]
COMMAND: Final[Pair] = ("", "command")
"""The pair of a measured run's command."""


class Places:
    """Paths or addresses in the order in which they were seen."""

    def __init__(self) -> None:
        self.seen: dict[str, None] = {}
        self.more = 0

    def take(self, value: str, grade: str | None = None) -> None:  # noqa: ARG002 - all are attempts on a page
        """Keep a value, or count it."""
        if value in self.seen:
            return
        if len(self.seen) < PLACES_MAX:
            self.seen[value] = None
        else:
            self.more += 1


class Process(NamedTuple):
    """An executed program. `parent` is the pid of its parent; 0 if that is outside of the action."""

    pid: int
    parent: int
    program: str
    argv: tuple[str, ...]


class ActionStory:
    """One action, or the command of a measured run."""

    def __init__(self, pair: Pair, spec: dict[str, Any] | None) -> None:
        self.proposal, self.id = pair
        spec = spec or {}
        self.tool = str(spec.get("tool") or spec.get("type") or "")
        self.parameters: Any = spec.get("parameters")
        text = json.dumps(self.parameters)
        self.needs = list(dict.fromkeys([*spec.get("dependencies", ()), *_REFERENCE.findall(text)]))
        self.decision = ""
        self.policies: tuple[str, ...] = ()
        self.questions: list[dict[str, Any]] = []
        self.begun: int | None = None
        """Start on the monotonic clock of the run, in nanoseconds; `ended` likewise."""
        self.ended: int | None = None
        self.status = ""
        self.reason = ""
        self.attempts = 0
        self.output: Any = None
        self.posture: dict[str, str] = {}
        self.processes: list[Process] = []
        self.more_processes = 0
        self.files_read, self.files_written, self.programs, self.hosts = Places(), Places(), Places(), Places()
        self.recorded = False


class Story:
    """The facts of a run."""

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}
        self.finished: dict[str, Any] = {}
        self.command: dict[str, Any] | None = None
        self.command_end: dict[str, Any] | None = None
        self.proposals: dict[str, dict[str, Any]] = {}
        """Proposals by id: `source`, `agent`, `status`."""
        self.actions: dict[Pair, ActionStory] = {}
        self.more_actions = 0
        self.calls: list[dict[str, Any]] = []
        """Lines of the sdk layer."""
        self.more_calls = 0
        self.first: int | None = None
        self.last = 0


def read_story(file: BinaryIO) -> Story:
    """Collect the facts from a verified archive, which must be positioned at its start."""
    story = Story()
    takers = {container.EVENTS: _event, container.KERNEL: _kernel, container.SDK: _sdk}
    for content in container.members(file, Findings()):
        taker = takers.get(content.path)
        if taker is None:
            content.drain()
            continue
        for lines in container.lines_of(content.path, content.pieces()):
            for line in lines:
                taker(story, json.loads(line))
    return story


# -- events


def _event(story: Story, event: dict[str, Any]) -> None:
    kind = event["kind"]
    if kind == "seal":
        return
    story.first = event["mono"] if story.first is None else story.first
    story.last = max(story.last, event["mono"])
    if kind == "run_started":
        story.started = story.started or event
    elif kind == "run_finished":
        story.finished = event
    elif kind == "proposal_received":
        _proposal(story, event)
    elif kind in ("proposal_finished", "proposal_rejected"):
        status = event.get("status", "rejected")
        story.proposals.setdefault(event["proposal"], {})["status"] = status
    elif kind in ("command_started", "command_finished", "spawn_failed", "command_lost"):
        _command(story, event)
    elif event.get("action") is not None:
        action = _action(story, (event.get("proposal") or "", event["action"]))
        if action is not None:
            _of_action(action, event)


def _proposal(story: Story, event: dict[str, Any]) -> None:
    document = (event.get("document") or {}).get("view") or {}
    story.proposals[event["proposal"]] = {"source": event.get("source"), "agent": event.get("agent"), "status": ""}
    for spec in document.get("actions", ()) if isinstance(document, dict) else ():
        if isinstance(spec, dict) and isinstance(spec.get("id"), str):
            _action(story, (event["proposal"], spec["id"]), spec)


def _action(story: Story, pair: Pair, spec: dict[str, Any] | None = None) -> ActionStory | None:
    found = story.actions.get(pair)
    if found is None:
        if len(story.actions) >= ACTIONS_MAX:
            story.more_actions += spec is not None
            return None
        found = story.actions[pair] = ActionStory(pair, spec)
    return found


def _command(story: Story, event: dict[str, Any]) -> None:
    action = story.actions.setdefault(COMMAND, ActionStory(COMMAND, {"tool": "the command"}))
    if event["kind"] == "command_started":
        story.command = event
        action.parameters, action.begun, action.posture = event["command"], event["mono"], event.get("posture", {})
        return
    story.command_end = event
    action.ended = event["mono"]
    if event["kind"] == "command_finished":
        action.status = "succeeded" if event["success"] else "failed"
        if event.get("signal") is not None:
            action.reason = f"signal {event['signal']}"
        elif event.get("exit_code"):
            action.reason = f"exit code {event['exit_code']}"
    else:
        action.status = "not started" if event["kind"] == "spawn_failed" else "its end is unknown"
        action.reason = str(event.get("error") or event.get("detail") or "")


def _of_action(action: ActionStory, event: dict[str, Any]) -> None:
    kind = event["kind"]
    if kind == "policy_decided":
        action.decision, action.policies = event["decision"], tuple(event.get("policies", ()))
    elif kind in ("action_held", "tool_asked"):
        action.questions.append({"asked": event["ts"], "approval": event["approval"], "summary": event.get("summary")})
    elif kind in ("hold_resolved", "tool_answered"):
        for question in action.questions:
            if question["approval"] == event["approval"]:
                question |= {"decision": event["decision"], "approver": event.get("approver"), "answered": event["ts"]}
                question["edited"] = (event.get("parameters") or {}).get("view")
    elif kind == "action_intent":
        action.attempts = max(action.attempts, event.get("attempt", 1))
        action.begun = event["mono"] if action.begun is None else action.begun
        action.tool = action.tool or str(event.get("tool") or "")
        action.posture = event.get("posture") or action.posture
    elif kind == "action_connection":
        host = host_of(event["host"], event.get("port"))
        why = f": {event['reason']}" if event.get("reason") else ""
        action.hosts.take(host if event["outcome"] == "connected" else f"{host} ({event['outcome']}{why})")
    elif kind == "undo_done":
        action.reason = "undone"
    if kind in _ENDS:
        action.status, action.ended = _ENDS[kind], event["mono"]
        action.reason = str(event.get("reason") or "")
        action.output = (event.get("output") or {}).get("view") if isinstance(event.get("output"), dict) else None
        action.posture = event.get("posture") or action.posture
        if event.get("error") or event.get("detail"):
            action.reason = f"{action.reason}: {event.get('error') or event.get('detail')}".removeprefix(": ")
        for use in event.get("hosts", ()):
            action.hosts.take(host_of(use["host"], use.get("port")))


# -- layers


def _kernel(story: Story, line: dict[str, Any]) -> None:
    pair = (line["proposal"], line["action"]) if line.get("proposal") else COMMAND
    action = story.actions.get(pair)
    if action is None:
        return
    action.recorded = True
    if line["kind"] != "call":
        return
    take_effect(action, line)
    if line["call"] in ("execve", "execveat"):
        if len(action.processes) < PROCESSES_MAX:
            argv = tuple(map(str, line.get("argv", ())))
            program = str(line.get("real") or line.get("path"))
            action.processes.append(Process(line["pid"], line.get("parent", 0), program, argv))
        else:
            action.more_processes += 1


def _sdk(story: Story, line: dict[str, Any]) -> None:
    if len(story.calls) < CALLS_MAX:
        story.calls.append(line)
    else:
        story.more_calls += 1


def children(processes: list[Process]) -> Iterator[tuple[int, list[Process]]]:
    """The process tree, depth first: the depth of each process, and the programs that it executed one after the other."""
    by_pid: dict[int, list[Process]] = {}
    for process in processes:
        by_pid.setdefault(process.pid, []).append(process)
    below: dict[int, list[int]] = {}
    for pid, programs in by_pid.items():
        parent = programs[0].parent
        below.setdefault(parent if parent in by_pid and parent != pid else 0, []).append(pid)
    waiting = [(0, pid) for pid in reversed(below.get(0, []))]
    shown: set[int] = set()
    while waiting:
        depth, pid = waiting.pop()
        if pid in shown:
            continue
        shown.add(pid)
        yield depth, _started(by_pid[pid])
        waiting += [(depth + 1, child) for child in reversed(below.get(pid, []))]
    for pid in by_pid.keys() - shown:  # parents that name each other, because pids were reused
        yield 0, _started(by_pid[pid])


def _started(programs: list[Process]) -> list[Process]:
    """The programs without failed attempts: a command is tried along PATH until a program is found."""
    return [
        one
        for one, after in zip(programs, [*programs[1:], None], strict=True)
        if after is None or one.argv != after.argv
    ]
