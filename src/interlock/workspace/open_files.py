"""Opens the files beneath a directory, one after the other, with as few system calls as possible."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from interlock.model.errors import ToolError
from interlock.workspace.names import Rel, refusal
from interlock.workspace.tree import Workspace

_ASK_AGAIN: Final = 256
"""Number of files after which the grants are asked again whether they allow everything."""
_SHORT_NAMES: Final = 15
"""A path with more names may be too long for any grant."""
_READING: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_files(
    workspace: Workspace, path: Rel, wanted: Callable[[Rel], bool], *, skip: frozenset[bytes] = frozenset()
) -> Iterator[tuple[Rel, int, int]]:
    """Open a file, or the regular files beneath a directory in the order of `walk`. Yields path, descriptor and size.

    The caller closes each descriptor before the next one. A file beneath `path` that is not `wanted`, that the agent
    may not reach or that cannot be opened is skipped; links are not followed. Raises: ToolError about `path` itself.
    """
    found = workspace.lstat(path)
    if found is None:
        raise refusal(OSError(errno.ENOENT, ""), "path")
    if not stat.S_ISDIR(found.st_mode):
        yield path, workspace.open_file(path), found.st_size
        return
    os.close(workspace.open_directory(path))
    pending: list[tuple[Rel, list[tuple[bytes, bool]]]] = []
    pending.append((path, _entries(workspace, path, skip)))
    grants = _Grants(workspace)
    while pending:
        here, entries = pending[-1]
        directory = -1
        try:
            while entries:
                name, is_directory = entries.pop()
                below = (*here, name)
                if is_directory:
                    pending.append((below, _entries(workspace, below, skip)))
                    break
                if not wanted(below):
                    continue
                try:
                    grants.check(below)
                    if directory < 0:
                        directory = workspace.open(here, os.O_PATH | os.O_DIRECTORY)
                    fd = os.open(name, _READING, dir_fd=directory)
                except (ToolError, OSError):
                    continue
                found = os.fstat(fd)
                if stat.S_ISREG(found.st_mode):
                    yield below, fd, found.st_size
                else:  # a directory has replaced the file
                    os.close(fd)
            else:
                pending.pop()
        finally:
            if directory >= 0:
                os.close(directory)


class _Grants:
    """Checks paths against the agent's grants: each one, unless the grants allow to read everything."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._everything = False
        self._left = 0
        """Number of further paths for which `_everything` counts; the grants may change meanwhile."""

    def check(self, path: Rel) -> None:
        """Raises: ToolError if the agent may not read this path."""
        if self._left == 0:
            self._left, self._everything = _ASK_AGAIN, "**" in self._workspace.readable
        self._left -= 1
        if not self._everything or len(path) > _SHORT_NAMES:
            self._workspace.permit(path)


def _entries(workspace: Workspace, path: Rel, skip: frozenset[bytes]) -> list[tuple[bytes, bool]]:
    """The files (False) and directories (True) in a directory, last name first; empty if it cannot be read."""
    found: list[tuple[bytes, bool]] = []
    with contextlib.suppress(ToolError, OSError):
        fd = workspace.open_directory(path)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name, is_directory = os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)
                    if (is_directory and name not in skip) or entry.is_file(follow_symlinks=False):
                        found.append((name, is_directory))
        finally:
            os.close(fd)
    found.sort(reverse=True)
    return found
