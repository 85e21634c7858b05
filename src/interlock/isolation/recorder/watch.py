"""The recorder of one action: a process of its own, which the kernel asks before each recorded call. Standard library only.

It is forked by the fork server, so it stands outside of the walls, and reads the arguments of the calls from the memory of the
processes. It answers `go on` and writes a record; it refuses only what it could not read. Records are attempts: another thread
can change the arguments after they were read, and the walls decide on what the kernel then finds.

Its records go to the runtime through a pipe, where they are redacted and written to the layer. If the pipe is full, calls wait:
memory is bounded. If the recorder ends, the kernel fails all recorded calls (ENOSYS), and the supervisor ends the tree: nothing
runs unseen.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import time
from json.encoder import encode_basestring as quote
from typing import Final

from interlock.isolation import syscalls
from interlock.isolation.recorder.attach import LISTENER
from interlock.isolation.recorder.calls import CHANGES_LINKS, EXECS, READERS, Seen, argv_members
from interlock.isolation.recorder.filter import CALLS
from interlock.isolation.recorder.places import Places

DONE: Final = b"done"
"""To the supervisor: all that was recorded has gone, and so do I. The end of the channel without it is a loss."""
_RECEIVE, _SEND, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104
_SYNC_WAKE_UP: Final = 1
_CONTINUE: Final = 1
_NOTIFICATION: Final = struct.Struct("<QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("<QqiI")
_FLUSH_LINES: Final = 128
_ANNOUNCEMENT_BYTES: Final = 256 * 1024
_IDLE_MS: Final = 50
_TASKS_S: Final = 1.0
_TASKS_MAX: Final = 4096


def record(channel: socket.socket, out: int, profile: str) -> None:
    """Record until every process under the filter has gone. `channel` leads to the supervisor, `out` to the runtime."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    message, fds, _, _ = socket.recv_fds(channel, 64, 1, socket.MSG_CMSG_CLOEXEC)
    recorder = Recorder(fds[0] if message == LISTENER and fds else -1, out, channel)
    recorder.say("recorder_started", f'"mechanism":"notify","profile":"{profile}","calls":[{_names()}]')
    if fds:
        recorder.loop()
    recorder.finish()
    with contextlib.suppress(OSError):
        channel.send(DONE)


class Recorder:
    """The loop, and what it knows of the processes."""

    def __init__(self, listener: int, out: int, channel: socket.socket) -> None:
        """`listener` is what the kernel asks on; announcements come on `channel`."""
        self._listener = listener
        self._channel = channel
        self._out = out
        self._places = Places()
        self._lines: list[str] = []
        self._last = ""
        self._last_head = ""
        self._count = 0
        self._tasks: dict[int, tuple[int, int]] = {}
        self._tasks_until = 0.0
        self._seen: dict[int, None] = {}
        self.calls = 0
        self.refused = 0
        with contextlib.suppress(
            OSError
        ):  # Linux 6.6: the two take turns on one processor, without an interrupt to another
            fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)

    def loop(self) -> None:
        """Until no process is left."""
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        names = {number: name for name, number in syscalls.NUMBER.items() if name in READERS}
        listener, buffer, zero = self._listener, bytearray(_NOTIFICATION.size), bytes(_NOTIFICATION.size)
        ioctl, unpack, poll = fcntl.ioctl, _NOTIFICATION.unpack_from, poller.poll
        while True:
            ready = poll(_IDLE_MS if self._lines or self._count else None)
            if not ready:
                self._flush()
                continue
            if not ready[0][1] & select.POLLIN:
                return
            buffer[:] = zero
            try:
                ioctl(listener, _RECEIVE, buffer)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):  # it was interrupted before it was received
                    continue
                raise
            number, pid, _, call, _, _, *arguments = unpack(buffer)
            self._answer(number, pid, names[call], tuple(arguments))

    def _answer(self, number: int, pid: int, name: str, arguments: tuple[int, ...]) -> None:
        """Read a call, let it go on, write its records."""
        answer, seen, shown = 0, tuple[Seen, ...](), list[str]()
        try:
            self._places.look_at(pid)
            task = self._task(pid, anew=name in EXECS)
            seen = READERS[name](self._places, pid, arguments)
            if name in CHANGES_LINKS:  # afterwards the path may lead elsewhere
                shown = [self._shown(one) for one in seen]
        except OSError as error:
            task = self._tasks.get(pid, (pid, 0))
            if name in EXECS and (announced := self._announced()) is not None:
                seen = (announced,)
            else:
                answer = error.errno or errno.EFAULT
        try:
            fcntl.ioctl(self._listener, _SEND, _RESPONSE.pack(number, 0, -answer, 0 if answer else _CONTINUE))
        except OSError as error:
            if error.errno == errno.ENOENT:  # the process has been killed: the call is not made
                return
            raise
        if name in CHANGES_LINKS:
            self._places.forget()
        if answer:
            self.refused += 1
            refusal = f'"outcome","error":"{errno.errorcode.get(answer, str(answer))}","unreadable":true'
            self._add(pid, task, name, refusal, "")
        for more in shown or (self._shown(one) for one in seen):
            self._add(pid, task, name, '"attempt"', more)

    def _announced(self) -> Seen | None:
        """The program that the supervisor is about to start: its child cannot be read until it is that program."""
        try:
            told = json.loads(self._channel.recv(_ANNOUNCEMENT_BYTES, socket.MSG_DONTWAIT))
        except (OSError, ValueError):
            return None
        return Seen(
            told["path"], True, told["real"], None, argv_members(map(os.fsencode, told["argv"]), cut=told["cut"])
        )

    def _shown(self, seen: Seen) -> str:
        if seen.path is None:
            return seen.more
        shown = f',"path":{_text(seen.path)}'
        real = seen.real if seen.real is not None else self._places.real(seen.path, follow=seen.follow)
        if real is not None and real != seen.path:
            shown += f',"real":{_text(real)}'
        if seen.to is not None:
            shown += f',"to":{_text(seen.to)}'
        return shown + seen.more

    def _add(self, tid: int, task: tuple[int, int], name: str, grade: str, more: str) -> None:
        self.calls += 1
        pid, parent = task
        first = ""
        if name in EXECS or pid not in self._seen:
            if len(self._seen) > _TASKS_MAX:
                self._seen.clear()
            self._seen[pid] = None
            first = f'"parent":{parent},'
        body = f'"pid":{pid},"tid":{tid},{first}"call":"{name}","grade":{grade}{more}'
        if body == self._last:
            self._count += 1
            return
        self._put()
        self._last, self._count = body, 1
        self._last_head = f'{{"kind":"call","ts":{time.time_ns() // 1000},"mono":{time.monotonic_ns()},'
        if len(self._lines) >= _FLUSH_LINES:
            self._write()

    def _put(self) -> None:
        if self._count:
            times = f',"count":{self._count}' if self._count > 1 else ""
            self._lines.append(f"{self._last_head}{self._last}{times}}}\n")
            self._last, self._count = "", 0

    def _flush(self) -> None:
        self._put()
        self._write()

    def _write(self) -> None:
        """Raises: OSError if the runtime has gone."""
        data = memoryview("".join(self._lines).encode("utf-8", "backslashreplace"))
        self._lines.clear()
        while data:
            data = data[os.write(self._out, data) :]

    def say(self, kind: str, members: str) -> None:
        """Write a record that is not of a call."""
        self._put()
        head = f'{{"kind":"{kind}","ts":{time.time_ns() // 1000},"mono":{time.monotonic_ns()},'
        self._lines.append(f"{head}{members}}}\n")
        self._write()

    def finish(self) -> None:
        """The last record. `dropped` is the writer's to fill in."""
        self.say("recorder_ended", f'"calls":{self.calls},"dropped":0,"refused":{self.refused}')

    def _task(self, tid: int, *, anew: bool) -> tuple[int, int]:
        """The process of a thread, and its parent. Not remembered for long: numbers are used again. Raises: OSError."""
        now = time.monotonic()
        if now > self._tasks_until or len(self._tasks) > _TASKS_MAX:
            self._tasks.clear()
            self._tasks_until = now + _TASKS_S
        known = None if anew else self._tasks.get(tid)
        if known is None:
            with open(f"/proc/{tid}/status", "rb") as file:
                head = file.read(1024)
            known = self._tasks[tid] = _number(head, b"\nTgid:"), _number(head, b"\nPPid:")
        return known


def _number(text: bytes, name: bytes) -> int:
    at = text.index(name) + len(name)
    return int(text[at : text.index(b"\n", at)])


def _text(text: str) -> str:
    """A path as JSON; bytes that are not UTF-8 are shown by their numbers."""
    if not text.isascii():
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return quote(text)


def _names() -> str:
    return ",".join(f'"{name}"' for name in CALLS if name in syscalls.NUMBER)
