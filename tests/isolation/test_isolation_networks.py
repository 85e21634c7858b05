"""A network namespace serves the next action only if the one before has left it as it was when it was new."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from interlock.isolation.egress.client import Egress, Policy
from interlock.isolation.networks import BUSY, UNTOUCHED, Networks
from interlock.isolation.spec import WallSpec

NAME = 'print(os.readlink("/proc/self/ns/net"))\n'
COUNTERS = "for name in ('dev', 'snmp', 'snmp6'): print(open('/proc/net/' + name).read())\n"
TOUCHES = {
    "a connection to itself": "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())",
    "a datagram to itself": "s = socket.socket(2, 2); s.sendto(b'x', ('127.0.0.1', 9))",
    "an attempt to leave": "s = socket.socket(); s.connect_ex(('192.0.2.1', 80))",
    "an attempt to leave by IPv6": "s = socket.socket(10); s.connect_ex(('2001:db8::1', 80))",
}


@pytest.fixture
def python(bench):
    """Runs Python source behind the walls of `ns`; returns what it printed."""

    def run(source):
        code = f"import os, socket\n{source}"
        ended = bench.run(os.path.realpath(sys.executable), "-I", "-S", "-c", code)
        assert ended.report["exit_code"] == 0, ended
        while os.path.exists(f"/proc/{ended.report['pid']}"):  # until its namespace is given back
            time.sleep(0.001)
        return ended.stdout.decode()

    return run


pytestmark = pytest.mark.parametrize("bench", ["ns"], indirect=True)


def test_an_action_that_leaves_the_network_alone_leaves_it_to_the_next(python):
    first = python(NAME)
    assert python(NAME + "socket.socket(); socket.create_server(('127.0.0.1', 0)).close()") == first
    assert python(NAME) == first


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_whoever_sends_anything_is_the_last_in_its_namespace(python, touch):
    name, _, new = python(NAME + COUNTERS).partition("\n")
    assert python(NAME + touch).strip() == name
    other, _, counters = python(NAME + COUNTERS).partition("\n")
    assert other != name
    assert counters == new


def test_a_socket_that_is_held_outside_keeps_its_namespace_from_others(python, bench):
    held = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.fspath(bench.root / "outside"))
    server.listen()

    def hold():
        with server, server.accept()[0] as accepted:
            held.extend(socket.recv_fds(accepted, 16, 1)[1])

    outside = threading.Thread(target=hold)
    outside.start()
    give = (
        "own, s = socket.socket(), socket.socket(1); s.connect('outside'); socket.send_fds(s, [b'x'], [own.fileno()])"
    )
    name = python(NAME + give)
    outside.join()
    assert len(held) == 1
    assert python(NAME) != name
    os.close(held[0])


def test_actions_at_the_same_time_never_share_one(bench):
    async def at_once():
        script = "readlink /proc/self/ns/net; sleep 0.5"
        return await asyncio.gather(*(bench.start("/bin/sh", "-c", script) for _ in range(6)))

    for _ in range(2):
        names = {ended.stdout for ended in asyncio.run(at_once())}
        assert len(names) == 6


def test_an_action_whose_supervisor_is_killed_takes_its_namespace_along(bench, python):
    name = python(NAME)

    async def killed():
        task = asyncio.ensure_future(bench.start("/bin/sh", "-c", bench.script("exec $MARK")))
        while not bench.marked():
            await asyncio.sleep(0.01)
        (program,) = bench.marked()
        fields = Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()
        os.kill(int(fields[1]), 9)
        with pytest.raises(Exception, match="killed"):
            await task

    asyncio.run(killed())
    assert python(NAME) != name


def test_only_so_many_wait(bench, monkeypatch):
    monkeypatch.setattr("interlock.isolation.networks._KEPT_MAX", 1)
    networks = Networks()
    before = len(os.listdir("/proc/self/fd"))
    loans = [networks.lend(proxied=False) for _ in range(3)]
    with networks._ours, networks._theirs:
        for loan in loans:
            fd = os.open("/proc/self/ns/net", os.O_RDONLY)
            socket.send_fds(networks._theirs, [b"%d 0\nstate" % loan.number], [fd])
            os.close(fd)
        for loan in loans:
            networks.give_back(loan, UNTOUCHED)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        kept, new = networks.lend(proxied=False).network, networks.lend(proxied=False).network
    assert kept.state == b"state"
    assert new is None
    os.close(kept.fd)


class Proxied:
    """Runs Python source with a proxied network and without any granted host."""

    def __init__(self, bench):
        self.bench = bench
        self.egress = Egress()

    async def start(self, source, watch):
        spec = WallSpec(
            profile="ns",
            workspace=os.fspath(self.bench.root),
            network="proxied",
            egress=watch.inside.fileno(),
            egress_plan={"ports": watch.ports},
        )
        argv = (os.path.realpath(sys.executable), "-I", "-S", "-c", f"import os, socket\n{source}")
        cwd = os.open(self.bench.root, os.O_PATH)
        try:
            request = self.bench.request(*argv, walls=spec.wire())
            ended = await self.bench.server.run(request, cwd=cwd, descriptors=spec.descriptors())
        finally:
            os.close(cwd)
        assert ended.report["exit_code"] == 0, ended
        while os.path.exists(f"/proc/{ended.report['pid']}"):  # until its namespace is given back
            await asyncio.sleep(0.001)
        return ended.stdout.decode()

    def run(self, source):
        async def whole():
            watch = self.egress.watch(Policy())
            printed = await self.start(source, watch)
            return printed, await watch.finish()

        return asyncio.run(whole())

    def settled(self):
        """Run actions until one is lent the namespace of an earlier one, whose sockets the kernel has by then forgotten."""
        seen = set()
        for _ in range(20):
            name, _ = self.run(NAME)
            if name in seen:
                return name
            seen.add(name)
            time.sleep(0.05)
        raise AssertionError(f"no namespace was lent again: {seen}")


@pytest.fixture
def proxied(bench):
    made = Proxied(bench)
    yield made
    made.egress.close()


def test_a_proxied_network_that_was_left_alone_serves_again_and_only_proxied_ones(proxied, python):
    name = proxied.settled()
    assert proxied.run(NAME)[0] == name
    assert python(NAME) != name
    assert proxied.run(NAME)[0] == name


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_a_proxied_network_that_was_touched_never_serves_again(proxied, touch):
    name = proxied.settled()
    before, _ = proxied.run(NAME + COUNTERS)
    assert before.startswith(name)
    _, traffic = proxied.run(touch)
    after, clean = proxied.run(NAME + COUNTERS)
    assert after.partition("\n")[2] == before.partition("\n")[2]  # the kernel may number a new one like a removed one
    assert clean.records == ()
    assert bool(traffic.records) == ("192.0.2.1" in touch or "2001:db8" in touch)


def test_listeners_that_are_still_open_never_serve_the_next_action(proxied):
    name = proxied.settled()
    attempt = "print(socket.socket().connect_ex(('192.0.2.1', 80)))"

    async def overlapping():
        first = proxied.egress.watch(Policy())
        assert await proxied.start(NAME, first) == name
        second = proxied.egress.watch(Policy())
        other = await proxied.start(NAME + attempt, second)
        of_second = await second.finish()
        return other.splitlines(), of_second, await first.finish()

    (other, number), of_second, of_first = asyncio.run(overlapping())
    assert other + "\n" != name
    assert number == "0"  # it reached a listener, its own
    assert [(r["host"], r["outcome"]) for r in of_second.records] == [
        ("192.0.2.1", "refused")
    ]  # which started the proxy
    assert of_first.records == ()
    assert proxied.settled() == name  # nobody inherited its listeners


def test_a_namespace_that_stays_busy_is_removed(bench):
    networks = Networks()
    before = len(os.listdir("/proc/self/fd"))
    with networks._ours, networks._theirs:
        loan = networks.lend(proxied=True)
        fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        socket.send_fds(networks._theirs, [b"%d 10\nstate" % loan.number], [fd])
        os.close(fd)
        networks.give_back(loan, UNTOUCHED)
        assert networks.lend(proxied=False).network is None
        for _ in range(3):
            loan = networks.lend(proxied=True)
            assert loan.network.family == 10
            networks.give_back(loan, BUSY)
        assert networks.lend(proxied=True).network is None
        assert len(os.listdir("/proc/self/fd")) == before
