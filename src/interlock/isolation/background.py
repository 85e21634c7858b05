"""A program that keeps running after its action: the runtime's side of its supervisor.

Otherwise it is like any program: it has the same walls and the same supervisor, and ends with the runtime. Calls block
for a short, bounded time and take turns, so the program is not bound to an event loop: call them on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final

from interlock.isolation.client import ForkServer, NotStarted, Outcome, decode, receive
from interlock.isolation.tree import end_children_of, pid_of
from interlock.isolation.wire import LATE, OUTPUT, STOP, Request
from interlock.model.errors import ToolError

_START_S: Final = 30.0
"""How long a supervisor may take to start the program; a machine under load is slow, not broken."""
_ANSWER_S: Final = 5.0
_LATE_S: Final = 1.0
_OUTSIDE_S: Final = 3.0
_SWEEP_S: Final = 8.0
"""As in `client`, for a supervisor that its program keeps stopped."""
_TURN_S: Final = 0.005


async def start(
    server: ForkServer,
    request: Request,
    *,
    cwd: int,
    stdin: bytes | int | None = None,
    descriptors: Mapping[str, int] | None = None,
) -> Background:
    """Start a program that keeps running. Returns when it is running or has already ended. Otherwise like `ForkServer.run`.

    Raises: NotStarted; ToolError `spawn_failed`, `process_lost`. After an error or a cancellation, nothing is left running.
    """
    control, supervisor = await server.start(request, cwd=cwd, stdin=stdin, descriptors=descriptors)
    program = Background(control, supervisor, request["grace_ms"] / 1000)
    try:
        outcome = await asyncio.to_thread(program.look, _START_S)  # answered only after the program was executed
    except BaseException:
        await asyncio.to_thread(program.close)
        raise
    if outcome.report["failure"] is not None:
        program.close()
        raise NotStarted(outcome.report["failure"])
    return program


class Background:
    """One program. Its tree has ended once `ended` is set or after `close`, and always when the runtime ends."""

    def __init__(self, control: socket.socket, supervisor: int, grace_s: float) -> None:
        """`control` is the runtime's end of the action's socket, `supervisor` a pidfd; `close` closes both."""
        self._control = control
        self._supervisor = supervisor
        self._grace_s = grace_s
        self._turn = threading.RLock()
        self._closed = False
        self.ended: Outcome | None = None
        """How it ended, once that is known."""

    def look(self, patience_s: float = _ANSWER_S) -> Outcome:
        """Returns the present state: output, and whether it is still running. Raises: ToolError `process_lost`."""
        with self._turn:
            while self.ended is None and self._receive(0) is not None:
                pass  # the answer to a request that was abandoned
            if self.ended is not None:
                return self.ended
            self._send(OUTPUT)
            outcome = self._receive(patience_s)
            if outcome is None:
                raise ToolError(
                    "the supervisor of this program does not answer",
                    code="process_lost",
                    hint="stop the program; its output is unknown until then",
                )
            return outcome

    def has_ended(self) -> bool:
        """Returns True once the program's end was reported. Does not wait. Raises: ToolError `process_lost`."""
        with self._turn:
            while self.ended is None and self._receive(0) is not None:
                pass
            return self.ended is not None

    def ask_to_end(self) -> None:
        """Start to end it (SIGTERM, grace period, SIGKILL) without waiting."""
        self._send(STOP)

    def stop(self) -> Outcome:
        """End it and wait until its tree has ended. Raises: ToolError `process_lost` if it has ended but how is unknown."""
        with self._turn:
            self._send(STOP)
            if self._wait_end(self._grace_s + _LATE_S) is None:
                self._end_from_outside()
                self._send(LATE)
                self._signal(signal.SIGCONT)
                if self._wait_end(_SWEEP_S) is None:
                    self._signal(signal.SIGKILL)  # the fork server ends what is left
                    self._wait_end(_LATE_S)
            if self.ended is None:
                raise ToolError("the program could not be ended in time", code="process_lost", retryable=False)
            return self.ended

    def close(self) -> None:
        """Close the sockets, and end the tree if it is still running."""
        with self._turn:
            if self._closed:
                return
            if self.ended is None:
                with contextlib.suppress(ToolError):  # its supervisor was killed, and with it the program
                    self.stop()
            self._closed = True
            self._control.close()
            os.close(self._supervisor)

    def _wait_end(self, patience_s: float) -> Outcome | None:
        """Wait for the final report, discarding answers to earlier requests."""
        until = time.monotonic() + patience_s
        while self.ended is None and (left := until - time.monotonic()) > 0:
            self._receive(left)
        return self.ended

    def _receive(self, patience_s: float) -> Outcome | None:
        """Returns the next report; None if none arrived in time. Raises: ToolError `process_lost` at the end of the socket."""
        if self._closed:
            raise _lost()
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        if not poller.poll(max(0.0, patience_s) * 1000):
            return None
        outcome = decode(*receive(self._control))
        if outcome.report["failure"] is not None or outcome.report["ended"]:
            self.ended = outcome
        return outcome

    def _end_from_outside(self) -> None:
        """End the tree directly, because the supervisor is late (its program keeps it stopped), as `client` does."""
        until = time.monotonic() + _OUTSIDE_S
        while time.monotonic() < until:
            self._signal(signal.SIGSTOP)
            pid = pid_of(self._supervisor)
            if pid <= 0 or not end_children_of(pid):
                return
            time.sleep(_TURN_S)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended and its report can be read, or it was closed
            self._control.send(message)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._supervisor, number)


def _lost() -> ToolError:
    return ToolError("the connection to the program was closed", code="process_lost", retryable=False)
