"""The limits of a process action: their defaults, and the error for each that was exceeded."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from interlock.isolation.wire import Limits, Report
from interlock.model.errors import ToolError
from interlock.model.limits import DEFAULT_LIMITS


class ProcessLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a process action is held to. `[isolation]` of the configuration sets each of them."""

    memory_bytes: int = 1024**3
    """Memory of the whole tree."""
    processes: int = 64
    """Processes of the whole tree at once."""
    cpu_ms: int | None = None
    """CPU time of the whole tree, user and system."""
    file_bytes: int = 16 * 1024**3
    """Maximum size of a written file."""
    open_files: int = 65_536
    """Descriptors of one process."""
    layer_bytes: int = 16 * 1024**3
    """Disk that the layer of a proposal may take."""
    output_bytes: int = DEFAULT_LIMITS.process_output_bytes
    """What is kept of each output stream."""

    def of_server(self, memory_bytes_max: int) -> ProcessLimits:
        """Those of a program that belongs to no action: CPU time is that of one."""
        return msgspec.structs.replace(self, memory_bytes=min(self.memory_bytes, memory_bytes_max), cpu_ms=None)


class _Exceeded(NamedTuple):
    code: str
    what: str
    setting: str


_EXCEEDED: Final = {
    "processes": _Exceeded("process_limit", "the action exceeded its limit of processes", "processes"),
    "memory": _Exceeded("memory_limit", "the processes of the action used more memory than they may", "memory"),
    "cpu": _Exceeded("cpu_limit", "the processes of the action used more CPU time than they may", "cpu"),
    "file_size": _Exceeded(
        "file_size_limit", "the program was ended by SIGXFSZ: a file would have become larger than allowed", "file_size"
    ),
    "tmp": _Exceeded("tmp_limit", "the program failed, and nothing was left of its /tmp", "tmp"),
    "open_files": _Exceeded(
        "open_files_limit",
        "the program failed, and a process of the action had as many files open as it may",
        "open_files",
    ),
}
"""By the name in a report. Each says no more than was observed."""


def exceeded_error(report: Report, output: Any) -> ToolError | None:
    """The error for the limit that an action was seen to exceed, with its `output`; None if it exceeded none, or if its program
    ended well all the same.
    """
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
    """The error for a layer that takes more disk than it may."""
    return ToolError(
        f"the proposal's layer takes {used >> 20} MiB of disk, and may take {allowed >> 20} MiB; it is not committed",
        code="disk_limit",
        retryable=False,
        output=output,
        hint="raise `disk` in the section `isolation` of the configuration",
    )


def wire_limits(limits: ProcessLimits, keep_bytes: int) -> Limits:
    """The limits in the supervisor's form. `keep_bytes` is what it keeps of each stream, in a file of memory."""
    return {
        "memory_bytes": limits.memory_bytes,
        "file_bytes": max(limits.file_bytes, 2 * keep_bytes + 1024**2),
        "open_files": limits.open_files,
        "processes": limits.processes,
        "cpu_ms": limits.cpu_ms,
    }
