"""The egress proxy: the cost of a connection and of a megabyte, compared with a direct connection of the same program.

    python benchmarks/egress.py [--quick] [--json]

A client connects to a server on loopback: without walls (direct), behind all walls of profile `ns` through `CONNECT`,
and behind the same walls as a program that does not use a proxy (transparent; the name is looked up each time). The
client measures the time itself, so its start is not included. Client, proxy and server share the cores. In `policy
asked` the runtime decides on each connection, as with policies about `connect`.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import ROUNDS, alternate, options, row, scratch, show

from interlock.isolation.client import ForkServer
from interlock.isolation.egress.client import Egress, Policy
from interlock.isolation.spec import WallSpec

LIMITS = {"memory_bytes": 1 << 30, "file_bytes": 1 << 32, "open_files": 4096, "processes": 64, "cpu_ms": None}
SEARCH = "/usr/local/bin:/usr/bin:/bin"
CONNECTIONS = 200
MEGABYTES = 512

SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0), backlog=1024)
print(server.getsockname()[1], flush=True)
block = bytes(1 << 20)
def serve(sock):
    with sock:
        count = int(sock.recv(16) or b"0")
        sock.sendall(b"x") if not count else [sock.sendall(block) for _ in range(count)]
while True:
    sock, _ = server.accept()
    threading.Thread(target=serve, args=(sock,), daemon=True).start()
"""

CLIENT = """
import socket, sys, time
way, port, connections, megabytes = sys.argv[1], *map(int, sys.argv[2:])
def connect():
    if way == "connect":
        s = socket.create_connection(("127.0.0.1", 3128))
        s.sendall(b"CONNECT localhost:%d HTTP/1.1\\r\\nHost: localhost:%d\\r\\n\\r\\n" % (port, port))
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
        return s
    return socket.create_connection(("127.0.0.1" if way == "direct" else "localhost", port))
begun = time.perf_counter()
for _ in range(connections):
    with connect() as s:
        s.sendall(b"0")
        assert s.recv(1) == b"x"
latency = (time.perf_counter() - begun) / connections
with connect() as s:
    s.sendall(b"%d" % megabytes)
    buffer, left = bytearray(1 << 20), megabytes << 20
    begun = time.perf_counter()
    while left:
        left -= (got := s.recv_into(buffer))
        assert got
    took = (time.perf_counter() - begun) / megabytes
print(latency, took)
"""


class Bench:
    """Runs the client in one of the three ways."""

    def __init__(self, root: Path, port: int, *, quick: bool) -> None:
        self.root = root
        self.port = port
        self.work = (20, 64) if quick else (CONNECTIONS, MEGABYTES)
        self.server = ForkServer(launch=lambda: {"namespaces": True, "shown": [sys.base_prefix, sys.prefix]})
        self.egress = Egress()
        self.megabyte: dict[str, list[float]] = {}

    async def start(self, way: str) -> float:
        hosts = ((f"localhost:{self.port}",),)
        asked = way == "connect, policy asked"
        watch = (
            None if way == "direct" else self.egress.watch(Policy((hosts,), (), (lambda _: None) if asked else None))
        )
        spec = None
        if watch is not None:
            spec = WallSpec(
                profile="ns",
                workspace=os.fspath(self.root),
                network="proxied",
                egress=watch.inside.fileno(),
                egress_plan={"ports": watch.ports},
            )
        numbers = [str(n) for n in (self.port, *self.work)]
        request = {
            "argv": [sys.executable, "-I", "-c", CLIENT, way.partition(",")[0], *numbers], "search": SEARCH,
            "environment": {"PATH": SEARCH}, "home": True, "home_files": {}, "timeout_ms": 120_000, "grace_ms": 300,
            "keep_bytes": 1 << 16, "keep_last": False, "limits": LIMITS, "call": None,
            "walls": None if spec is None else spec.wire(), "directory": "", "descriptors": [],
        }  # fmt: skip
        cwd = os.open(self.root, os.O_PATH)
        try:
            outcome = await self.server.run(request, cwd=cwd, descriptors={} if spec is None else spec.descriptors())
        finally:
            os.close(cwd)
            traffic = None if watch is None else await watch.finish()
        if outcome.report["exit_code"] != 0:
            raise SystemExit(f"{way}: {outcome}")
        if traffic is not None and sum(r["count"] for r in traffic.records) != self.work[0] + 1:
            raise SystemExit(f"{way}: {len(traffic.records)} records")
        latency, megabyte = map(float, outcome.stdout.split())
        self.megabyte.setdefault(way, []).append(megabyte)
        return latency

    def take(self, way: str) -> float:
        return asyncio.run(self.start(way))


def main() -> None:
    chosen = options(__doc__)
    rounds = 3 if chosen.quick else ROUNDS
    server = subprocess.Popen([sys.executable, "-I", "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    socket.create_connection(("127.0.0.1", port)).close()
    with scratch() as room:
        bench = Bench(room, port, quick=chosen.quick)
        ways = ("direct", "connect", "connect, policy asked", "transparent")
        try:
            latency = alternate({way: lambda way=way: bench.take(way) for way in ways}, rounds)
        finally:
            bench.egress.close()
            bench.server.close()
            server.kill()
            server.wait()
    # the first sample warms up
    megabyte = {way: statistics.median(samples[1:]) for way, samples in bench.megabyte.items()}
    rows = [row(f"a connection, {way}", latency[way], "direct", latency["direct"], "") for way in ways[1:]]
    rows += [
        row(f"a megabyte received, {way}", took, "direct", megabyte["direct"], "")
        for way, took in megabyte.items()
        if way in ("connect", "transparent")
    ]
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
