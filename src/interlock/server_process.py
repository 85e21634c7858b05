"""Processes that run one module of this package: how they are started, replaced when they die, and ended.

Such a module is run without the `__init__` of the packages around it, which would bring the whole runtime, keys and all: the
process starts in some 20 ms, stays small, and holds nothing that is secret.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_PACKAGE: Final = str(Path(__file__).resolve().parent)
_PACKAGES: Final = ("", ".detect", ".executors", ".executors.capsules", ".isolation", ".model", ".workspace")
"""Below `interlock`: those whose modules run this way, and those that they import from."""


def module_command(module: str, *, first: str = "", site: bool = False, python: str = sys.executable) -> list[str]:
    """The command that runs `main()` of a module of this package; the last word is its source text, and arguments may follow.

    `first` is source text to run before the module is imported, `site` adds the installed packages.
    """
    lines = [
        "import sys, types",
        f"for name in {_PACKAGES!r}:",
        '    package = sys.modules["interlock" + name] = types.ModuleType("interlock" + name)',
        f'    package.__path__ = [{_PACKAGE!r} + name.replace(".", "/")]',
        *([first] if first else []),
        f"from {module} import main",
        "main()",
    ]
    return [python, "-I", *([] if site else ["-S"]), "-c", "\n".join(lines)]


def bare_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What such a process is given: `environment`, or a locale alone, and the path of the library that Python may be in."""
    made = {"LC_ALL": "C.UTF-8"} if environment is None else dict(environment)
    if "LD_LIBRARY_PATH" in os.environ:  # a Python built with a shared library may not start without it
        made.setdefault("LD_LIBRARY_PATH", os.environ["LD_LIBRARY_PATH"])
    return made


class ServerProcess:
    """A process that serves this one over the socket on its standard input. Safe for threads.

    It is started when first needed, and again after it has died. Close it: the process ends then, or with ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        arguments: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Start nothing yet. `arguments` follow the command, and are asked for at each start; `environment` is all it gets."""
        self._command = list(command)
        self._environment = bare_environment(environment)
        self._arguments = arguments
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._pid: int | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None if it is not running."""
        return self._pid

    def connect(self) -> socket.socket:
        """The socket to it: seqpacket, not blocking when it is new. Starts the process if need be. Raises: OSError."""
        with self._lock:
            if self._channel is None:
                self._channel, self._pid = self._start()
            return self._channel

    def forget(self, channel: socket.socket) -> None:
        """It has ended: collect it, unless another thread already has. The next `connect` starts another."""
        with self._lock:
            if self._channel is not channel:
                return
            pid, self._channel, self._pid = self._pid, None, None
        channel.close()
        if pid is not None:
            _reap(pid, 0)

    def has_ended(self, channel: socket.socket) -> bool:
        """True if the process that `channel` leads to has ended. One that is about to can still have its socket open."""
        with self._lock:
            if self._channel is not channel or self._pid is None:
                return True
            try:
                return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            except ChildProcessError:  # another part's SIGCHLD handler was quicker
                return True

    def close(self, wait_ms: int) -> None:
        """End it by closing the socket; it is killed if it is still there after `wait_ms`."""
        with self._lock:
            channel, self._channel = self._channel, None
            pid, self._pid = self._pid, None
        if channel is not None:
            channel.close()
        if pid is not None:
            _reap(pid, wait_ms)

    def _start(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                pid = os.posix_spawn(
                    self._command[0],
                    [*self._command, *self._arguments()],
                    self._environment,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    ],
                    setsid=True,  # Ctrl-C is for the runtime, which then ends the actions in order
                    setsigmask=[],
                    setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
                )
            except BaseException:
                ours.close()
                raise
        return ours, pid


def _reap(pid: int, wait_ms: int) -> None:
    """Collect a child; it is killed if it does not end within `wait_ms`."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):  # another part's SIGCHLD handler was quicker
        pidfd = os.pidfd_open(pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(wait_ms):
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(pidfd)
        os.waitpid(pid, 0)
