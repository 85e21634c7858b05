"""The limits of a process action: their defaults, and the error for each limit that was exceeded."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from interlock.isolation.wire import Limits, Report
from interlock.model.errors import ToolError
from interlock.model.limits import DEFAULT_LIMITS


class ProcessLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a process action. `[isolation]` of the configuration sets each of them."""

    memory_bytes: int = 1024**3
    """Memory of the whole process tree."""
    processes: int = 64
    """Concurrent processes of the whole tree."""
    cpu_ms: int | None = None
    """CPU time of the whole tree, user plus system."""
    file_bytes: int = 16 * 1024**3
    """Maximum size of a written file."""
    open_files: int = 65_536
    """Open descriptors per process."""
    layer_bytes: int = 16 * 1024**3
    """Disk space of the proposal's layer."""
    output_bytes: int = DEFAULT_LIMITS.process_output_bytes
    """Bytes kept of each output stream."""

    def of_server(self, memory_bytes_max: int) -> ProcessLimits:
        """Returns the limits of a server that belongs to no action: at most `memory_bytes_max`, and no limit on CPU time."""
        return msgspec.structs.replace(self, memory_bytes=min(self.memory_bytes, memory_bytes_max), cpu_ms=None)


class _Exceeded(NamedTuple):
    code: str
    what: str
    setting: str


_EXCEEDED: Final = {
    "processes": _Exceeded("process_limit", "the action exceeded its limit on processes", "processes"),
    "memory": _Exceeded("memory_limit", "the processes of the action exceeded their memory limit", "memory"),
    "cpu": _Exceeded("cpu_limit", "the processes of the action exceeded their CPU time limit", "cpu"),
    "file_size": _Exceeded(
        "file_size_limit", "a program was ended by SIGXFSZ: a file exceeded the size limit", "file_size"
    ),
    "tmp": _Exceeded("tmp_limit", "the program failed, and its /tmp was full", "tmp"),
    "open_files": _Exceeded(
        "open_files_limit",
        "the program failed, and a process of the action had reached its limit on open files",
        "open_files",
    ),
}
"""By the name in a report. The messages claim no more than was observed."""


def exceeded_error(report: Report, output: Any) -> ToolError | None:
    """Returns the error for the limit that an action exceeded; None if it exceeded none or the program succeeded."""
    name = report["exceeded"]
    ended = report["stopped"] == "limit"
    if name is None or not (ended or report["exit_code"] != 0):
        return None
    known = _EXCEEDED[name]
    return ToolError(
        f"{known.what}; all of them were ended" if ended else known.what,
        code=known.code,
        retryable=False,
        output=output,
        hint=f"raise `{known.setting}` in the section `isolation` of the configuration",
    )


def layer_full(used: int, allowed: int, output: Any) -> ToolError:
    """Returns the error for a layer that exceeds its disk limit."""
    return ToolError(
        f"the files in the proposal's layer take {used >> 20} MiB; the limit is {allowed >> 20} MiB; it is not committed",
        code="disk_limit",
        retryable=False,
        output=output,
        hint="raise `disk` in the section `isolation` of the configuration",
    )


def wire_limits(limits: ProcessLimits, keep_bytes: int) -> Limits:
    """Returns the limits in the supervisor's format. `keep_bytes` is kept of each stream, in a memory file."""
    return {
        "memory_bytes": limits.memory_bytes,
        "file_bytes": max(limits.file_bytes, 2 * keep_bytes + 1024**2),
        "open_files": limits.open_files,
        "processes": limits.processes,
        "cpu_ms": limits.cpu_ms,
    }
