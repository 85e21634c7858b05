"""The kernel layer of a run: the records of its actions' recorders, one line of JSON each.

Format version history:
  1 (2026-11): first.

The file is `layers/kernel.ndjson` in the run's directory, continued in `layers/kernel.2.ndjson` and so on. Each line
can be read on its own: it has `schema`, `run_id`, and `seq`, which counts from 0 over all files of the run without
gaps. Every attempt of an action has its own recorder, so `proposal`, `action` and `attempt` reliably identify the
origin of a record; records of concurrent actions are interleaved. Secrets are replaced by keyed fingerprints before a
line is written.

A recorder's lines begin with `recorder_started` and end with `recorder_ended`. If the latter is missing, the recorder,
or the process that wrote the file, was killed, and the layer is partial.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from interlock.model import typed

KERNEL_SCHEMA: Final = "interlock.layer.kernel.v1"
KERNEL_FILE: Final = "kernel.ndjson"
"""The first file, in the directory `LAYERS`."""
LAYERS: Final = "layers"
OPENS: Final = frozenset(("open", "openat", "openat2", "creat", "open_by_handle_at"))
RENAMES: Final = frozenset(("rename", "renameat", "renameat2"))
LINKS: Final = frozenset(("link", "linkat"))
EXECS: Final = frozenset(("execve", "execveat"))
REROOTS: Final = frozenset(("chroot", "pivot_root", "mount", "move_mount", "setns"))
"""After such a call, a path may lead to another file than the recorder finds there. The call itself changes no file."""

Grade = Literal["attempt", "outcome"]
"""`attempt`: the call was about to be made, and its result is unknown. `outcome`: `error` is what the program got; an `exec`
of this grade names the program that ran after an `exec` of the same process, because that one named another: a script.
"""
Access = Literal["read", "write", "read_write", "path"]
"""How a file is opened. `path`: only as a location (O_PATH)."""


class KernelLine(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="kind"):
    """The fields of every line."""

    schema: Literal["interlock.layer.kernel.v1"]
    run_id: str
    seq: int
    proposal: str
    action: str
    attempt: int
    recorder: str
    """Unique in the run. An attempt that starts several processes has a recorder for each."""
    ts: int
    """Microseconds since the epoch."""
    mono: int
    """Nanoseconds of the machine's monotonic clock, which the journal's events also use."""


class RecorderStarted(KernelLine, kw_only=True, tag="recorder_started"):
    """A program starts under a recorder."""

    mechanism: Literal["notify"]
    """`notify`: seccomp user notification."""
    profile: Literal["ns", "nons", "none"]
    calls: tuple[str, ...]
    """The recorded system calls; others are not recorded."""


class KernelCall(KernelLine, kw_only=True, tag="call"):
    """A system call, or `count` identical ones in a row."""

    pid: int
    """The process id in the machine's own pid namespace."""
    tid: int
    """The thread id; the same as `pid` for the first thread."""
    parent: int | None = None
    """The parent process: in the first record of a process, and in each `exec`."""
    call: str
    """The system call's name: `openat`, `execve`, `connect` ..."""
    grade: Grade
    error: str | None = None
    """With `outcome`: the errno that the recorder answered with; absent if it answered with success."""
    path: str | None = None
    """Absolute path, from the program's argument: a relative path is joined to its starting directory; links and `..`
    are not resolved. Bytes that are not UTF-8 are shown as `\\xNN`. For `symlink`, the new link.
    """
    real: str | None = None
    """The path after following links, if it differs and exists."""
    to: str | None = None
    """The new path of `rename` and `link`, in the form of `path`; the target of a new `symlink`, as written."""
    access: Access | None = None
    flags: tuple[str, ...] = ()
    """Flags of an open: `create`, `exclusive`, `truncate`, `append`, `directory`, `nofollow`, `temporary`."""
    mode: int | None = None
    """Permission bits set by `chmod`, `mkdir` or an open that creates a file."""
    argv: tuple[str, ...] | None = None
    """Arguments of `exec`, including the program's name; at most 64 arguments and 4 KiB of each."""
    argv_cut: bool = False
    """True if `argv` is incomplete."""
    family: str | None = None
    """Address family: `inet`, `inet6`, `unix`, `netlink`, or a number."""
    host: str | None = None
    port: int | None = None
    unreadable: bool = False
    """True if the arguments could not be read; then the call was refused."""
    count: int = 1


class RecorderEnded(KernelLine, kw_only=True, tag="recorder_ended"):
    """The program and all its descendants are gone (or, with `lost`, the recorder is)."""

    calls: int
    """The number of calls seen: recorded ones (each with its `count`) and dropped ones."""
    dropped: int
    """Calls that are not in any line because of the layer's size limit; then the layer is partial."""
    refused: int
    """Calls that the recorder refused because their arguments could not be read."""
    lost: bool = False
    """True if the recorder ended before the program. Then the program was killed too, and its last actions may be missing."""


KernelRecord = RecorderStarted | KernelCall | RecorderEnded


def decode_record(line: bytes) -> KernelRecord:
    """Decode a line of the layer, strictly by field types. Raises: msgspec.ValidationError, msgspec.DecodeError."""
    found: KernelRecord = typed.decode(line, KernelRecord)
    return found
