"""Commits the changes of a layer to the workspace, and reports the paths that cannot be committed.

A path is committed in the same way as undo restores one: recorded in the run's backups first, then changed in one
atomic step below the root, without following links, and only if it is unchanged since it was compared. So a commit may
be interrupted at any point and repeated: committed paths are skipped, and the backups have the states that earlier
attempts left. A failed commit is undone: all of it is in the workspace, or none.

A path is left out and reported if it was changed outside the layer since the layer was opened (`conflict`), if
Interlock's loader reads it (`protected`), if a program may execute it later (`runs_later`), if the action's grant does
not cover it (`denied`), or if it cannot be represented (`unsupported`: a FIFO, socket or device, or a directory that
cannot be read).

Git's data (objects, references, the index) is committed as a whole, or not at all: if a branch moved without its index,
the person's next commit would revert the agent's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from interlock.model.errors import ToolError
from interlock.workspace import effects, git_contents
from interlock.workspace.backups import Backups, Change, Committed, Entry, Origin, read_entries
from interlock.workspace.git_directories import GitDirectories
from interlock.workspace.layer_diff import Difference, Uncommittable
from interlock.workspace.layers import Layer
from interlock.workspace.names import NameJson, Rel, show, to_json
from interlock.workspace.nodes import ABSENT, Node, Seen
from interlock.workspace.protect import Guard
from interlock.workspace.runs_later import runs_later
from interlock.workspace.steps import Prepared, Step, as_made, perform, with_access
from interlock.workspace.tree import Workspace, changed, is_in_place, read_chunks
from interlock.workspace.undo import discard_temporaries, undo_entries

_OTHERS: Final = frozenset(
    {
        "file_changed",
        "path_changed",
        "already_exists",
        "not_found",
        "not_a_directory",
        "not_a_file",
        "directory_not_empty",
    }
)
"""Error codes that mean that someone else changed a path between plan and commit."""

_GIT_LOCKS: Final = (b"index.lock", b"HEAD.lock", b"packed-refs.lock")
_GIT_SECONDS_MAX: Final = 2.0
_GIT_PAUSE_SECONDS: Final = 0.02
Why = Literal["conflict", "protected", "runs_later", "denied", "unsupported"]


class Blocked(msgspec.Struct, frozen=True):
    """A path of a layer that is not committed."""

    path: NameJson
    why: Why
    detail: str


class Plan(NamedTuple):
    """The plan of a commit: `changes` in the order of their paths, and the paths that stay in the layer."""

    changes: list[Difference]
    blocked: list[Blocked]
    left: int = 0
    """Number of changes that were not requested."""
    found: Sequence[Difference] = ()
    """All differences, requested or not."""
    unable: Sequence[Uncommittable] = ()
    """Differences that cannot be committed because of their kind of file."""


Refuse = Callable[[Rel, Sequence[Entry]], str | None]
"""Returns why the grant forbids committing a change, or None. Its second argument: the actions' changes of the path."""


def plan_commit(
    layer: Layer,
    run: Path,
    *,
    only: Sequence[Rel] | None = None,
    refuse: Refuse | None = None,
    blocked_before: Iterable[Rel] = (),
) -> Plan:
    """Compare a layer with the workspace. `run` is the run's directory, with the backups of earlier commits.

    `only` selects the changes at or below these paths, including files that run later, because a person named them.
    `blocked_before` are paths that an earlier layer could not commit. Changes nothing. Raises: ToolError,
    IntegrityError.
    """
    found, unsupported = layer.differences()
    inside = _by_path(read_entries(layer.directory))
    earlier = _by_path(read_entries(run))
    since = read_entries(run, after_bytes=layer.manifest.index_bytes) if earlier else ()
    own = {entry.rel[:-1] for entry in since}
    guard = layer.base.guard()

    def edited(one: Difference) -> bool:
        return _edited(layer, one, inside.get(one.path, []), earlier.get(one.path, []), own)

    # A rewrite with equal content changes only the time. Where the path must not change, that is not a change either.
    differences = [one for one in found if one.kind != "times" or not (edited(one) or _is_protected(guard, one))]
    git = GitDirectories(differences, layer.base, layer.workspace)
    stopped = set(blocked_before)

    def reason(one: Difference) -> tuple[Why, str] | None:
        if one.path in stopped or edited(one):
            return "conflict", "it was changed outside the layer since the layer was opened"
        if _is_protected(guard, one):
            return "protected", "Interlock's loader reads it, or its name is one of Interlock's temporary files"
        if refuse is not None and (refusal := refuse(one.path, inside.get(one.path, []))) is not None:
            return "denied", refusal
        if only is None and one.kind != "times" and runs_later(one, git):
            return "runs_later", "a program may execute it later; a person can commit it by name"
        return None

    unable = {one.path: Blocked(to_json(one.path), "unsupported", one.why) for one in unsupported}
    blocked = {path: one for path, one in unable.items() if _is_wanted(path, only)}
    chosen = {one.path: one for one in differences if _is_wanted(one.path, only) or _is_parent(one, only)}
    for one in chosen.values():
        if (why := reason(one)) is not None:
            blocked[one.path] = Blocked(to_json(one.path), *why)
    stays = {git.repository(path): (path, one.why) for path, one in (unable | blocked).items()}
    _keep_repositories_whole(git, differences, chosen, blocked, stays, reason)
    _keep_from_running_git(layer.base, git, chosen, blocked)
    if only is None:
        _keep_contents(layer, git, chosen, blocked)
    _spread(chosen, blocked)
    changes = [one for path, one in chosen.items() if path not in blocked]
    stay = [blocked[path] for path in sorted(blocked)]
    return Plan(changes, stay, len(differences) - len(chosen), differences, unsupported)


def clear_interrupted(layer: Layer, run: Path) -> None:
    """Remove the temporary files of an interrupted commit, before the layer is planned again. Raises: ToolError."""
    discard_temporaries(layer.base, run, read_entries(run, proposal=layer.manifest.proposal))


class CommitStoppedError(ToolError):
    """A commit failed. Its changes were undone, except for `left`."""

    def __init__(self, why: ToolError, left: dict[Rel, str]) -> None:
        """`why` is the cause, whose code this error has; `left` has the paths that could not be undone, with the reasons."""
        at = "" if why.at is None else f" at `{show(why.at)}`"
        back = "its changes were undone" if not left else "some of its changes could not be undone"
        text = why.message.removeprefix("path: ")
        super().__init__(f"the commit stopped{at}: {text}; {back}", code=why.code, retryable=False)
        self.at = why.at
        self.left = {show(path): problem.removeprefix("path: ") for path, problem in left.items()}

    @property
    def is_conflict(self) -> bool:
        """True if another writer caused the failure; False if the file system refused."""
        return self.code in _OTHERS


def commit_layer(layer: Layer, run: Path, backups: Backups, plan: Plan, last: Origin, *, whole: bool = False) -> None:
    """Commit the changes of a plan. `backups` are those of the run; `last` is the origin of unrecorded changes.

    If the commit fails, its changes are undone; with `whole`, also those of an earlier, interrupted commit of this
    layer. Raises: CommitStoppedError with the code of the failure (`file_changed` if something was changed since the
    plan was made); StoreError, in which case nothing was changed.
    """
    if not plan.changes:
        return
    base = layer.base
    if not is_in_place(base):
        error = ToolError(
            "the workspace's directory was moved or replaced meanwhile", code="path_changed", retryable=False
        )
        raise CommitStoppedError(error, {})
    earlier = read_entries(run, proposal=layer.manifest.proposal)
    entries: list[Entry] = []
    with base.changing():
        discard_temporaries(base, run, earlier)
        try:
            entries, prepared = _record(layer, backups, plan, last)
            perform(base, prepared, lambda step: _content(layer, step), apart=True)
        except ToolError as error:
            left = undo_entries(base, run, [*(earlier if whole else ()), *entries])
            raise CommitStoppedError(error, left) from error


def undo_commit(layer: Layer, run: Path) -> dict[str, str]:
    """Undo an interrupted commit of a layer. Returns the paths that could not be undone, with the reasons.

    Raises: as `undo_entries`.
    """
    entries = read_entries(run, proposal=layer.manifest.proposal)
    return {show(path): why.removeprefix("path: ") for path, why in undo_entries(layer.base, run, entries).items()}


def _record(layer: Layer, backups: Backups, plan: Plan, last: Origin) -> tuple[list[Entry], list[Prepared]]:
    """Check every path again, and record the changes that are about to be made."""
    base = layer.base
    inside = _by_path(read_entries(layer.directory))
    steps: list[Step] = []
    for one in plan.changes:
        with effects.named(one.path):
            seen = base.examine(one.path, read=backups.keep) if _exists(layer, one.path) else Seen(ABSENT, None)
            if not seen.node.matches(one.before):
                raise changed("path")
        steps.append(Step(one.path, seen, _wanted(one.after, seen.node)))
    planned = len(steps)
    steps = with_access(base, steps)
    rows: list[Committed] = []
    at: list[int] = []
    for number, step in enumerate(steps):
        rows += _rows(step, step.seen.node, inside.get(step.path, []) if number < planned else [], last)
        at.append(len(rows) - 1)
    # The layer is on disk already: file tools sync their writes, and the end of a process syncs everything.
    entries = backups.record_commit(rows, layer.directory / "backups")
    return entries, [Prepared(step, backups.temporary(entries[number])) for step, number in zip(steps, at, strict=True)]


def _by_path(entries: Iterable[Entry]) -> dict[Rel, list[Entry]]:
    found: dict[Rel, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.rel, []).append(entry)
    return found


def _is_wanted(path: Rel, only: Sequence[Rel] | None) -> bool:
    return only is None or any(path[: len(one)] == one for one in only)


def _is_parent(one: Difference, only: Sequence[Rel] | None) -> bool:
    """True for a new directory above a requested path."""
    new = one.after.kind == "dir" and one.before.kind == "absent"
    return new and any(asked[: len(one.path)] == one.path for asked in only or ())


def _keep_repositories_whole(
    git: GitDirectories,
    differences: Sequence[Difference],
    chosen: dict[Rel, Difference],
    blocked: dict[Rel, Blocked],
    stays: dict[Rel | None, tuple[Rel, Why]],
    reason: Callable[[Difference], tuple[Why, str] | None],
) -> None:
    """If one path of a repository's git data stays, commit none of it, whether or not that path was requested.

    `stays` has one such path for each repository, as far as known.
    """
    stored = [(one, repository) for one in differences if (repository := git.repository(one.path)) is not None]
    asked = {repository for one, repository in stored if one.path in chosen}
    for one, repository in stored:
        if (
            repository in asked
            and repository not in stays
            and one.path not in chosen
            and (why := reason(one)) is not None
        ):
            stays[repository] = one.path, why[0]
    for one, repository in stored:
        if repository in stays and one.path in chosen and one.path not in blocked:
            first, because = stays[repository]
            detail = f"what git stores is committed as a whole, and `{show(first)}` stays"
            blocked[one.path] = Blocked(to_json(one.path), because, detail)


def _keep_from_running_git(
    base: Workspace, git: GitDirectories, chosen: dict[Rel, Difference], blocked: dict[Rel, Blocked]
) -> None:
    """Commit no git data while git itself is about to replace some of it, which it has read before."""
    data = [(one, git.repository(one.path)) for path, one in chosen.items() if path not in blocked]
    locks = {repository: _git_lock(base, repository) for _, repository in data if repository is not None}
    for one, repository in data:
        if repository is not None and (lock := locks[repository]) is not None:
            detail = f"git is at work in the repository, or was interrupted: `{show(lock)}`"
            blocked[one.path] = Blocked(to_json(one.path), "conflict", detail)


def _git_lock(base: Workspace, repository: Rel) -> Rel | None:
    """A lock that git holds in a repository, if it does not end soon: an editor asks for the status every few seconds."""
    until = time.monotonic() + _GIT_SECONDS_MAX
    while True:
        lock = next((one for name in _GIT_LOCKS if _lstat(base, one := (*repository, name)) is not None), None)
        if lock is None or time.monotonic() > until:
            return lock
        time.sleep(_GIT_PAUSE_SECONDS)


def _lstat(base: Workspace, path: Rel) -> os.stat_result | None:
    with contextlib.suppress(ToolError):
        return base.lstat(path)
    return None


def _keep_contents(
    layer: Layer, git: GitDirectories, chosen: dict[Rel, Difference], blocked: dict[Rel, Blocked]
) -> None:
    """Commit no git data with a file that runs later: a push, or git itself, would bring the file there."""
    data = [one for path, one in chosen.items() if path not in blocked and git.repository(path) is not None]
    if not data:
        return
    held = git_contents.held_contents(git, data, layer.base, layer.workspace, lambda one: runs_later(one, git))
    for one in data:
        repository = git.repository(one.path)
        if repository is not None and (why := held.get(repository)) is not None:
            blocked[one.path] = Blocked(to_json(one.path), "runs_later", f"{why}; a person can commit it by name")


def _edited(
    layer: Layer, one: Difference, inside: Sequence[Entry], earlier: Sequence[Entry], own: Collection[Rel]
) -> bool:
    """True if the path was changed by others since the layer was opened. `own` are directories that the run has changed."""
    manifest = layer.manifest
    # states that an interrupted or undone commit left
    states = [
        state for entry in earlier if entry.proposal == manifest.proposal for state in (entry.before, entry.after)
    ]
    if earlier and earlier[-1].proposal in manifest.below_proposals:
        states.append(earlier[-1].after)  # from a layer below this one that has been committed since
    if any(one.before.matches(state) for state in states):
        return False
    if inside and inside[0].by == "action" and not one.before.same(inside[0].before):
        return True  # a tool found another state before its first change
    # The tool may have found what a person saved after the layer was opened, which the agent has not seen.
    return layer.edited_below(one, own)


def _is_protected(guard: Guard, one: Difference) -> bool:
    try:
        guard.check(one.path, after=one.after.kind)
    except ToolError as error:
        if error.code != "path_protected":
            raise
        return True
    return False


def _spread(chosen: dict[Rel, Difference], blocked: dict[Rel, Blocked]) -> None:
    """Keep the directories of paths that stay, and create nothing in a directory that is not created."""
    for path in sorted(blocked, reverse=True):
        for depth in range(len(path) - 1, 0, -1):
            above = chosen.get(path[:depth])
            if above is not None and above.after.kind != "dir" and above.path not in blocked:
                blocked[above.path] = Blocked(
                    to_json(above.path), blocked[path].why, "something in it is not committed"
                )
    for path, one in chosen.items():  # parents come first
        for depth in range(1, len(path)):
            above_path = path[:depth]
            replaced = above_path in chosen and chosen[above_path].after.kind not in ("dir", "absent")
            if replaced and above_path in blocked and path not in blocked:
                blocked[path] = Blocked(
                    to_json(path), blocked[above_path].why, "what replaces its directory is not committed"
                )
            made = above_path in chosen and chosen[above_path].before.kind != "dir"
            if made and above_path in blocked and path not in blocked and one.after.kind != "absent":
                blocked[path] = Blocked(to_json(path), blocked[above_path].why, "its directory is not committed")


def _exists(layer: Layer, path: Rel) -> bool:
    try:
        return layer.base.lstat(path) is not None
    except ToolError as error:
        if error.code in ("not_a_directory", "path_changed"):
            return False
        raise


def _wanted(after: Node, before: Node) -> Node:
    """The state to commit: an existing file keeps its owner."""
    if before.kind == after.kind and before.owner is not None and after.kind != "symlink":
        after = msgspec.structs.replace(after, owner=before.owner)
    return as_made(after)


def _rows(step: Step, before: Node, inside: Sequence[Entry], last: Origin) -> Iterator[Committed]:
    """The records that lead from `before` to the committed state: the layer's own, else one by the last process."""
    now = before
    for number, entry in enumerate(inside):
        origin = Origin(entry.proposal, entry.action, entry.attempt)
        # The layer's own records may lack owners and attributes, or have those of a copy.
        first = before if number == 0 and entry.before.same(before) else entry.before
        reached = number == len(inside) - 1 and entry.after.same(step.want)
        now, last = step.want if reached else entry.after, origin
        yield Committed(origin, entry.by, Change(step.path, first, now))
    if step.removes and step.want.kind != "absent":
        # For a moment nothing is there, and the commit may stop at that point.
        yield Committed(last, "process", Change(step.path, now, ABSENT))
        now = ABSENT
        yield Committed(last, "process", Change(step.path, now, step.want))
    elif not now.same(step.want) or not inside:
        yield Committed(last, "process", Change(step.path, now, step.want))


def _content(layer: Layer, step: Step) -> Iterator[bytes]:
    """The content in the layer. It must match the recorded digest."""
    digest = hashlib.sha256()
    fd = layer.workspace.open_file(step.path)
    try:
        for chunk in read_chunks(fd):
            digest.update(chunk)
            yield chunk
    finally:
        os.close(fd)
    if digest.hexdigest() != step.want.sha256:
        raise changed("path")
