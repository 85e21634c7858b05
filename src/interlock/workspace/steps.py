"""Brings paths of a tree into wanted states: the second half of undo and of the commit of a layer.

The caller records every step in the backups before the first one is made, so an interruption at any point can be
repeated or undone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from interlock.model.errors import ToolError
from interlock.workspace import effects
from interlock.workspace.names import Rel, link_stored
from interlock.workspace.nodes import Identity, Node, Seen, identity
from interlock.workspace.tree import Workspace

_SINGLE_SYNCS_MAX: Final = 8  # above this many files, one syncfs is cheaper
_TOGETHER: Final = 64  # files that exist under temporary names at the same time


class Step(msgspec.Struct, frozen=True):
    """A path, its present state, and its wanted state."""

    path: Rel
    seen: Seen
    want: Node
    by_process: bool = False

    @property
    def removes(self) -> bool:
        """True if the present node must be removed first: a rename can neither replace a directory nor put one in its place."""
        return self.seen.node.kind != "absent" and (
            self.want.kind == "absent" or (self.seen.node.kind == "dir") != (self.want.kind == "dir")
        )


class Prepared(NamedTuple):
    """A recorded step, and the name of its temporary file."""

    step: Step
    temporary: bytes


Content = Callable[[Step], Iterable[bytes]]
"""Yields the content of a step's wanted file, in chunks. Raises if it does not match the record."""


def with_access(workspace: Workspace, steps: Sequence[Step]) -> list[Step]:
    """The steps, plus one for each present directory in which they change names and this user may not write.

    `perform` widens the permissions of such a directory while it works, and sets those of its step at the end. So even
    a step that changes nothing is needed, and recorded: then an interruption is undone or repeated like any other.
    """
    planned = {step.path for step in steps}
    more: dict[Rel, Step] = {}
    for step in steps:
        parent = step.path[:-1]
        if not step.path or parent in planned or parent in more or may_change_names(workspace, parent):
            continue
        seen = workspace.examine(parent)
        if seen.node.kind == "dir":
            more[parent] = Step(parent, seen, seen.node)
    return [*steps, *more.values()]


def may_change_names(workspace: Workspace, path: Rel) -> bool:
    """True if this user may list and change the names in a directory, or if nothing exists there."""
    try:
        fd = workspace.open(path, os.O_PATH | os.O_DIRECTORY)
    except ToolError:
        return True  # the step itself reports the problem
    try:
        return os.access(b".", os.R_OK | os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True)
    finally:
        os.close(fd)


class _Links:
    """The steps whose paths are names of the same file (hard links).

    A change or removal of one of them changes the ctime of the file, and so the identity found at the others.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        names: dict[tuple[int, int], list[Rel]] = {}
        for step in steps:
            if step.seen.identity is not None and step.seen.node.kind != "dir":
                names.setdefault(step.seen.identity[:2], []).append(step.path)
        self._files = {path: file for file, paths in names.items() if len(paths) > 1 for path in paths}
        self._changed: set[tuple[int, int]] = set()

    def __contains__(self, path: Rel) -> bool:
        return path in self._files

    def expect(self, workspace: Workspace, step: Step) -> Identity | None:
        """The expected identity at a step's path: the recorded one, without its ctime if an earlier step has changed it."""
        seen, file = step.seen.identity, self._files.get(step.path)
        if seen is None or file is None:
            return seen
        if file in self._changed:
            found = workspace.lstat(step.path)
            if found is not None and identity(found)[:4] == seen[:4]:
                return identity(found)
        self._changed.add(file)
        return seen


def perform(workspace: Workspace, steps: Sequence[Prepared], content: Content, *, apart: bool = False) -> None:
    """Perform the steps: remove from the bottom up, create from the top down, then set the modes of directories.

    With `apart`, a file with other names (hard links, perhaps outside of the workspace) is replaced instead of changed
    in place, so that only the named path changes. Directories in which this user may not write are made accessible
    first (see `with_access`). Raises: ToolError; its `at` is the path of the step that failed.
    """
    deep_first = sorted(steps, key=lambda p: len(p.step.path), reverse=True)
    later: set[Rel] = set()
    links = _Links(step for step, _ in steps)
    try:
        _widen(workspace, [step for step, _ in reversed(deep_first)])
        for step, _ in deep_first:
            if step.removes:
                with effects.named(step.path):
                    expect = links.expect(workspace, step)
                    assert expect is not None
                    effects.remove(workspace, step.path, expect=expect, later=later)
        _put_all(workspace, [*reversed(deep_first)], content, later, links, apart=apart)
    finally:
        effects.sync_directories(workspace, later)
    for step, _ in deep_first:
        if step.want.kind == "dir":
            with effects.named(step.path):
                effects.set_mode(workspace, step.path, step.want.mode or 0, _attributes(step.want))


def _widen(workspace: Workspace, top_first: Sequence[Step]) -> None:
    """Make the steps' directories accessible, if names in them change."""
    parents = {step.path[:-1] for step in top_first if step.path}
    for step in top_first:
        if step.seen.node.kind == "dir" and step.path in parents and not may_change_names(workspace, step.path):
            with effects.named(step.path):
                effects.widen(workspace, step.path)


def _put_all(
    workspace: Workspace,
    top_first: Sequence[Prepared],
    content: Content,
    later: set[Rel],
    links: _Links,
    *,
    apart: bool,
) -> None:
    """Create what the steps want, except for the final modes of directories."""
    files: list[effects.NewFile] = []
    for step, temporary in top_first:
        with effects.named(step.path):
            want = step.want
            expect = None if step.removes else links.expect(workspace, step)
            if want.kind == "dir" and expect is None:
                effects.put_directory(workspace, step.path, mode=want.mode or 0, later=later)
            elif want.kind == "symlink":
                assert want.target is not None
                target = link_stored(want.target)
                effects.put_link(workspace, step.path, target, expect=expect, temporary=temporary)
            elif want.kind == "file" and _is_mode(step) and not (apart and _has_links(workspace, step.path)):
                assert expect is not None
                effects.set_file_mode(workspace, step.path, want, expect=expect)
            elif want.kind == "file" and step.path in links and expect is not None:
                effects.put_file(workspace, _new_file(step, temporary, expect, content))
            elif want.kind == "file":
                files.append(_new_file(step, temporary, expect, content))
    _put_files(workspace, files, later)


def _has_links(workspace: Workspace, path: Rel) -> bool:
    found = workspace.lstat(path)
    return found is not None and found.st_nlink > 1


def _is_mode(step: Step) -> bool:
    """True if a file keeps its content, owner and attributes, so that only permissions and times are set."""
    seen, want = step.seen.node, step.want
    kept = (seen.sha256, seen.attributes or {}) == (want.sha256, want.attributes or {})
    return seen.kind == "file" and kept and want.owner in (None, seen.owner)


def _new_file(step: Step, temporary: bytes, expect: Identity | None, content: Content) -> effects.NewFile:
    want = step.want
    owner = want.owner if _may_give(want.owner) else None
    return effects.NewFile(
        step.path, content(step), want.mode or 0, expect, temporary, owner, want.mtime_ns, _attributes(want)
    )


def _attributes(want: Node) -> dict[str, str] | None:
    """The extended attributes to set; None for a missing parent directory that was not examined."""
    return want.attributes or {} if want.knows_attributes else None


def as_made(want: Node) -> Node:
    """The state that `perform` makes of a wanted one: only files get an owner, and only one that this process may give."""
    if want.owner is None or (want.kind == "file" and _may_give(want.owner)):
        return want
    return msgspec.structs.replace(want, owner=None, attributes=want.attributes or {})


def _put_files(workspace: Workspace, files: list[effects.NewFile], later: set[Rel]) -> None:
    if len(files) <= _SINGLE_SYNCS_MAX:
        for file in files:
            with effects.named(file.path):
                effects.put_file(workspace, file)
        return
    for at in range(0, len(files), _TOGETHER):
        effects.put_files(workspace, files[at : at + _TOGETHER], later)


def _may_give(owner: tuple[int, int] | None) -> bool:
    """True if this process may give a file to that user and group."""
    if owner is None or os.geteuid() == 0:
        return True
    return owner[0] == os.geteuid() and owner[1] in (os.getegid(), *os.getgroups())
