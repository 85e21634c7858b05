"""Servers that live on (`proc.start` with `ports`): who reaches them, who does not, and what is on record. Real programs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from interlock.isolation.attack_range import NOBODY
from interlock.model.events import ActionConnection

ORDINARY_USER = Path(__file__).parents[1] / "escapes" / "ordinary_user.py"
SERVER = f"exec {sys.executable} -u -m http.server 8000"
GET = "curl -sS --max-time 10 http://127.0.0.1:8000/hello"
REFUSED = 7
"""The exit code of curl for a connection that is refused."""
HANDLE = "$s.output.handle"


def action(name, tool, after=(), **parameters):
    return {"id": name, "type": "tool_call", "tool": tool, "parameters": parameters, "dependencies": list(after)}


def serving(command=SERVER, ports=(8000,), ready="Serving", **more):
    """Start a server and wait until it listens."""
    start = action("s", "proc.start", command=command, **({"ports": list(ports)} if ports else {})) | more
    return [start, action("w", "proc.wait", ["s"], handle=HANDLE, output=ready)]


@pytest.fixture
def site(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "hello").write_text("from the server\n")


def execute(rt, *actions, **options):
    return asyncio.run(rt.execute({"actions": list(actions)}, **options))


def test_later_actions_of_the_run_reach_a_server_at_every_spelling_of_their_own_machine(project, site):
    urls = [f"http://{host}:8000/hello" for host in ("127.0.0.1", "localhost", "127.3.2.1", "[::1]")]
    ways = [f"-g {url}" for url in urls] + [f"--noproxy '' {url}" for url in urls[:2]] + [f"--noproxy '' -p {urls[1]}"]
    command = "\n".join(f"curl -sS {way} || echo failed" for way in ways)
    result = execute(project(), *serving(), action("c", "shell", ["w"], command=command))
    assert result.ok, result
    assert result["c"].output["stdout"].splitlines() == ["from the server"] * 7
    assert result["c"].posture["net"] == "active"


def test_connections_are_on_record_as_those_to_the_program(project, site):
    rt = project(journal={"durability": "memory"})
    result = execute(rt, *serving(), action("c", "shell", ["w"], command=GET))
    handle = result["s"].output["handle"]
    (use,) = result["c"].hosts
    assert (str(use), use.outcome, use.count) == (f"{handle}:8000", "connected", 1)
    (event,) = [e for e in rt.runs.events(result.run_id) if isinstance(e, ActionConnection)]
    assert (event.action, event.host, event.via, event.address) == ("c", handle, "program", "127.0.0.1")
    assert event.received_bytes > 0


def test_the_results_about_a_server_name_its_ports(project, site):
    look = action("o", "proc.output", ["w"], handle=HANDLE)
    with_ports = execute(project(), *serving(), look)
    assert with_ports["w"].output["ports"] == with_ports["o"].output["ports"] == [8000]


def test_only_the_ports_that_it_named_are_reached(project, site):
    command = f"{sys.executable} -u -m http.server 8001 & {SERVER}"
    both = action("c", "shell", ["w"], command=f"{GET}; curl -sS http://127.0.0.1:8001/hello", check=False)
    row = execute(project(), *serving(command), both)["c"]
    assert row.output["exit_code"] == REFUSED, row
    assert row.output["stdout"] == "from the server\n"
    named_none = execute(project(), *serving(ports=()), action("c", "shell", ["w"], command=GET, check=False))
    assert named_none["c"].output["exit_code"] == REFUSED


def test_no_other_run_session_or_agent_reaches_it(project, site, tmp_path):
    grants = {name: {"tools": ["*"]} for name in ("agent", "stranger")}
    rt = project(grants=grants)
    run = rt.runs.start()
    assert asyncio.run(run.execute({"actions": serving()})).ok
    assert asyncio.run(run.execute({"actions": [action("c", "shell", command=GET)]})).ok
    tried = action("c", "shell", command=GET, check=False)
    assert execute(rt, tried)["c"].output["exit_code"] == REFUSED
    run.finish()
    whole = {"invocation_mode": "session"}
    assert execute(rt, *serving(**whole), session="night").ok
    assert execute(rt, action("c", "shell", command=GET), session="night").ok
    assert execute(rt, tried, session="day")["c"].output["exit_code"] == REFUSED
    assert execute(rt, tried)["c"].output["exit_code"] == REFUSED
    with rt.fork(agent="stranger") as stranger:
        assert execute(stranger, tried, session="night")["c"].output["exit_code"] == REFUSED


def test_its_port_is_free_again_when_it_has_ended_however_it_did(project, site):
    rt = project()
    gone = action("c", "shell", ["x"], command=GET, check=False)
    stopped = execute(rt, *serving(), action("x", "proc.stop", ["w"], handle=HANDLE), gone)
    assert stopped["c"].output["exit_code"] == REFUSED
    killed = execute(
        rt,
        *serving(f"echo Serving; {sys.executable} -m http.server 8000 & sleep 0.3; kill -9 $!; exit 3"),
        action("x", "proc.wait", ["w"], handle=HANDLE),
        gone,
        action("again", "proc.start", ["c"], command=SERVER, ports=[8000]),
    )
    assert killed["c"].output["exit_code"] == REFUSED
    assert killed["again"].status == "succeeded"


def test_two_programs_cannot_have_one_port(project, site):
    result = execute(project(), *serving(), action("other", "proc.start", ["w"], command=SERVER, ports=[8001, 8000]))
    row = result["other"]
    assert (row.status, row.reason) == ("failed", "port_taken")
    assert result["s"].output["handle"] in row.error


def test_agents_with_the_same_port_reach_their_own_servers(project, tmp_path):
    names = ("ann", "bob", "cid")
    for name in names:
        (tmp_path / "work" / name).mkdir(parents=True)
        (tmp_path / "work" / name / "hello").write_text(name)
    rt = project(grants={name: {"tools": ["*"]} for name in names})

    async def night(name):
        start = [*serving(f"cd {name} && {SERVER}"), action("c", "shell", ["w"], command=GET)]
        return await rt.execute({"agent": name, "actions": start})

    async def all_of_them():
        return await asyncio.gather(*map(night, names))

    assert [result["c"].output["stdout"] for result in asyncio.run(all_of_them())] == [*names]


def test_a_program_reaches_one_that_was_started_before_it(project, site):
    front = action("front", "proc.start", ["w"], command=f"{GET}; echo; exec sleep 60", ports=[9000])
    seen = action("seen", "proc.wait", ["front"], handle="$front.output.handle", output="from the server")
    assert execute(project(), *serving(), front, seen).ok


def test_a_client_keeps_its_own_hosts_and_the_server_has_its_own(project, serve, site):
    port = serve()
    outside = f"curl -sS -o /dev/null -w '%{{http_code}}\\n' http://index.test:{port}/"
    rt = project([f"index.test:{port}"], tools={"shell": {"hosts": []}})
    server = f"{outside}; {SERVER}"
    result = execute(rt, *serving(server), action("c", "shell", ["w"], command=f"{GET}; {outside}", check=False))
    assert result["w"].output["stdout"].startswith("200\n")
    assert result["c"].output["stdout"] == "from the server\n403\n"
    assert {(use.outcome, use.reason) for use in result["c"].hosts} == {("connected", None), ("refused", "host_denied")}


def test_a_service_of_the_machine_that_a_grant_names_is_never_replaced(project, serve, site):
    """A tool may know a password that the agent does not, and say it to whoever listens there."""
    port = serve()
    rt = project([f"localhost:{port}"])
    refused = execute(rt, action("s", "proc.start", command=f"exec sleep 60 {port}", ports=[port]))["s"]
    assert (refused.status, refused.reason) == ("failed", "port_taken")
    # Another tool of the agent may have fewer hosts than the one that connects there.
    rt = project([f"localhost:{port}"], tools={"proc.start": {"hosts": []}})
    fake = f"exec {sys.executable} -u -m http.server {port}"
    calls = "; ".join(f"curl -sS http://{host}:{port}/x" for host in ("localhost", "127.0.0.1"))
    result = execute(rt, *serving(fake, [port]), action("c", "shell", ["w"], command=calls))
    assert result["c"].output["stdout"].count('"path": "/x"') == 2, result["c"]
    assert {str(use) for use in result["c"].hosts} == {f"localhost:{port}"}


def test_a_port_that_a_grant_names_for_another_host_can_be_listened_on(project, serve, site):
    port = serve()
    rt = project([f"index.test:{port}"])
    own = f"exec {sys.executable} -u -m http.server {port}"
    calls = f"curl -sS http://127.0.0.1:{port}/hello; curl -sS --noproxy '*' http://index.test:{port}/x"
    result = execute(rt, *serving(own, [port]), action("c", "shell", ["w"], command=calls))
    assert result["c"].output["stdout"].startswith("from the server\n"), result["c"]
    assert '"path": "/x"' in result["c"].output["stdout"]


MANY = """
import concurrent.futures, hashlib, urllib.request
def get(n): return hashlib.sha256(urllib.request.urlopen("http://localhost:8000/large", timeout=20).read()).hexdigest()
with concurrent.futures.ThreadPoolExecutor(20) as pool: print(len(set(pool.map(get, range(60)))))
"""


def test_many_connections_at_once_and_large_answers(project, site, tmp_path):
    (tmp_path / "work" / "large").write_bytes(os.urandom(1_000_000))
    (tmp_path / "work" / "many.py").write_text(MANY)
    result = execute(project(), *serving(), action("c", "shell", ["w"], command=f"{sys.executable} many.py"))
    assert result.ok, result
    assert result["c"].output["stdout"] == "1\n"
    assert sum(use.count for use in result["c"].hosts) == 60


NODE = """
const http = require("http");
http.createServer((q, r) => { let b = ""; q.on("data", d => b += d); q.on("end", () => r.end(b.toUpperCase())); })
    .listen(3000, "::1", () => console.log("Serving"));
"""


def test_a_server_of_node_that_listens_on_ipv6_alone(project, site, tmp_path):
    (tmp_path / "work" / "server.js").write_text(NODE)
    call = action("c", "shell", ["w"], command="curl -sS -d hello http://localhost:3000/")
    result = execute(project(), *serving("exec node server.js", [3000]), call)
    assert result["c"].output["stdout"] == "HELLO", result


def test_a_connection_before_it_listens_fails_and_is_on_record(project, site):
    late = action("s", "proc.start", command="exec sleep 60", ports=[8000])
    row = execute(project(), late, action("c", "shell", ["s"], command=GET, check=False))["c"]
    assert row.output["exit_code"] != 0
    (use,) = row.hosts
    assert (use.outcome, use.reason) == ("failed", "connection_failed")


@pytest.mark.parametrize("ports", [[80], [8000, 8000], [], [3128], list(range(8000, 8009))])
def test_ports_that_make_no_sense_are_refused(project, site, ports):
    row = execute(project(), action("s", "proc.start", command=SERVER, ports=ports))["s"]
    assert (row.status, row.reason) in {("rejected", "invalid_parameters"), ("failed", "invalid_parameters")}, row


def test_all_ports_of_a_run_are_bounded(project, site):
    many = [action(f"s{n}", "proc.start", command="exec sleep 60", ports=list(range(p, p + 8)))
            for n, p in enumerate(range(8000, 8032, 8))]  # fmt: skip
    rows = execute(project(), *many).results
    assert [row.reason for row in rows if row.status == "failed"] == ["port_taken"]


def test_rules_see_the_ports(project, site, tmp_path):
    (tmp_path / "work" / "ports.cedar").write_text(
        'forbid (principal, action == Action::"proc.start", resource) when { context.params has ports };'
    )
    rt = project(policy={"files": ["ports.cedar"]})
    assert execute(rt, action("s", "proc.start", command=SERVER, ports=[8000]))["s"].reason == "policy_denied"


def test_without_namespaces_nothing_can_listen_and_the_error_says_so(project, site):
    rt = project(isolation={"profile": "nons"})
    row = execute(rt, action("s", "proc.start", command=SERVER, ports=[8000]))["s"]
    assert (row.status, row.reason) == ("failed", "ports_unavailable")


SCRIPT = """
import asyncio, json, sys
from pathlib import Path
import interlock
root = Path.cwd() / "project"
root.mkdir()
(root / "hello").write_text("from the server")
rt = interlock.Runtime.open(workspace=root, settings={
    "rules": {"allow": ["shell", "proc.*"]}, "grants": {"agent": {"tools": ["*"]}}, "isolation": {"profile": "ns"}})
result = asyncio.run(rt.execute({"actions": json.loads(sys.argv[1])}))
other = asyncio.run(rt.execute({"actions": json.loads(sys.argv[2])}))
rt.close()
print(json.dumps([[row.output and row.output.get("stdout") for row in result.results], other.results[0].output["exit_code"]]))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_same_for_an_ordinary_user():
    plan = [*serving(), action("c", "shell", ["w"], command=GET)]
    other = [action("c", "shell", command=GET, check=False)]
    with tempfile.TemporaryDirectory(prefix="ports-", dir="/var/tmp") as place:
        home = Path(place) / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        Path(place).chmod(0o755)
        command = [sys.executable, str(ORDINARY_USER), str(NOBODY), str(home), sys.executable, "-c", SCRIPT]
        plans = [json.dumps(plan), json.dumps(other)]
        done = subprocess.run([*command, *plans], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    outputs, elsewhere = json.loads(done.stdout)
    assert outputs[2] == "from the server"
    assert elsewhere == REFUSED
