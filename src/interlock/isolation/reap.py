"""Collects a helper process of this package when it is to end."""

from __future__ import annotations

import contextlib
import os
import select
import signal


def reap(pid: int, wait_ms: int) -> None:
    """Collect a child; it is killed if it does not end within `wait_ms`."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):  # somebody else's SIGCHLD handler was quicker
        pidfd = os.pidfd_open(pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(wait_ms):
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(pidfd)
        os.waitpid(pid, 0)
