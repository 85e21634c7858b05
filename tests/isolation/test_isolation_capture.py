"""Output is drained to its end, kept up to a limit, and nobody who holds a pipe can hang us."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading

import pytest

from interlock.isolation.client import ForkServer
from interlock.isolation.spec import WallSpec
from interlock.isolation.wire import INLINE_BYTES

MIB = 1 << 20

every_profile = pytest.mark.parametrize("bench", ["ns", "nons", "none"], indirect=True)


@every_profile
def test_twenty_megabytes_on_both_streams_are_drained(bench):
    outcome = bench.sh("head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; echo end")
    assert outcome.report["exit_code"] == 0
    assert outcome.report["stdout_bytes"] == 20_000_004
    assert outcome.report["stderr_bytes"] == 20_000_000
    assert outcome.stdout == outcome.stderr == bytes(MIB)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001])
def test_the_limit_is_inclusive(bench, size):
    outcome = bench.sh(f"head -c {size} /dev/zero", keep_bytes=1000)
    assert outcome.report["stdout_bytes"] == size
    assert len(outcome.stdout) == min(size, 1000)


@pytest.mark.parametrize("size", [0, INLINE_BYTES // 2, INLINE_BYTES // 2 + 1, 3 * INLINE_BYTES])
def test_what_is_printed_arrives_whole_however_it_travels(bench, size):
    """Little output comes with the report, more in a file beside it."""
    outcome = bench.sh(f"yes '\n' | head -c {size}; printf 'e\\0\\n' >&2; yes x | head -c {size} >&2")
    assert outcome.stdout == b"\n" * size
    assert outcome.stderr == b"e\0\n" + (b"x\n" * size)[:size]


def test_a_program_that_holds_descriptors_in_flight_does_not_hold_up_the_report_of_another(bench):
    """The kernel counts them for all processes of a user, and refuses more to a process with a lower limit."""
    holds = """
import array, os, socket, time
a, b = socket.socketpair()
fds = array.array("i", [os.open("/dev/null", 0)] * 200)
a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
open("held", "w").close()
while not os.path.exists("release"): time.sleep(0.01)
"""

    async def both():
        holder = asyncio.ensure_future(bench.start(sys.executable, "-c", holds))
        waits = "until test -e held; do sleep 0.01; done; echo held"
        # Without the capabilities of root, which the kernel exempts.
        walls = WallSpec(profile="ns", workspace=os.fspath(bench.root)).wire()
        beside = await bench.start("/bin/sh", "-c", waits, walls=walls, limits={"open_files": 64})
        (bench.root / "release").touch()
        return beside, await holder

    bench.server = ForkServer(launch=lambda: {"namespaces": True, "shown": []})
    beside, holder = asyncio.run(both())
    assert (beside.report["exit_code"], beside.stdout) == (0, b"held\n"), beside
    assert holder.report["exit_code"] == 0, holder


@every_profile
def test_a_flood_is_stopped_at_the_time_out(bench):
    outcome = bench.run("yes", timeout_ms=300)
    assert outcome.report["stopped"] == "timeout"
    assert outcome.stdout == b"y\n" * (MIB // 2)


def test_a_broken_pipe_ends_a_writer_as_in_any_shell(bench):
    outcome = bench.sh("yes | head -1; yes >&1 | true")
    assert outcome.stdout == b"y\n"
    assert outcome.stderr == b""
    assert outcome.report["exit_code"] == 0


@every_profile
def test_twenty_megabytes_of_input_do_not_deadlock(bench):
    data = bytes(range(256)) * (20 * MIB // 256)
    outcome = bench.run("cat", stdin=data, keep_bytes=len(data))
    assert outcome.stdout == data


@every_profile
def test_input_may_be_left_unread(bench):
    outcome = bench.run("head", "-c1", stdin=b"x" * (20 * MIB))
    assert outcome.stdout == b"x"
    assert outcome.report["exit_code"] == 0


@every_profile
def test_input_cannot_be_changed_by_the_program(bench):
    outcome = bench.sh("echo changed >/proc/self/fd/0; cat", stdin=b"as given")
    assert outcome.stdout == b"as given"


def test_without_input_there_is_an_end_of_file(bench):
    assert bench.run("cat").stdout == b""


@every_profile
def test_a_grandchild_that_holds_the_pipe_holds_nothing_up(bench):
    outcome = bench.sh("$MARK & echo hi")
    assert outcome.stdout == b"hi\n"
    assert outcome.report["duration_ms"] < 10_000


def test_a_stranger_that_holds_the_pipe_holds_nothing_up(bench):
    """A process outside the tree gets the pipe by a socket, as it could from any program."""
    address = str(bench.root / "socket")
    held = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()

        def take():
            connection, _ = listener.accept()
            with connection:
                held.extend(socket.recv_fds(connection, 16, 1)[1])

        thread = threading.Thread(target=take)
        thread.start()
        program = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
            "socket.send_fds(s, [b'x'], [1]); s.recv(1); print('done')"
        )
        outcome = bench.run(sys.executable, "-c", program, address)
        thread.join()
    os.close(held[0])
    assert outcome.stdout == b"done\n"


@every_profile
def test_binary_output_comes_back_as_it_was(bench):
    data = bytes(range(256))
    assert bench.run("cat", stdin=data).stdout == data


@every_profile
def test_thirty_two_at_once_keep_their_outputs_apart(bench):
    async def scene():
        return await asyncio.gather(
            *(bench.start("/bin/sh", "-c", "cat; echo err >&2", stdin=b"%d " % i * 50_000) for i in range(32))
        )

    for i, outcome in enumerate(asyncio.run(scene())):
        assert outcome.stdout == b"%d " % i * 50_000
        assert outcome.stderr == b"err\n"


def test_loops_of_several_threads_share_one_server(bench):
    results = {}

    def work(i):
        results[i] = bench.run("echo", str(i)).stdout

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: b"%d\n" % i for i in range(6)}


@every_profile
def test_three_hundred_queued_requests_all_run(bench):
    async def scene():
        return await asyncio.gather(*(bench.start("true") for _ in range(300)))

    assert {outcome.report["exit_code"] for outcome in asyncio.run(scene())} == {0}
