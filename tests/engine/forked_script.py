"""Python processes that need not import everything again: forked from one that has. Each is a process of its own, to be killed.

`ForkedScript` is a `subprocess.Popen` whose child comes from the server below, one for each worker of pytest. The server has one
thread and no open file but its socket, so what a child gets is what a fresh interpreter would have after its imports.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

HERE = Path(__file__).parent
_REQUEST_BYTES = 1 << 20


class ForkedScript(subprocess.Popen):
    """`ForkedScript(code, *arguments, ...)`: as `Popen([sys.executable, "-c", code, *arguments], ...)`."""

    _control: socket.socket | None = None
    _process: subprocess.Popen | None = None
    """The server, which ends with this process."""

    def __init__(self, code, *arguments, **options):
        self._code = code
        super().__init__([sys.executable, "-c", code, *arguments], **options)

    @classmethod
    def _server(cls):
        if cls._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for one in (ours, theirs):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST_BYTES)
            with theirs:
                cls._process = subprocess.Popen(
                    [sys.executable, __file__, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            cls._control = ours
        return cls._control

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_more,
    ):  # fmt: skip
        control = self._server()
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = [p2cread, c2pwrite, errwrite]
        descriptors = [theirs.fileno(), *(fd if fd != -1 else number for number, fd in enumerate(given))]
        request = {
            "argv": args[3:],
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        try:
            socket.send_fds(control, [json.dumps(request | {"code": self._code}).encode()], descriptors)
            theirs.close()
            self.pid = int(self._status.recv(64))
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _internal_poll(self, _deadstate=None, **_more):
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = int(self._status.recv(64) or b"-9")
            self._status.close()
        return self.returncode

    def _wait(self, timeout):
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._internal_poll()


def serve(control: socket.socket) -> None:
    """Fork a child for each request, and say how each ended, until the other side is gone."""
    wake, woken = socket.socketpair()
    for one in (wake, woken):
        one.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready = select.select([control, wake], [], [])[0]
        if wake in ready:
            wake.recv(4096)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            told = running.pop(pid)
            os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(told)
        if control not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, _REQUEST_BYTES, 4)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            control.close(), wake.close(), woken.close()
            for fd in running.values():
                os.close(fd)
            run(json.loads(data), descriptors)
        told, *streams = descriptors
        for fd in streams:
            os.close(fd)
        running[pid] = told
        os.write(told, str(pid).encode())


def run(request: dict, descriptors: list[int]) -> None:
    """Be the child. Ends the process as an interpreter would."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(descriptors[0])
    for number, fd in enumerate(descriptors[1:]):
        os.dup2(fd, number)
    for fd in descriptors[1:]:
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["-c", *request["argv"]]
    code: object = 0
    try:
        exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        traceback.print_exc()
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    if isinstance(code, str):
        sys.stderr.write(code + "\n")
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    import gc

    import engine_world  # noqa: F401 - what the scripts use

    import interlock.engine.runs.undo_tool
    import interlock.policy.cases  # noqa: F401 - as above

    assert threading.active_count() == 1
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
