"""Undoes recorded changes: contents, modes, links, creations, deletions and moves, exactly.

Undo works by state, not by steps. The selected entries of a path form a chain of states. The present state must be one
of them, and the first one is restored. If the present state is another, or someone changed the path between two
entries, that is a conflict, and nothing is restored unless the caller decides otherwise (`Changed`). So undo may be
interrupted anywhere and repeated: a restored path needs nothing.

The state that a process of the run left is one of these states (see `process_changes`) and is overwritten like any
other. A person may have edited the same file while the process ran, so the overwritten content is reported
(`Restored.kept`).

Before the first change, everything that undo will overwrite is backed up into the undoing run, as for any other change,
so undo can be undone. All access is beneath the root and follows no link, so a link in the way causes an error, not an
escape.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from interlock.model.errors import ConflictError, IntegrityError, InterlockError, ToolError
from interlock.workspace import effects
from interlock.workspace.backups import (
    Backups,
    Change,
    Entry,
    Origin,
    read_entries,
    read_left_processes,
    temporary_name,
)
from interlock.workspace.names import NameJson, Rel, show, to_json
from interlock.workspace.nodes import ABSENT, Node, Seen
from interlock.workspace.steps import Prepared, Step, as_made, perform, with_access
from interlock.workspace.tree import CHUNK_BYTES, Workspace

_SHOWN_MAX: Final = 20  # paths named in one message

Changed = Literal["refuse", "overwrite", "skip"]
"""What to do with paths that others have changed since. `refuse`: restore nothing at all. `overwrite`: restore the
path, with a backup of its present content. `skip`: leave the path, and restore the rest.
"""


class Restored(msgspec.Struct, frozen=True):
    """The result for one path."""

    path: NameJson
    how: Literal["restored", "removed", "unchanged", "left"]
    by_process: bool = False
    """True if the overwritten state was, or may have been, written by a process of the run."""
    kept: str | None = None
    """If so, for a file: the SHA-256 (hex) of the overwritten content, which names its backup in the undoing run."""
    why: str | None = None
    """The reason, if the path is `left`."""


def _restored(step: Step) -> Restored:
    how: Literal["removed", "restored"] = "removed" if step.want.kind == "absent" else "restored"
    return Restored(to_json(step.path), how, step.by_process, step.seen.node.sha256 if step.by_process else None)


class UndoConflictError(ConflictError):
    """Someone else changed paths that undo would restore. Nothing was restored."""

    default_code = "undo_conflict"

    def __init__(self, conflicts: Sequence[Rel], run: Path) -> None:
        """`conflicts` are these paths, `run` the directory of the run to be undone."""
        self.conflicts = [to_json(path) for path in conflicts]
        names = ", ".join(f"`{show(path)}`" for path in conflicts[:_SHOWN_MAX])
        more = f" and {len(conflicts) - _SHOWN_MAX} more" if len(conflicts) > _SHOWN_MAX else ""
        super().__init__(
            f"changed since by {_who(run)}: {names}{more}; nothing was changed there",
            hint="check them; `--skip-changed` undoes the rest, `--force` restores them too and keeps a backup",
        )


def _who(run: Path) -> str:
    """Who may have made the changes that the run did not record."""
    try:
        left = read_left_processes(run)
    except InterlockError:
        left = []
    return "someone else, or by a process that ran when Interlock died" if left else "someone else"


class _Chain(msgspec.Struct):
    states: list[Node]
    broken: bool = False
    """True if someone else changed the path between two entries. Their state is not in the chain, so it would be lost."""
    processes: list[Node] = []
    """The states that a process made or may have made."""


def plan_undo(run: Path, *, proposal: str | None = None, action: str | None = None) -> list[Entry]:
    """The entries to undo, newest first: of a whole run, of one proposal, or of one of its actions.

    Raises: IntegrityError `backup_damaged`, StoreError.
    """
    return read_entries(run, proposal=proposal, action=action)[::-1]


def plan_by_action(run: Path, *, proposal: str | None = None) -> dict[tuple[str, str], list[Entry]]:
    """The same for many actions in one pass: the entries of each, newest first, by proposal and action.

    Raises: as `plan_undo`.
    """
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in plan_undo(run, proposal=proposal):
        found.setdefault((entry.proposal, entry.action), []).append(entry)
    return found


def restore(
    workspace: Workspace,
    run: Path,
    entries: Sequence[Entry],
    backups: Backups,
    origin: Origin,
    *,
    changed: Changed = "refuse",
) -> list[Restored]:
    """Undo `entries` (of `run`, newest first). `backups` and `origin` are those of the undoing run.

    Raises: UndoConflictError (nothing was done), ConflictError `undo_blocked` (nothing was done; not with `skip`),
    `backup_damaged` or `backup_missing` (nothing was done), ToolError `path_protected` and file system errors (changes
    made so far remain; undo may be repeated).
    """
    with workspace.changing():
        discard_temporaries(workspace, run, entries)
        chains = _chains(reversed(entries))
        steps, conflicts = _compare_all(workspace, run, chains, special=changed == "skip")
        if conflicts and changed == "refuse":
            raise UndoConflictError(conflicts, run)
        left: dict[Rel, str] = {}
        if changed == "skip":
            steps, left = _leave_out(workspace, steps, conflicts, chains)
        steps = with_access(workspace, _with_parents(workspace, steps))
        guard = workspace.guard()
        for step in steps:
            guard.check(step.path, after=step.want.kind)
            _check_content(run, step.want)
        prepared = _record(workspace, run, steps, backups, origin)
        perform(workspace, prepared, lambda step: _content(run, step.want))
        touched = {step.path for step in steps} | set(left)
        return [
            *(_restored(step) for step in steps),
            *(Restored(to_json(path), "unchanged") for path in chains if path not in touched),
            *(Restored(to_json(path), "left", why=why) for path, why in left.items()),
        ]


def _leave_out(
    workspace: Workspace, steps: list[Step], conflicts: Sequence[Rel], chains: dict[Rel, _Chain]
) -> tuple[list[Step], dict[Rel, str]]:
    """The steps that do not touch what others have changed, and the recorded paths that stay, with the reasons."""
    others = set(conflicts)
    above = {path[:depth]: path for path in conflicts for depth in range(len(path))}
    made = {step.path for step in steps if step.want.kind == "dir"} - others
    left = {path: "others have changed it since" for path in conflicts if path in chains}
    kept = []
    for step in steps:
        path = step.path
        beneath = next((path[:depth] for depth in range(1, len(path)) if path[:depth] in others), None)
        if path in others:
            continue
        if beneath is None and step.want.kind != "absent":
            parents = (path[:depth] for depth in range(1, len(path)) if path[:depth] not in made)
            beneath = next((one for one in parents if not _is_place(workspace, one)), None)
        if beneath is not None:
            left[path] = f"others have changed `{show(beneath)}` since"
        elif path in above and step.removes:
            left[path] = f"others have changed `{show(above[path])}` in it since"
        else:
            kept.append(step)
    return kept, left


def _is_place(workspace: Workspace, path: Rel) -> bool:
    """True if the path is a directory, or does not exist."""
    try:
        return _examine(workspace, path).node.kind in ("dir", "absent")
    except ConflictError:
        return False


def undo_entries(workspace: Workspace, run: Path, entries: Sequence[Entry]) -> dict[Rel, str]:
    """Undo an interrupted commit of a layer. `entries` (of `run`, oldest first) are the changes that it had recorded.

    Nothing is recorded: every state is in `entries`, and the layer holds the overwritten contents, so an interruption
    is undone or repeated like that of the commit itself. Works where nothing but the paths can be written, as on a full
    disk. Changes by others stay. Returns the paths that were not restored, with the reasons. Raises: IntegrityError,
    ConflictError; ToolError if nothing could be examined.
    """
    with workspace.changing():
        discard_temporaries(workspace, run, entries)
        temporaries = {entry.rel: temporary_name(run, entry) for entry in entries}
        chains = _chains(entries)
        problems: dict[Rel, str] = {}
        open_before: int | None = None
        while True:
            steps, conflicts = _compare_all(workspace, run, chains)
            left = dict.fromkeys(conflicts, "someone else has changed it since")
            steps = [step for step in steps if not any(path[: len(step.path)] == step.path for path in conflicts)]
            if not steps:
                return left
            if open_before is not None and len(steps) >= open_before:
                return left | problems
            open_before = len(steps)
            problems = _perform_each(workspace, run, steps, temporaries)


def _perform_each(workspace: Workspace, run: Path, steps: list[Step], temporaries: dict[Rel, bytes]) -> dict[Rel, str]:
    """Perform the steps together; if that fails, one by one. Returns the steps that failed, with the reasons."""

    def make(some: Sequence[Step]) -> None:
        prepared = [
            Prepared(one, temporaries.get(one.path) or b".interlock-%b-back-%d.tmp" % (os.fsencode(run.name), number))
            for number, one in enumerate(some)
        ]
        perform(workspace, prepared, lambda step: _content(run, step.want))

    def order(step: Step) -> tuple[bool, int]:
        deep = len(step.path)
        return (False, -deep) if step.want.kind == "absent" else (True, deep)

    left: dict[Rel, str] = {}
    steps = with_access(workspace, _with_parents(workspace, steps))
    try:
        make(steps)
    except (ToolError, IntegrityError):
        for step in sorted(steps, key=order):
            try:
                seen = _examine(workspace, step.path)
                if seen.node != step.want:
                    make(with_access(workspace, [msgspec.structs.replace(step, seen=seen)]))
            except (ToolError, IntegrityError) as error:
                left[step.path] = error.message
    return left


def count_changed(workspace: Workspace, entries: Sequence[Entry]) -> int:
    """The number of paths that are as `entries` (oldest first) left them, and not as they were before.

    Paths that someone else has changed since do not count. Raises: ConflictError, ToolError.
    """
    count = 0
    for path, chain in _chains(entries).items():
        node = _examine(workspace, path).node
        count += not node.same(chain.states[0]) and any(node.same(state) for state in chain.states[1:])
    return count


def discard_temporaries(workspace: Workspace, run: Path, entries: Iterable[Entry]) -> None:
    """Remove the temporary files that an interrupted change of `entries` (of `run`) left beside its paths. Raises: ToolError."""
    with workspace.changing():
        for entry in entries:
            effects.discard_temporary(
                workspace, entry.rel, temporary_name(run, entry), change=(entry.before, entry.after)
            )


def find_conflicts(workspace: Workspace, run: Path, entries: Sequence[Entry]) -> list[Rel]:
    """The paths changed by others since `entries` (newest first) were recorded, which `restore` would refuse.

    Changes nothing. Raises: as `restore`.
    """
    with workspace.changing():
        return _compare_all(workspace, run, _chains(reversed(entries)))[1]


def _chains(entries: Iterable[Entry]) -> dict[Rel, _Chain]:
    """The known states of each path, oldest first.

    An entry starts at one of the states before it: usually the last; an earlier one if the change after that never
    happened (the process died, the disk was full) or was undone.
    """
    chains: dict[Rel, _Chain] = {}
    for entry in entries:
        chain = chains.setdefault(entry.rel, _Chain([entry.before]))
        if not any(entry.before.matches(state) for state in chain.states):
            if entry.during:
                chain.states.append(entry.before)
                chain.processes.append(entry.before)
            else:
                chain.broken = True
        chain.states.append(entry.after)
        if entry.by == "process":
            chain.processes.append(entry.after)
    return chains


def _compare_all(
    workspace: Workspace, run: Path, chains: dict[Rel, _Chain], *, special: bool = False
) -> tuple[list[Step], list[Rel]]:
    """The required steps, including those for the contents of directories, and the paths that others may have changed.

    The latter include changes since Interlock died while a process of the run was running: they may be the process's,
    or a person's at any later time. A FIFO, socket or device raises ConflictError `undo_blocked`; with `special` it
    counts as changed by others, without a step.
    """
    steps, conflicts = _compare(workspace, run, chains, special=special)
    steps, foreign = _with_contents(workspace, steps, special=special)
    return steps, conflicts + foreign


def _compare(
    workspace: Workspace, run: Path, chains: dict[Rel, _Chain], *, special: bool
) -> tuple[list[Step], list[Rel]]:
    """The required steps, and the paths that others have changed."""
    steps, conflicts = [], []
    history: dict[Rel, _Chain] | None = None
    for path, chain in chains.items():
        try:
            seen = _examine(workspace, path)
        except ConflictError:
            if not special:
                raise
            conflicts.append(path)
            continue
        want = chain.states[0]
        present = _present(seen.node, chain)
        if present in ("before", "content"):
            # Rewriting the same content changes only its time.
            if present == "before" and (
                (want.kind == "dir" and seen.node.mode != want.mode)
                or (want.kind == "file" and seen.node.mtime_ns != want.mtime_ns)
            ):
                steps.append(Step(path, seen, want))
            continue
        if present == "attributes":
            steps.append(Step(path, seen, want))
            continue
        if chain.broken or present == "other":
            history = history or _chains(read_entries(run))
            if _is_gone(seen.node, chain, history[path]):
                continue
            conflicts.append(path)
        steps.append(Step(path, seen, want, any(_is_state(seen.node, state) for state in chain.processes)))
    return steps, conflicts


def _present(node: Node, chain: _Chain) -> Literal["before", "attributes", "content", "changed", "other"]:
    """How the present state of a path relates to the recorded ones.

    `before`: it is as before the run; `attributes`: only owner and attributes are still as the run left them; `content`: it
    has the previous content, and others set owner or attributes, which the run did not change; `changed`: it is as the
    run left it; `other`: others have changed it.
    """
    want, last = chain.states[0], chain.states[-1]
    if _is_state(node, want):
        return "before"
    if node.same(want):
        if node.same_attributes(last) and node.same_owner(last):
            return "attributes"
        if want.same_attributes(last) and want.same_owner(last):
            return "content"
    return "changed" if any(_is_state(node, state) for state in chain.states) else "other"


def _is_state(node: Node, state: Node) -> bool:
    """True if nothing but times differs. A directory may lack attributes: undo and commit set them after its contents."""
    if node.kind != "dir":
        return node.matches(state)
    some = (node.attributes or {}).items() <= (state.attributes or {}).items() or not state.knows_attributes
    return some and node.same(state) and node.same_owner(state)


def _is_gone(node: Node, chain: _Chain, history: _Chain) -> bool:
    """True if the present state is older than these entries, so that they are undone already.

    This makes undo of many actions, one after another, repeatable from the first one after an interruption.
    """
    states = history.states
    first = next(i for i, state in enumerate(states) if state.same(chain.states[0]))
    return any(node.same(state) for state in states[:first])


def _examine(workspace: Workspace, path: Rel) -> Seen:
    """The state of a path; absent beneath anything that is not a directory."""
    try:
        return workspace.examine(path)
    except ToolError as error:
        if error.code in ("not_a_directory", "path_changed"):
            return Seen(ABSENT, None)
        if error.code == "special_file":
            raise _blocked(path, "it is now a FIFO, a socket or a device") from error
        raise


def _with_contents(workspace: Workspace, steps: list[Step], *, special: bool) -> tuple[list[Step], list[Rel]]:
    """Steps for what others put into directories that undo removes, and those paths."""
    removed = {step.path for step in steps if step.want.kind == "absent"}
    more: dict[Rel, Step | None] = {}
    for step in steps:
        if step.seen.node.kind != "dir" or step.want.kind == "dir":
            continue
        for name in workspace.names(step.path):
            if (*step.path, name) in removed:
                continue
            for path, _ in workspace.walk((*step.path, name)):
                try:
                    more[path] = Step(path, _examine(workspace, path), ABSENT)
                except ConflictError:
                    if not special:
                        raise
                    more[path] = None
    return [*(step for step in steps if step.path not in more), *filter(None, more.values())], list(more)


def _with_parents(workspace: Workspace, steps: list[Step]) -> list[Step]:
    """Steps for missing parent directories. Raises: ConflictError if something else exists there."""
    planned = {step.path: step for step in steps}
    for step in steps:
        if step.want.kind == "absent":
            continue
        for depth in range(1, len(step.path)):
            parent = step.path[:depth]
            if parent in planned:
                kind = planned[parent].want.kind
            else:
                seen = _examine(workspace, parent)
                kind = seen.node.kind
                if kind == "absent":
                    want = Node("dir", mode=0o777 & ~workspace.umask)
                    planned[parent], kind = Step(parent, seen, want), "dir"
            if kind != "dir":
                raise _blocked(parent, "it is no longer a directory, and it had contents")
    return list(planned.values())


def _record(workspace: Workspace, run: Path, steps: list[Step], backups: Backups, origin: Origin) -> list[Prepared]:
    """Back up everything that the undo of `run` will overwrite, before the first change."""
    changes: list[Change] = []
    last: list[int] = []
    for step in steps:
        seen = step.seen
        if seen.node.kind == "file":
            seen = workspace.examine(step.path, read=backups.keep)
            if seen != step.seen:
                raise UndoConflictError([step.path], run)
        if step.removes and step.want.kind != "absent":
            # For a moment nothing is there, and undo may stop at that point, so "nothing" is a known state too.
            changes += [Change(step.path, seen.node, ABSENT), Change(step.path, ABSENT, as_made(step.want))]
        else:
            changes.append(Change(step.path, seen.node, as_made(step.want)))
        last.append(len(changes) - 1)
    entries = backups.record(origin, changes) if changes else []
    return [Prepared(step, backups.temporary(entries[at])) for step, at in zip(steps, last, strict=True)]


def _content(run: Path, want: Node) -> Iterator[bytes]:
    """A stored content. It is checked while it is read, so that an error occurs before the file gets its name."""
    assert want.sha256 is not None
    digest = hashlib.sha256()
    try:
        with (run / "backups" / want.sha256).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
    except FileNotFoundError:
        raise IntegrityError(
            f"the backup `{want.sha256}` of run `{run.name}` is no longer stored", code="backup_missing"
        ) from None
    if digest.hexdigest() != want.sha256:
        raise IntegrityError(f"the backup `{want.sha256}` of run `{run.name}` is damaged", code="backup_damaged")


def _check_content(run: Path, want: Node) -> None:
    """Check a content before any change, because a damaged backup must not stop undo half-way."""
    if want.kind == "file":
        for _ in _content(run, want):
            pass


def _blocked(path: Rel, why: str) -> ConflictError:
    return ConflictError(
        f"`{show(path)}` cannot be restored: {why}",
        code="undo_blocked",
        hint="move it elsewhere and undo again",
    )
