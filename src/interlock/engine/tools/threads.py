"""Daemon threads for plain `def` tools: they run in parallel, and a hanging one never keeps the process alive.

A thread cannot be killed. If its action is abandoned (time-out, cancellation), the thread continues by itself and its
result is dropped. The pool starts another thread in its place, so that a hanging tool costs no more than a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

_IDLE_SECONDS = 30.0


Job = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], contextvars.Context, Callable[..., Any], tuple[Any, ...]]


class DaemonThreads:
    """An unbounded pool (the engine limits it with `concurrency_max`). Idle threads exit after half a minute."""

    def __init__(self) -> None:
        """Start without threads."""
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[Job]] = []

    def run(self, loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """Run `call(*arguments)` on a thread. Cancelling the future does not affect the thread."""
        future = loop.create_future()
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(inbox,), name="interlock-tool", daemon=True).start()
        inbox.put((loop, future, contextvars.copy_context(), call, arguments))
        return future

    def _work(self, inbox: queue.SimpleQueue[Job]) -> None:
        while True:
            try:
                loop, future, context, call, arguments = inbox.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        return
                continue  # a job arrived just now
            result: Any = None
            error: BaseException | None = None
            try:
                result = context.run(call, *arguments)
            except BaseException as caught:  # noqa: BLE001 - any exception belongs to the action
                error = caught
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                return  # the loop is closed: no action waits for the result
            del future, context, call, arguments, result, error
            with self._lock:
                self._idle.append(inbox)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError("the tool raised StopIteration"))
    else:
        future.set_exception(error)
