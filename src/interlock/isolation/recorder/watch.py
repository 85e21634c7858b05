"""The recorder of one action: a separate process that the kernel notifies before each recorded call.

The fork server forks it, so it is outside the walls, and it reads the arguments of calls from the processes' memory. It
answers `continue` and writes a record; it refuses only what it cannot read. Records are attempts: another thread can
change the arguments after they were read, and the walls decide on what the kernel then finds.

Its records go to the runtime through a pipe, and are redacted and written to the layer there. If the pipe is full,
calls wait, so memory is bounded. If the recorder ends, the kernel fails all recorded calls (ENOSYS), and the supervisor
ends the tree: nothing runs unrecorded. Uses only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import time
from json.encoder import encode_basestring as quote
from typing import Final, NamedTuple

from interlock.isolation import syscalls
from interlock.isolation.recorder.attach import LISTENER
from interlock.isolation.recorder.calls import CHANGES_LINKS, EXECS, READERS, Seen, argv_members, opened
from interlock.isolation.recorder.executed import Executions, running
from interlock.isolation.recorder.filter import CALLS
from interlock.isolation.recorder.memory import read_text
from interlock.isolation.recorder.places import AT_FDCWD, OWN_BEGINS, Places
from interlock.isolation.wire import receive_message

DONE: Final = b"done"
"""Sent to the supervisor when all records were written and the recorder is about to end.

A channel that ends without it is a loss.
"""
_RECEIVE, _SEND, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104
_SYNC_WAKE_UP: Final = 1
_CONTINUE: Final = 1
_NOTIFICATION: Final = struct.Struct("<QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("<QqiI")
_FLUSH_LINES: Final = 128
_ANNOUNCEMENT_BYTES: Final = 256 * 1024
_TICK_S: Final = 0.05
_KNOWN_NS: Final = 500_000_000
"""How long cached links and processes are valid, because pids are reused, and other programs change files too."""
_TASKS_MAX: Final = 256
"""Maximum number of cached threads, each of which has a descriptor."""
_SEEN_MAX: Final = 4096
_FIRST_BYTES: Final = 256
"""Most paths are shorter."""
_ENDS_WAIT: Final = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 11)
"""From Linux 6.11 on, a recorder that waits for a call is woken when all processes have ended."""
_NAMES: Final = {number: name for name, number in syscalls.NUMBER.items() if name in READERS}
_SHOWN_NAMES: Final = ",".join(f'"{name}"' for name in CALLS if name in syscalls.NUMBER)
_OPENS: Final = {number: name == "openat" for number, name in _NAMES.items() if name in ("open", "openat")}
"""The most frequent calls; True if the first argument is a directory."""


def record(channel: socket.socket, out: int, profile: str) -> None:
    """Record until all processes under the filter have ended. `channel` leads to the supervisor, `out` to the runtime."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    message, fds, _ = receive_message(channel, 64, 1)
    recorder = Recorder(fds[0] if message == LISTENER and fds else -1, out, channel)
    recorder.say("recorder_started", f'"mechanism":"notify","profile":"{profile}","calls":[{_SHOWN_NAMES}]')
    if fds:
        recorder.loop()
    recorder.finish()
    os.close(out)  # the runtime need not wait for the end of this process
    with contextlib.suppress(OSError):
        channel.send(DONE)


def rehearse() -> None:
    """Process some of our own calls, so that the memory pages that a first call touches are copied now."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        Recorder(nowhere, nowhere, channel).rehearse()
    os.close(nowhere)


class _Task(NamedTuple):
    """A thread, as named in records."""

    pid: int
    parent: int
    head: str
    memory: int
    """A descriptor of its memory, or -1."""


class Recorder:
    """The recorder's loop, and its knowledge of the processes."""

    def __init__(self, listener: int, out: int, channel: socket.socket) -> None:
        """`listener` is the notification descriptor; announcements arrive on `channel`."""
        self._listener = listener
        self._channel = channel
        self._out = out
        self._places = Places()
        self._lines: list[str] = []
        self._last = self._last_head = ""
        self._count = 0
        self._tasks: dict[int, _Task] = {}
        self._tasks_until_ns = 0
        self._seen: dict[int, None] = {}
        self._executed = Executions()
        self._waiting = False
        """True while this process waits for a call."""
        self._due = False
        """True if lines have waited long enough."""
        self._ticking = False
        self.calls = 0
        self.refused = 0

    def loop(self) -> None:
        """Run until no process is left."""
        signal.signal(signal.SIGALRM, self._tick)
        with contextlib.suppress(OSError):  # Linux 6.6: program and recorder take turns on one processor
            fcntl.ioctl(self._listener, _SET_FLAGS, _SYNC_WAKE_UP)
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poll = None if _ENDS_WAIT else poller.poll
        buffer, zero = bytearray(_NOTIFICATION.size), bytes(_NOTIFICATION.size)
        listener, ioctl, unpack, answer_open = self._listener, fcntl.ioctl, _NOTIFICATION.unpack_from, self._answer_open
        while True:
            if self._due:
                self._flush()
            buffer[:] = zero
            self._waiting = True
            try:
                if poll is not None:
                    poll()
                ioctl(listener, _RECEIVE, buffer)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    raise
                # The call was interrupted before it was received, or this process was, or all processes have ended.
                if any(event & select.POLLHUP for _, event in poller.poll(0)):
                    return
                continue
            finally:
                self._waiting = False
            number, tid, _, call, _, _, a, b, c, d, e, f = unpack(buffer)
            at = _OPENS.get(call)
            if at is None:
                self._answer(number, tid, _NAMES[call], (a, b, c, d, e, f))
            elif at:
                answer_open(number, tid, "openat", a, b, c, d)
            else:
                answer_open(number, tid, "open", AT_FDCWD, a, b, c)

    def rehearse(self) -> None:
        """Process invented calls of our own, for which nothing waits. Use this recorder for nothing else."""
        path = ctypes.create_string_buffer(b"/proc/self/exe")
        me, at = os.getpid(), ctypes.addressof(path)
        argv = (ctypes.c_uint64 * 2)(at, 0)
        self._ticking = True  # do not start a timer
        for _ in range(2):
            with contextlib.suppress(OSError):  # no call waits for an answer
                self._answer_open(0, me, "openat", AT_FDCWD, at, os.O_RDONLY | os.O_CLOEXEC, 0)
            with contextlib.suppress(OSError):
                self._answer(0, me, "execve", (at, ctypes.addressof(argv), 0, 0, 0, 0))
            self._add(self._task(me), "openat", _members(Seen("/usr/lib/locale"), self._places), time.monotonic_ns())
        self._forget(0)
        self._places.close()
        self.finish()

    def _tick(self, _signal: int, _frame: object) -> None:
        """Flush lines while the program is idle. Runs between two instructions of the loop."""
        if not self._lines and not self._count:
            self._ticking = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        elif self._waiting:
            self._flush()
        else:
            self._due = True

    def _answer_open(self, number: int, tid: int, name: str, start: int, address: int, flags: int, mode: int) -> None:
        """Like `_answer`, for the most frequent calls."""
        places = self._places
        now_ns = time.monotonic_ns()
        if now_ns > self._tasks_until_ns:
            self._forget(now_ns)
        try:
            task = self._tasks.get(tid) or self._task(tid)
            try:
                data = os.pread(task.memory, _FIRST_BYTES, address)
            except (OSError, OverflowError):
                data = b""
            end = data.find(b"\0")
            path = str(data[:end] if end >= 0 else read_text(tid, address), "utf-8", "surrogateescape")
            if path[:1] != "/":
                path = places.join(tid, start, path)
            own = places.own(tid, path) if path[:5] in OWN_BEGINS else None
        except OSError as error:
            self._refuse(number, tid, name, error.errno or errno.EFAULT)
            return
        try:
            fcntl.ioctl(self._listener, _SEND, _RESPONSE.pack(number, 0, 0, _CONTINUE))
        except OSError:  # interrupted, or the process was killed
            if not self._send(number):
                return
        follow, more = opened(flags, mode)
        real = places.real(path, follow=follow) if own is None else own
        shown = f',"path":{_text(path)},"real":{_text(real)}' if real else f',"path":{_text(path)}'
        self._add(task, name, shown + more, now_ns)

    def _answer(self, number: int, tid: int, name: str, arguments: tuple[int, ...]) -> None:
        """Read a call, let it continue, and write its records."""
        now_ns = time.monotonic_ns()
        if now_ns > self._tasks_until_ns:
            self._forget(now_ns)
        shown, stale, before = list[str](), False, None
        try:
            if name in EXECS:  # its parent may have ended by now
                self._forget_task(tid)
            task = self._tasks.get(tid) or self._task(tid)
            seen = READERS[name](self._places, tid, arguments)
            before = running(tid) if name in EXECS else None
            if name in CHANGES_LINKS:  # the path may have a different target afterwards
                shown = [_members(one, self._places) for one in seen]
                stale = any(self._places.changes_links(one.path, one.to) for one in seen)
        except OSError as error:
            announced = _announced(self._channel) if name in EXECS else None
            if announced is None:
                self._refuse(number, tid, name, error.errno or errno.EFAULT)
                return
            task, seen = self._tasks.get(tid) or _unknown(tid), (announced,)
        if name in EXECS:
            seen = (_resolved(seen[0], self._places),)
            self._executed.add(task.pid, name, seen[0].real or "", before)
            # It gets new memory, and an executing thread becomes the first thread of its process.
            self._forget_task(tid)
            self._forget_task(task.pid)
        if not self._send(number):
            return
        if stale:
            self._places.forget()
        for more in shown or (_members(one, self._places) for one in seen):
            self._add(task, name, more, now_ns)

    def _refuse(self, number: int, tid: int, name: str, error: int) -> None:
        """Answer an unreadable call with an error."""
        if self._send(number, error):
            self.refused += 1
            refusal = f',"error":"{errno.errorcode.get(error, str(error))}","unreadable":true'
            task = self._tasks.get(tid) or _unknown(tid)
            self._add(task, name, refusal, time.monotonic_ns(), "outcome")

    def _send(self, number: int, error: int = 0) -> bool:
        """Let a call continue, or answer with an error. Returns False if its process was killed."""
        response = _RESPONSE.pack(number, 0, -error, 0 if error else _CONTINUE)
        while True:
            try:
                fcntl.ioctl(self._listener, _SEND, response)
            except OSError as problem:
                if problem.errno == errno.ENOENT:
                    return False
                if problem.errno != errno.EINTR:  # our own tick
                    raise
            else:
                return True

    def _add(self, task: _Task, name: str, more: str, now_ns: int, grade: str = "attempt") -> None:
        self.calls += 1
        pid = task.pid
        if pid not in self._seen or name in EXECS:
            if len(self._seen) > _SEEN_MAX:
                self._seen.clear()
            self._seen[pid] = None
            body = f'{task.head}"parent":{task.parent},"call":"{name}","grade":"{grade}"{more}'
        else:
            body = f'{task.head}"call":"{name}","grade":"{grade}"{more}'
        if body == self._last:
            self._count += 1
            return
        self._put()
        self._last, self._count = body, 1
        self._last_head = f'{{"kind":"call","ts":{time.time_ns() // 1000},"mono":{now_ns},'
        if len(self._lines) >= _FLUSH_LINES:
            self._write()
        if not self._ticking:
            self._ticking = True
            signal.setitimer(signal.ITIMER_REAL, _TICK_S, _TICK_S)

    def _put(self) -> None:
        if self._count:
            times = f',"count":{self._count}' if self._count > 1 else ""
            self._lines.append(f"{self._last_head}{self._last}{times}}}\n")
            self._last, self._count = "", 0

    def _flush(self) -> None:
        self._due = False
        self._put()
        self._write()

    def _write(self) -> None:
        """Write the lines. Raises: OSError if the runtime has ended."""
        data = memoryview("".join(self._lines).encode("utf-8", "backslashreplace"))
        self._lines.clear()
        while data:
            data = data[os.write(self._out, data) :]

    def say(self, kind: str, members: str) -> None:
        """Write a record that is not about a call."""
        self._put()
        head = f'{{"kind":"{kind}","ts":{time.time_ns() // 1000},"mono":{time.monotonic_ns()},'
        self._lines.append(f"{head}{members}}}\n")
        self._write()

    def finish(self) -> None:
        """Write the last record. The writer fills in `dropped`."""
        self.say("recorder_ended", f'"calls":{self.calls},"dropped":0,"refused":{self.refused}')

    def _task(self, tid: int) -> _Task:
        """Returns the process of a thread, and its parent. Raises: OSError."""
        self._places.look_at(tid)
        if len(self._tasks) >= _TASKS_MAX:
            self._forget(time.monotonic_ns())
        with open(f"/proc/{tid}/status", "rb", buffering=0) as file:
            head = file.read(1024)
        pid = _number(head, b"\nTgid:")
        known = _Task(pid, _number(head, b"\nPPid:"), f'"pid":{pid},"tid":{tid},', _memory_of(tid))
        self._tasks[tid] = known
        other = self._executed.other(pid)
        if other is not None:
            self._add(known, other[0], f',"path":{_text(other[1])}', time.monotonic_ns(), "outcome")
        return known

    def _forget(self, now_ns: int) -> None:
        """Forget the cache, which is valid only for a moment."""
        self._tasks_until_ns = now_ns + _KNOWN_NS
        for tid in list(self._tasks):
            self._forget_task(tid)
        self._places.forget()

    def _forget_task(self, tid: int) -> None:
        task = self._tasks.pop(tid, None)
        if task is not None and task.memory >= 0:
            os.close(task.memory)


def _announced(channel: socket.socket) -> Seen | None:
    """Returns the program that the supervisor is about to start, whose child cannot be read until it has executed it."""
    try:
        fields = json.loads(channel.recv(_ANNOUNCEMENT_BYTES, socket.MSG_DONTWAIT))
    except (OSError, ValueError):
        return None
    return Seen(
        fields["path"],
        True,
        fields["real"],
        None,
        argv_members(map(os.fsencode, fields["argv"]), cut=fields["cut"]),
    )


def _members(seen: Seen, places: Places) -> str:
    """Returns what was read of a call, as JSON members."""
    if seen.path is None:
        return seen.more
    shown = f',"path":{_text(seen.path)}'
    real = seen.real if seen.real is not None else places.real(seen.path, follow=seen.follow)
    if real is not None and real != seen.path:
        shown += f',"real":{_text(real)}'
    if seen.to is not None:
        shown += f',"to":{_text(seen.to)}'
    return shown + seen.more


def _memory_of(tid: int) -> int:
    try:
        return os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _resolved(seen: Seen, places: Places) -> Seen:
    """Returns what an `exec` names, with links resolved."""
    assert seen.path is not None
    return seen if seen.real else seen._replace(real=places.real(seen.path, follow=seen.follow) or seen.path)


def _unknown(tid: int) -> _Task:
    return _Task(tid, 0, f'"pid":{tid},"tid":{tid},', -1)


def _number(text: bytes, name: bytes) -> int:
    at = text.index(name) + len(name)
    return int(text[at : text.index(b"\n", at)])


def _text(text: str) -> str:
    """Returns a path as JSON; bytes that are not UTF-8 are escaped."""
    if not text.isascii():
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return quote(text)
