"""Finds what a process changed at paths that its run has touched, by comparing them before its start and after its end.

A process changes files without recording them. The run's own processes are part of the run, and a person's edit is not.
So a difference between start and end is recorded as the process's change, and a difference between the run's last state
and the start as someone else's. An edit by a person while a process runs cannot be told from the process's work; undo
keeps and names what it overwrites. For a layer they can be told apart, but not here: the state recorded before a
process may include the person's edit, so the commit relies on times and identities instead (`Layer.edited_below`).

The scan covers the paths that the run has recorded, and everything beneath the directories that it created (a Python
import puts `__pycache__` there). Contents are backed up before the process starts, because it may overwrite them. A
path whose identity (inode, size, times) is unchanged since the last scan is not read again, so a scan costs one `stat`
per path, and changed files are read once.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import Final

from interlock.model.errors import ToolError
from interlock.workspace.backups import Backups, Change, Origin
from interlock.workspace.names import Rel, show
from interlock.workspace.nodes import ABSENT, Node, identity
from interlock.workspace.tree import View, Workspace, hash_file

PATHS_MAX: Final = 10_000
BYTES_MAX: Final = 256 * 1024 * 1024
"""Maximum bytes read in one scan. The rest is not compared, which is reported."""
_SETTLED_NS: Final = 50_000_000
"""A file that changed less than this before a scan may change again without a new time, because the kernel's clock is coarse."""
_SHOWN_MAX: Final = 3


class ProcessWatch:
    """Scans around one process: `begin` before it starts, `end` after it exits, even after a failure. Both may be slow."""

    def __init__(self, workspace: Workspace, backups: Backups, origin: Origin) -> None:
        """`origin` is the action that started the process. The scan ignores the agent's grants.

        In a layer everything that changed is found, wherever it is; `changed` holds it after `end`.
        """
        self.changed: list[Change] = []
        self._workspace = workspace
        self._backups = backups
        self._origin = origin
        self._number: int | None = None
        self._before: dict[Rel, Node] = {}
        self._missed: list[Rel] = []
        self._whole = True

    def begin(self) -> None:
        """Scan, and record changes by others since the last state.

        Durable once it returns. Raises: StoreError, IntegrityError.
        """
        backups = self._backups
        with self._workspace.changing():
            layer = self._workspace.layer
            # Unrecorded changes in a layer are also the run's own, because no one else writes there.
            if layer is not None and (unrecorded := list(self._in_layer(layer, {}))):
                backups.record(self._origin, unrecorded, by="process")
            look = _Look(self._workspace, backups, keep=True)
            touched = backups.touched()
            self._before = look.at_all()
            self._missed, self._whole = look.missed, look.whole
            edited = [
                Change(path, node, node)
                for path, node in self._before.items()
                if (last := touched.states.get(path)) is not None and not node.matches(last.node)
            ]
            self._number = backups.begin_process(self._origin, edited)

    def end(self) -> str | None:
        """Scan again, and record the differences. Durable once it returns.

        Returns a sentence about what could not be compared; None if everything was. Raises: StoreError, IntegrityError.
        """
        if self._number is None:
            return None
        with self._workspace.changing():
            look = _Look(self._workspace, self._backups, keep=False)
            now = look.at_all(self._before)
            missed = {*self._missed, *look.missed}
            whole = self._whole and look.whole
            changes = list(_changes(self._backups, self._before, now, missed, self._number, whole=whole))
            if self._workspace.layer is not None:
                changes += self._in_layer(self._workspace.layer, now)
                self._workspace.layer.sync()
            self.changed = changes
            self._backups.end_process(self._number, changes)
        return _describe_missed([*self._missed, *look.missed])

    def _in_layer(self, layer: View, now: dict[Rel, Node]) -> Iterator[Change]:
        """The differences at paths that the run had not touched before; the workspace still has their previous state.

        Beyond the limit none are recorded: the commit records them for the last process.
        """
        states = self._backups.touched().states
        paths = [path for path in layer.changed_since_look() if path not in now and path not in self._before]
        for path in paths if len(paths) <= PATHS_MAX else ():
            try:
                after = self._workspace.examine(path).node if self._workspace.lstat(path) is not None else ABSENT
                before = states[path].node if path in states else layer.lower_node(path)
            except ToolError:  # a special file, or unreadable: the commit reports it
                continue
            if not after.same(before):
                yield Change(path, before, after)


def end_left_processes(backups: Backups) -> None:
    """Close the records of processes whose end was not recorded because Interlock died first.

    What they left is not recorded as theirs, because a person may have changed it since. So it is a conflict for undo.
    Raises: StoreError, IntegrityError.
    """
    for origin in backups.left_processes():
        backups.end_left_process(origin)


def _changes(
    backups: Backups, before: dict[Rel, Node], now: dict[Rel, Node], missed: set[Rel], began: int | None, *, whole: bool
) -> Iterator[Change]:
    """The differences, starting from the last state that an action of the run recorded since `began`.

    Unless both scans were `whole`, a path that only one of them found may have existed all the time.
    """
    states = backups.touched().states
    for path in sorted(before.keys() | now.keys() if whole else before.keys() & now.keys()):
        if path in missed:
            continue
        last = states.get(path)
        first = last.node if last is not None and began is not None and last.seq > began else before.get(path, ABSENT)
        found = now.get(path, ABSENT)
        if not found.matches(first):
            yield Change(path, first, found)


class _Look:
    """One scan of everything that the run has touched, within the limits."""

    def __init__(self, workspace: Workspace, backups: Backups, *, keep: bool) -> None:
        """With `keep`, contents are backed up."""
        self._workspace = workspace
        self._backups = backups
        self._read: Callable[[int], tuple[str, int]] = backups.keep if keep else hash_file
        self._keep = keep
        self._bytes = 0
        self._now_ns = backups.now_ns()
        self._found: dict[Rel, Node] = {}
        self.whole = True
        """False once something beneath a directory was left out."""
        self.missed: list[Rel] = []
        """Paths that were not compared: special files, unreadable files, or files beyond the limits."""

    def at_all(self, more: dict[Rel, Node] | None = None) -> dict[Rel, Node]:
        """The state of each path that the run has touched or that is beneath a directory it created, and of those in `more`."""
        touched = self._backups.touched()
        for path in (*touched.states, *(more or ())):
            self._take(path)
        # A directory where the run last left something else is new as well.
        new = {path for path, last in touched.states.items() if last.node.kind != "dir"} | touched.made
        for path in new:
            if path[:-1] not in new and self._found.get(path, ABSENT).kind == "dir":
                self._take_all(path)
        return self._found

    def _take_all(self, made: Rel) -> None:
        """Scan beneath a directory that the run created."""
        try:
            for path, _ in self._workspace.walk(made, lenient=True):
                if not self._take(path):
                    return
        except ToolError:  # it vanished, or cannot be read
            self.whole = False
            self.missed.append(made)

    def _take(self, path: Rel) -> bool:
        """Add a path to the scan. Returns False once the limit of paths is reached."""
        if path in self._found:
            return True
        if len(self._found) >= PATHS_MAX:
            self.whole = False
            self.missed.append(path)
            return False
        try:
            self._found[path] = self._examine(path)
        except ToolError as error:
            if error.code in ("not_found", "not_a_directory", "path_changed"):
                self._found[path] = ABSENT
            else:
                self.missed.append(path)
        return True

    def _examine(self, path: Rel) -> Node:
        found = self._workspace.lstat(path)
        if found is None:
            return ABSENT
        looks = self._backups.looks
        known = looks.get(path)
        if known is not None and known.identity == identity(found):
            sha256 = known.node.sha256
            if sha256 is None or not self._keep or self._backups.has(sha256):
                return known.node
        self._bytes += found.st_size if stat.S_ISREG(found.st_mode) else 0
        if self._bytes > BYTES_MAX:
            raise ToolError("the paths exceed the comparison limit", code="file_too_large")
        seen = self._workspace.examine(path, read=self._read)
        if seen.identity is not None and seen.identity.ctime_ns < self._now_ns - _SETTLED_NS:
            looks[path] = seen
        return seen.node


def _describe_missed(missed: list[Rel]) -> str | None:
    if not missed:
        return None
    paths = list(dict.fromkeys(missed))
    names = ", ".join(f"`{show(path)}`" for path in paths[:_SHOWN_MAX])
    more = " and others" if len(paths) > _SHOWN_MAX else ""
    return f"what a process did to {names}{more} was not compared, because it is too large or not readable"
