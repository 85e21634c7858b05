"""Tools for the machine's processes: `proc.list` and `proc.kill`.

A process is identified by its pid and start time (clock ticks since boot, field 22 of /proc/PID/stat; proc(5)). A
reused pid is never signalled, because the pidfd is opened before the start time is read.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.model.errors import ToolError
from interlock.model.tool import Binding, Context, Tool

_SIGNALS: Final = ("SIGTERM", "SIGKILL", "SIGINT", "SIGHUP", "SIGQUIT", "SIGSTOP", "SIGCONT", "SIGUSR1", "SIGUSR2")
_ENDING: Final = frozenset(("SIGTERM", "SIGKILL", "SIGINT", "SIGHUP", "SIGQUIT"))
_ENDED_WAIT_S: Final = 2.0
_COMMAND_CHARS: Final = 4096
_STATES: Final = {
    "R": "running",
    "S": "sleeping",
    "D": "uninterruptible",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "I": "idle",
    "X": "dead",
}


class Process(msgspec.Struct, frozen=True):
    """One row of `proc.list`."""

    pid: int
    start_time: int
    """Clock ticks since boot."""
    ppid: int
    uid: int
    name: str
    command: list[str]
    """The arguments; empty for kernel threads and zombies."""
    state: str
    cpu_ms: int
    """User plus system time since the process started."""
    memory_bytes: int
    """Resident set size."""


def read_process(pid: int) -> Process | None:
    """Read a process from /proc; None if there is no such process."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        uid = Path(f"/proc/{pid}").stat().st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:  # hidepid hides other users' processes
        return None
    # pid (name) state ppid ...: the name may hold any characters, including parentheses
    opened, closed = line.index(b"("), line.rindex(b")")
    fields = line[closed + 2 :].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return Process(
        pid=pid,
        start_time=int(fields[19]),
        ppid=int(fields[1]),
        uid=uid,
        name=_text(line[opened + 1 : closed]),
        command=[_text(part) for part in command[:_COMMAND_CHARS].rstrip(b"\0").split(b"\0")] if command else [],
        state=_STATES.get(fields[0].decode(), "unknown"),
        cpu_ms=(int(fields[11]) + int(fields[12])) * 1000 // ticks,
        memory_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )


def processes() -> Iterator[Process]:
    """Yields all visible processes, ordered by pid."""
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        found = read_process(pid)
        if found is not None:
            yield found


def bindings(*, protected: Callable[[], Iterable[int]], redact: Callable[[Any], Any]) -> list[Binding]:
    """Returns the tools `proc.list` and `proc.kill`.

    `protected` returns the pids of Interlock's own fork servers. `redact` replaces secrets in a JSON value, because the
    arguments of other processes often contain them.
    """

    def list_(parameters: dict[str, Any], _ctx: Context) -> dict[str, Any]:
        # Redact before filtering; otherwise a filter could be used to guess redacted values.
        rows = redact([msgspec.to_builtins(process) for process in processes()])
        needle = parameters.get("filter", "").lower()
        return {"processes": [r for r in rows if needle in " ".join((r["name"], *r["command"])).lower()]}

    async def kill(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        pid, name = parameters["pid"], parameters.get("signal", "SIGTERM")
        pidfd = _open(pid)
        try:
            _check(pid, parameters["start_time"], set(protected()))
            ctx.not_exactly_undoable("a process was signalled")
            _send(pidfd, name)
            ended = name in _ENDING and await _wait_ended(pidfd, _ENDED_WAIT_S)
        finally:
            os.close(pidfd)
        return {"pid": pid, "signal": name, "ended": ended}

    return [
        Binding(tool=_LIST, function=list_, mode="thread", writes="nothing"),
        Binding(tool=_KILL, function=kill, mode="async", writes="nothing"),
    ]


def _open(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise _gone() from None
    except OSError as error:  # EINVAL: the pid is that of a thread
        raise ToolError(
            f"the process cannot be opened: {os.strerror(error.errno or 0)}", code="process_gone", retryable=False
        ) from error


def _check(pid: int, start_time: int, servers: set[int]) -> None:
    """Check that the pid still names the intended process and may be signalled. Raises: ToolError."""
    process = read_process(pid)
    if process is None:
        raise _gone()
    if process.start_time != start_time:
        raise ToolError(
            "the pid now belongs to another process",
            code="process_changed",
            path="$.parameters.start_time",
            retryable=False,
            hint="list the processes again",
        )
    # Supervisors are children of a fork server; pid 2 and its children are the kernel's.
    if pid in {1, 2} | _own_line() | servers or process.ppid in {2} | servers:
        raise ToolError(
            "this process is protected: it is Interlock, one of its ancestors, or a system process",
            code="process_protected",
            path="$.parameters.pid",
            retryable=False,
        )
    if process.uid != os.geteuid():
        raise _foreign()  # root could signal it, but rarely intends to


def _own_line() -> set[int]:
    """Returns the pids of this process and its ancestors."""
    line: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in line:
        line.add(pid)
        process = read_process(pid)
        pid = process.ppid if process is not None else 0
    return line


def _send(pidfd: int, name: str) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.Signals[name])
    except ProcessLookupError:
        raise _gone() from None
    except PermissionError:
        raise _foreign() from None


async def _wait_ended(pidfd: int, seconds: float) -> bool:
    """Wait for a process to end. Returns False if it takes longer than `seconds`."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(pidfd, lambda: None if ended.done() else ended.set_result(None))
    try:
        async with asyncio.timeout(seconds):
            await ended
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def _gone() -> ToolError:
    return ToolError("there is no such process", code="process_gone", path="$.parameters.pid", retryable=False)


def _foreign() -> ToolError:
    return ToolError(
        "the process belongs to another user", code="process_foreign", path="$.parameters.pid", retryable=False
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


_LIST: Final = Tool(
    name="proc.list",
    description="List processes; with `filter` only those whose name or command line contains it (ignoring case).",
    parameters={
        "type": "object",
        "properties": {"filter": {"type": "string", "maxLength": 256}},
        "additionalProperties": False,
    },
    read_only=True,
    destructive=False,
    open_world=False,
    reversibility="reversible",
    tags=("process",),
)
_KILL: Final = Tool(
    name="proc.kill",
    description="Signal a process from `proc.list`, identified by its pid and start time.",
    parameters={
        "type": "object",
        "properties": {
            "pid": {"type": "integer", "minimum": 1, "maximum": 2**22},
            "start_time": {"type": "integer", "minimum": 0, "description": "As `proc.list` returns it."},
            "signal": {"type": "string", "enum": list(_SIGNALS), "default": "SIGTERM"},
        },
        "required": ["pid", "start_time"],
        "additionalProperties": False,
    },
    open_world=False,
    tags=("process",),
)
