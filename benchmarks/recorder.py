"""The cost of recording: programs under the notify recorder, under `strace`, and under neither.

    python benchmarks/recorder.py [--quick] [--json]

Without walls (profile `none`), which would hide the cost of the recorder. The records go all the way into a kernel
layer: through the pipe, the redaction and the file. "Answers" is the floor of every recorder in Python: a loop that
lets each call continue and does nothing else; "reads, answers" first reads the path and the directory that it is
relative to. `strace -f` stops at each system call, `strace -f --seccomp-bpf` only at the selected ones, which are those
that the recorder records; both write to a file, without redaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from measuring import alternate, options, scratch, show

from interlock.detect import Redactor
from interlock.disk import Disk
from interlock.executors.recording import ProcessRecording
from interlock.isolation import syscalls
from interlock.isolation.client import ForkServer
from interlock.isolation.recorder.attach import record_this_process
from interlock.isolation.recorder.filter import CALLS
from interlock.journal.kernel_layer import KernelLayer, layer_files

ROUNDS, QUICK_ROUNDS = 7, 3
RECEIVE, SEND, SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104
NOTIFICATION, RESPONSE = struct.Struct("<QIIiIQ6Q"), struct.Struct("<QqiI")
AT_FDCWD = 0xFFFFFF9C
FILES, DIRECTORIES = 2000, 40
"""The size of the searched tree, and of the cloned repository."""
PYTHON = os.path.realpath(sys.executable)
LIMITS = {"memory_bytes": 1 << 32, "file_bytes": 1 << 34, "open_files": 65_536, "processes": 64, "cpu_ms": None}
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}
IMPORTS = "import asyncio, csv, decimal, email.message, http.client, json, logging.handlers, sqlite3, unittest, xml.dom.minidom"
SOURCE = """#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
int main(int argc, char **argv) { printf("%zu\\n", strlen(argv[0]) + socket(1, 1, 0)); return EXIT_SUCCESS; }
"""
TO_REACH = {"python, imports": 1.15, "git clone": 1.4, "pip install": 1.15, "gcc": 1.3, "grep -r": 2.5}


class Recorder:
    """Runs programs under the notify recorder, each with a new layer."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.server = ForkServer()
        self.loop = asyncio.new_event_loop()
        self.count = 0

    def run(self, argv: Sequence[str]) -> None:
        self.loop.run_until_complete(self._run_recorded(argv))

    def run_unrecorded(self, argv: Sequence[str]) -> None:
        """The same without a recorder: the cost of starting and watching a program."""
        self.loop.run_until_complete(self._run(argv, {}))

    async def _run(self, argv: Sequence[str], given: Mapping[str, int]) -> None:
        cwd = os.open(self.room, os.O_PATH)
        try:
            outcome = await self.server.run(
                {
                    "argv": list(argv), "search": ENVIRONMENT["PATH"], "environment": ENVIRONMENT, "home": False,
                    "home_files": {}, "timeout_ms": 300_000, "grace_ms": 500, "keep_bytes": 1 << 20, "keep_last": False,
                    "limits": LIMITS, "call": None, "walls": None, "directory": "", "descriptors": [],
                },
                cwd=cwd, descriptors=given,
            )  # fmt: skip
        finally:
            os.close(cwd)
        if outcome.report["exit_code"] != 0:
            raise SystemExit(f"{argv[0]} failed: {outcome.stderr.decode()}")

    async def _run_recorded(self, argv: Sequence[str]) -> None:
        self.count += 1
        directory = self.room / f"run{self.count}"
        directory.mkdir()
        layer = KernelLayer(directory, Disk(), Redactor(b"k" * 32))
        summaries: list = []
        recording = ProcessRecording(
            lambda _: layer.writer("rec", "proposal", "action", 1), lambda _, summary: summaries.append(summary)
        )
        context = SimpleNamespace(posture=lambda **_: None)
        async with recording.open(context, {"record": "active"}, ()) as given:
            await self._run(argv, given)
        layer.close()
        if not summaries or summaries[0].lost or not layer_files(directory) or summaries[0].lines.dropped:
            raise SystemExit(f"{argv[0]} was not recorded in full")

    def close(self) -> None:
        self.server.close()
        self.loop.close()


def floor(argv: Sequence[str], *, reads: bool) -> None:
    """Run a program under a loop that answers each call, but records nothing."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        syscalls.forbid_new_privileges()
        record_this_process(theirs.detach())
        os.execvpe(argv[0], argv, ENVIRONMENT)
    theirs.close()
    with ours:
        (listener,) = socket.recv_fds(ours, 64, 1)[1]
    fcntl.ioctl(listener, SET_FLAGS, 1)
    try:
        answer_all(listener, reads=reads)
    finally:
        os.close(listener)
    if os.waitpid(pid, 0)[1] != 0:
        raise SystemExit(f"{argv[0]} failed")


def answer_all(listener: int, *, reads: bool) -> None:
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    buffer, zero, memories = bytearray(80), bytes(80), {}
    openat, execve = syscalls.NUMBER["openat"], syscalls.NUMBER["execve"]
    while True:
        buffer[:] = zero
        try:
            fcntl.ioctl(listener, RECEIVE, buffer)
        except OSError:
            if any(event & select.POLLHUP for _, event in poller.poll(0)):
                break
            continue
        number, tid, _, call, _, _, directory, address, *_ = NOTIFICATION.unpack_from(buffer)
        if reads and call == openat:
            memory = memories.get(tid)
            if memory is None:
                memory = memories[tid] = os.open(f"/proc/{tid}/mem", os.O_RDONLY)
            path = os.pread(memory, 256, address)
            if path[:1] != b"/":
                os.readlink(f"/proc/{tid}/cwd" if directory == AT_FDCWD else f"/proc/{tid}/fd/{directory}")
        elif reads and call == execve and tid in memories:
            os.close(memories.pop(tid))
        with contextlib.suppress(OSError):
            fcntl.ioctl(listener, SEND, RESPONSE.pack(number, 0, 0, 1))
    for memory in memories.values():
        os.close(memory)


def native(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{argv[0]} failed: {done.stderr.decode()}")


def strace(out: Path, *more: str) -> Callable[[Sequence[str]], None]:
    asked = ",".join(f"?{name}" for name in CALLS if name in syscalls.NUMBER)
    return lambda argv: native(["strace", "-f", *more, "-e", f"trace={asked}", "-o", os.fspath(out), *argv])


# -- the work


def make_tree(top: Path) -> None:
    for number in range(FILES):
        path = top / f"d{number % DIRECTORIES}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"line %08d\n" % number * 150)


def make_repository(top: Path) -> None:
    make_tree(top)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["gc", "-q"]):
        subprocess.run([*git, *command], cwd=top, check=True, env=ENVIRONMENT)


def make_wheel(room: Path) -> Path:
    path = room / "pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        names = [f"pack/m{number}.py" for number in range(100)]
        for name in names:
            file.writestr(name, "value = 1\n" * 50)
        about = "pack-1.0.dist-info"
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: pack\nVersion: 1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        record = [*names, f"{about}/METADATA", f"{about}/WHEEL", f"{about}/RECORD"]
        file.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in record))
    return path


class Work:
    """The programs. Their files are removed between rounds, outside of the measurement."""

    def __init__(self, room: Path) -> None:
        tree, repository, wheel = room / "tree", room / "repository", make_wheel(room)
        self.made = room / "made"
        source = room / "main.c"
        source.write_text(SOURCE)
        make_tree(tree)
        make_repository(repository)
        made = os.fspath(self.made)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        self.commands: dict[str, list[str]] = {
            "python, imports": [PYTHON, "-I", "-S", "-c", IMPORTS],
            "git clone": ["git", "clone", "-q", os.fspath(repository), made],
            "pip install": [*pip, "--target", made, os.fspath(wheel)],
            "gcc": ["gcc", "-O1", "-o", made, os.fspath(source)],
            "grep -r": ["grep", "-r", "line 00000007", os.fspath(tree)],
        }

    def timed(self, run: Callable[[Sequence[str]], None], argv: Sequence[str]) -> Callable[[], float]:
        def measure() -> float:
            if self.made.is_dir():
                shutil.rmtree(self.made)
            with contextlib.suppress(FileNotFoundError):
                self.made.unlink()
            began = time.perf_counter()
            run(argv)
            return time.perf_counter() - began

        return measure


def main() -> None:
    chosen = options(__doc__ or "")
    for program in ("strace", "gcc", "git"):
        if shutil.which(program) is None:
            raise SystemExit(f"this benchmark needs {program}: run scripts/bench recorder")
    rows = []
    with scratch() as room:
        work, recorder = Work(room), Recorder(room)
        runs = {
            "native": native,
            "no recorder": recorder.run_unrecorded,
            "notify": recorder.run,
            "answers": functools.partial(floor, reads=False),
            "reads, answers": functools.partial(floor, reads=True),
            "strace -f": strace(room / "strace"),
            "strace -f --seccomp-bpf": strace(room / "strace", "--seccomp-bpf"),
        }
        for name, argv in work.commands.items():
            found = alternate(
                {how: work.timed(run, argv) for how, run in runs.items()}, QUICK_ROUNDS if chosen.quick else ROUNDS
            )
            plain = found.pop("native")
            rows.append(
                {
                    "work": name,
                    "native": f"{plain * 1000:,.1f} ms",
                    **{how: f"{seconds * 1000:,.1f} ms ({seconds / plain:.2f} x)" for how, seconds in found.items()},
                    "to reach": f"{TO_REACH[name]:.2f} x",
                }
            )
        recorder.close()
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
