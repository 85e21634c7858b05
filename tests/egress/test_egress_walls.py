"""Behind all walls: names are found by the stub alone, and no kind of socket leads past the proxy."""

from __future__ import annotations

import json
import socket
import sys

import pytest
from egress_walled import Walled


@pytest.fixture
def walled(boxes, tmp_path):
    (tmp_path / "work").mkdir()
    made = Walled(boxes({"db.test": ["127.0.0.1"]}), tmp_path / "work")
    yield made
    made.server.close()


def test_a_program_behind_walls_reaches_a_named_host_and_no_other(walled, serve):
    port = serve()
    code, out, err, traffic = walled.sh(
        f"curl -sS http://index.test:{port}/x; curl -sS http://evil.test:{port}/", hosts=[f"index.test:{port}"]
    )
    assert json.loads(out)["path"] == "/x", err
    assert code != 0
    assert {(r["host"], r["outcome"]) for r in traffic.records} == {
        ("index.test", "connected"),
        ("evil.test", "refused"),
    }


def test_names_are_found_by_the_stub_alone(walled):
    code, out, err, _ = walled.sh(
        "cat /etc/resolv.conf /etc/hosts; grep hosts: /etc/nsswitch.conf; getent ahostsv4 localhost | head -1;"
        "getent ahostsv4 index.test | head -1  # resolvers that leave out families without an address",
        hosts=["index.test:80"],
    )
    assert code == 0, err
    assert out.splitlines()[0] == "nameserver 127.0.0.1"
    assert "hosts: files dns" in out
    assert "198.18.0.1" in out.splitlines()[-1]


ATTEMPTS = """
import errno, os, socket
def tcp(protocol=0, family=socket.AF_INET, address=("9.9.9.9", 8443)):
    s = socket.socket(family, socket.SOCK_STREAM, protocol); s.settimeout(5); s.connect(address)
def fast_open():
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).sendto(b"x", 0x20000000, ("9.9.9.9", 8443))
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect(("9.9.9.9", 443)); s.send(b"x"); s.recv(1)
def packet(): socket.socket(17, socket.SOCK_RAW)
def abstract():
    s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(b"\\0interlock-test-listener".decode())
def path(): s = socket.socket(socket.AF_UNIX); s.connect("/run/interlock-test-listener")
attempts = {
    "tcp": tcp, "tcp6": lambda: tcp(0, socket.AF_INET6, ("2001:4860:4860::8888", 8443)), "mptcp": lambda: tcp(262),
    "sctp": lambda: tcp(132), "fast open": fast_open, "udp": udp, "raw": lambda: socket.socket(2, socket.SOCK_RAW, 1),
    "packet": packet, "vsock": lambda: socket.socket(40, socket.SOCK_STREAM), "alg": lambda: socket.socket(38, 5),
    "bluetooth": lambda: socket.socket(31, 3, 0), "abstract": abstract, "path": path,
}
for name, attempt in attempts.items():
    try: attempt(); print(name, "GOT OUT")
    except OSError as error: print(name, errno.errorcode.get(error.errno, error))
"""


def test_no_kind_of_socket_leads_past_the_proxy(walled, serve):
    port = serve()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0interlock-test-listener")
        listener.listen()
        code, out, err, traffic = walled.run(sys.executable, "-I", "-c", ATTEMPTS, hosts=[f"index.test:{port}"])
    assert code == 0, err
    assert "GOT OUT" not in out
    found = dict(line.rsplit(" ", 1) for line in out.splitlines())
    assert len(found) == 13
    assert {found[name] for name in ("tcp", "tcp6", "fast open", "udp", "abstract")} == {"ECONNREFUSED"}, out
    assert {found[name] for name in ("vsock", "alg", "packet", "bluetooth")} == {"EAFNOSUPPORT"}, out
    assert {found[name] for name in ("mptcp", "sctp")} == {"EPROTONOSUPPORT"}, out
    assert found["raw"] in ("ESOCKTNOSUPPORT", "EPERM"), out
    assert traffic.records == ()


def test_servers_and_clients_within_one_action_work(walled):
    """Own loopback, own AF_UNIX sockets, asyncio, sockets without an address."""
    code = """
import asyncio, os, socket
async def main():
    async def hello(r, w): w.write(await r.read(5)); w.close()
    for address in ("127.0.0.1", "::1"):
        server = await asyncio.start_server(hello, address, 0)
        r, w = await asyncio.open_connection(*server.sockets[0].getsockname()[:2]); w.write(b"hello"); print(await r.read())
    await asyncio.start_unix_server(hello, "/tmp/s"); r, w = await asyncio.open_unix_connection("/tmp/s")
    w.write(b"hello"); print(await r.read())
asyncio.run(main())
a, b = socket.socketpair(); a.send(b"x"); print(b.recv(1))
"""
    code, out, err, _ = walled.run(sys.executable, "-I", "-c", code)
    assert out.split() == ["b'hello'"] * 3 + ["b'x'"], err


def test_a_local_service_by_name_is_a_stated_exception(walled, listen):
    def serve(sock):
        with sock:
            sock.sendall(b"postgres " + sock.recv(10))

    port = listen(serve)
    code = f"""
import socket
for host in ("localhost", "127.0.0.1"):
    s = socket.create_connection((host, {port}), 5); s.send(b"x"); print(s.recv(100))
"""
    _, out, err, traffic = walled.run(sys.executable, "-I", "-c", code, hosts=[f"localhost:{port}"], private=[])
    assert out.split("\n")[:2] == ["b'postgres x'"] * 2, err
    assert [r["host"] for r in traffic.records] == ["localhost"] * 2
