"""The recorder of an action, by seccomp user notification: real programs in every profile, and what tries to go past it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from interlock.isolation import syscalls
from interlock.isolation.recorder.calls import READERS
from interlock.isolation.recorder.filter import CALLS, program
from interlock.isolation.wire import RECORD
from interlock.model.kernel_layer import KernelCall, RecorderEnded, RecorderStarted, decode_record

PROFILES = ["none", "nons", "ns"]
PYTHON = str(Path(sys.base_prefix) / "bin" / "python3")
every = pytest.mark.parametrize("bench", PROFILES, indirect=True)
NAMES = {
    "run_id": "r",
    "proposal": "p",
    "action": "a",
    "attempt": 1,
    "recorder": "k",
    "schema": "interlock.layer.kernel.v1",
}


class Recorded:
    """What a program did: the outcome, and its records, decoded as lines of the layer."""

    def __init__(self, outcome, data):
        self.outcome = outcome
        found = [json.loads(line) for line in data.splitlines()]
        self.records = [decode_record(json.dumps({**NAMES, "seq": n, **r}).encode()) for n, r in enumerate(found)]
        self.calls = [record for record in self.records if isinstance(record, KernelCall)]

    def of(self, name):
        return [call for call in self.calls if call.call == name]

    def at(self, path):
        return [call for call in self.calls if path in (call.path, call.real)]


async def record(bench, *argv, during=None):
    reader, writer = os.pipe()
    data = []
    taking = threading.Thread(target=lambda: data.extend(iter(lambda: os.read(reader, 1 << 16), b"")))
    taking.start()
    cwd = os.open(bench.root, os.O_PATH)
    try:
        work = asyncio.ensure_future(bench.server.run(bench.request(*argv), cwd=cwd, descriptors={RECORD: writer}))
        if during is not None:
            await asyncio.to_thread(during)
        outcome = await work
    finally:
        os.close(cwd)
        os.close(writer)
        await asyncio.to_thread(taking.join)
        os.close(reader)
    return Recorded(outcome, b"".join(data))


def run(bench, *argv, **more):
    return asyncio.run(record(bench, *argv, **more))


def python(bench, script, **more):
    return run(bench, PYTHON, "-S", "-c", script, **more)


@every
def test_programs_files_and_links_are_recorded_with_their_real_paths(bench):
    (bench.root / "file").write_text("x")
    done = run(
        bench,
        "/bin/sh",
        "-c",
        "mkdir d && cd d && ln -s ../file link && cat link && mv link other && rm other; echo hi > new",
    )
    assert done.outcome.report["exit_code"] == 0
    top = str(bench.root)
    started, ended = done.records[0], done.records[-1]
    assert isinstance(started, RecorderStarted)
    assert started.profile == bench.profile
    assert isinstance(ended, RecorderEnded)
    assert ended.calls == sum(call.count for call in done.calls)
    assert done.of("execve")[0].argv[:2] == ("/bin/sh", "-c")
    (link,) = [call for call in done.at(f"{top}/file") if call.path == f"{top}/d/link"]
    assert (link.access, link.real) == ("read", f"{top}/file")
    (made,) = done.of("symlinkat")
    assert (made.path, made.to) == (f"{top}/d/link", "../file")
    (moved,) = [call for call in done.calls if call.call.startswith("rename")]
    assert (moved.path, moved.to) == (f"{top}/d/link", f"{top}/d/other")
    (removed,) = done.of("unlinkat")
    assert removed.path == f"{top}/d/other"
    (new,) = done.at(f"{top}/d/new")
    assert (new.access, new.flags, new.mode) == ("write", ("create", "truncate"), 0o666)


@every
def test_relative_paths_start_from_the_directory_that_is_named(bench):
    (bench.root / "d").mkdir()
    (bench.root / "d" / "file").write_text("x")
    assert len(python(bench, "import os; os.chdir('d'); open('file')").at(f"{bench.root}/d/file")) == 1
    done = python(
        bench,
        "import os; d = os.open('d', os.O_RDONLY); os.open('file', os.O_RDONLY, dir_fd=d); open('/dev/fd/%d' % d + '/file')",
    )
    assert len(done.at(f"{bench.root}/d/file")) >= 1


@every
def test_each_thread_and_each_short_lived_process_is_recorded(bench):
    script = (
        "import os, subprocess, threading\n"
        "def work():\n"
        "    for number in range(50): os.close(os.open('/dev/null' if number % 2 else '/dev/zero', os.O_RDONLY))\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "for one in threads: one.start()\n"
        "for one in threads: one.join()\n"
        "for _ in range(60): subprocess.run(['/bin/true'])\n"
    )
    done = python(bench, script)
    opened = [call for path in ("/dev/null", "/dev/zero") for call in done.at(path) if call.access == "read"]
    assert sum(call.count for call in opened) >= 400
    assert len({call.pid for call in opened}) == 1
    assert len({call.tid for call in opened}) == 8
    assert len([call for call in done.of("execve") if call.argv == ("/bin/true",)]) == 60


@every
def test_a_program_in_memory_is_recorded_when_it_is_executed(bench):
    script = (
        "import os\n"
        "fd = os.memfd_create('hidden'); os.write(fd, open('/bin/true', 'rb').read())\n"
        "pid = os.fork()\n"
        "if pid == 0: os.execve(fd, ['innocent'], {})\n"
        "os._exit(os.waitpid(pid, 0)[1])"
    )
    done = python(bench, script)
    assert done.outcome.report["exit_code"] == 0
    (call,) = done.of("execveat")
    assert "memfd:hidden" in call.path
    assert call.argv == ("innocent",)


@every
def test_what_cannot_be_read_is_refused_and_a_process_cannot_make_itself_unreadable(bench):
    script = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.open(ctypes.c_void_p(8), 0) == -1 and ctypes.get_errno() == 14\n"
        "assert libc.prctl(4, 0, 0, 0, 0) == 0\n"  # PR_SET_DUMPABLE
        "os.open('/dev/full', os.O_WRONLY)\n"
    )
    done = python(bench, script)
    assert done.outcome.report["exit_code"] == 0, done.outcome.stderr
    (refused,) = [call for call in done.calls if call.unreadable]
    assert (refused.grade, refused.error) == ("outcome", "EFAULT")
    assert done.records[-1].refused == 1
    assert [call.access for call in done.at("/dev/full")] == ["write"]


@pytest.mark.parametrize("bench", ["none", "ns"], indirect=True)
def test_addresses_are_recorded_and_sends_without_one_are_not(bench):
    script = (
        "import contextlib, socket\n"
        "with contextlib.suppress(OSError): socket.socket().connect(('127.0.0.1', 9))\n"
        "one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "with contextlib.suppress(OSError): one.sendto(b'x', ('::1', 53))\n"
        "one.connect(('::1', 53)); one.send(b'x')\n"
        "two = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "two.sendmsg([b'x'], [], 0, ('127.0.0.1', 54))\n"
    )
    done = python(bench, script)
    assert [(c.call, c.family, c.host, c.port) for c in done.calls if c.port] == [
        ("connect", "inet", "127.0.0.1", 9),
        ("sendto", "inet6", "::1", 53),
        ("connect", "inet6", "::1", 53),
        ("sendmsg", "inet", "127.0.0.1", 54),
    ]


@every
def test_a_storm_of_signals_repeats_no_record_and_loses_none(bench):
    script = (
        "import os, signal\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)\n"
        "for number in range(400): os.close(os.open(f'f{number}', os.O_CREAT | os.O_WRONLY))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    done = python(bench, script)
    assert done.outcome.report["exit_code"] == 0
    made = [call.path for call in done.calls if re.search(r"/f\d+$", call.path or "")]
    assert made == [f"{bench.root}/f{number}" for number in range(400)]


@every
def test_if_the_recorder_is_killed_the_tree_is_ended(bench):
    def kill_recorder():
        bench.wait_marked(1)
        server = bench.server.pid
        children = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == server]
        # The recorder is the child without children.
        (recorder,) = [
            pid for pid in children if not any(_parent(p) == pid for p in Path("/proc").iterdir() if p.name.isdigit())
        ]
        os.kill(recorder, signal.SIGKILL)

    began = time.monotonic()
    done = run(bench, "/bin/sh", "-c", bench.script("$MARK"), during=kill_recorder)
    assert time.monotonic() - began < 15
    assert done.outcome.report["stopped"] == "recorder_lost"
    assert not isinstance(done.records[-1], RecorderEnded)


@every
def test_the_recorder_that_was_forked_ahead_records_the_next_action(bench):
    script = "mkdir $0 && cd $0 && echo x > file && cat file"
    first = run(bench, "/bin/sh", "-c", script, "one")
    _wait_for_spares(bench, 1)
    second = run(bench, "/bin/sh", "-c", script, "two")
    assert [c.call for c in first.calls] == [c.call for c in second.calls]
    assert [c.path for c in second.at(f"{bench.root}/two/file")] == [f"{bench.root}/two/file"] * 2
    assert isinstance(second.records[0], RecorderStarted)
    assert isinstance(second.records[-1], RecorderEnded)


def test_a_recorder_that_was_forked_ahead_and_killed_is_replaced(bench):
    run(bench, "/bin/true")
    (spare,) = _wait_for_spares(bench, 1)
    os.kill(spare, signal.SIGKILL)
    _wait_for_spares(bench, 0)
    done = run(bench, "/bin/cat", "/etc/passwd")
    assert len(done.at("/etc/passwd")) == 1
    assert isinstance(done.records[-1], RecorderEnded)


def test_a_recorder_that_was_forked_ahead_ends_with_its_server(bench):
    run(bench, "/bin/true")
    (spare,) = _wait_for_spares(bench, 1)
    os.kill(bench.server.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while time.monotonic() < until and _state(spare) not in (None, "Z"):
        time.sleep(0.01)
    assert _state(spare) in (None, "Z")


def _wait_for_spares(bench, count):
    """The children of the server, once there are so many for a while: without an action, a recorder that waits for one."""
    until, before, since = time.monotonic() + 10, None, 0.0
    while True:
        server = bench.server.pid
        found = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == server]
        found = [pid for pid in found if _state(pid) != "Z"]
        if found != before:
            before, since = found, time.monotonic()
        if (len(found) == count and time.monotonic() > since + 0.3) or time.monotonic() > until:
            assert len(found) == count
            return found
        time.sleep(0.01)


def _state(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    return None


def _parent(process):
    with contextlib.suppress(OSError, IndexError):
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    return None


def test_each_recorded_call_can_be_read_and_has_a_number_on_some_machine():
    assert set(READERS) == set(CALLS)
    known = set().union(*(syscalls.numbers(machine) for machine in syscalls.MACHINES))
    assert set(CALLS) <= known
    for machine in syscalls.MACHINES:
        assert len(program(machine)) < 200


MANY_UNDER_WAY = """
import os, resource, socket, threading, time
from interlock.isolation.recorder import attach
if os.getuid() == 0: os.setresuid(65534, 65534, 65534)
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
left, right = socket.socketpair()
try:
    while True: socket.send_fds(left, [b"x"], [0])
except OSError as error:
    assert error.errno == 109, error
def drain():
    time.sleep(0.1)
    for _ in range(10): [os.close(fd) for fd in socket.recv_fds(right, 1, 1)[1]]
threading.Thread(target=drain).start()
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
attach._send(theirs.fileno(), 0)
message, fds, _, _ = socket.recv_fds(ours, 64, 1)
assert (message, len(fds)) == (attach.LISTENER, 1)
"""


def test_the_recorder_is_reached_although_the_user_has_many_descriptors_under_way():
    done = subprocess.run([sys.executable, "-c", MANY_UNDER_WAY], capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr.decode()


@every
def test_a_program_that_is_started_by_vfork_is_read_in_its_own_memory(bench):
    """Until it executes, it has its parent's memory, in which other texts are at the same addresses."""
    script = (
        "import os, sys\n"
        "for number in range(20):\n"
        "    os.close(os.open('parent%d' % number, os.O_CREAT | os.O_WRONLY))\n"
        "    pid = os.posix_spawn('/bin/sh', ['sh', '-c', ': > child%d' % number], {})\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
    )
    done = python(bench, script)
    assert done.outcome.report["exit_code"] == 0, done.outcome.stderr
    made = [call.path.rpartition("/")[2] for call in done.calls if "create" in call.flags]
    assert made == [f"{who}{number}" for number in range(20) for who in ("parent", "child")]


@every
def test_a_thread_that_executes_a_program_is_read_in_its_new_memory(bench):
    script = (
        "import os, threading\n"
        "os.close(os.open('before', os.O_CREAT | os.O_WRONLY))\n"
        "def work():\n"
        "    os.close(os.open('thread', os.O_CREAT | os.O_WRONLY))\n"
        "    os.execv('/bin/sh', ['sh', '-c', ': > after'])\n"
        "threading.Thread(target=work).start()\n"
        "threading.Event().wait()\n"
    )
    done = python(bench, script)
    assert done.outcome.report["exit_code"] == 0
    made = [call.path.rpartition("/")[2] for call in done.calls if "create" in call.flags]
    assert made == ["before", "thread", "after"]


@pytest.mark.parametrize("bench", ["none"], indirect=True)
def test_a_directory_that_is_replaced_by_a_link_leads_elsewhere_at_once(bench):
    """What is known of links holds until a call changes one on the way."""
    script = (
        "import os\n"
        "os.makedirs('a/b'); os.mkdir('c')\n"
        "for name in 'one', 'two': open('c/' + name, 'w').close()\n"
        "open('a/b/one', 'w').close(); open('a/b/one').close()\n"
        "os.rename('a/b', 'a/old'); os.symlink('../c', 'a/b'); open('a/b/two').close()\n"
        "os.unlink('a/b'); os.rename('a/old', 'a/b'); open('a/b/one').close()\n"
    )
    done = python(bench, script)
    assert done.outcome.report["exit_code"] == 0, done.outcome.stderr
    top = str(bench.root)
    read = [
        (call.path, call.real)
        for call in done.calls
        if call.access == "read" and (call.path or "").startswith(f"{top}/a/")
    ]
    assert read == [(f"{top}/a/b/one", None), (f"{top}/a/b/two", f"{top}/c/two"), (f"{top}/a/b/one", None)]


@pytest.mark.parametrize("bench", ["ns"], indirect=True)
def test_of_many_opens_each_is_recorded(bench):
    script = (
        "import os\n"
        "for number in range(10_000):\n"
        "    try: os.open('/nonexistent/%d' % number, os.O_RDONLY)\n"
        "    except OSError: pass\n"
    )
    done = python(bench, script)
    tried = [call.path for call in done.calls if call.path and call.path.startswith("/nonexistent/")]
    assert tried == [f"/nonexistent/{number}" for number in range(10_000)]
    assert done.records[-1].calls == sum(call.count for call in done.calls)


@every
def test_the_interpreter_of_a_script_is_recorded_too(bench):
    for name, line in (("inner", f"#!{PYTHON} -S"), ("outer", "#!./inner")):
        (bench.root / name).write_text(f"{line}\nimport sys; open(sys.argv[-1], 'w')\n")
        (bench.root / name).chmod(0o755)
    done = run(bench, "/bin/sh", "-c", "./no-such-program; ./inner one; ./outer two; ./inner three; exec cat one")
    assert done.outcome.report["exit_code"] == 0, done.outcome.stderr
    python_path = os.path.realpath(PYTHON)
    ran = [call for call in done.calls if call.call == "execve" and call.grade == "outcome"]
    assert [(call.path, call.argv) for call in ran] == [(python_path, None)] * 3
    named = [call.pid for call in done.calls if call.call == "execve" and call.path.endswith(("inner", "outer"))]
    assert [call.pid for call in ran] == named, "each by the process of its script"
    done = run(bench, "./inner", "four")
    assert [call.path for call in done.of("execve") if call.grade == "outcome"] == [python_path]


@every
def test_a_link_that_is_replaced_during_an_exec_does_not_hide_the_program(bench):
    """What runs is read afterwards, so a race about the name is of no use."""
    script = (
        "import os, threading\n"
        "os.symlink('/bin/true', 'link'); os.symlink('/bin/cat', 'other')\n"
        "def swap():\n"
        "    while True: os.rename('link', 'x'); os.rename('other', 'link'); os.rename('x', 'other')\n"
        "threading.Thread(target=swap, daemon=True).start()\n"
        "ran = 0\n"
        "for number in range(30):\n"
        "    if os.fork() == 0:\n"
        "        try: os.execv('link', ['link', 'mark%d' % number])\n"
        "        except OSError: os._exit(0)\n"
        "    os.wait()\n"
        "os._exit(0)\n"
    )
    done = python(bench, script)
    assert done.outcome.report["exit_code"] == 0, done.outcome.stderr
    cat = os.path.realpath("/bin/cat")
    opened = {call.pid for call in done.calls if call.path and "/mark" in call.path and call.access == "read"}
    assert opened, "no race was won or lost: cat never ran"
    assert opened <= {call.pid for call in done.at(cat) if call.call == "execve"}


@pytest.mark.parametrize("bench", ["none"], indirect=True)
def test_a_directory_as_the_root_of_a_path_is_resolved_as_the_kernel_does(bench):
    top = bench.root / "top"
    (top / "etc").mkdir(parents=True)
    (top / "etc/hostname").write_text("inside")
    (top / "link").symlink_to("/etc/../../etc/hostname")
    script = (
        "import ctypes, os, struct\n"
        "def openat2(where, path, flags=0):\n"
        "    how = struct.pack('<QQQ', flags, 0, 0x10)\n"
        f"    fd = ctypes.CDLL(None).syscall({syscalls.NUMBER['openat2']}, where, path, how, len(how))\n"
        "    assert os.read(fd, 9) == b'inside', fd\n"
        "top = os.open('top', os.O_PATH)\n"
        "openat2(top, b'/etc/hostname'); openat2(top, b'../../etc/hostname', os.O_NOFOLLOW); openat2(top, b'link')\n"
    )
    done = python(bench, script)
    assert done.outcome.report["exit_code"] == 0, done.outcome.stderr
    assert [call.real or call.path for call in done.of("openat2")] == [str(top / "etc/hostname")] * 3
    assert not done.at("/etc/hostname")


@pytest.mark.parametrize("bench", ["none"], indirect=True)
def test_mounts_and_other_roots_are_recorded(bench):
    (bench.root / "top").mkdir()
    script = "mount -t tmpfs none top && mkdir top/old && /usr/sbin/chroot top true; true"
    done = asyncio.run(record(bench, "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script))
    top = str(bench.root / "top")
    mounted = {call.path for call in done.calls if call.call in ("mount", "move_mount")}
    assert top in mounted, done.outcome.stderr
    assert [call.path for call in done.of("chroot")] == [top]
