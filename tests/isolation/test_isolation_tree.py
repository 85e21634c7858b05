"""The process tree of an action is gone when the action is, however it ends and whatever its processes did to get away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from interlock.isolation.client import ForkServer, Stopped, fork_server_command
from interlock.model.errors import ToolError

FLIGHTS = {
    "background": "$MARK & ",
    "setsid": "setsid $MARK & ",
    "double fork": "( ( $MARK & ) & ); ",
    "setsid and double fork": "( setsid sh -c '( setsid $MARK & ) &' & ); ",
    "nohup, signals ignored": "trap '' TERM HUP INT; nohup setsid $MARK >/dev/null 2>&1 & ",
    "stopped": "$MARK & sleep 0.1; kill -STOP $!; ",
}

DAEMON = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/")
for fd in range(3): os.close(fd)
os.execvp("sleep", ["sleep", sys.argv[1]])
"""


every_profile = pytest.mark.parametrize("bench", ["ns", "nons", "none"], indirect=True)


@every_profile
@pytest.mark.parametrize("flight", FLIGHTS.values(), ids=FLIGHTS)
def test_gone_after_exit(bench, flight):
    outcome = bench.sh(flight + "sleep 0.1; echo done")
    assert outcome.report["exit_code"] == 0
    assert outcome.stdout == b"done\n"
    assert outcome.report["strays_killed"] >= 1
    assert bench.marked() == []


@every_profile
@pytest.mark.parametrize("flight", FLIGHTS.values(), ids=FLIGHTS)
def test_gone_after_time_out_with_the_partial_output(bench, flight):
    outcome = bench.sh(f"echo partial; {flight} $MARK", timeout_ms=300)
    assert outcome.report["stopped"] == "timeout"
    assert outcome.stdout == b"partial\n"
    assert bench.marked() == []


@every_profile
def test_a_daemon_that_ignores_every_signal_is_gone(bench):
    outcome = bench.run(os.path.realpath(sys.executable), "-c", DAEMON, bench.marker)
    assert outcome.report["exit_code"] == 0
    assert bench.marked() == []


@every_profile
def test_cancellation_ends_the_tree_before_it_is_passed_on(bench):
    async def scene():
        task = asyncio.create_task(bench.start("/bin/sh", "-c", bench.script("echo partial; setsid $MARK & $MARK")))
        while len(bench.marked()) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(Stopped) as stopped:
            await task
        assert bench.marked() == []
        return stopped.value.outcome

    outcome = asyncio.run(scene())
    assert outcome.report["stopped"] == "asked"
    assert outcome.stdout == b"partial\n"


@every_profile
def test_cancelled_twice_is_killed_without_grace(bench):
    async def scene():
        script = bench.script("trap '' TERM; $MARK & while :; do sleep 0.05; done")
        task = asyncio.create_task(bench.start("/bin/sh", "-c", script, grace_ms=60_000))
        while not bench.marked():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    bench.wait_marked(0)


@every_profile
def test_term_comes_first_and_leaves_time_to_tidy_up(bench):
    script = "trap 'echo tidy; exit 3' TERM; echo ready; while :; do sleep 0.02; done"
    outcome = bench.sh(script, timeout_ms=300, grace_ms=5_000)
    assert outcome.stdout == b"ready\ntidy\n"
    assert outcome.report["exit_code"] == 3
    assert outcome.report["stopped"] == "timeout"


@every_profile
def test_kill_follows_when_term_is_ignored(bench):
    outcome = bench.sh("trap '' TERM; while :; do sleep 0.02; done", timeout_ms=200, grace_ms=100)
    assert outcome.report["signal"] == signal.SIGKILL


RUNTIME = """
import asyncio, os, sys
sys.path[:0] = {path!r}
from interlock.isolation.client import ForkServer
async def main():
    server, cwd = ForkServer(launch=lambda: {launch!r}), os.open({cwd!r}, os.O_PATH)
    await asyncio.gather(*(server.run(request, cwd=cwd) for request in {requests!r}))
asyncio.run(main())
"""


BUSY_RUNTIME = """
import asyncio, os, sys, time
sys.path[:0] = {path!r}
from interlock.isolation.client import ForkServer
async def main():
    server, cwd = ForkServer(launch=lambda: {launch!r}), os.open({cwd!r}, os.O_PATH)
    task = asyncio.create_task(server.run({request!r}, cwd=cwd))
    await asyncio.sleep(0)
    time.sleep(60)  # the loop is busy: what the supervisor says stays unread
asyncio.run(main())
"""


@every_profile
def test_gone_when_the_runtime_is_killed_before_it_has_read_anything(bench):
    """A socket whose other end dies with something unread is reset, not closed: that too means that the runtime is gone."""
    request = bench.request("/bin/sh", "-c", bench.script("setsid $MARK & $MARK; sleep 100"), timeout_ms=None)
    program = textwrap.dedent(
        BUSY_RUNTIME.format(path=sys.path, launch=bench.launch, cwd=os.fspath(bench.root), request=request)
    )
    with subprocess.Popen([sys.executable, "-c", program]) as runtime:
        try:
            bench.wait_marked(2)
        finally:
            runtime.kill()
    bench.wait_marked(0)


@every_profile
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_gone_when_the_runtime_is_killed(bench, end):
    scripts = [bench.script(f"trap '' TERM; {flight} $MARK; sleep 100") for flight in FLIGHTS.values()]
    requests = [bench.request("/bin/sh", "-c", script, timeout_ms=None, home=True) for script in scripts]
    program = textwrap.dedent(
        RUNTIME.format(path=sys.path, launch=bench.launch, cwd=os.fspath(bench.root), requests=requests)
    )
    with subprocess.Popen([sys.executable, "-c", program]) as runtime:
        try:
            bench.wait_marked(2 * len(FLIGHTS))
            descendants = _descendants(runtime.pid)
        finally:
            runtime.send_signal(end)
    bench.wait_marked(0)
    until = time.monotonic() + 10
    while any(map(_lives, descendants)):  # fork server, supervisors, shells
        assert time.monotonic() < until
        time.sleep(0.01)


@every_profile
def test_a_killed_fork_server_fails_nothing_that_runs_and_is_replaced(bench):
    async def scene():
        running = asyncio.create_task(bench.start("/bin/sh", "-c", "touch begun; sleep 0.4; echo survived"))
        while not (bench.root / "begun").exists():
            await asyncio.sleep(0.01)
        first = bench.server.pid
        os.kill(first, signal.SIGKILL)
        following = await bench.start("echo", "again")
        assert bench.server.pid != first
        return await running, following

    running, following = asyncio.run(scene())
    assert running.stdout == b"survived\n"
    assert following.stdout == b"again\n"


def slow_server(condition):
    """A fork server that first does what the lines of `condition` say."""
    interpreter, *flags, boot = fork_server_command()
    return ForkServer([interpreter, *flags, f"{condition}\n{boot}"])


def test_requests_in_a_killed_servers_queue_are_taken_up_by_the_next(bench, tmp_path):
    """Nothing had been started, so nothing is done twice."""
    gate = tmp_path / "gate"
    bench.server = slow_server(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)")

    async def scene():
        waiting = [asyncio.create_task(bench.start("/bin/sh", "-c", f"echo {i} >>ran")) for i in range(5)]
        await asyncio.sleep(0.05)  # until they are sent; those that are not find no server
        os.kill(bench.server.pid, signal.SIGKILL)
        gate.touch()
        await asyncio.gather(*waiting)

    asyncio.run(scene())
    assert sorted((bench.root / "ran").read_text().split()) == ["0", "1", "2", "3", "4"]


def test_a_request_is_not_sent_to_a_server_again_that_is_about_to_end(bench, tmp_path):
    """A process that is killed closes the sockets of its requests before its own."""
    once = tmp_path / "once"
    dying = (
        "import os, socket, time\n"
        f"if not os.path.exists({str(once)!r}):\n"
        f"    open({str(once)!r}, 'w').close()\n"
        "    with socket.socket(fileno=os.dup(0)) as channel:\n"
        "        for fd in socket.recv_fds(channel, 64, 16)[1]: os.close(fd)\n"
        "    time.sleep(0.3)\n"
        "    os._exit(0)"
    )
    bench.server = slow_server(dying)
    assert bench.run("echo", "done").stdout == b"done\n"


def test_a_server_that_cannot_start_is_a_clear_error(bench, tmp_path):
    server = ForkServer([sys.executable, "-I", "-S", "-c", "raise SystemExit(1)"])
    cwd = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(ToolError) as error:
            asyncio.run(server.run(bench.request("true"), cwd=cwd))
        assert error.value.code == "spawn_failed"
        with pytest.raises(ToolError) as error:
            asyncio.run(ForkServer(["/nonexistent/python"]).run(bench.request("true"), cwd=cwd))
        assert error.value.code == "spawn_failed"
    finally:
        server.close()
        os.close(cwd)


def test_a_request_nobody_takes_up_can_be_cancelled(bench, tmp_path):
    """The server is slow to come up: what was cancelled meanwhile is not run when it does."""
    gate = tmp_path / "gate"
    bench.server = slow_server(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)")

    async def scene():
        waiting = asyncio.create_task(bench.start("touch", "ran"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.touch()
        await bench.start("true")  # behind it in the queue

    asyncio.run(scene())
    assert not (bench.root / "ran").exists()


# What a program does to the processes that watch over it. They have its user, so it can stop them.
STOPS = {
    "once": "kill -STOP $PPID; ",
    "again and again": "(while kill -STOP $PPID; do :; done) & ",
    "from a session of its own": "(while :; do setsid kill -STOP $PPID; done) & ",
    "the whole group": "kill -STOP -$(ps -o pgid= $PPID | tr -d ' '); ",
    "and deaf to TERM": "trap '' TERM; kill -STOP $PPID; ",
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_a_program_that_stops_its_supervisor_meets_its_time_out(bench, stop):
    outcome = bench.sh(f"echo partial; {stop} setsid $MARK & $MARK", timeout_ms=300)
    assert bench.marked() == []
    assert outcome.report["stopped"] == "timeout"
    assert outcome.stdout == b"partial\n"


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_a_program_that_stops_its_supervisor_is_cancelled(bench, stop):
    async def scene():
        script = bench.script(f"echo partial; {stop} setsid $MARK & $MARK")
        task = asyncio.create_task(bench.start("/bin/sh", "-c", script, timeout_ms=None))
        while len(bench.marked()) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(Stopped) as stopped:
            await task
        assert bench.marked() == []
        return stopped.value.outcome

    outcome = asyncio.run(scene())
    assert outcome.report["stopped"] == "asked"
    assert outcome.stdout == b"partial\n"


def test_cancelled_twice_ends_the_tree_of_a_stopped_supervisor(bench):
    async def scene():
        script = bench.script(f"{STOPS['again and again']} setsid $MARK & $MARK")
        task = asyncio.create_task(bench.start("/bin/sh", "-c", script, timeout_ms=None))
        while len(bench.marked()) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    bench.wait_marked(0)


def test_cancelled_twice_ends_a_tree_that_does_not_end_at_once(bench, monkeypatch):
    monkeypatch.setattr(
        "interlock.isolation.client.end_children_of", lambda supervisor: True
    )  # a kernel that is slow to kill
    test_cancelled_twice_ends_the_tree_of_a_stopped_supervisor(bench)


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_a_stopped_supervisor_does_not_outlive_a_killed_runtime(bench, stop):
    script = bench.script(f"{stop} setsid $MARK & $MARK")
    request = bench.request("/bin/sh", "-c", script, timeout_ms=None, home=True)
    program = textwrap.dedent(
        RUNTIME.format(path=sys.path, launch=bench.launch, cwd=os.fspath(bench.root), requests=[request])
    )
    with subprocess.Popen([sys.executable, "-c", program]) as runtime:
        try:
            bench.wait_marked(2)
            descendants = _descendants(runtime.pid)
        finally:
            runtime.kill()
    bench.wait_marked(0)
    until = time.monotonic() + 10
    while any(map(_lives, descendants)):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_stopped_fork_server_serves_the_next_action(bench):
    bench.sh("kill -STOP $(ps -o ppid= $PPID)")
    assert bench.sh("echo served").stdout == b"served\n"


def test_a_program_that_kills_its_keeper_gains_nothing(bench):
    with pytest.raises(ToolError) as error:
        bench.sh("setsid $MARK & sleep 0.1; kill -9 $PPID; sleep 100")
    assert error.value.code == "process_lost"
    assert not error.value.retryable
    bench.wait_marked(0)


@every_profile
def test_a_supervisor_that_is_killed_in_the_middle_fails_its_action_alone(bench):
    """By somebody outside of the walls, or by the kernel when memory is short."""

    async def scene():
        lost = asyncio.create_task(bench.start("/bin/sh", "-c", bench.script("setsid $MARK & $MARK")))
        while len(bench.marked()) < 2:
            await asyncio.sleep(0.01)
        other = asyncio.create_task(bench.start("/bin/sh", "-c", "read line; echo $line", stdin=b"unharmed\n"))
        (supervisor,) = {_parent(_parent(pid)) for pid in bench.marked()} & set(_children(bench.server.pid))
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(ToolError) as error:
            await lost
        return error.value, await other, await bench.start("echo", "the next")

    error, other, following = asyncio.run(scene())
    assert (error.code, error.retryable) == ("process_lost", False)
    assert "unknown" in error.hint
    bench.wait_marked(0)
    assert other.stdout == b"unharmed\n"
    assert following.stdout == b"the next\n"


@every_profile
def test_with_launcher_and_supervisor_killed_the_action_fails_and_the_next_one_starts(bench):
    async def scene():
        lost = asyncio.create_task(bench.start("/bin/sh", "-c", bench.script("setsid $MARK & $MARK")))
        while len(bench.marked()) < 2:
            await asyncio.sleep(0.01)
        launcher = bench.server.pid
        supervisors = _children(launcher)
        for pid in (launcher, *supervisors):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ToolError) as error:
            await lost
        return error.value, await bench.start("echo", "the next")

    error, following = asyncio.run(scene())
    assert error.code == "process_lost"
    assert following.stdout == b"the next\n"
    # Without namespaces a process that leaves its group has no keeper left that could end it.
    for pid in bench.marked() if bench.profile != "ns" else ():
        os.kill(pid, signal.SIGKILL)
    bench.wait_marked(0)


@every_profile
def test_a_program_that_crashes_leaves_the_launcher_unharmed(bench):
    async def scene():
        await bench.start("true")
        launcher = bench.server.pid
        crashed = await asyncio.gather(*(bench.start("/bin/sh", "-c", "kill -SEGV $$") for _ in range(4)))
        await bench.start("true")
        return crashed, launcher

    crashed, launcher = asyncio.run(scene())
    assert {outcome.report["signal"] for outcome in crashed} == {signal.SIGSEGV}
    assert bench.server.pid == launcher


@every_profile
def test_a_hundred_actions_leave_no_zombie(bench):
    async def scene():
        for _ in range(20):
            await asyncio.gather(*(bench.start("/bin/sh", "-c", "(true &) ; true") for _ in range(5)))

    asyncio.run(scene())
    server = bench.server.pid  # what other tests of this process have left is not what is asked here
    assert server is not None
    zombies = lambda: [pid for pid in _descendants(server) if _state(pid) == "Z"]
    # The answer comes just before the supervisor's end: the server needs a moment to take the last ones away.
    until = time.monotonic() + 10
    while zombies() and time.monotonic() < until:
        time.sleep(0.01)
    assert zombies() == []


@every_profile
def test_more_processes_than_allowed_end_the_tree(bench):
    script = "for i in $(seq 200); do $MARK & done; wait"
    outcome = bench.sh(script, limits={"processes": 16})
    assert (outcome.report["stopped"], outcome.report["exceeded"]) == ("limit", "processes")
    assert bench.marked() == []


@every_profile
def test_a_bomb_of_short_lives_is_swept(bench):
    """Each process forks its successor and ends at once, so there is never anyone to kill for long."""
    program = (
        "import os, time\nend = time.monotonic() + 20\nwhile time.monotonic() < end:\n    if os.fork(): os._exit(0)\n"
    )
    outcome = bench.run(os.path.realpath(sys.executable), "-c", program)
    assert outcome.report["exit_code"] == 0
    assert not outcome.report["strays_left"]


@every_profile
def test_close_ends_the_server(bench):
    bench.run("true")
    pid = bench.server.pid
    bench.server.close()
    assert not _lives(pid)
    assert bench.server.pid is None


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children(pid):
    return [child for child in _descendants(pid) if _parent(child) == pid]


def _descendants(root):
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, front = [], [root]
    while front:
        front = [child for pid in front for child in children.get(pid, [])]
        found += front
    return found


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def _lives(pid):
    return _state(pid) not in (None, "Z")
