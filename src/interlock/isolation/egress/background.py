"""The network of programs that keep running after their action, watched by a separate thread.

An action's event loop ends before such a program does, and the program may connect while no tool is being called. Therefore
one thread of the runtime, started when first needed, receives the listeners and answers the proxy's questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final

from interlock.isolation.egress.client import CLOSE_S, Egress, Policy, Traffic, Watch
from interlock.model.errors import ToolError

_ANSWER_S: Final = CLOSE_S + 5.0
"""How long to wait for the thread: longer than the proxy has for its last message."""
_END_S: Final = 5.0


class WatchThread:
    """The thread and its event loop; starts on first use. Close it after the programs have ended."""

    def __init__(self, egress: Egress) -> None:
        """`egress` is the proxy."""
        self._egress = egress
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def watch(self, policy: Policy) -> BackgroundWatch:
        """Open the network of a new program. Call it before the program starts. Raises: ToolError `spawn_failed`."""

        async def make() -> Watch:
            return self._egress.watch(policy)

        loop = self._started()
        made = asyncio.run_coroutine_threadsafe(make(), loop)
        try:
            return BackgroundWatch(await asyncio.wrap_future(made), loop)
        except asyncio.CancelledError:
            made.add_done_callback(lambda one: _drop(one, loop))
            raise

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_END_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(loop,), name="interlock-egress", daemon=True)
                self._thread.start()
            return self._loop


class BackgroundWatch:
    """The network of one background program. The methods block for a short, bounded time: call them on a thread."""

    def __init__(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        """Created by `WatchThread.watch`."""
        self._watch = watch
        self._loop = loop
        self._ended = False
        self.inside = watch.inside.fileno()
        """The descriptor for the program's walls."""
        self.ports = watch.ports

    def take(self) -> Traffic:
        """Returns the traffic since the last call."""
        return Traffic() if self._ended else self._ask(self._take_traffic())

    def finish(self) -> Traffic:
        """Returns the rest of the traffic, once the program's processes have ended.

        Closes the watch; later calls return nothing.
        """
        if self._ended:
            return Traffic()
        self._ended = True
        return self._ask(self._watch.finish())

    def drop(self) -> None:
        """Close everything immediately. Can be called again."""
        self._ended = True
        with contextlib.suppress(RuntimeError):  # the loop has ended, and everything with it
            self._loop.call_soon_threadsafe(self._watch.drop)

    async def _take_traffic(self) -> Traffic:
        return self._watch.take()

    def _ask(self, question: Coroutine[Any, Any, Traffic]) -> Traffic:
        """Returns the thread's answer; if there is none, the traffic counts as lost."""
        try:
            asked = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError:  # the loop has ended, and everything with it
            question.close()
            return Traffic(lost=True)
        try:
            return asked.result(_ANSWER_S)
        except (TimeoutError, CancelledError, ToolError):
            asked.cancel()
            return Traffic(lost=True)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()


def _drop(made: Future[Watch], loop: asyncio.AbstractEventLoop) -> None:
    if not made.cancelled() and made.exception() is None:
        loop.call_soon_threadsafe(made.result().drop)
