"""How a fork server starts supervisors: as plain children, or in namespaces of their own. Standard library only."""

from __future__ import annotations

import errno
import os

from interlock.isolation import root, syscalls
from interlock.isolation.layer0 import RefusedError
from interlock.isolation.walls import NAMESPACES
from interlock.isolation.wire import RUN, RUN_CONFINED, Launch


class Launcher:
    """What the fork server prepares once, for every action to inherit. It must be made before there is any thread."""

    def __init__(self, launch: Launch) -> None:
        """Enter a user and a mount namespace and prepare the shared part of the root, if `launch` says so."""
        self._shown = launch["shown"]
        self._refused = 0 if launch["namespaces"] else errno.ENOSYS
        """The errno that keeps supervisors from namespaces of their own; 0 if they can have them."""
        self.readable: list[str] = []
        """What processes without a root of their own may read; found out when the first one starts."""
        self.moved = False
        """True in a mount namespace of its own: a directory that was opened outside of it has no path here."""
        if launch["namespaces"]:
            try:
                root.prepare(self._shown)
                self.moved = True
            except OSError as error:
                self._refused = error.errno or errno.EINVAL

    def fork(self, message: bytes) -> int:
        """Fork a supervisor as the message asks for it; returns 0 in it. Raises: RefusedError, OSError."""
        if message == RUN_CONFINED and not self.readable:
            self.readable = root.readable(self._shown)
        if message in {RUN, RUN_CONFINED}:
            return os.fork()
        if self._refused:
            raise RefusedError("namespaces", self._refused)
        try:
            return syscalls.clone(NAMESPACES)
        except OSError as error:
            raise RefusedError("namespaces", error.errno or errno.EAGAIN) from error
