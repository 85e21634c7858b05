"""Daemon threads for plain `def` tools: they run in parallel, and a hanging one never keeps the process alive.

A thread cannot be killed. When its action is given up (time-out, cancellation), the thread goes on by itself and its
answer is dropped; the pool starts another thread in its place, so that a hanging tool costs a thread and no more.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_IDLE_SECONDS = 30.0


class DaemonThreads:
    """An unbounded pool (the engine bounds it by `concurrency_max`); idle threads end after half a minute."""

    def __init__(self) -> None:
        """No thread yet."""
        self._lock = threading.Condition()
        self._jobs: deque[
            tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]
        ] = deque()
        self._idle = 0
        self._count = 0

    def run(self, loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Run `call(*arguments)` on a thread. The future may be cancelled, which the thread does not notice."""
        future = loop.create_future()
        with self._lock:
            self._jobs.append((loop, future, call, arguments))
            if self._idle:
                self._idle -= 1
                self._lock.notify()
            else:
                self._count += 1
                threading.Thread(target=self._work, name=f"interlock-tool-{self._count}", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    return
                loop, future, call, arguments = self._jobs.popleft()
            result: Any = None
            error: BaseException | None = None
            try:
                result = call(*arguments)
            except BaseException as caught:  # noqa: BLE001 - it belongs to the action, whatever it is
                error = caught
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody is there to be told
            del future, call, arguments, result, error
            with self._lock:
                if self._jobs:
                    continue
                self._idle += 1
                if not self._lock.wait(_IDLE_SECONDS) and not self._jobs:
                    self._idle -= 1
                    return


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError("the tool raised StopIteration"))
    else:
        future.set_exception(error)
