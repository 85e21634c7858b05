"""What a capsule may do beyond its own memory: hosts, other tools, questions. Its caller's rights, narrowed by its manifest."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from capsules_world import call, events, name_of, refusal

from interlock import Context


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self.path)
        if self.path == "/slow":
            self.server.hold.wait(60)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", "http://" + self.path[4:])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@pytest.fixture
def servers():
    """Two servers on loopback; each notes what it was asked."""
    made = []
    for _ in range(2):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.seen, server.hold, server.daemon_threads = [], threading.Event(), True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.append(server)
    yield made
    for server in made:
        server.hold.set()
        server.shutdown()
        server.server_close()


def grants(port, other):
    return f"""
[grants.near]
tools = ["*"]
unscoped = ["*"]
hosts = ["127.0.0.1:{port}", "127.0.0.1:{other}"]
[grants.wide]
tools = ["*"]
unscoped = ["*"]
hosts = ["*:{port}", "*:80"]
[grants.none]
tools = ["*"]
unscoped = ["*"]
"""


def test_http_goes_to_hosts_of_the_manifest_that_the_caller_may_reach(world, servers):
    port, other = (server.server_address[1] for server in servers)
    world.add_host("c", f'net = ["127.0.0.1:{port}", "*:{port}", "*:80"]', "http")
    world.configure(grants(port, other))
    runtime = world.open()

    def fetch(url, agent="near", **request):
        return call(runtime, "fetch", {"url": url, **request}, agent=agent)

    def refused(url, agent="near", **request):
        return refusal(runtime, "fetch", {"url": url, **request}, agent=agent)

    result = fetch(f"http://127.0.0.1:{port}/x")
    assert (result.output["status"], result.output["body"]) == (200, "ok")
    (event,) = events(runtime, result.run_id, "action_connection")
    assert (event["host"], event["port"], event["outcome"]) == ("127.0.0.1", port, "connected")
    assert event["received_bytes"] > 0
    assert result.hosts[0].host == "127.0.0.1"
    assert servers[0].seen == ["/x"]
    # not of the manifest, not of the grant
    assert refused(f"http://127.0.0.1:{other}/") == "host_denied"
    assert refused(f"http://127.0.0.1:{port}/", agent="none") == "host_denied"
    # a wildcard of a grant makes no exception for addresses that are not public, however they are spelled
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]"):
        assert refused(f"http://{host}:{port}/", agent="wide") == "private_address"
    assert refused("http://169.254.169.254/latest", agent="wide") == "private_address"
    for host in ("2130706433", "0x7f000001", "0177.0.0.1"):
        assert refused(f"http://{host}:{port}/", agent="wide") in ("invalid_parameters", "private_address")
    for url in ("file:///etc/passwd", f"http://u:p@127.0.0.1:{port}/", "x"):
        assert refused(url) in ("invalid_parameters", "host_denied")
    assert refused(f"http://127.0.0.1:{port}/", headers={"Host": "other"}) == "invalid_parameters"
    # a redirect is judged like a request
    assert refused(f"http://127.0.0.1:{port}/to/127.0.0.1:{other}/y") == "private_address"
    assert fetch(f"http://127.0.0.1:{port}/to/example.org/y").output["status"] == 302
    assert fetch(f"http://127.0.0.1:{port}/to/127.0.0.1:{port}/y").output["body"] == "ok"
    assert servers[1].seen == []


def test_a_host_function_that_waits_ends_with_the_call_and_the_worker_continues(world, servers):
    port = servers[0].server_address[1]
    world.add_host("c", f'net = ["127.0.0.1:{port}"]', "http", timeout_ms="1500")
    world.configure(grants(port, port))
    runtime = world.open()
    call(runtime, "fetch", {"url": f"http://127.0.0.1:{port}/"}, agent="near")
    result = call(runtime, "fetch", {"url": f"http://127.0.0.1:{port}/slow"}, agent="near")
    assert result.reason in ("timeout", "tool_failed")
    assert "time" in result.error
    assert call(runtime, "fetch", {"url": f"http://127.0.0.1:{port}/"}, agent="near").ok
    assert len(runtime.services.capsules._workers._idle) == 1


TOOLS_GRANTS = """
[grants.narrow]
tools = ["c/*"]
unscoped = ["*"]
[grants.paths]
tools = ["*"]
unscoped = ["*"]
paths.read = ["open/**"]
"""


def test_a_tool_is_called_through_the_gate_with_the_rights_of_the_caller(world):
    world.add_host("c", 'tools = ["fs.*", "c/*", "d/*"]', "tools")
    world.add_host("d", 'tools = ["c/*"]', "tools")
    world.configure(TOOLS_GRANTS)
    (world.root / "x.txt").write_text("x")
    runtime = world.open()

    # the schema of the inner tool is judged, too: `tool` is no parameter of it
    assert refusal(runtime, "call_tool", {"tool": "fs.read", "path": "x.txt"}) == "invalid_parameters"
    assert refusal(runtime, "call_tool", {"tool": "shell", "command": "true"}) == "not_declared"
    assert refusal(runtime, "call_tool", {"tool": "fs.none"}) == "unknown_tool"
    assert refusal(runtime, "call_tool", {"tool": "fs.list"}, agent="narrow") == "capability_denied"
    assert refusal(runtime, "call_tool", {"tool": f"c/{name_of('call_tool')}"}) == "not_available"


def test_what_an_inner_call_does_is_of_the_action_and_in_the_journal(world):
    world.add_host("c", 'tools = ["*"]', "tools")
    world.configure('[workspace]\nmode = "direct"\n')
    runtime = world.open()
    seen = []

    def note(tool: str) -> dict:
        """Note it."""
        seen.append(tool)
        return {"n": len(seen)}

    runtime.register(note)
    result = call(runtime, "call_tool", {"tool": "note"})
    assert (result.output, seen) == ({"n": 1}, ["note"])
    called, returned = events(runtime, result.run_id, "tool_called", "tool_returned")
    assert (called["tool"], called["action"], called["step"]) == ("note", "call", 8)
    assert (returned["tool"], returned["step"], returned["output"]["view"]) == ("note", 10, {"n": 1})


def test_the_cost_of_an_inner_call_counts_once(world):
    world.add_host("c", 'tools = ["*"]', "tools")
    world.configure('[workspace]\nmode = "direct"\n')
    runtime = world.open()

    def paid(tool: str, ctx: Context) -> None:
        """Costs money."""
        ctx.report_cost(1.0)

    runtime.register(paid)
    calls = [
        {"id": name, "type": "tool_call", "tool": f"c/{name_of('call_tool')}", "parameters": {"tool": "paid"}}
        for name in "ab"
    ]
    result = runtime.execute_sync({"actions": calls, "budget": {"cost": 1.5}})
    assert [(row.status, row.reason) for row in result.results] == [("succeeded", None), ("succeeded", None)]
    assert result.cost.cost == 2.0


def test_a_question_of_a_capsule_blocks_only_its_own_call(world):
    world.add_host("c", "approval = true", "approval", timeout_ms="400")
    world.add("d")
    world.configure()
    runtime = world.open()
    asked, answered = asyncio.Event(), asyncio.Event()

    async def answer(hold):
        assert "may I" in hold.summary
        asked.set()
        await answered.wait()
        return True

    async def both():
        await runtime.call(f"d/{name_of('echo')}", {})
        waiting = [
            asyncio.ensure_future(
                runtime.call(f"c/{name_of('ask')}", {"s": f"may I {n}", "r": "why"}, on_question=answer)
            )
            for n in range(5)
        ]
        await asked.wait()
        until = time.monotonic() + 0.8  # twice the time of a call, which does not run meanwhile
        while time.monotonic() < until:
            assert (await runtime.call(f"d/{name_of('echo')}", {"a": 1})).output == {"a": 1}
        answered.set()
        return await asyncio.gather(*waiting)

    assert [result.output for result in asyncio.run(both())] == [True] * 5


def test_a_denied_question_is_false_and_one_that_nobody_can_answer_is_an_error(world):
    world.add_host("c", "approval = true", "approval")
    world.configure()
    runtime = world.open()
    assert call(runtime, "ask", {"s": "may I", "r": "why"}, on_question=lambda _hold: False).output is False
    assert refusal(runtime, "ask", {"s": "may I", "r": "why"}, wait=False) == "approval_required"


def test_loading_refusing_and_unloading_are_in_the_journal_with_the_instance(world):
    directory = world.add()
    world.configure()
    runtime = world.open()
    first, second = call(runtime, "echo"), call(runtime, "echo", agent="other")
    (loaded,) = events(runtime, first.run_id, "capsule_loaded")
    assert (loaded["capsule"], loaded["version"], loaded["agent"], loaded["action"]) == ("c", "1.0.0", "agent", "call")
    assert events(runtime, second.run_id, "capsule_loaded") == []
    assert loaded["instance"] in first.posture["capsule"]
    assert loaded["instance"] in second.posture["capsule"]
    data = (directory / "module.wasm").read_bytes()
    (directory / "module.wasm").write_bytes(data + b"\0")
    refused = call(runtime, "echo")
    (event,) = events(runtime, refused.run_id, "capsule_refused")
    assert (event["capsule"], "different build" in event["detail"]) == ("c", True)
    (directory / "module.wasm").write_bytes(data)
    again = call(runtime, "echo")
    assert len(events(runtime, again.run_id, "capsule_loaded")) == 1


def test_what_a_host_function_refuses_is_in_the_journal_with_capsule_and_agent(world):
    world.add_host("c", 'fs_read = ["open/*"]\ntools = ["fs.*"]', "fs-read", "tools")
    world.configure("[grants.narrow]\ntools = ['c/*']\nunscoped = ['*']\n")
    runtime = world.open()
    for tool, parameters, function, reason in (
        ("fs_read", {"p": "secret"}, "fs-read.read", "path_denied"),
        ("call_tool", {"t": "shell"}, "tools.call", "not_declared"),
        ("call_tool", {"t": "fs.list"}, "tools.call", "capability_denied"),
    ):
        result = call(runtime, tool, parameters, agent="narrow")
        (event,) = events(runtime, result.run_id, "capsule_denied")
        assert (event["capsule"], event["agent"], event["function"], event["reason"]) == (
            "c",
            "narrow",
            function,
            reason,
        )
        assert event["instance"] in result.posture["capsule"]
        assert event["detail"]
    missing = call(runtime, "fs_read", {"p": "open/none"})
    assert (missing.reason, events(runtime, missing.run_id, "capsule_denied")) == ("tool_failed", [])


def test_unloading_ends_calls_takes_the_tools_away_and_releases_workers(world):
    world.add(timeout_ms="60000")
    world.configure()
    runtime = world.open()
    assert call(runtime, "echo").ok
    started = threading.Event()
    runtime.subscribe(events=lambda _run, event: started.set() if type(event).__name__ == "ActionIntent" else None)

    async def unloaded():
        running = asyncio.ensure_future(runtime.call(f"c/{name_of('loop')}", {}))
        while not (started.is_set() and runtime.services.capsules._calls._calls.get("c")):
            await asyncio.sleep(0.01)
        assert runtime.capsules.unload("c") == 1
        return await running

    result = asyncio.run(unloaded())
    assert (result.status, result.reason) == ("failed", "cancelled")
    assert runtime.services.capsules._workers._idle == []
    assert call(runtime, "echo").reason == "unknown_tool"
    before = result.posture["capsule"]
    assert asyncio.run(runtime.capsules.load("c")).problem is None
    after = call(runtime, "echo")
    assert after.ok
    assert after.posture["capsule"] != before
    journals = (runtime.services.state_dir / "runs").glob("*/journal.ndjson")
    lines = [line for path in journals for line in path.read_text().splitlines() if "capsule_unloaded" in line]
    assert [(event["capsule"], event["cancelled"]) for event in map(json.loads, lines)] == [("c", 1)]
