"""The forked process, which executes the program or calls the function. Uses only the standard library."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from interlock.isolation import syscalls, walls
from interlock.isolation.launcher import Launcher
from interlock.isolation.layer0 import RefusedError, enter, join_view, place, prefer_for_oom
from interlock.isolation.recorder.attach import record_this_process
from interlock.isolation.wire import Request

Perform = Callable[[Request], None]
"""What the payload does behind the walls: `execute_program`, or the function call of a module host."""


def begin(
    request: Request,
    launcher: Launcher,
    where: tuple[int, int, tuple[int, int] | None],
    descriptors: list[int],
    trouble: int,
    perform: Perform,
    recorder: int | None = None,
) -> NoReturn:
    """Raise the walls around this process, and perform. A failure before that is written to the pipe `trouble`.

    `where` is the supervisor's pid, the working directory, and the namespaces of a layer to join (or None). `recorder`
    is the socket to the action's recorder, if it has one; like `trouble`, it must be 10 or higher.
    """
    code = 127
    around = request["walls"]
    try:
        try:
            parent, cwd, view = where
            path = request["directory"] if launcher.moved else None
            if view is not None:
                join_view(*view)
                path = request[
                    "directory"
                ]  # resolve it again, because a directory opened outside belongs to no namespace here
            limits, grouped = request["limits"], launcher.group is not None
            if grouped:
                prefer_for_oom()
            enter(
                parent=parent,
                cwd=cwd,
                path=path,
                descriptors=descriptors,
                spare=trouble,
                also=recorder,
                limits=limits,
                grouped=grouped,
            )
            if around is not None and around["profile"] == "nons":
                walls.confine_alone(around, launcher.readable, request["environment"])
            if recorder is not None:
                record_this_process(recorder)
            if request["call"] is not None:
                os.close(trouble)
            perform(request)
            code = 0
        except RefusedError as refused:
            os.write(trouble, f"{refused.step} {refused.number}".encode())
    except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code)


def call(request: Request, descriptors: list[int], perform: Perform, recorder: int | None = None) -> NoReturn:
    """Call the function, in a child of pid 1, whose walls are already raised."""
    code = 127
    try:
        os.setsid()
        syscalls.set_dumpable(dumpable=True)
        high = fcntl.fcntl(descriptors[0], fcntl.F_DUPFD_CLOEXEC, 10)
        place(descriptors, high, recorder)
        os.close(high)
        if recorder is not None:
            record_this_process(recorder)
        perform(request)
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
