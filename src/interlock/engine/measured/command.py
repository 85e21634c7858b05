"""Starts the command of a measured run in the foreground, and waits for its end: the outer side of `isolation.foreground`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Final

from interlock.isolation.foreground import FROM_KERNEL, PASSED_ON
from interlock.isolation.wire import Command, CommandEnd, memory_file
from interlock.model import typed
from interlock.server_process import bare_environment, module_command

_REPORT_BYTES_MAX: Final = 4096


def run_in_foreground(command: Command, *, take_signals: bool) -> CommandEnd | None:
    """Run a command with this process's terminal and standard streams to its end; None if its end is unknown.

    With `take_signals` (main thread only), signals sent to this process are forwarded to the command, and signals that
    the terminal sends to the whole process group are left to it. Raises: OSError if no process could be created.
    """
    with _blocked(take_signals) as mask:
        command = {**command, "mask": sorted(int(number) for number in mask)}
        request = memory_file("command", json.dumps(command).encode())
        reader, writer = os.pipe()
        try:
            process = subprocess.Popen(
                [*module_command("interlock.isolation.foreground"), str(request), str(writer), str(os.getpid())],
                env=bare_environment(),
                cwd="/",
                pass_fds=(request, writer, *(fd for fd in (command["recorder"], command["sdk"]) if fd is not None)),
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(request)
            os.close(writer)
        with open(reader, "rb") as file:  # noqa: PTH123 - a descriptor
            if take_signals:
                _pass_signals_on(process)
            process.wait()
            data = file.read(_REPORT_BYTES_MAX)
    return typed.decode(data, CommandEnd) if data.endswith(b"\n") else None


@contextlib.contextmanager
def _blocked(take_signals: bool) -> Iterator[set[int]]:
    """Block the signals that `_pass_signals_on` waits for. Yields those that were blocked before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD} if take_signals else ())
    try:
        yield {int(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_signals_on(process: subprocess.Popen[bytes]) -> None:
    """Forward signals from other processes to the command, until it has ended."""
    while process.poll() is None:
        found = signal.sigwaitinfo({*PASSED_ON, signal.SIGCHLD})
        if found.si_signo != signal.SIGCHLD and found.si_code != FROM_KERNEL:
            process.send_signal(found.si_signo)
