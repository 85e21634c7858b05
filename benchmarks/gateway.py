"""A tool call through the gateway, compared with the server alone and with other proxies in front of the same server.

    python benchmarks/gateway.py [--quick] [--json]

The gateway judges and journals each call (durability `batch`); the other proxies pass it on. All are driven by the same
raw client in front of the same small server, which is restarted for each round, in turns. `added` is the median of a
call minus that of the server alone. FastMCP's proxy uses standard input and output; mcp-proxy puts a stdio server
behind HTTP. `first list` is the time from the start of the process to the answer of `tools/list` with the server's
tools; memory is that of the proxy process.
"""

import asyncio
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from measuring import PEERS, ROUNDS, options, scratch, show

from interlock import Runtime
from interlock.engine.trust import review, trust

ADDER = Path(__file__).with_name("gateway_server.py")
SERVER = [sys.executable, "-I", "-S", str(ADDER)]
OWN = [sys.executable, "-c", "from interlock.surfaces.cli.main import main; main()"]
CALLS, WARM, MANY, IN_FLIGHT = 300, 30, 2_000, 32
SERVERS = 5
TARGETS = {"gateway": ("0.4 ms", "2 ms", "5,000/s", "150 ms", "45 MB"), "gateway, HTTP": ("1.5 ms", "", "", "", "")}


def project(room: Path, servers: int) -> Path:
    """A project with this many servers, all locked."""
    root = room / f"project-{servers}"
    root.mkdir()
    known = f"command = {json.dumps(SERVER)}\nreads = [{json.dumps(str(ADDER))}]\n"
    tables = "".join(f"[mcp.servers.s{number}]\n{known}" for number in range(servers))
    (root / "interlock.toml").write_text(
        '[rules]\nallow = ["s*/*"]\nask = ["s0/held"]\n[grants.agent]\ntools = ["*"]\nunscoped = ["*"]\n'
        f'[journal]\ndurability = "batch"\n{tables}'
    )
    trust(review(root, os.environ), os.environ)
    with Runtime.open(root / "interlock.toml") as runtime:
        found = asyncio.run(runtime.servers.compare())
        assert all(one.unreachable is None for one in found), found
        runtime.servers.write_lock(found)
    trust(review(root, os.environ), os.environ)
    return root


class Pipe:
    """A raw client over standard input and output."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._out = open(self.process.stdout.fileno(), "rb", closefd=False)  # noqa: SIM115 - lives as long as the process

    def send(self, number: int | None, method: str, params: dict) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def read(self) -> dict:
        while True:
            line = self._out.readline()
            if not line:
                raise SystemExit(f"it ended: {self.process.args}")
            message = json.loads(line)
            if "id" in message and ("result" in message or "error" in message):
                return message

    def request(self, number: int, method: str, params: dict) -> dict:
        self.send(number, method, params)
        return self.read()

    def many(self, tool: str, count: int) -> float:
        begun, sent, done = time.perf_counter(), 0, 0
        while done < count:
            while sent < count and sent - done < IN_FLIGHT:
                self.send(10_000 + sent, "tools/call", {"name": tool, "arguments": {"a": 1, "b": sent}})
                sent += 1
            assert "result" in self.read()
            done += 1
        return count / (time.perf_counter() - begun)

    def close(self) -> None:
        self.process.stdin.close()
        self._out.close()
        self.process.stdout.close()
        self.process.kill()
        self.process.wait()


class Http:
    """A raw client over streamable HTTP, on one kept connection."""

    def __init__(self, command: list[str], cwd: Path, url: str, token: str | None) -> None:
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._where = urlsplit(url)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        while True:
            try:
                socket.create_connection((self._where.hostname, self._where.port)).close()
                break
            except ConnectionRefusedError:
                assert self.process.poll() is None, command
                time.sleep(0.005)
        self._connection = http.client.HTTPConnection(self._where.hostname, self._where.port)

    def send(self, number: int | None, method: str, params: dict) -> dict:
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
        self._connection.request("POST", self._where.path, json.dumps(message), self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if "mcp-session-id" in answer.headers:
            self._headers["Mcp-Session-Id"] = answer.headers["mcp-session-id"]
        if answer.headers.get_content_type() == "text/event-stream":
            lines = [line[5:] for line in data.replace(b"\r", b"").split(b"\n") if line.startswith(b"data:")]
            found = [json.loads(line) for line in lines if line.strip()]
            return next(each for each in found if each.get("id") == number)
        return json.loads(data) if data else {}

    def request(self, number: int, method: str, params: dict) -> dict:
        return self.send(number, method, params)

    def many(self, _tool: str, _count: int) -> float:
        return float("nan")  # on one connection, calls cannot overlap

    def close(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.wait()


def measure(client: Pipe | Http, quick: bool) -> dict[str, float]:
    """Measure the start, single calls, many calls in flight, and memory."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    assert "result" in client.request(0, "initialize", params)
    client.send(None, "notifications/initialized", {})
    tools = client.request(1, "tools/list", {})["result"]["tools"]
    listed = time.perf_counter() - client.begun
    tool = next(each["name"] for each in tools if each["name"].endswith("add"))
    times = []
    for number in range(2, (CALLS // 3 if quick else CALLS) + WARM):
        begun = time.perf_counter()
        answer = client.request(number, "tools/call", {"name": tool, "arguments": {"a": 1, "b": number}})
        times.append(time.perf_counter() - begun)
        assert answer["result"]["content"][0]["text"] == str(1 + number), answer
    times = sorted(times[WARM:])
    rate = client.many(tool, MANY // 10 if quick else MANY)
    pages = int(Path(f"/proc/{client.process.pid}/statm").read_text().split()[1])
    return {
        "p50": statistics.median(times),
        "p99": times[int(len(times) * 0.99)],
        "rate": rate,
        "list": listed,
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def contenders(room: Path, root: Path) -> dict[str, Callable[[], Pipe | Http]]:
    config = room / "fastmcp.json"
    config.write_text(json.dumps({"mcpServers": {"s": {"command": SERVER[0], "args": SERVER[1:]}}}))
    fastmcp = (
        "from fastmcp.server import create_proxy; import json; "
        f"create_proxy(json.load(open({str(config)!r}))).run(show_banner=False)"
    )
    token = room / "token"
    token.write_text("b" * 40)
    token.chmod(0o600)

    def own_http() -> Http:
        port = free_port()
        command = [*OWN, "gateway", "--http", str(port), "--token-file", str(token)]
        return Http(command, root, f"http://127.0.0.1:{port}/mcp", "b" * 40)

    def mcp_proxy() -> Http:
        port = free_port()
        command = [str(PEERS / "mcp_proxy" / "bin" / "mcp-proxy"), "--port", str(port), "--", *SERVER]
        return Http(command, root, f"http://127.0.0.1:{port}/mcp", None)

    return {
        "the server alone": lambda: Pipe(SERVER, root),
        "gateway": lambda: Pipe([*OWN, "gateway"], root),
        "FastMCP 4.2.3 proxy": lambda: Pipe([str(PEERS / "fastmcp" / "bin" / "python"), "-c", fastmcp], root),
        "gateway, HTTP": own_http,
        "mcp-proxy 0.13, HTTP": mcp_proxy,
    }


def memory_of_five(root: Path) -> float:
    """The memory in bytes of a gateway that has called each of five servers."""
    client = Pipe([*OWN, "gateway"], root)
    try:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        client.request(0, "initialize", params)
        for number in range(SERVERS):
            name = f"s{number}_add"
            answer = client.request(number + 1, "tools/call", {"name": name, "arguments": {"a": 1, "b": 1}})
            assert answer["result"]["content"][0]["text"] == "2", answer
        pages = int(Path(f"/proc/{client.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    finally:
        client.close()


def approve_to_resume(root: Path, rounds: int) -> float:
    """Time in seconds from an approval through another process's connection to the answer of the held call."""
    client, found = Pipe([*OWN, "gateway"], root), []
    try:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        client.request(0, "initialize", params)
        with Runtime.open(root / "interlock.toml") as runtime:
            for number in range(1, rounds + 2):
                client.send(number, "tools/call", {"name": "s0_held", "arguments": {}})
                while not (holds := runtime.approvals.list()):
                    time.sleep(0.01)
                begun = time.perf_counter()
                runtime.approvals.approve(holds[0].id)
                assert client.read()["result"]["isError"] is False
                found.append(time.perf_counter() - begun)
        return statistics.median(found[1:])
    finally:
        client.close()


def shown(name: str, medians: dict[str, float], floor: float) -> dict[str, str]:
    targets = TARGETS.get(name)
    rate = medians["rate"]
    alone = name == "the server alone"
    cells = {
        "added p50": "" if alone else f"{(medians['p50'] - floor) * 1e3:.2f} ms",
        "p50": f"{medians['p50'] * 1e3:.2f} ms",
        "p99": f"{medians['p99'] * 1e3:.2f} ms",
        "32 in flight": "" if rate != rate else f"{rate:,.0f}/s",
        "first list": f"{medians['list'] * 1e3:,.0f} ms",
        "memory": f"{medians['memory'] / 1e6:.0f} MB",
    }
    wanted = "" if targets is None else ", ".join(each for each in targets if each)
    return {"what": name, **cells, "to reach (added p50, p99, rate, list, memory)": wanted}


def main() -> None:
    chosen = options(__doc__)
    rounds = 3 if chosen.quick else ROUNDS
    with scratch() as room:
        os.environ["INTERLOCK_STATE_DIR"] = str(room / "state")
        root, five = project(room, 1), project(room, SERVERS)
        starts = contenders(room, root)
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in starts}
        names = list(starts)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                client = starts[name]()
                try:
                    samples[name].append(measure(client, chosen.quick))
                finally:
                    client.close()
        medians = {
            name: {key: statistics.median(one[key] for one in found) for key in found[0]}
            for name, found in samples.items()
        }
        rows = [shown(name, found, medians["the server alone"]["p50"]) for name, found in medians.items()]
        rows.append({"what": "gateway, with five servers", "memory": f"{memory_of_five(five) / 1e6:.0f} MB"})
        resumed = approve_to_resume(root, rounds)
        rows.append({"what": f"from an approval to the answer: {resumed * 1e3:.1f} ms (to reach: 10 ms)"})
    show([{head: one.get(head, "") for head in rows[0]} for one in rows], as_json=chosen.json)


if __name__ == "__main__":
    main()
