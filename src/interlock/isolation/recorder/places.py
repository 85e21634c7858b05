"""Determines which file a call names: joins relative paths, and follows links as the process would.

Resolved directories are cached for a moment, and forgotten when a recorded call could change a link on the way. Uses
only the standard library.
"""

from __future__ import annotations

import errno
import os
from typing import Final

AT_FDCWD: Final = -100
_LINKS_MAX: Final = 40
_KNOWN_MAX: Final = 4096
OWN_BEGINS: Final = frozenset(("/proc", "/dev/"))
"""The first five characters of each entry in `_OWN`."""
_OWN: Final = ("/proc/self/", "/proc/thread-self/", "/dev/fd/", "/dev/stdin", "/dev/stdout", "/dev/stderr")
"""Paths that mean a different file in each process."""
_STREAMS: Final = {"/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"}


class Places:
    """The files that the processes of one action see."""

    def __init__(self) -> None:
        """The root is taken from the first process."""
        self._root = -1
        self._real: dict[str, str] = {"": ""}
        self._walked: set[str] = set()
        """The paths that were checked for links while resolving directories."""

    def close(self) -> None:
        """Close the root."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def forget(self) -> None:
        """Forget all resolved directories, because links may have changed."""
        self._real = {"": ""}
        self._walked.clear()

    def changes_links(self, path: str | None, to: str | None) -> bool:
        """Returns True if removing, creating or moving these paths could change the cache. Call it before that happens."""
        return any((self.real(one, follow=False) or one) in self._walked for one in (path, to) if one and one[0] == "/")

    def join(self, pid: int, directory: int, text: str) -> str:
        """Resolve a relative path against its start directory. Call it while the process waits. Raises: OSError."""
        directory &= 0xFFFFFFFF
        if directory == AT_FDCWD & 0xFFFFFFFF:
            start = os.readlink(f"/proc/{pid}/cwd")
        else:
            try:
                start = os.readlink(f"/proc/{pid}/fd/{directory}")
            except FileNotFoundError:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
        return (f"{start}/{text}" if start != "/" else f"/{text}") if text else start

    def own(self, pid: int, path: str) -> str | None:
        """Returns the target of a path that means a different file in each process. Call it while the process waits."""
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
        """Returns the target of an absolute path; None if it is the path itself. With `follow`, a final link is followed too."""
        above, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            above, name = path, ""
        known = self._real.get(above)
        if known is None:
            known = self._directory(above)
        found = known if not name else f"{known}/{name}"
        if follow and name:
            try:
                target = os.readlink(found[1:], dir_fd=self._root)
            except (OSError, ValueError):
                pass
            else:
                found = self._walk("" if target.startswith("/") else known, target)
        found = found or "/"
        return None if found == path else found

    def _directory(self, path: str) -> str:
        """Returns the target of a directory, resolved from the nearest known parent."""
        if len(self._real) > _KNOWN_MAX or len(self._walked) > _KNOWN_MAX:
            self.forget()
        above = path
        while above not in self._real:
            above = above.rpartition("/")[0]
        found = self._real[path] = self._walk(self._real[above], path[len(above) :])
        return found

    def beneath(self, top: str, path: str, *, follow: bool) -> str:
        """Returns the target of a path whose root is the directory `top`. With `follow`, a final link is followed too."""
        top = self._walk("", top)
        above, _, name = path.rpartition("/")
        if follow or name in ("", ".", ".."):
            return self._walk(top, path, top) or "/"
        return f"{self._walk(top, above, top)}/{name}"

    def _walk(self, start: str, path: str, top: str = "") -> str:
        """Follow the links of a path, starting from a directory without links. `top` is the root, without links too."""
        here, pending, links = start, path.split("/")[::-1], _LINKS_MAX
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = here if here == top else here.rpartition("/")[0]
                continue
            there = f"{here}/{name}"
            self._walked.add(there)
            try:
                target = os.readlink(there[1:], dir_fd=self._root)
            except (OSError, ValueError):
                here = there
                continue
            links -= 1
            if links < 0:
                break
            if target.startswith("/"):
                here = top
            pending += target.split("/")[::-1]
        return here
