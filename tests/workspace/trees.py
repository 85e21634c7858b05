"""What a tree looks like, as far as undo promises to bring it back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import threading


def picture(root):
    """Everything that undo promises: names, kinds, modes, contents, link targets."""
    found = {}
    pending = [os.fsencode(root)]
    while pending:
        here = pending.pop()
        for name in os.listdir(here):
            path = os.path.join(here, name)
            seen = os.lstat(path)
            key = os.path.relpath(path, os.fsencode(root))
            if stat.S_ISLNK(seen.st_mode):
                found[key] = ("symlink", os.readlink(path))
            elif stat.S_ISDIR(seen.st_mode):
                found[key] = ("dir", stat.S_IMODE(seen.st_mode))
                pending.append(path)
            else:
                with open(path, "rb") as file:
                    found[key] = ("file", stat.S_IMODE(seen.st_mode), file.read())
    return found


@contextlib.contextmanager
def swapping(one, other):
    """Meanwhile a thread exchanges two paths, atomically, as fast as it can."""
    libc = ctypes.CDLL(None)
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2)  # AT_FDCWD, RENAME_EXCHANGE

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        yield
    finally:
        stop.set()
        racer.join()
