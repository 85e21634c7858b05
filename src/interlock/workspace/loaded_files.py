"""Finds the files that Interlock's loader and clients read in a workspace itself, and detects changes of them.

They are examined at their plain paths, as their readers open them. This only detects changes; the walls prevent them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from interlock.model.errors import ToolError
from interlock.workspace.names import Rel
from interlock.workspace.nodes import Identity, identity
from interlock.workspace.tree import Workspace

_ENTRIES_MAX = 10_000
"""Maximum entries of a directory that is read as a whole."""


def protected_places(workspace: Workspace) -> list[Rel]:
    """The protected paths, plus the targets of those that are symbolic links or are reached through one."""
    found = dict.fromkeys(workspace.protected)
    if workspace.layer is not None:  # a commit resolves links itself
        return list(found)
    root, seen = os.fsencode(workspace.root), dict[Rel, bool]()
    for place in workspace.protected:
        if any(_is_link(root, place[:depth], seen) for depth in range(1, len(place) + 1)):
            for follow in (True, False):
                try:
                    found[workspace.resolve(place, follow=follow)] = None
                except ToolError:  # the link leads out of the workspace, or forms a loop
                    continue
    return list(found)


def loaded_states(workspace: Workspace) -> dict[Rel, Identity]:
    """The state of the protected paths, and of everything in directories among them."""
    root = os.fsencode(workspace.root)
    return {path: state for place in protected_places(workspace) for path, state in _states(root, place)}


def _states(root: bytes, place: Rel) -> Iterator[tuple[Rel, Identity]]:
    pending, left = [place], _ENTRIES_MAX
    while pending and left:
        here, left = pending.pop(), left - 1
        path = os.path.join(root, *here)  # noqa: PTH118 - bytes
        try:
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode):
                pending += [(*here, name) for name in os.listdir(path)]  # noqa: PTH208 - bytes
        except OSError:
            continue
        state = identity(found)
        yield here, state if not stat.S_ISDIR(found.st_mode) else state._replace(size=0, mtime_ns=0, ctime_ns=0)


def _is_link(root: bytes, path: Rel, seen: dict[Rel, bool]) -> bool:
    if path not in seen:
        try:
            seen[path] = stat.S_ISLNK(os.lstat(os.path.join(root, *path)).st_mode)  # noqa: PTH118 - bytes
        except OSError:
            seen[path] = False
    return seen[path]
