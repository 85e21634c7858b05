"""Which process carries a run: the holder of the run's lock."""

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
    """A process that holds a run's lock. `pid` is None if the lock's file does not name it (yet)."""

    pid: int | None
    started: str = ""
    """In clock ticks since boot, as the lock's file says."""

    @classmethod
    def of(cls, run_dir: Path, disk: Disk) -> Self | None:
        """The holder; None if no process carries the run. Raises StoreError."""
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
        """End the process at once (SIGKILL), and wait for its end. False if it is gone, is another one by now, or lives on.

        Raises: StoreError `permission_denied` if the process belongs to another user.
        """
        if self.pid is None:
            return False
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if started_of(str(self.pid)) != self.started:  # read after the descriptor is open: it is this one or none
                return False
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            return bool(select.select([fd], [], [], wait_s)[0])
        except PermissionError as error:
            raise StoreError(
                f"process {self.pid} belongs to another user", code="permission_denied", hint="stop it as that user"
            ) from error
        finally:
            os.close(fd)
