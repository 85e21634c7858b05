"""Puts a program under its recorder: loads the filter, and passes the notification descriptor to the recorder.

The thread that loaded the filter must not send the descriptor: its own `sendmsg` would wait for the recorder, which
waits for the descriptor. A filter applies to one thread and its children, so another thread of the same process sends
it. Uses only the standard library.
"""

from __future__ import annotations

import _thread
import errno
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from interlock.isolation.layer0 import RefusedError
from interlock.isolation.recorder.filter import listen

LISTENER: Final = b"listener"
ARGUMENTS_MAX: Final = 64
ARGUMENT_BYTES: Final = 4096
_SEND_S: Final = 10.0
_SEND_AGAIN_S: Final = 0.002
_ANNOUNCED_CHARS: Final = 16 * 1024
Announce = Callable[[str], None]
"""Called with each path before it is executed."""


def spawn_recorded(channel: int, argv: list[str], start: Callable[[Announce], int]) -> int:
    """Call `start` on a thread under the filter, so that its children are recorded but this process is not. Returns its result.

    `channel` is the socket to the recorder. Until it executes a program, a child has this process's memory, which
    nobody can read; therefore `start` announces each path before executing it. An announcement is valid for one call.
    Raises: RefusedError, and what `start` raises.
    """
    loaded, begin, done = (_thread.allocate_lock() for _ in range(3))
    for lock in (loaded, begin, done):
        lock.acquire()
    listener: list[int] = []
    results: list[int] = []
    troubles: list[BaseException] = []

    def work() -> None:
        try:
            listener.append(listen())
        except OSError as error:
            troubles.append(error)
        loaded.release()
        begin.acquire()
        try:
            if not troubles:
                results.append(start(lambda path: _announce(channel, path, argv)))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            troubles.append(error)
        done.release()

    _thread.start_new_thread(work, ())
    loaded.acquire()
    for fd in listener:
        try:
            _send(channel, fd)
        except OSError as error:
            troubles.append(error)
        finally:
            os.close(fd)
    begin.release()
    done.acquire()
    for trouble in troubles:
        if isinstance(trouble, OSError):
            raise RefusedError("recorder", trouble.errno or errno.EINVAL) from trouble
        raise trouble
    return results[0]


def record_this_process(channel: int) -> None:
    """Put this thread, and the program that it executes, under the filter. Raises: RefusedError."""
    loaded, sent = (_thread.allocate_lock() for _ in range(2))
    loaded.acquire()
    sent.acquire()
    listener: list[int] = []
    troubles: list[OSError] = []

    def work() -> None:
        loaded.acquire()
        try:
            for fd in listener:
                _send(channel, fd)
        except OSError as error:
            troubles.append(error)
        sent.release()

    _thread.start_new_thread(work, ())
    try:
        listener.append(listen())
    except OSError as error:
        troubles.append(error)
    loaded.release()
    sent.acquire()
    for fd in (*listener, channel):
        os.close(fd)
    for trouble in troubles:
        raise RefusedError("recorder", trouble.errno or errno.EINVAL) from trouble


def _announce(channel: int, path: str, argv: list[str]) -> None:
    """Announce a path to the recorder. Raises: OSError."""
    place = os.path.join(os.getcwd(), path)
    shown: list[str] = []
    room = _ANNOUNCED_CHARS
    for argument in argv[:ARGUMENTS_MAX]:
        shown.append(argument[: min(ARGUMENT_BYTES, room)])
        room -= len(shown[-1])
    cut = len(argv) > len(shown) or any(len(a) != len(b) for a, b in zip(argv, shown, strict=False))
    known = {"path": place, "real": os.path.realpath(place), "argv": shown, "cut": cut}
    os.write(channel, json.dumps(known).encode())  # a plain write, because this thread's `sendmsg` is recorded


def _send(channel: int, fd: int) -> None:
    """Send the notification descriptor. Raises: OSError."""
    until = time.monotonic() + _SEND_S
    with socket.socket(fileno=os.dup(channel)) as to:
        while True:
            try:
                socket.send_fds(to, [LISTENER], [fd])
            except OSError as error:
                # Too many of this user's descriptors are in flight, which happens when many actions start at once.
                if error.errno != errno.ETOOMANYREFS or time.monotonic() > until:
                    raise
                time.sleep(_SEND_AGAIN_S)
            else:
                return
