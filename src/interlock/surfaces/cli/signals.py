"""Ctrl-C, SIGTERM and SIGHUP during a run: the first stops it cleanly, for a resume; the second exits at once.

SIGHUP arrives when the terminal closes, often twice (from the kernel and the shell), so it never counts as the second.
Under `nohup`, where it is ignored, it stays ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

from interlock.model.errors import UsageError
from interlock.surfaces.cli.key_input import restore_terminal
from interlock.surfaces.cli.output import Output

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedRunError(UsageError):
    """The run was stopped by a signal, and can be resumed. Exit code 1: an action did not succeed."""

    exit_code = 1
    default_code = "interrupted"


def run_interruptibly(out: Output, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop. Raises: CancelledError after the first signal, once everything has stopped."""

    async def watched() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        seen = 0

        def stop(number: int, _frame: FrameType | None) -> None:
            nonlocal seen
            if seen and number == signal.SIGHUP:
                return
            seen += 1
            if seen > 1:
                restore_terminal()
                with contextlib.suppress(OSError):  # the terminal may be gone
                    os.write(sys.stderr.fileno(), b"\nleaving at once\n")
                os._exit(128 + number)
            out.note("\nstopping; press Ctrl-C again to exit at once")
            loop.call_soon_threadsafe(task.cancel)

        heard = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
        before = [(number, signal.signal(number, stop)) for number in heard]
        try:
            return await work
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    with asyncio.Runner() as runner:
        return runner.run(watched())


def interrupted(run_id: str) -> InterruptedRunError:
    """The error that shows how to resume the run."""
    return InterruptedRunError(f"run `{run_id}` was stopped", hint=f"`interlock resume {run_id}` continues it")
