"""Runs coroutines for code that has no event loop: what is behind the `_sync` methods of the runtime."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from interlock.model.errors import UsageError

T = TypeVar("T")


class SyncRunner:
    """One event loop, kept between calls; a concurrent call from a second thread gets a separate loop."""

    def __init__(self) -> None:
        """No loop yet."""
        self._runner: asyncio.Runner | None = None
        self._lock = threading.Lock()
        self._closed = False

    def run(self, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that `work` makes to its end; `name` is the async method that does the same.

        Raises: UsageError `loop_running` if an event loop runs in this thread: blocking it could be a deadlock.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise UsageError(
                "an event loop is running in this thread, as in every notebook and async function",
                code="loop_running",
                hint=f"`await runtime.{name}(...)` instead of `runtime.{name}_sync(...)`",
            )
        if self._closed:
            raise UsageError("this runtime was closed", hint="open it again")
        if not self._lock.acquire(blocking=False):
            # Another thread is using the loop, or this is a tool of a proposal on it: waiting could be a deadlock.
            with asyncio.Runner() as runner:
                return runner.run(work())
        try:
            if self._runner is None:
                self._runner = asyncio.Runner()
            return self._runner.run(work())
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the loop. Nothing can be run after that."""
        self._closed = True
        if self._runner is not None:
            self._runner.close()
            self._runner = None
