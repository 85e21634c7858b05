"""The actions of past runs, in order, for people: the tool, its main parameter, and the outcome.

Reads the redacted views in journals. If a proposal was too large for the journal, only the names of tools, paths, addresses and
keys are read from its original. A run may be of any length: long proposals are read some actions at a time.
"""

from __future__ import annotations

import heapq
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from interlock.journal import read
from interlock.journal.index import RunRow
from interlock.journal.private import Originals
from interlock.lazy import lazy
from interlock.model import events as e
from interlock.model import typed
from interlock.model.errors import InterlockError
from interlock.model.result import HostUse
from interlock.model.summary import main_parameter

if TYPE_CHECKING:
    from interlock.detect import redact
    from interlock.engine.inspect import long_proposals
    from interlock.engine.inspect.long_proposals import LongProposal
    from interlock.engine.record import connections
else:
    connections = lazy("interlock.engine.record.connections")
    long_proposals = lazy("interlock.engine.inspect.long_proposals")
    redact = lazy("interlock.detect.redact")

UNDONE_STATUSES: Final = frozenset({"rolled_back", "compensated", "not_undone"})
_PROPOSAL: Final = "(proposal)"
_OUTCOMES: Final[dict[type[e.Event], str]] = {
    e.ActionSucceeded: "succeeded",
    e.ActionDeduplicated: "succeeded",
    e.ActionFailed: "failed",
    e.ActionRejected: "rejected",
    e.ActionSkipped: "skipped",
    e.ActionUnknown: "unknown_outcome",
    e.ActionCancelled: "cancelled",
}
"""The events that end an action, and the status that each one means."""


class ActionLine(msgspec.Struct, kw_only=True):
    """One action of a run."""

    run_id: str
    agent: str
    session: str | None = None
    proposal_id: str = ""
    action_id: str = ""
    tool: str = ""
    """Its tool, or the type of an action that has none (`state_write`)."""
    about: str = ""
    """Its main parameter (a command, path, address or key), redacted; empty if the journal does not have it."""
    parameters: Any = None
    """Redacted; null if they were too large for the journal."""
    status: str = "skipped"
    """A status of results, `running`, or that of an aborted proposal: `rolled_back`, `compensated`, `not_undone`."""
    reason: str | None = None
    error: str | None = None
    at_us: int = 0
    """The time of the outcome; without one, the time of the action's last event."""
    duration_ms: float = 0.0
    seq: int | None = None
    """The event of the outcome in the run's journal."""
    answered: str | None = None
    """The answer of a person, or the expiry of the question: `approved by ann`."""
    changed: bool = False
    """False if it changed nothing, so that there is nothing to undo."""
    not_undoable: tuple[str, ...] = ()
    """Its effects that cannot be undone exactly."""
    hosts: tuple[HostUse, ...] = ()
    """The hosts that its processes connected to or were refused."""
    undone: str | None = None
    """The status after a later undo: `rolled_back`, `compensated`, `not_undone`."""
    undone_by: str | None = None
    """The run of that undo."""

    @property
    def shown_status(self) -> str:
        """The status after every later undo."""
        return self.undone or self.status


class _Named(msgspec.Struct, gc=False):
    """The names in an action of a proposal, and its parameters, of which a path or an address is shown."""

    id: str = ""
    type: str = ""
    tool: str | None = None
    parameters: Any = None


class _Actions(msgspec.Struct):
    actions: list[msgspec.Raw] = []


class _Id(msgspec.Struct, gc=False):
    id: str = ""


class PlannedAction(NamedTuple):
    """An action as it was proposed."""

    tool: str = ""
    parameters: Any = None
    """Redacted; None if they were too large for the journal."""
    about: str = ""


class Plan:
    """The actions of a proposal as they were proposed. Each is decoded when it is asked for, because there may be many."""

    def __init__(self, document: e.Kept, originals: Originals) -> None:
        """If the proposal was too large for the journal, its original is read, while it is there."""
        self._views: dict[str, Any] = {}
        self._originals: dict[str, msgspec.Raw] = {}
        if document.view is not None or not document.private:
            actions = document.view.get("actions") if isinstance(document.view, dict) else None
            for action in actions if isinstance(actions, list) else ():
                if isinstance(action, dict) and isinstance(action.get("id"), str):
                    self._views[action["id"]] = action
            return
        try:
            data = originals.get(document.digest)
            raw = () if data is None else typed.decode(data, _Actions).actions
            self._originals = {typed.decode(one, _Id).id: one for one in raw}
        except (msgspec.MsgspecError, InterlockError):
            pass  # the intents name the tools of the actions that ran

    def __iter__(self) -> Iterator[str]:
        """The ids, in the order of the proposal."""
        return iter(self._views or self._originals)

    def __getitem__(self, action_id: str) -> PlannedAction:
        """The action; an empty one if the proposal does not have it."""
        if action_id in self._originals:
            one = typed.decode(self._originals[action_id], _Named)
            return PlannedAction(one.tool or one.type, None, _about_large(one.parameters))
        action = self._views.get(action_id)
        if action is None:
            return PlannedAction()
        parameters = action.get("parameters")
        return PlannedAction(str(action.get("tool") or action.get("type") or ""), parameters, about(parameters))


class RunLines:
    """Turns the events of one run into lines: at the end of each proposal, or at once if the run is followed `live`."""

    def __init__(self, run: RunRow, directory: Path, *, live: bool = False) -> None:
        """`directory` is the run's."""
        self._run = run
        self._directory = directory
        self._originals = Originals(directory)
        self._live = live
        self._open: dict[str, _Open | LongProposal] = {}

    def begin(self, received: e.ProposalReceived, plan: Plan) -> None:
        """Begin a proposal."""
        self._open[received.proposal or ""] = _Open(self._run, received, plan)

    def take(self, event: e.Event | e.Unknown | LongProposal) -> Iterable[ActionLine]:
        """The lines that an event completes. In `live` mode, an action gets another line when its proposal is undone."""
        match event:
            case e.ProposalReceived():
                self.begin(event, Plan(event.document, self._originals))
            case e.ProposalRejected():
                return [self._refused(event)]
            case e.ProposalFinished():
                done = self._open.pop(event.proposal or "", None)
                if isinstance(done, _Open):
                    changed = done.finish(event)
                    return changed if self._live else done.ended()
                return () if done is None else self._of_long(done)
            case e.Unknown():
                pass
            case e.Event():
                going = self._open.get(event.proposal or "")
                line = going.take(event) if isinstance(going, _Open) else None
                return [msgspec.structs.replace(line)] if line is not None and self._live else []
            case _:
                self._open[event.proposal or ""] = event
        return []

    def rest(self) -> Iterator[ActionLine]:
        """The lines of proposals that have not ended: the outcomes so far, and the actions that still wait or run."""
        for proposal in self._open.values():
            yield from proposal.unfinished() if isinstance(proposal, _Open) else self._of_long(proposal)

    def _of_long(self, proposal: LongProposal) -> Iterator[ActionLine]:
        plan = Plan(proposal.received.document, self._originals)
        for window in proposal.windows(proposal.by_time()):
            lines = RunLines(self._run, self._directory)
            lines.begin(proposal.received, plan)
            for event in window.events:
                yield from lines.take(event)
            yield from lines.rest()

    def _refused(self, event: e.ProposalRejected) -> ActionLine:
        return ActionLine(
            run_id=self._run.run_id, agent=self._run.agent, session=self._run.session, proposal_id=event.proposal or "",
            tool=_PROPOSAL, status="rejected", reason=event.code, error=event.message, at_us=event.ts, seq=event.seq,
        )  # fmt: skip


class _Open:
    """A proposal that has not ended."""

    def __init__(self, run: RunRow, received: e.ProposalReceived, plan: Plan) -> None:
        self._run = run
        self._received = received
        self._lines: dict[str, ActionLine] = {}
        self._waiting: set[str] = set()
        self._running: set[str] = set()
        self._wrote: set[str] = set()
        self._rolled_back = False
        self._plan = plan

    def take(self, event: e.Event) -> ActionLine | None:
        """The action's line if the event ends the action, or says that it waits."""
        action_id = event.action
        if action_id is None:
            self._rolled_back = self._rolled_back or isinstance(event, e.StateRolledBack)
            return None
        line = self._line(action_id)
        status = _OUTCOMES.get(type(event))
        if status is not None:
            return self._end(line, event, status)
        match event:
            case e.ActionIntent():
                line.tool = event.tool or line.tool
                line.changed = not event.read_only
                line.undone = None  # the effects of an interrupted attempt were undone before this one
                self._running.add(action_id)
                line.at_us = event.ts
                if event.parameters is not None and event.parameters.view is not None:
                    line.parameters = event.parameters.view
                    line.about = about(line.parameters)
            case e.ActionHeld():
                self._waiting.add(action_id)
                line.status, line.reason, line.at_us = "held", "held", event.ts
                return line
            case e.HoldResolved():
                self._waiting.discard(action_id)
                line.answered = event.decision + (f" by {event.approver}" if event.approver else "")
            case e.StateChanged():
                self._wrote.add(action_id)
            case e.ActionConnection() if line.seq is not None:  # of a background program; otherwise the outcome has it
                line.hosts = connections.add_hosts(line.hosts, (event,)) or ()
            case e.UndoDone() if event.of is None:
                line.undone = "not_undone" if event.problem is not None else event.status
                line.error = event.problem or line.error
        return None

    def _end(self, line: ActionLine, event: e.Event, status: str) -> ActionLine | None:
        if isinstance(event, e.ActionFailed):
            line.not_undoable = (*line.not_undoable, *event.not_undoable)
            if not event.final:
                return None
        self._running.discard(line.action_id)
        self._waiting.discard(line.action_id)
        line.status, line.at_us, line.seq = status, event.ts, event.seq
        line.reason = getattr(event, "reason", None)
        line.error = getattr(event, "error", None) or getattr(event, "detail", None)
        line.duration_ms = getattr(event, "duration_ms", 0.0)
        line.hosts = getattr(event, "hosts", ())
        if isinstance(event, e.ActionSucceeded):
            line.not_undoable = event.not_undoable
        elif isinstance(event, e.ActionDeduplicated):
            line.changed, line.error = False, f"stored result of {event.source}"
        elif status in ("rejected", "skipped"):
            line.changed = False
        return line

    def finish(self, finished: e.ProposalFinished) -> list[ActionLine]:
        """Mark each action that the end of the proposal undid, and return them."""
        left = {one.action_id: one for one in reversed(finished.not_undone)} if self._rolled_back else {}
        changed = []
        for action_id, line in self._lines.items():
            line.changed = line.changed or action_id in self._wrote
            undone, line.undone = line.undone, None
            if not self._rolled_back or line.status != "succeeded":
                continue
            if action_id in left:
                line.status, line.reason = "not_undone", left[action_id].reason
            elif line.changed:
                line.status = undone if undone in UNDONE_STATUSES else "rolled_back"
            if line.status != "succeeded":
                changed.append(msgspec.structs.replace(line, at_us=finished.ts))
        return changed

    def ended(self) -> list[ActionLine]:
        """Every line, in the order of the outcomes."""
        return sorted(self._lines.values(), key=lambda line: (line.at_us, -1 if line.seq is None else line.seq))

    def unfinished(self) -> list[ActionLine]:
        """The same for a run that has not ended, or whose process was killed."""
        for action_id in self._running - self._waiting:
            line = self._lines[action_id]
            live = self._run.status == "running"
            line.status, line.reason = ("running", None) if live else ("unknown_outcome", "interrupted")
        for action_id in self._waiting if self._run.status == "cancelled" else ():  # the run was stopped, or undone
            self._lines[action_id].status = self._lines[action_id].reason = "cancelled"
        for action_id, line in self._lines.items():
            line.changed = line.changed or action_id in self._wrote
            line.undone = None
        return [line for line in self.ended() if line.at_us]

    def _line(self, action_id: str) -> ActionLine:
        line = self._lines.get(action_id)
        if line is None:
            planned = self._plan[action_id]
            line = self._lines[action_id] = ActionLine(
                run_id=self._run.run_id, agent=self._received.agent, session=self._run.session,
                proposal_id=self._received.proposal or "", action_id=action_id, tool=planned.tool, about=planned.about,
                parameters=planned.parameters,
            )  # fmt: skip
        return line


def about(parameters: Any) -> str:
    """The main parameter: a command as one would type it, a path, an address, or a key."""
    if not isinstance(parameters, dict):
        return ""
    subject = main_parameter(parameters) or str(parameters.get("run") or "")  # the main parameter of an undo is a run
    destination = parameters.get("destination")
    return (
        f"{subject} -> {destination}"
        if subject and isinstance(destination, str) and subject != destination
        else subject
    )


def run_lines(directory: Path, run: RunRow) -> Iterator[ActionLine]:
    """The lines of one run. Raises: UsageError `not_found` without a journal; IntegrityError after its intact part."""
    lines = RunLines(run, directory)
    for event in long_proposals.read_run(directory):
        yield from lines.take(event)
    yield from lines.rest()


def first_action(directory: Path, run: RunRow) -> ActionLine | None:
    """The first action of a run, read from the start of its journal; None if it had no action. Raises as `run_lines`.

    For a measured run, its command.
    """
    lines = RunLines(run, directory)
    for event in read(directory):
        if isinstance(event, e.CommandStarted):
            return ActionLine(run_id=run.run_id, agent=run.agent, tool="exec", about=shlex.join(event.command))
        if isinstance(event, e.ProposalReceived):
            plan = Plan(event.document, Originals(directory))
            for action_id in plan:
                tool, _, subject = plan[action_id]
                return ActionLine(run_id=run.run_id, agent=event.agent, action_id=action_id, tool=tool, about=subject)
        found = next(iter(lines.take(event)), None)
        if found is not None:
            return found
        if isinstance(event, e.ActionIntent):
            return next(lines.rest(), None)
    return None


def merge_by_time(runs: Iterable[tuple[RunRow, Iterator[ActionLine]]]) -> Iterator[ActionLine]:
    """The lines of many runs, in order of time. `runs` are sorted, oldest first; each is opened when its start is reached."""
    active: list[tuple[int, int, ActionLine, Iterator[ActionLine]]] = []
    waiting = iter(enumerate(runs))
    following = next(waiting, None)
    while active or following is not None:
        while following is not None and (not active or following[1][0].started_us <= active[0][0]):
            number, (_, lines) = following
            _push(active, number, lines)
            following = next(waiting, None)
        if active:
            _, number, line, lines = heapq.heappop(active)
            yield line
            _push(active, number, lines)


def _push(active: list[Any], number: int, lines: Iterator[ActionLine]) -> None:
    line = next(lines, None)
    if line is not None:
        heapq.heappush(active, (line.at_us, number, line, lines))


def _about_large(parameters: Any) -> str:
    """What parameters are about that nobody has redacted: a short path, address or key in which no secret is found."""
    if not isinstance(parameters, dict):
        return ""
    named = {name: value for name, value in parameters.items() if name in _PLACES and isinstance(value, str)}
    said = about(named)
    return "" if len(said) > _PLACE_CHARS_MAX or redact.find_secrets(said) else said


_PLACES: Final = frozenset({"path", "source", "destination", "url", "key"})
_PLACE_CHARS_MAX: Final = 1000
