"""Puts the journals of unfinished runs in order, and determines what each run needs to continue.

Nothing runs here. `resume` continues a run; `recover RUN --action ID --as ...` settles an outcome that only a person knows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from interlock.approvals import ApprovalStore, Hold
from interlock.detect import Redactor
from interlock.disk import Database, Disk
from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.engine.local.machine import boot_id, redaction_key
from interlock.engine.people.approval_desk import Desk
from interlock.engine.record.recorder import Recorder
from interlock.engine.record.replay import ReplayedProposal, ReplayedRun
from interlock.engine.runs.unknown_outcomes import KIND, ask_outcome, is_unknown
from interlock.journal import RecoveryReport, RunIndex, RunRow, read, recover, scan, sign_head
from interlock.journal.index import require_not_behind
from interlock.journal.lock import held
from interlock.journal.recovered import OpenFacts, RecoveredRuns, fingerprint
from interlock.journal.sealing import JOURNAL_NAME
from interlock.lazy import lazy
from interlock.model.errors import IntegrityError, StoreError, ToolError, UsageError
from interlock.model.events import COMMAND_KINDS, CommandLost, CommandStarted, Event, RunFinished, RunStarted
from interlock.model.proposal import CLIENT_SOURCE, SHARED_SOURCE
from interlock.model.result import RunStatus
from interlock.signing import Signer
from interlock.state.cache import ResultCache
from interlock.state.store import StateStore, Write, encode
from interlock.workspace.backups import read_entries
from interlock.workspace.layer_places import kept_layers
from interlock.workspace.tree import Workspace

if TYPE_CHECKING:
    from interlock.workspace import layers, undo
else:
    layers = lazy("interlock.workspace.layers")
    undo = lazy("interlock.workspace.undo")

Need = Literal["nothing", "resume", "answer", "settle", "repair"]
"""What a run needs: nothing (its process is alive, or its coding agent continues it), `resume`, an answer to a question, a
person who settles an outcome, an intact journal."""

OPEN_STATUSES = ("running", "interrupted", "held")


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has not ended."""

    run_id: str
    status: str
    started_us: int
    need: Need
    detail: str
    """One sentence for people."""
    command: str | None
    """The next command, if there is one."""
    then: str | None = None
    """The command after that."""
    actions: list[str] = []
    """Actions with an unknown outcome."""
    approvals: list[str] = []
    """Questions that wait for an answer."""
    moved_bytes: int = 0
    """Bytes that this recovery moved from the journal to `journal.torn`."""


class RecoveryIncompleteError(StoreError):
    """There was no space in the state directory. What needs no space was done for every run, and a new run must wait."""

    def __init__(self, found: list[Unfinished], why: StoreError) -> None:
        """`found` as returned by `recover_all`, with the runs that could not be put in order."""
        super().__init__(
            "the recovery is incomplete: the disk of the state directory is full", code=why.code, hint=why.hint
        )
        self.found = found


def recover_all(
    db: Database, index: RunIndex, runs: Path, disk: Disk, desk: Desk | None = None, *, root: Path | None
) -> list[Unfinished]:
    """Put the journal of every unfinished run in order, newest run first, and report what each needs.

    If its journal says that a run has ended, its row is updated. With a `desk`, outcomes that only a person knows are asked
    there at once. A journal that has not changed since it was last put in order is not read again. Temporary files that a killed
    process left in the workspace at `root` are removed, also those of a killed commit of an ended run's layers.

    Raises: StoreError; RecoveryIncompleteError if the disk is full.
    """
    full: StoreError | None = None
    try:
        adopt_orphans(index, runs, disk)
    except StoreError as error:
        full = _only_full(error)
    rows = [row for status in OPEN_STATUSES for row in index.list_runs(status=status)]
    rows.sort(key=lambda row: (row.started_us, row.run_id), reverse=True)
    store = ApprovalStore(
        db, SystemClock(), SystemIds(), boot=boot_id(), redact=lambda value: value, changed=lambda: None
    )
    remembered = RecoveredRuns(db)
    # A run that is `running` may have a living writer or a dead one: check which.
    known = remembered.unchanged(runs, (row.run_id for row in rows if row.status != "running"))
    asked = [hold for facts in known.values() for hold in (*facts.asked, *filter(None, facts.settle.values()))]
    answered = {hold.id: hold.status for hold in store.answered(asked)}
    learnt: dict[str, tuple[str, OpenFacts]] = {}
    found = []
    for row in rows:
        facts = known.get(row.run_id)
        if facts is not None and _still_holds(facts, row, answered):
            found.append(_need_of(row, facts, answered))
            continue
        journal = fingerprint(str(runs / row.run_id))  # taken first, so that a later write makes it differ
        try:
            one, facts = _recover_one(db, index, runs, disk, row, desk, store, root)
        except StoreError as error:
            full, facts = _only_full(error), None
            one = _report(row, "repair", "there is no space to put it in order", "interlock recover")
        if one is not None:
            found.append(one)
            if facts is not None and journal and not one.moved_bytes:
                learnt[row.run_id] = journal, facts
    if root is not None:
        _discard_of_commits(runs, sorted(index.ids() - {row.run_id for row in rows}), disk, root)
    try:
        remembered.remember(learnt)
        remembered.forget(remembered.ids() - {row.run_id for row in rows})
    except StoreError as error:
        full = _only_full(error)
    if full is not None:
        raise RecoveryIncompleteError(found, full)
    return found


def _only_full(error: StoreError) -> StoreError:
    """Returns the error of a full disk. Raises: any other."""
    if error.code != "disk_full":
        raise error
    return error


def adopt_orphans(index: RunIndex, runs: Path, disk: Disk) -> None:
    """Add rows for runs whose process ended between the first line of their journal and their row. Raises: StoreError."""
    names = set(os.listdir(runs)) if runs.is_dir() else set()  # noqa: PTH208 - there may be thousands, all known
    for name in sorted(names - index.ids()):
        directory = runs / name
        if not os.path.lexists(directory / JOURNAL_NAME):
            continue  # nothing is written yet: the process that is starting this run may need its lock
        try:
            recover(directory, disk)
            first = next(read(directory), None)
        except (StoreError, IntegrityError, UsageError):
            continue  # it is just starting, has no seal yet, is not a run, or is not readable
        if isinstance(first, RunStarted):
            row = RunRow(
                run_id=directory.name,
                workspace=first.workspace,
                session=first.session,
                agent=first.agent,
                source="unknown",
                started_us=first.ts,
            )
            with contextlib.suppress(UsageError):  # its own process or another one has added it meanwhile
                index.add(row)


def apply_commits(db: Database, replayed: ReplayedRun) -> None:
    """Apply the state that a dead run committed in its journal, if the database does not have it.

    This has to happen before any new write: applied later, the commit would overwrite it. Applying it again, as `resume` does,
    changes nothing. Raises: IntegrityError, StoreError.
    """
    for known in replayed.proposals.values():
        if known.committed is None or replayed.started is None:
            continue
        seal = scan(replayed.directory, at=known.committed.seq).seal_at
        writes = [
            Write(
                change.key,
                None if change.deleted else encode(replayed.value(change.value)),
                known.received.proposal,
                owner,
            )
            for owner, change in known.writes
        ]
        if seal is not None and writes:  # without a seal, `resume` reports the problem of the journal
            store = StateStore(db, replayed.started.workspace, SystemClock())
            store.apply(writes, run=replayed.directory.name, seq=known.committed.seq or 0, seal=seal)


def _recover_one(
    db: Database,
    index: RunIndex,
    runs: Path,
    disk: Disk,
    row: RunRow,
    desk: Desk | None,
    store: ApprovalStore,
    root: Path | None,
) -> tuple[Unfinished | None, OpenFacts | None]:
    """What a run needs (None if it has ended), and the facts to remember about it."""
    directory = runs / row.run_id
    try:
        report = recover(directory, disk, at=row.seq)
        require_not_behind(row, report.status)
        replayed = ReplayedRun(directory, open_only=True)
        replayed.add_torn(report.intents)
        if row.status == "running" and replayed.finished is None and root is not None:
            _discard_temporaries(directory, disk, root, replayed.proposals)
        apply_commits(db, replayed)
    except StoreError as error:
        if error.code == "disk_full":
            raise
        if error.code == "run_locked":
            return _report(row, "nothing", error.message, None), None
        # Only reported: an unreadable journal must not block other runs.
        return _report(row, "repair", error.message, f"interlock runs check {row.run_id}"), None
    except IntegrityError as error:
        return _report(row, "repair", error.message, f"interlock runs check {row.run_id}"), None
    except UsageError:
        return _report(row, "repair", "its journal is not there", f"interlock runs prune {row.run_id}"), None
    if replayed.finished is not None:
        # The process ended between its last event and its row, perhaps before it signed the head.
        sign_head(directory, report.status.head, _signer(directory, disk), disk)
        index.update(row.run_id, status=replayed.finished.status, finished_us=replayed.finished.ts)
        return None, None
    if not replayed.proposals and not replayed.ended.statuses:
        with contextlib.suppress(StoreError):  # another process has just resumed it
            _end_empty(index, directory, disk)
        return None, None
    if not replayed.proposals and row.source == SHARED_SOURCE:  # every call in it has ended, and no more will come
        with contextlib.suppress(StoreError):
            counts = replayed.ended
            _end(index, directory, disk, counts.status, **counts.counts)
        return None, None
    if row.status == "running":
        # Its unfinished writes invalidate the results that other runs have read.
        ResultCache(db, row.workspace, SystemClock()).clear()
        index.update(row.run_id, status="interrupted")
        row = msgspec.structs.replace(row, status="interrupted")
    return _need(row, replayed, report, desk, store)


def _discard_of_commits(runs: Path, names: Iterable[str], disk: Disk, root: Path) -> None:
    """Remove the temporary files that a killed `interlock commit` left, for each run with a kept layer."""
    for name in names:
        with contextlib.suppress(IntegrityError):  # the next commit reports it
            if kept := kept_layers(runs / name):
                _discard_temporaries(runs / name, disk, root, {layers.read_manifest(one).proposal for one in kept})


def _discard_temporaries(directory: Path, disk: Disk, root: Path, proposals: Container[str | None]) -> None:
    """Remove the temporary files of changes that a dead process had started for these proposals.

    A file that a person saved under such a name at that moment is restored. Files that cannot be removed now are removed by the
    next commit or undo of the run.
    """
    with (
        contextlib.suppress(UsageError, ToolError, IntegrityError, StoreError),
        held(directory, disk),
        Workspace(root, disk=disk) as workspace,
    ):
        entries = [entry for entry in read_entries(directory) if entry.proposal in proposals]
        undo.discard_temporaries(workspace, directory, entries)


def _end_empty(index: RunIndex, directory: Path, disk: Disk) -> None:
    """End a run whose process died before its first proposal, or during a measured command: nothing can continue."""
    status: RunStatus = "cancelled"
    commands = list(read(directory, wants=COMMAND_KINDS.__contains__))
    lost = []
    if commands:  # a measured run: its process was lost, not only its end
        status = "failed"
        if isinstance(commands[-1], CommandStarted):
            lost.append(CommandLost(detail="the process that measured it ended before the command did"))
    _end(index, directory, disk, status, *lost)


def _end(index: RunIndex, directory: Path, disk: Disk, status: RunStatus, *last: Event, **counts: int) -> None:
    """Write the end that the process of a run did not write, after the `last` events. Raises: StoreError."""
    clock = SystemClock()
    recorder = Recorder.reopen(directory, disk, clock, Redactor(redaction_key(_state_of(directory), disk)))
    with recorder.writer as writer:
        for event in (*last, RunFinished(status=status)):
            recorder.record(event)
        writer.flush()
        head = writer.head()
    sign_head(directory, head, _signer(directory, disk), disk)
    index.update(directory.name, status=status, finished_us=clock.now_us(), **counts)


def _signer(directory: Path, disk: Disk) -> Signer:
    return Signer.open(_state_of(directory) / "keys", disk)


def _state_of(directory: Path) -> Path:
    """The state directory of the run with this directory."""
    return directory.parent.parent.parent


def _need(
    row: RunRow, replayed: ReplayedRun, report: RecoveryReport, desk: Desk | None, store: ApprovalStore
) -> tuple[Unfinished, OpenFacts | None]:
    unknown, asked = [], {}
    to_settle: dict[str, str | None] = {}
    """Actions that only a person can settle, with the questions about them."""
    for proposal_id, known in replayed.proposals.items():
        for action_id, action in known.actions.items():
            if is_unknown(action):
                unknown.append(action_id)
                if action.needs_person or row.status == "held":
                    to_settle |= _question(desk, store, replayed, known, action_id)
            elif action.row is None and action.approval is not None:
                hold = store.for_action(row.run_id, proposal_id, action_id)
                if hold is not None:
                    asked[hold.id] = hold.status
    facts = OpenFacts(
        seq=report.status.head.seq,
        status=row.status,
        unknown=tuple(unknown),
        settle=to_settle,
        asked=tuple(asked),
        undoes=any(
            action.tool == UNDO_TOOL
            for known in replayed.proposals.values()
            for action in replayed.proposal(known).actions
        ),
    )
    answered = {hold: status for hold, status in asked.items() if status != "pending"}
    return _need_of(row, facts, answered, moved_bytes=report.moved_bytes), facts


def _still_holds(facts: OpenFacts, row: RunRow, answered: Mapping[str, str]) -> bool:
    """True unless an outcome was settled, or has to be asked about (again)."""
    return facts.status == row.status and all(hold and hold not in answered for hold in facts.settle.values())


def _need_of(row: RunRow, facts: OpenFacts, answered: Mapping[str, str], *, moved_bytes: int = 0) -> Unfinished:
    """What a run needs, from what is open in it."""
    resume = f"interlock resume {row.run_id}"
    waiting = [hold for hold in facts.asked if hold not in answered]
    if facts.settle:
        names = list(facts.settle)
        one = f"interlock recover {row.run_id} --action {names[0]} --as again|succeeded|failed|undo"
        detail = f"only a person can settle the outcome of {_names(names)}"
        waiting += [hold for hold in facts.settle.values() if hold is not None]
        unknown = list(facts.unknown)
        return _report(row, "settle", detail, one, actions=unknown, approvals=waiting, moved_bytes=moved_bytes)
    by_client = row.source.startswith(CLIENT_SOURCE)  # only the coding agent itself continues such a call
    if waiting:
        detail = "it waits for an answer" if len(waiting) == 1 else f"it waits for {len(waiting)} answers"
        command = f"interlock approvals show {waiting[0]}"
        if by_client:
            return _report(row, "answer", detail, command, approvals=waiting, moved_bytes=moved_bytes)
        return _report(row, "answer", detail, command, then=resume, approvals=waiting, moved_bytes=moved_bytes)
    if by_client and not facts.unknown:
        detail = "it continues when its coding agent makes the call again"
        return _report(row, "nothing", detail, None, moved_bytes=moved_bytes)
    if facts.unknown:
        detail = f"it stopped while {_names(list(facts.unknown))} ran"
    else:
        answers = {answered[hold] for hold in facts.asked}
        if row.status == "interrupted":
            detail = "it stopped in between two actions"
        elif answers and answers <= {"denied", "expired"}:
            detail = "it was not approved, and ends when it is resumed"
        else:
            detail = "its questions are answered"
    return _report(row, "resume", detail, resume, actions=list(facts.unknown), moved_bytes=moved_bytes)


def _question(
    desk: Desk | None, store: ApprovalStore, replayed: ReplayedRun, known: ReplayedProposal, action_id: str
) -> dict[str, str | None]:
    """The action with the question about its outcome, which is asked now if there is a desk; empty if it is already answered."""
    if desk is not None:
        hold: Hold | None = ask_outcome(desk, replayed, known, action_id)
    else:
        hold = store.for_action(replayed.directory.name, known.received.proposal or "", action_id, kind=KIND)
    if hold is not None and desk is not None and hold.status in ("approved", "denied"):
        return {}
    return {action_id: hold.id if hold is not None and hold.status == "pending" else None}


def _report(
    row: RunRow,
    need: Need,
    detail: str,
    command: str | None,
    *,
    then: str | None = None,
    actions: list[str] | None = None,
    approvals: list[str] | None = None,
    moved_bytes: int = 0,
) -> Unfinished:
    return Unfinished(
        run_id=row.run_id, status=row.status, started_us=row.started_us, need=need, detail=detail, command=command, then=then,
        actions=actions or [], approvals=approvals or [], moved_bytes=moved_bytes,
    )  # fmt: skip


def _names(actions: list[str]) -> str:
    return ", ".join(f"`{action}`" for action in actions[:10]) + (" and others" if len(actions) > 10 else "")
