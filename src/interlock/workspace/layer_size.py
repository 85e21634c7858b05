"""The size of a layer, measured while the processes of an action write to it.

Holes in files count: they take no disk space, but time, because every file of a layer is read for comparison. An empty file
or a link counts as one block, because a file system has room for a limited number of files.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

_BLOCK: Final = 4096
_ANEW_S: Final = 5.0
_SHARE: Final = 20
"""After a measurement, pause for this many times the CPU time that it took."""


class LayerSize:
    """The size of one layer. Thread-safe.

    It is the sum over all files. While processes run, the sum is not recomputed, for a few seconds at most, while the file
    system has lost less space than half of what the layer may still grow.
    """

    def __init__(self, directory: Path, copied: Callable[[], Iterable[int]]) -> None:
        """`directory` holds what the layer added; `copied` returns the sizes of the files copied into it at the start."""
        self._directory = directory
        self._copied = copied
        self._lock = threading.Lock()
        self._before: int | None = None
        self._used = 0
        self._free = 0
        self._next = self._anew = 0.0

    def exceeds(self, allowed: int, *, at_end: bool = False) -> int | None:
        """The size of the layer in bytes if it exceeds `allowed`, else None. `at_end` always measures."""
        with self._lock:
            now = time.monotonic()
            found = os.statvfs(self._directory)
            free = found.f_bfree * found.f_frsize
            grown = max(0, self._free - free)
            due = at_end or now >= self._anew or (now >= self._next and 2 * grown >= allowed - self._used)
            if due:
                self._measure(free)
            return self._used if self._used > allowed else None

    def _measure(self, free: int) -> None:
        began = time.thread_time()
        if self._before is None:
            self._before = sum(max(1, -(-size // _BLOCK)) * _BLOCK for size in self._copied())
        self._used = max(0, _size_of(self._directory) - self._before)
        self._free = free
        self._next = time.monotonic() + _SHARE * (time.thread_time() - began)
        self._anew = self._next + _ANEW_S


def _size_of(directory: Path) -> int:
    """Bytes of all files beneath, including holes, at least a block each.

    A file with several names counts once; inaccessible files do not count.
    """
    total = 0
    linked: set[tuple[int, int]] = set()
    pending: list[str] = [os.fspath(directory)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink == 1 or (found.st_dev, found.st_ino) not in linked:
                        total += max(found.st_blocks * 512, found.st_size, _BLOCK)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif found.st_nlink > 1:
                        linked.add((found.st_dev, found.st_ino))
        except OSError:
            continue
    return total
