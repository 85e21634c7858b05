"""Finds out which file a call names: joins relative paths, and follows links as the process would. Standard library only.

A directory's links are remembered for a moment, and forgotten when a recorded call could change them: the recorder answers
calls one at a time, so what the recorded processes do themselves never comes in between.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Final

_AT_FDCWD: Final = -100
_LINKS_MAX: Final = 40
_KNOWN_MAX: Final = 4096
_KNOWN_S: Final = 0.5
_OWN: Final = ("/proc/self/", "/proc/thread-self/", "/dev/fd/", "/dev/stdin", "/dev/stdout", "/dev/stderr")
"""Places that are others for each process."""
_STREAMS: Final = {"/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"}


class Places:
    """The files that the processes of one action see."""

    def __init__(self) -> None:
        """The root is that of the first process."""
        self._root = -1
        self._real: dict[str, str] = {}
        self._until = 0.0

    def forget(self) -> None:
        """Links may have changed."""
        self._real.clear()

    def start(self, pid: int, directory: int) -> str:
        """The directory that a relative path starts from. Call it while the process waits. Raises: OSError."""
        if directory == _AT_FDCWD:
            return os.readlink(f"/proc/{pid}/cwd")
        try:
            return os.readlink(f"/proc/{pid}/fd/{directory}")
        except FileNotFoundError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def own(self, pid: int, path: str) -> str | None:
        """Where a path leads that means another file for each process. Call it while the process waits."""
        if not path.startswith(_OWN):
            return None
        rest = _STREAMS.get(path)
        if rest is None:
            rest = path.replace("/dev/fd/", "/proc/self/fd/", 1).partition("self/")[2]
        try:
            return os.readlink(f"/proc/{pid}/{rest}")
        except (OSError, ValueError):
            return None

    def look_at(self, pid: int) -> None:
        """Remember the root of a process, unless one is known. Call it while the process waits. Raises: OSError."""
        if self._root < 0:
            self._root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def real(self, path: str, *, follow: bool) -> str | None:
        """Where an absolute path leads; None if that is the path itself. `follow`: the last link too."""
        above, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            above, name = path, ""
        now = time.monotonic()
        if now > self._until or len(self._real) > _KNOWN_MAX:
            self._real.clear()
            self._until = now + _KNOWN_S
        known = self._real.get(above)
        if known is None:
            known = self._real[above] = self._walk("", above, _LINKS_MAX)[0]
        found = known if not name else f"{known}/{name}"
        if follow and name:
            try:
                target = os.readlink(found[1:], dir_fd=self._root)
            except (OSError, ValueError):
                pass
            else:
                found = self._walk("" if target.startswith("/") else known, target, _LINKS_MAX)[0]
        found = found or "/"
        return None if found == path else found

    def _walk(self, start: str, path: str, links: int) -> tuple[str, int]:
        """Follow the links of a path from a directory without links."""
        here, pending = start, path.split("/")[::-1]
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            try:
                target = os.readlink(f"{here}/{name}"[1:], dir_fd=self._root)
            except (OSError, ValueError):
                here = f"{here}/{name}"
                continue
            links -= 1
            if links < 0:
                break
            if target.startswith("/"):
                here = ""
            pending += target.split("/")[::-1]
        return here, links
