"""Slow, silent and countless clients hold up nobody else; nothing gets out past the proxy, nor without it."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from interlock.isolation.egress import background
from interlock.isolation.egress.client import CLOSE_S, Egress, Policy, Traffic, Watch
from interlock.isolation.egress.wire import FINISH_S


def test_silent_and_slow_clients_do_not_hold_up_others(boxes, serve):
    port = serve()
    code = f"""
import socket, subprocess
held = []
for i in range(200):
    s = socket.create_connection(("127.0.0.1", 3128)); held.append(s)
    stalled = b"CONNECT index.test:{port} HTTP/1.1\\r\\n\\r\\n\\x16\\x03\\x01\\x40"
    s.sendall((b"", b"CONN", b"GET http://index.test/ HTTP/1.1\\r\\nA: b", stalled)[i % 4])
for i in range(50):
    s = socket.create_connection(("127.0.0.1", 53)); s.sendall(b"\\x00"); held.append(s)
    s = socket.create_connection(("127.0.0.1", 80)); held.append(s)
print(subprocess.run(["curl", "-sS", "-m", "8", "http://index.test:{port}/quick"], capture_output=True, text=True))
"""
    ran = boxes().python(code, hosts=[f"index.test:{port}"])
    assert "/quick" in ran.out, ran


def test_a_name_that_never_resolves_holds_up_nobody(boxes, serve):
    port = serve()
    code = f"""
import socket, subprocess
held = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(40)]
for s in held[:7]: s.sendall(b"CONNECT slow.test:{port} HTTP/1.1\\r\\n\\r\\n")
print(subprocess.run(["curl", "-sS", "-m", "8", "http://index.test:{port}/quick"], capture_output=True, text=True))
"""
    ran = boxes({"slow.test": "hang"}).python(code, hosts=[f"index.test:{port}", f"slow.test:{port}"])
    assert "/quick" in ran.out, ran


def test_one_action_does_not_hold_up_another(boxes, serve):
    """Names that hang and clients that stall in one box, a request in another."""
    port = serve()
    box = boxes({"slow.test": "hang"})
    stall = f"""
import socket, time
held = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(100)]
for s in held: s.sendall(b"CONNECT slow.test:{port} HTTP/1.1\\r\\n\\r\\n")
print("stalled", flush=True); time.sleep(60)
"""

    async def both():
        slow = asyncio.ensure_future(box.start(sys.executable, "-c", stall, hosts=[f"slow.test:{port}"], timeout=60))
        await asyncio.sleep(0)
        quick = await box.start("curl", "-sS", "-m", "10", f"http://index.test:{port}/", hosts=[f"index.test:{port}"])
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return quick

    assert asyncio.run(both()).code == 0


@pytest.mark.slow
def test_a_thousand_connections_at_once(boxes, listen):
    def echo(sock):
        with sock:
            while data := sock.recv(4096):
                sock.sendall(data)

    port = listen(echo)
    code = f"""
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = [socket.create_connection(("index.test", {port})) for _ in range(1000)]
for i, s in enumerate(held): s.sendall(b"%06d" % i)
for i, s in enumerate(held): s.settimeout(20); assert s.recv(10) == b"%06d" % i, i
print("all")
"""
    ran = boxes().python(code, hosts=[f"index.test:{port}"], timeout=28)
    assert ran.out == "all\n", ran
    assert len(ran.connected()) == 1000
    assert {(r["sent"], r["received"]) for r in ran.records("connected")} == {(6, 6)}
    assert ran.traffic.dropped == 0


def test_connections_beyond_the_bound_are_counted_together(boxes, listen):
    port = listen(lambda sock: sock.close())
    code = f"""
import socket
for i in range(1100):
    s = socket.create_connection(("index.test", {port})); s.recv(1); s.close()
for i in range(30):
    s = socket.create_connection(("127.0.0.1", 3128)); s.sendall(b"CONNECT evil.test:1 HTTP/1.1\\r\\n\\r\\n")
    s.recv(100); s.close()
"""
    ran = boxes().python(code, hosts=[f"index.test:{port}"])
    assert len(ran.connected()) == 1100, ran.code
    assert len(ran.records("connected")) == 1001
    assert sum(r["count"] for r in ran.records("refused")) == 30
    assert len(ran.records("refused")) == 2


def test_nothing_leaves_if_the_proxy_dies(boxes, listen):
    box = boxes()
    seen = []

    def note(sock):
        with sock:
            while data := sock.recv(100):
                seen.append(data)
                if data == b"first":
                    os.kill(box.egress.pid, signal.SIGKILL)

    port = listen(note)
    code = f"""
import socket, time
s = socket.create_connection(("index.test", {port})); s.sendall(b"first")
try:
    while s.recv(1): pass
    print("end")
except OSError as error: print(error)
for where in (("index.test", {port}), ("127.0.0.1", 3128), ("198.18.0.1", {port}), ("127.0.0.1", {port})):
    try: socket.create_connection(where, 5).sendall(b"second"); print("connected")
    except OSError as error: print(error)
"""
    ran = box.python(code, hosts=[f"index.test:{port}"])
    assert "connected" not in ran.out, ran
    assert seen == [b"first"]
    assert ran.traffic.lost
    again = box.python(f"import socket; socket.create_connection(('index.test', {port}))", hosts=[f"index.test:{port}"])
    assert again.code == 0, "the next action gets a new proxy"
    assert not again.traffic.lost


def test_the_proxy_ends_with_its_runtime_however_that_ends(tmp_path):
    code = """
import asyncio, os, signal, sys
from interlock.isolation.egress.client import Egress, Policy
async def main():
    egress = Egress(); watch = egress.watch(Policy())
    import socket, json
    listener = socket.create_server(("127.0.0.1", 0))
    socket.send_fds(watch.inside, [json.dumps([["proxy", 1]]).encode()], [listener.fileno()])
    client = socket.create_connection(listener.getsockname())
    while egress.pid is None: await asyncio.sleep(0.01)
    print(egress.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with process.stdout:
        pid = int(process.stdout.readline())
        pidfd = os.pidfd_open(pid)
        process.kill()
        process.wait()
    until = time.monotonic() + 20
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll((until - time.monotonic()) * 1000), "the proxy outlived its runtime"
    os.close(pidfd)


def test_a_proxy_that_does_not_answer_is_given_up_and_its_action_dropped(monkeypatch):
    """The runtime waits longer than the proxy may pass on what programs had sent, and not for ever."""
    assert background._ANSWER_S > CLOSE_S > FINISH_S
    monkeypatch.setattr(background, "_ANSWER_S", 0.2)
    dropped_by = queue.SimpleQueue()
    drop = Watch.drop

    def noted(watch):
        drop(watch)
        dropped_by.put(threading.current_thread().name)

    monkeypatch.setattr(Watch, "drop", noted)
    egress = Egress([sys.executable, "-c", "import time; time.sleep(60)"])
    thread = background.WatchThread(egress)
    watch = asyncio.run(thread.watch(Policy()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        inside = socket.socket(fileno=os.dup(watch.inside))
        with inside, socket.create_connection(listener.getsockname()):
            socket.send_fds(inside, [json.dumps([["proxy", 1]]).encode()], [listener.fileno()])
            assert watch.finish() == Traffic(lost=True)
            assert dropped_by.get(timeout=20) == "interlock-egress", "only its own thread may touch it"
            assert egress.pid is not None
    thread.close()
    egress.close()


def test_an_action_that_uses_no_network_starts_no_proxy(boxes):
    box = boxes()
    assert box.run("true", hosts=["index.test:80"]).traffic.records == ()
    assert box.egress.pid is None


def test_the_proxy_holds_neither_environment_nor_descriptors_of_the_runtime(boxes, serve, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "not for the proxy")
    port = serve()
    box = boxes()
    box.run("curl", "-sS", f"http://index.test:{port}/", hosts=[f"index.test:{port}"])
    if os.geteuid() == 0:  # it is not dumpable, so its own user cannot look
        environment = Path(f"/proc/{box.egress.pid}/environ").read_bytes()
        assert b"API_TOKEN" not in environment
    else:
        with pytest.raises(PermissionError):
            os.listdir(f"/proc/{box.egress.pid}/fd")


def test_the_listeners_are_closed_after_a_cancelled_action():
    async def run():
        egress = Egress()
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(3):
            watch = egress.watch(Policy())
            watch.drop()
            watch.drop()
            assert (await egress.watch(Policy()).finish()).records == ()
        assert set(os.listdir("/proc/self/fd")) == before
        egress.close()

    asyncio.run(run())


def test_policies_are_asked_about_each_connection_and_their_failure_refuses(boxes, serve):
    port = serve()
    asked = []

    def judge(there):
        asked.append(str(there))
        if there.host == "other.test":
            return "policy_denied"
        if there.host == "broken.test":
            raise RuntimeError("a bug")
        return None

    hosts = [f"*.test:{port}"]
    box = boxes({"broken.test": ["127.0.0.1"]})
    code = f"curl -s http://index.test:{port}/ http://other.test:{port}/ http://broken.test:{port}/ http://index.test:{port}/"
    ran = box.run("sh", "-c", code + "; true", hosts=hosts, ask=judge)
    assert ran.refused() == {(f"other.test:{port}", "policy_denied"), (f"broken.test:{port}", "policy_error")}
    assert set(ran.connected()) == {f"index.test:{port}"}
    assert set(asked) == {f"{name}.test:{port}" for name in ("index", "other", "broken")}


SOCKETS = """
import errno, socket, sys
kinds = {
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("9.9.9.9", 9999)) and connect_udp(),
    "tcp": lambda: socket.create_connection(("9.9.9.9", 8443), 5),
    "mptcp": lambda: connect(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)),
    "fast open": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).sendto(b"x", 0x20000000, ("9.9.9.9", 8443)),
}
def connect(s): s.settimeout(5); s.connect(("9.9.9.9", 8443))
def connect_udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
    s.connect(("9.9.9.9", 9999)); s.send(b"x"); return s.recv(1)
for name, attempt in kinds.items():
    try: attempt(); print(name, "got out")
    except OSError as error: print(name, errno.errorcode.get(error.errno))
"""


def test_other_ways_out_end_at_once(boxes):
    """UDP, MPTCP, fast open, ports that nobody named: refused at once, not after a time-out."""
    ran = boxes().python(SOCKETS, hosts=["index.test:80"])
    assert ran.out.splitlines() == [
        "udp ECONNREFUSED",
        "tcp ECONNREFUSED",
        "mptcp ECONNREFUSED",
        "fast open ECONNREFUSED",
    ], ran
