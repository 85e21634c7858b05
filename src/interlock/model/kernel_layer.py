"""The kernel layer of a run: what the recorders of its actions saw, one line of JSON for each record.

Format version history:
1 (2026-11): first.

The file is `layers/kernel.ndjson` in the run's directory, continued in `layers/kernel.2.ndjson` and so on. A line alone can be
understood: each has `schema`, `run_id`, and `seq`, which counts from 0 over all files of the run without a gap. Every attempt of
an action has a recorder of its own, so `proposal`, `action` and `attempt` say for certain what a record belongs to; records of
actions that ran at the same time alternate. Secrets are replaced by keyed fingerprints before a line is written.

A recorder's lines begin with `recorder_started` and end with `recorder_ended`. Where the last one is missing, the recorder, or
the process that wrote the file, was killed: the layer is partial.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from interlock.model import typed

KERNEL_SCHEMA: Final = "interlock.layer.kernel.v1"
KERNEL_FILE: Final = "kernel.ndjson"
"""The first file, in the directory `LAYERS`."""
LAYERS: Final = "layers"

Grade = Literal["attempt", "outcome"]
"""`attempt`: the call was about to be made, and what became of it is not known. `outcome`: `error` is what the program got."""
Access = Literal["read", "write", "read_write", "path"]
"""How a file is opened. `path`: only as a place (O_PATH)."""


class KernelLine(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="kind"):
    """The fields of every line."""

    schema: Literal["interlock.layer.kernel.v1"]
    run_id: str
    seq: int
    proposal: str
    action: str
    attempt: int
    recorder: str
    """Unique in the run: an attempt that starts several processes has a recorder for each of them."""
    ts: int
    """Microseconds since the epoch."""
    mono: int
    """Nanoseconds of the machine's monotonic clock, the one of the journal's events."""


class RecorderStarted(KernelLine, kw_only=True, tag="recorder_started"):
    """A program starts under a recorder."""

    mechanism: Literal["notify"]
    """`notify`: seccomp user notification."""
    profile: Literal["ns", "nons", "none"]
    calls: tuple[str, ...]
    """The system calls that are recorded; no other is."""


class KernelCall(KernelLine, kw_only=True, tag="call"):
    """A system call, or `count` of the same one in a row."""

    pid: int
    """The process, as the machine counts (not its own namespace)."""
    tid: int
    """The thread; the same as `pid` for the first one."""
    parent: int | None = None
    """The process's parent: in the first record of a process, and in each `exec`."""
    call: str
    """The system call's name: `openat`, `execve`, `connect` ..."""
    grade: Grade
    error: str | None = None
    """With `outcome`: the name of the errno that the recorder answered with; absent if the call was answered with success."""
    path: str | None = None
    """Absolute, as the program named it: a relative path is joined to the directory that it starts from, links and `..` are left.
    Bytes that are not UTF-8 are shown as `\\xNN`. Of `symlink` the new link."""
    real: str | None = None
    """Where the path leads once links are followed, if that is another one and is there."""
    to: str | None = None
    """The new path of `rename` and `link`, as `path`; what a new `symlink` points to, as it is written in it."""
    access: Access | None = None
    flags: tuple[str, ...] = ()
    """Of an open: `create`, `exclusive`, `truncate`, `append`, `directory`, `nofollow`, `temporary`."""
    mode: int | None = None
    """Permission bits that `chmod`, `mkdir` and an open that creates give."""
    argv: tuple[str, ...] | None = None
    """Arguments of `exec`, the program's name included; at most 64 of them and 4 KiB of each."""
    argv_cut: bool = False
    """True if `argv` is not all of it."""
    family: str | None = None
    """Of an address: `inet`, `inet6`, `unix`, `netlink`, or a number."""
    host: str | None = None
    port: int | None = None
    unreadable: bool = False
    """True if the arguments could not be read: then the call was refused."""
    count: int = 1


class RecorderEnded(KernelLine, kw_only=True, tag="recorder_ended"):
    """The program and all that it started are gone (or, with `lost`, their recorder is)."""

    calls: int
    """How many calls were seen: those recorded (each with its `count`) and those dropped."""
    dropped: int
    """Calls that are in no line because the layer's size is bounded: then the layer is partial."""
    refused: int
    """Calls that the recorder refused because their arguments could not be read."""
    lost: bool = False
    """True if the recorder ended before the program: the program was ended too, and what it did last may be missing."""


KernelRecord = RecorderStarted | KernelCall | RecorderEnded


def decode_record(line: bytes) -> KernelRecord:
    """A line of the layer, decoded strictly by field types. Raises: msgspec.ValidationError, msgspec.DecodeError."""
    found: KernelRecord = typed.decode(line, KernelRecord)
    return found
