"""Collects the reports of an agent's shim during a measured run, and writes the run's sdk layer.

The shim sends messages through a socket that the command inherits (`interlock.agent_shims`). The program around it is
not trusted: messages in a wrong format are rejected and counted, and the layer's size is limited. Each line is redacted
before it is written. The order is that of arrival.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from interlock.agent_shims import MESSAGE_BYTES_MAX, variables
from interlock.detect import Redactor
from interlock.disk import Disk
from interlock.evidence.format import SDK, SdkRecord
from interlock.model import typed
from interlock.model.canonical import CanonicalError, canonical
from interlock.model.clock import Clock
from interlock.model.errors import StoreError
from interlock.model.events import SdkRecorded

LAYER_BYTES: Final = 64 * 1024 * 1024
WRITERS_MAX: Final = 10_000
PROBLEMS_MAX: Final = 20
_DESCRIPTOR_MIN: Final = 100
"""Shells use the lower descriptor numbers."""
_SEND_SECONDS: Final = 5
"""A shim delays its program for at most this long."""
_SCHEMA: Final = "interlock.layer.sdk.v1"


class _Hooked(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="hooked"):
    """The shim hooked into the SDK."""

    run_id: str
    writer: str
    seq: int
    sdk: str
    version: str


class _NotHooked(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="not_hooked"):
    """The SDK has another structure than the shim expects."""

    run_id: str
    writer: str
    seq: int
    sdk: str
    version: str
    why: Annotated[str, msgspec.Meta(max_length=4096)]


_NOTICE: Final = typed.json_decoder(_Hooked | _NotHooked)
_RECORD: Final = typed.json_decoder(SdkRecord)
_KINDS: Final = frozenset(("hooked", "not_hooked"))


class SdkCollector:
    """Receives messages on a thread from `start` to `finish`."""

    def __init__(
        self, run_dir: Path, shim: str, redactor: Redactor, disk: Disk, clock: Clock, *, layer_bytes: int = LAYER_BYTES
    ) -> None:
        """`run_dir` is named by the run's id. Raises: OSError if no socket could be created."""
        self._path = run_dir / SDK
        self._run_id, self._shim = run_dir.name, shim
        self._redactor, self._disk, self._clock, self._layer_bytes = redactor, disk, clock, layer_bytes
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as opened:  # closes them if one of them cannot be created
            opened.callback(self._ours.close)
            with theirs:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
                self._theirs = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, _DESCRIPTOR_MIN)
            opened.callback(os.close, self._theirs)
            self._wake_reader, self._wake = os.pipe()
            opened.pop_all()
        self._thread = threading.Thread(target=self._receive, name="interlock-sdk", daemon=True)
        self._failure: StoreError | None = None
        self._fd = -1
        self._digest = hashlib.sha256()
        self._last_us = self._bytes = self._messages = 0
        self._hooked: set[str] = set()
        self._seqs: dict[str, int] = {}
        """The expected number of each writer's next message."""
        self._lines: dict[str, int] = {}
        self._records = self._dropped = self._rejected = 0
        self._problems: list[str] = []

    @property
    def descriptor(self) -> int:
        """The command's end of the socket."""
        return self._theirs

    def environment(self, given: dict[str, str]) -> dict[str, str]:
        """The command's environment with the variables that the shim needs."""
        inode = os.fstat(self._theirs).st_ino
        return given | variables(self._shim, self._run_id, self._theirs, inode, given.get("PYTHONPATH"))

    def start(self) -> None:
        """Start receiving."""
        self._thread.start()

    def finish(self) -> SdkRecorded:
        """Handle everything sent so far, and close the layer. Raises: StoreError if it could not be written."""
        if self._thread.ident is not None:
            os.write(self._wake, b"x")
            self._thread.join()
        self._ours.close()
        for fd in (self._theirs, self._wake_reader, self._wake):
            os.close(fd)
        if self._fd >= 0:
            try:
                self._disk.sync_data(self._fd)
            except StoreError as error:
                self._failure = self._failure or error
            os.close(self._fd)
        if self._failure is not None:
            raise self._failure
        return SdkRecorded(
            shim=self._shim, hooked=len(self._hooked), writers=len(self._lines), records=self._records,
            dropped=self._dropped, rejected=self._rejected, problems=tuple(self._problems),
            digest="sha256:" + self._digest.hexdigest(),
        )  # fmt: skip

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            state = ready.get(self._ours.fileno(), 0)
            if state & select.POLLIN:
                self._take()
            elif state or self._wake_reader in ready:  # all other ends are closed, or everything sent was handled
                return

    def _take(self) -> None:
        """Receive a message, even after a failure, because a sender waits for it."""
        data, _, flags, _ = self._ours.recvmsg(MESSAGE_BYTES_MAX)
        self._messages += 1
        if self._failure is not None:
            return
        try:
            self._add(data, cut=bool(flags & socket.MSG_TRUNC))
        except StoreError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - on an internal error, the layer must not seem complete
            self._failure = StoreError(f"the sdk layer cannot be written: {type(error).__name__}", code="internal")
            self._failure.__cause__ = error

    def _add(self, data: bytes, *, cut: bool) -> None:
        """Write the line of a message, or count the rejection. Raises: StoreError."""
        try:
            message = self._checked(data, cut=cut)
            if message.get("kind") in _KINDS:
                self._notice(_NOTICE.decode(data))
            else:
                self._write(message)
            self._seqs[message["writer"]] = message["seq"] + 1
        except (ValueError, UnicodeError, RecursionError) as error:  # msgspec's errors are ValueErrors
            self._rejected += 1
            self._problem(f"message {self._messages}: {error}")

    def _checked(self, data: bytes, *, cut: bool) -> dict[str, Any]:
        """Decode and check a message: it must belong to this run and have the next number. Raises: ValueError."""
        message: Any = None if cut else msgspec.json.decode(data)
        writer = message.get("writer") if isinstance(message, dict) else None
        seq = message.get("seq") if isinstance(message, dict) else None
        expected = self._seqs.get(writer, 0 if len(self._seqs) < WRITERS_MAX else -1) if isinstance(writer, str) else -1
        wrong = (
            f"the message is longer than {MESSAGE_BYTES_MAX} bytes" if cut
            else "the message is not an object" if not isinstance(message, dict)
            else "the message has no sender - at `$.writer`" if not isinstance(writer, str)
            else "the message belongs to another run - at `$.run_id`" if message.get("run_id") != self._run_id
            else "the message is out of sequence - at `$.seq`" if isinstance(seq, bool) or seq != expected
            else "the message has a member that only archives have - at `$.redacted`" if "redacted" in message
            else None
        )  # fmt: skip
        if wrong is not None:
            raise ValueError(wrong)
        assert isinstance(message, dict)
        return message

    def _notice(self, notice: _Hooked | _NotHooked) -> None:
        if isinstance(notice, _Hooked):
            self._hooked.add(notice.writer)
        else:
            self._problem(f"{notice.sdk} {notice.version}: the shim could not hook in: {notice.why}")

    def _write(self, message: dict[str, Any]) -> None:
        writer = message["writer"]
        now = max(self._clock.now_us(), self._last_us + 1)
        number = self._lines.get(writer, 0)
        if "arguments" in message and not _has_canonical_form(message["arguments"]):
            message = {name: value for name, value in message.items() if name != "arguments"}
            self._problem(f"message {self._messages}: its arguments have no canonical form, and are left out")
        line = {**message, "schema": _SCHEMA, "seq": self._records, "writer_seq": number, "ts": now}
        _RECORD.decode(msgspec.json.encode(line))
        for name in ("arguments", "error", "tool", "tool_call_id"):
            if name in line:
                line[name] = self._redactor.redact(line[name], ())
        written = canonical(line) + b"\n"
        if self._bytes + len(written) > self._layer_bytes:
            self._dropped += 1
            return
        if self._fd < 0:
            self._disk.make_directory(self._path.parent)
            self._fd = self._disk.open_append(self._path)
        self._disk.write(self._fd, written)
        self._digest.update(written)
        self._bytes += len(written)
        self._last_us, self._records, self._lines[writer] = now, self._records + 1, number + 1

    def _problem(self, text: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(self._redactor.redact_text(text[:500]))


def _has_canonical_form(value: Any) -> bool:
    """False for example for an integer beyond 2^53 - 1."""
    try:
        canonical(value)
    except CanonicalError:
        return False
    return True
