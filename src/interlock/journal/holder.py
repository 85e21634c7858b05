"""The process that executes a run: the holder of the run's lock."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import Self

import msgspec

from interlock.disk import Disk
from interlock.journal.lock import LOCK_NAME, started_of
from interlock.model.errors import StoreError


class Holder(msgspec.Struct, frozen=True):
    """A process that holds a run's lock. `pid` is None while the lock file does not name the process."""

    pid: int | None
    started: str = ""
    """Start time in clock ticks since boot, from the lock file."""

    @classmethod
    def of(cls, run_dir: Path, disk: Disk) -> Self | None:
        """The holder; None if no process executes the run. Raises: StoreError."""
        path = run_dir / LOCK_NAME
        if not path.exists():
            return None
        fd = disk.lock(path)
        if fd is not None:
            os.close(fd)
            return None
        with contextlib.suppress(OSError, ValueError):
            pid, started = path.read_text().split()
            return cls(int(pid), started)
        return cls(None)

    def kill(self, wait_s: float) -> bool:
        """Kill the process (SIGKILL) and wait for it to exit.

        Returns False if it has exited already, if the pid now belongs to another process, or if it is still alive after
        `wait_s`. Raises: StoreError `permission_denied` if the process belongs to another user.
        """
        if self.pid is None:
            return False
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            # checked after pidfd_open: the descriptor cannot refer to a later process
            if started_of(str(self.pid)) != self.started:
                return False
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            return bool(select.select([fd], [], [], wait_s)[0])
        except PermissionError as error:
            raise StoreError(
                f"process {self.pid} belongs to another user", code="permission_denied", hint="stop it as that user"
            ) from error
        finally:
            os.close(fd)
