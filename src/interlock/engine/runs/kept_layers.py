"""Shows, commits (completely or by path) and discards the layers that a run has kept, for a person.

All actions of the run were judged when they ran; only a person's decision is missing. So it is recorded in the run's own journal,
under the run's lock, and not as a new run. The same command repeats an interrupted commit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from interlock.approvals import ChangeShown
from interlock.engine.completion.layers import CONFLICT, shown
from interlock.engine.gate.layer_previews import preview_difference
from interlock.engine.gate.previews import compare_preview
from interlock.engine.record.recorder import Recorder
from interlock.engine.record.replay import ReplayedRun
from interlock.engine.runs.write_lease import open_queue
from interlock.engine.services import Services
from interlock.journal import recover
from interlock.model.errors import ConflictError, StoreError, ToolError, UsageError
from interlock.model.events import LayerCommitIntent, LayerCommitted, LayerDiscarded, LayerKept
from interlock.model.result import advice
from interlock.workspace import (
    Backups,
    CommitStoppedError,
    Layer,
    Origin,
    Plan,
    clear_interrupted,
    commit_layer,
    kept_layers,
    layer_directories,
    plan_commit,
    read_entries,
    remove_layer,
    reopen_layer,
)
from interlock.workspace.claims import EVERYTHING
from interlock.workspace.layer_diff import Difference
from interlock.workspace.layers import read_manifest
from interlock.workspace.names import NameJson, Rel, show, stored, to_json
from interlock.workspace.process_changes import end_left_processes
from interlock.workspace.undo import count_changed, discard_temporaries

STEP = 10
_UNFINISHED: Final = {
    "running": "was interrupted",
    "interrupted": "was interrupted",
    "held": "waits for an answer",
}
"""Descriptions of a run without a living process, by its status."""
_CONTENT_CHARS_MAX: Final = 16 * 1024 * 1024
"""The maximum length of all text differences together."""
_LEFT_SHOWN_MAX = 5  # paths in one message


class LayerChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """One path whose state in a kept layer differs from the workspace."""

    path: NameJson
    kind: str
    """`added`, `changed`, `deleted`; `mode`, `attributes` or `times` if only these differ."""
    what: str
    """`file`, `dir` or `symlink` (before the change, for a deleted path); `special` for anything else."""
    layer: int
    blocked: str | None = None
    """Why a commit would leave it out: `conflict`, `protected`, `runs_later`, `denied`, `unsupported`."""
    leaves_workspace: bool = False
    """True for a symbolic link that leads out of the workspace."""
    size: int | None = None
    """Bytes of a file."""
    content: ChangeShown | None = None
    """The difference line by line, if requested, redacted as in a question; its `note` says why there is none."""


class LayerReport(msgspec.Struct, frozen=True):
    """The result of a commit or a discard."""

    run_id: str
    committed: list[NameJson] = []
    blocked: dict[str, str] = {}
    left: int = 0
    """Changes that still wait in a layer."""
    discarded: int = 0
    """Layers that were discarded."""
    in_workspace: int = 0
    """For a discard: the number of paths of these layers that were committed before, and are still in the workspace;
    `interlock undo` undoes them.
    """


def diff_layers(
    services: Services, run_id: str, paths: Sequence[NameJson] = (), *, content: bool = False
) -> list[LayerChange]:
    """The changes in the kept layers of a run: all, or those at or below `paths`.

    With `content`, also the differences of texts, at most 16 MiB of them. Changes nothing. Raises: UsageError `layer_missing`,
    `path_unchanged`, StoreError, IntegrityError, ToolError.
    """
    found: list[LayerChange] = []
    stopped: set[Rel] = set()
    directory, kept = _kept(services, run_id)
    only = _asked(services, kept, paths, "nothing of it differs")
    compared = _Contents(services) if content else None
    for one in kept:
        with _opened(services, one) as layer:
            plan = plan_commit(layer, directory, blocked_before=stopped)
            number = int(one.name)
            why: dict[Rel, str] = {stored(blocked.path): blocked.why for blocked in plan.blocked}
            stopped |= why.keys()
            changes = sorted(plan.found, key=lambda change: change.path)
            rows = [
                _change(
                    change, number, why.get(change.path), None if compared is None else compared.take(change, layer)
                )
                for change in changes
                if _is_asked(change.path, only)
            ]
            unable = [one for one in plan.unable if _is_asked(one.path, only)]
            rows += [LayerChange(to_json(one.path), one.kind, "special", number, "unsupported") for one in unable]
            found += sorted(rows, key=lambda row: stored(row.path))
    return found


def _is_asked(path: Rel, only: Sequence[Rel] | None) -> bool:
    return only is None or any(path[: len(one)] == one for one in only)


def _change(change: Difference, layer: int, why: str | None, content: ChangeShown | None) -> LayerChange:
    node = change.before if change.after.kind == "absent" else change.after
    name = to_json(change.path)
    return LayerChange(name, change.kind, node.kind, layer, why, change.leaves_workspace, change.after.size, content)


class _Contents:
    """Compares texts as a question does, up to a limit for all of them."""

    def __init__(self, services: Services) -> None:
        self._redact = services.desk.questions.redact
        self._left = _CONTENT_CHARS_MAX

    def take(self, change: Difference, layer: Layer) -> ChangeShown:
        path = self._redact(show(change.path))
        if self._left <= 0:
            return ChangeShown(path=path, note="not compared, because there is too much before it; name it to see it")
        try:
            shown_change = compare_preview(preview_difference(change, layer), {}, self._redact, path)
        except ToolError as error:
            return ChangeShown(path=path, note=self._redact(error.message))
        self._left -= sum(map(len, shown_change.lines))
        return shown_change


async def commit_layers(services: Services, run_id: str, paths: Sequence[NameJson] = ()) -> LayerReport:
    """Commit the kept layers of a run, oldest first: completely, or only the changes at or below `paths`.

    A path may be given as `diff` shows it, with escapes. Files that run later are committed only if a path names them, or a
    directory above them. Raises: UsageError `layer_missing`, `path_unchanged` (nothing was done),
    ConflictError `commit_incomplete` (the rest was committed) or the error of a layer that could not be committed at all,
    StoreError `run_locked`, IntegrityError, ToolError.
    """
    directory, kept = _kept(services, run_id)
    assert services.workspace is not None
    only = _asked(services, kept, paths, "nothing was committed")
    committed: list[NameJson] = []
    blocked: dict[str, str] = {}
    stopped: set[Rel] = set()
    left = 0
    queue = open_queue(services)
    with _journal(services, directory) as recorder:
        lease = await queue.acquire(
            EVERYTHING, f"{run_id} commit", doing="committing its layers", until_ns=None, on_wait=lambda _: None
        )
        try:
            for number in kept:
                with _opened(services, number) as layer:
                    clear_interrupted(layer, directory)
                    plan = plan_commit(layer, directory, only=only, blocked_before=stopped)
                    _commit(services, directory, layer, plan, recorder)
                committed += [to_json(change.path) for change in plan.changes]
                blocked |= shown(plan.blocked)
                stopped |= {stored(one.path) for one in plan.blocked}
                left += plan.left + len(plan.blocked)
                if not plan.left and not plan.blocked:
                    remove_layer(number, services.disk)
        finally:
            lease.release()
    report = LayerReport(run_id, committed, blocked, left)
    if blocked:
        first = ", ".join(f"`{path}` ({why})" for path, why in list(blocked.items())[:5])
        raise ConflictError(
            f"{len(committed)} changes were committed; these stay in the layer: {first}",
            code="commit_incomplete",
            hint=_what_to_do(run_id, set(blocked.values())),
        )
    return report


_TO_DO: Final = {
    "runs_later": "`interlock commit {run} PATH` commits a file that runs later",
    "conflict": "a conflict is merged by hand",
    "protected": "what is protected, a person changes",
    "denied": "what the grant does not cover is never committed",
    "unsupported": "a FIFO, a socket, a device or what cannot be read is never committed",
}


def _what_to_do(run_id: str, why: set[str]) -> str:
    """The remedy for paths that stay in a layer for these reasons."""
    steps = [text.format(run=run_id) for reason, text in _TO_DO.items() if reason in why]
    return "; ".join([f"`interlock diff {run_id}` shows them", *steps, f"`interlock discard {run_id}` drops the rest"])


def _asked(services: Services, kept: Sequence[Path], paths: Sequence[NameJson], so: str) -> list[Rel] | None:
    """The paths to which a commit or a diff is limited; None for all. Raises: UsageError `path_unchanged`, ToolError."""
    if not paths:
        return None
    assert services.workspace is not None
    touched: set[Rel] = set()
    for one in kept:
        with _opened(services, one) as layer:
            for path in layer.candidates():
                touched.update(path[:depth] for depth in range(len(path) + 1))
    shown_as: dict[str, list[Rel]] = {}
    if any(isinstance(text, str) and "\\" in text for text in paths):
        for path in touched:
            shown_as.setdefault(show(path), []).append(path)
    asked = []
    for text in paths:
        path = services.workspace.parse(text)
        alike = [path] if path in touched else shown_as.get(text, []) if isinstance(text, str) else []
        if len(alike) != 1:
            run_id = kept[0].parent.parent.name
            raise UsageError(
                f"the layers of run `{run_id}` change nothing at or beneath `{show(path)}`: {so}",
                code="path_unchanged",
                hint=f"`interlock diff {run_id}` shows what they change",
            )
        asked += alike
    return asked


def discard_layers(services: Services, run_id: str, why: str = "asked") -> LayerReport:
    """Drop the kept layers of a run with everything in them. Raises: UsageError `layer_missing`, StoreError `run_locked`."""
    directory, kept = _kept(services, run_id)
    with _journal(services, directory) as recorder:
        assert services.workspace is not None
        proposals = {read_manifest(one).proposal for one in kept}
        entries = [entry for entry in read_entries(directory) if entry.proposal in proposals]
        discard_temporaries(services.workspace, directory, entries)
        there = count_changed(services.workspace, entries)
        for one in kept:
            recorder.record(LayerDiscarded(layer=int(one.name), why=why), read_manifest(one).proposal, None, STEP)
        recorder.writer.flush()
        for one in kept:
            remove_layer(one, services.disk)
    return LayerReport(run_id, discarded=len(kept), in_workspace=there)


def drop_layers(services: Services, directory: Path) -> None:
    """Drop every layer of a run that was undone. Raises: StoreError, IntegrityError."""
    found = layer_directories(directory)
    if not found:
        return
    with _journal(services, directory) as recorder:
        for one in found:
            recorder.record(LayerDiscarded(layer=int(one.name), why="undone"), None, None, STEP)
        recorder.writer.flush()
    for one in found:
        remove_layer(one, services.disk)


def _kept(services: Services, run_id: str) -> tuple[Path, list[Path]]:
    row = services.index.get(run_id)
    if services.state_dir is None or services.workspace is None or services.layers is None:
        raise UsageError("this runtime keeps no layers", code="layer_missing")
    directory = services.state_dir / "runs" / run_id
    kept = kept_layers(directory)
    if not kept and row.status in _UNFINISHED:
        _require_at_rest(services, directory)
        raise UsageError(
            f"run `{run_id}` is not over: it {_UNFINISHED[row.status]}. Its layer is committed when it has succeeded",
            code="run_unfinished",
            hint=f"`interlock resume {run_id}` continues with it, `interlock undo {run_id}` ends it and drops its layer",
        )
    if not kept:
        raise UsageError(
            f"run `{run_id}` has no layer that waits for a commit",
            code="layer_missing",
            hint=f"`interlock runs show {run_id}` shows what happened to it",
        )
    return directory, kept


@contextlib.contextmanager
def _opened(services: Services, directory: Path) -> Iterator[Layer]:
    assert services.workspace is not None
    assert services.layers is not None
    with reopen_layer(directory, services.workspace, services.layers) as layer:
        yield layer


def _require_at_rest(services: Services, directory: Path) -> None:
    """Put the journal in order. Raises: StoreError `run_locked` if the run's process is alive; IntegrityError."""
    try:
        recover(directory, services.disk)
    except StoreError as error:
        if error.code != "run_locked":
            raise
        raise StoreError(
            f"{error.message}: it is at work, and its layers can be committed or discarded once it is over",
            code=error.code,
            hint=f"wait for it, or end it: `interlock stop {directory.name}`",
        ) from error


@contextlib.contextmanager
def _journal(services: Services, directory: Path) -> Iterator[Recorder]:
    """The run's journal, locked. Raises: StoreError `run_locked` if its process is alive; IntegrityError."""
    _require_at_rest(services, directory)
    recorder = Recorder.reopen(directory, services.disk, services.clock, services.redactor)
    with recorder.writer:
        yield recorder


def _commit(services: Services, directory: Path, layer: Layer, plan: Plan, recorder: Recorder) -> None:
    number, proposal = int(layer.directory.name), layer.manifest.proposal
    if not plan.changes:
        return
    recorder.record(LayerCommitIntent(layer=number, changes=len(plan.changes)), proposal, None, STEP)
    recorder.writer.flush()
    backups = Backups(directory, services.disk, services.clock)
    try:
        end_left_processes(backups)
        commit_layer(layer, directory, backups, plan, _last_origin(directory, layer))
    except CommitStoppedError as error:
        reason = CONFLICT if error.is_conflict else error.code
        recorder.record(
            LayerKept(
                layer=number,
                why="conflict" if error.is_conflict else "failed",
                changes=len(plan.changes) + plan.left,
                blocked=shown(plan.blocked),
                reason=reason,
                detail=recorder.text(error.message),
                not_restored=error.left,
            ),
            proposal,
            None,
            STEP,
        )
        recorder.writer.flush()
        left = "".join(f"; `{path}`: {why}" for path, why in list(error.left.items())[:_LEFT_SHOWN_MAX])
        raise ConflictError(
            f"{error.message}{left}",
            code=reason,
            hint=f"{advice(reason)}, then `interlock commit {directory.name}` again",
        ) from error
    finally:
        backups.close()
    recorder.record(
        LayerCommitted(layer=number, changes=len(plan.changes), blocked=shown(plan.blocked)), proposal, None, STEP
    )
    if plan.left:
        waits = plan.left + len(plan.blocked)
        recorder.record(
            LayerKept(layer=number, why="ask", changes=waits, blocked=shown(plan.blocked)), proposal, None, STEP
        )
    recorder.writer.flush()


def _last_origin(directory: Path, layer: Layer) -> Origin:
    """The action to which unrecorded changes are attributed."""
    entries = read_entries(layer.directory)
    for entry in reversed([one for one in entries if one.by == "process"] or entries):
        return Origin(entry.proposal, entry.action)
    known = ReplayedRun(directory).proposals.get(layer.manifest.proposal)
    names = [] if known is None else list(known.actions)
    return Origin(layer.manifest.proposal, names[-1] if names else "unknown")
