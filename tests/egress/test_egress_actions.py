"""An action of a project, from its grant to its result: what it reaches, what it is refused, and where that shows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from egress_servers import files_of, plain_environment

import interlock
from interlock.model.events import ActionConnection, ActionSucceeded

HERE = Path(__file__).parent


def run(rt, command, **more):
    plan = {"actions": [{"id": "a", "type": "tool_call", "tool": "shell", "parameters": {"command": command}, **more}]}
    return asyncio.run(rt.execute(plan))


def uses(row):
    return {(str(use), use.outcome, use.reason) for use in row.hosts or ()}


def test_a_command_reaches_the_hosts_of_the_grant_and_its_result_names_the_others(project, serve):
    port = serve()
    rt = project([f"index.test:{port}"])
    result = run(rt, f"curl -sS http://index.test:{port}/x; curl -sS -o /dev/null http://evil.test:{port}/")
    row = result["a"]
    assert json.loads(row.output["stdout"])["path"] == "/x", row
    assert uses(row) == {(f"index.test:{port}", "connected", None), (f"evil.test:{port}", "refused", "host_denied")}
    assert row.posture["net"] == "active"
    (connected,) = [use for use in row.hosts if use.outcome == "connected"]
    assert connected.received_bytes > 0


def test_a_command_that_uses_no_network_has_no_hosts(project):
    row = run(project(["index.test:80"]), "true")["a"]
    assert row.hosts is None


def test_the_events_of_the_run_name_each_connection(project, serve):
    port = serve()
    rt = project([f"index.test:{port}"], journal={"durability": "memory"})
    events = []
    rt.subscribe(events=lambda run_id, event: events.append(event))
    result = run(rt, f"curl -sS http://index.test:{port}/ >/dev/null; getent hosts evil.test; true")
    assert result.ok, result
    found = [event for event in events if isinstance(event, ActionConnection)]
    assert {(e.host, e.port, e.outcome, e.via) for e in found} == {
        ("index.test", port, "connected", "http"),
        ("evil.test", None, "refused", "dns"),
    }
    assert {(e.action, e.step) for e in found} == {("a", 9)}
    (succeeded,) = [event for event in events if isinstance(event, ActionSucceeded)]
    assert succeeded.hosts == result["a"].hosts


TOML = """
agent = "coder"
[rules]
allow = ["shell"]
[isolation]
profile = "ns"
[grants.coder]
tools = ["shell"]
hosts = ["pypi.org:443"]
"""


def test_runs_show_names_the_hosts_that_were_refused(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "interlock.toml").write_text(TOML)
    plan = {
        "actions": [
            {"id": "a", "type": "tool_call", "tool": "shell", "parameters": {"command": "getent hosts evil.test; true"}}
        ]
    }
    (work / "plan.json").write_text(json.dumps(plan))
    environment = {**plain_environment(), "HOME": str(tmp_path), "INTERLOCK_STATE_DIR": str(tmp_path / "state")}

    def interlock_(*arguments):
        command = [Path(sys.prefix) / "bin" / "interlock", *arguments]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)

    assert interlock_("trust", "--yes").returncode == 0
    ran = interlock_("run", "plan.json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "refused evil.test: host_denied" in ran.stdout
    assert "refused evil.test: host_denied" in interlock_("runs", "show", "last").stdout
    shown = json.loads(interlock_("runs", "show", "last", "--json").stdout)
    assert shown["proposals"][0]["results"][0]["hosts"][0]["host"] == "evil.test"


def test_a_tool_can_be_bound_to_fewer_hosts_than_its_grant(project, serve):
    port, other = serve(), serve()
    hosts = [f"index.test:{port}", f"other.test:{other}"]
    rt = project(hosts, tools={"shell": {"hosts": [hosts[0]]}})
    row = run(rt, f"curl -sS http://index.test:{port}/ && curl -sSf http://other.test:{other}/")["a"]
    assert row.status == "failed"
    assert uses(row) == {(hosts[0], "connected", None), (hosts[1], "refused", "host_denied")}


def test_a_policy_that_forbids_a_connection_is_asked_for_each(project, serve, tmp_path):
    port, other = serve(), serve()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "connect.cedar").write_text(
        'forbid (principal, action == Action::"connect", resource) when { resource.host == "other.test" };'
    )
    rt = project([f"index.test:{port}", f"other.test:{other}"], policy={"files": ["connect.cedar"]})
    row = run(rt, f"curl -sS http://index.test:{port}/ >/dev/null; curl -sSf http://other.test:{other}/; true")["a"]
    assert uses(row) == {
        (f"index.test:{port}", "connected", None),
        (f"other.test:{other}", "refused", "policy_denied"),
    }


def test_what_was_tried_before_a_time_out_is_in_the_result(project, serve):
    port = serve()
    rt = project([f"index.test:{port}"])
    row = run(
        rt, f"curl -sS http://index.test:{port}/ >/dev/null; curl -s http://evil.test/; sleep 60", timeout_ms=4000
    )["a"]
    assert row.reason == "timeout", row
    assert {use.outcome for use in row.hosts} == {"connected", "refused"}


# -- git


def git(rt, tool, **parameters):
    one = {"id": "a", "type": "tool_call", "tool": f"git.{tool}", "parameters": parameters}
    return asyncio.run(rt.execute({"actions": [one]}))["a"]


def test_git_tools_reach_the_host_of_their_url_and_their_result_names_it(project, serve, tmp_path):
    bare = tmp_path / "served" / "project.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", bare], check=True)
    subprocess.run(["git", "update-server-info"], cwd=bare, check=True)
    port, ssh = serve(files_of(bare.parent)), serve()
    rt = project([f"index.test:{port}", f"index.test:{ssh}"])
    url = f"http://index.test:{port}/project.git"
    cloned = git(rt, "clone", url=url, path="copy")
    assert cloned.status == "succeeded", cloned
    assert cloned.posture["net"] == "active"
    assert uses(cloned) == {(f"index.test:{port}", "connected", None)}
    assert git(rt, "clone", url=url.replace("index", "other"), path="other").reason == "host_denied"
    by_ssh = git(rt, "clone", url=f"ssh://git@index.test:{ssh}/project.git", path="other")
    assert by_ssh.reason == "git_failed"  # that server does not speak ssh
    assert uses(by_ssh) == {(f"index.test:{ssh}", "connected", None)}


def test_a_git_tool_can_be_bound_to_fewer_hosts_than_its_grant(project, serve):
    port = serve()
    rt = project([f"index.test:{port}"], tools={"git.clone": {"hosts": ["other.test:443"]}})
    row = git(rt, "clone", url=f"http://index.test:{port}/project.git", path="copy")
    assert (row.reason, row.status) == ("host_denied", "failed")


# -- programs that live on


def plan(*actions):
    rows = [
        {
            "id": f"a{i}",
            "type": "tool_call",
            "tool": tool,
            "parameters": parameters,
            "dependencies": [f"a{i - 1}"] * (i > 0),
        }
        for i, (tool, parameters) in enumerate(actions)
    ]
    return {"actions": rows}


HANDLE = "$a0.output.handle"


def lasting(port):
    """Reaches two hosts, and says so."""
    return f"curl -sS http://index.test:{port}/x; curl -sS http://evil.test:{port}/; echo; echo done; exec sleep 60"


def test_a_background_program_reaches_only_the_hosts_of_the_grant(project, serve):
    port = serve()
    rt = project([f"index.test:{port}"], journal={"durability": "memory"})
    result = asyncio.run(
        rt.execute(
            plan(
                ("proc.start", {"command": lasting(port)}),
                ("proc.wait", {"handle": HANDLE, "output": "done"}),
                ("proc.stop", {"handle": HANDLE}),
            )
        )
    )
    assert result["a0"].posture["net"] == "active"
    assert '"path": "/x"' in result["a1"].output["stdout"], result
    seen = uses(result["a1"]) | uses(result["a2"])
    assert seen == {(f"index.test:{port}", "connected", None), (f"evil.test:{port}", "refused", "host_denied")}
    events = [e for e in rt.runs.events(result.run_id) if isinstance(e, ActionConnection)]
    assert {(e.host, e.outcome) for e in events} == {("index.test", "connected"), ("evil.test", "refused")}


def test_a_program_of_a_session_keeps_its_network_across_runs_and_event_loops(project, serve):
    port = serve()
    rt = project([f"index.test:{port}"])
    loop = (
        f"echo up; until curl -sS -o /dev/null http://index.test:{port}/ && test -e go; do sleep 0.05; done; echo end"
    )

    def call(tool, **parameters):
        one = {"id": "a", "type": "tool_call", "tool": tool, "parameters": parameters, "invocation_mode": "session"}
        if tool != "proc.start":
            del one["invocation_mode"]
        return asyncio.run(rt.execute({"actions": [one]}, session="night"))["a"]

    started = call("proc.start", command=loop)
    handle = started.output["handle"]
    assert call("proc.wait", handle=handle, output="up").status == "succeeded"
    assert call("shell", command="touch go").status == "succeeded"
    row = call("proc.wait", handle=handle, output="end")
    assert row.status == "succeeded", row
    assert {use.outcome for use in row.hosts} == {"connected"}


def test_a_background_program_reaches_no_host_once_its_grant_is_revoked(project, serve, tmp_path):
    port = serve()
    rt = project([f"index.test:{port}"])
    once = f"curl -sS -o /dev/null -w '%{{http_code}}\\n' http://index.test:{port}/"
    command = f"{once}; echo first; until test -e go; do sleep 0.05; done; {once}; echo second; exec sleep 60"

    def call(tool, mode="one_shot", **parameters):
        one = {"id": "a", "type": "tool_call", "tool": tool, "parameters": parameters, "invocation_mode": mode}
        return asyncio.run(rt.execute({"actions": [one]}, session="night"))["a"]

    handle = call("proc.start", "session", command=command).output["handle"]
    assert call("proc.wait", handle=handle, output="first").output["stdout"].startswith("200\n")
    rt.grants.set(interlock.Grant(id="less", agent="agent", tools=("*",)))
    (tmp_path / "work" / "go").touch()
    row = call("proc.wait", handle=handle, output="second")
    assert "\n403\n" in row.output["stdout"], row
    assert uses(row) >= {(f"index.test:{port}", "refused", "host_denied")}


def test_policies_are_asked_about_connections_of_background_programs(project, serve, tmp_path):
    port = serve()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "connect.cedar").write_text(
        'forbid (principal, action == Action::"connect", resource) when { resource.host == "other.test" };'
    )
    rt = project([f"*.test:{port}"], policy={"files": ["connect.cedar"]}, network={"private": [f"*.test:{port}"]})
    command = (
        f"curl -sS -o /dev/null http://index.test:{port}/; curl -s http://other.test:{port}/; echo done; exec sleep 60"
    )
    result = asyncio.run(
        rt.execute(
            plan(
                ("proc.start", {"command": command}),
                ("proc.wait", {"handle": HANDLE, "output": "done"}),
                ("proc.stop", {"handle": HANDLE}),
            )
        )
    )
    assert uses(result["a1"]) | uses(result["a2"]) == {
        (f"index.test:{port}", "connected", None),
        (f"other.test:{port}", "refused", "policy_denied"),
    }, result


def test_programs_are_told_of_the_proxy_in_both_cases(project):
    output = run(project(), "env | grep -i proxy | sort")["a"].output["stdout"]
    names = {line.partition("=")[0] for line in output.splitlines()}
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        assert {name, name.upper()} <= names
    assert "NODE_USE_ENV_PROXY" in names


def test_without_namespaces_there_is_no_network_and_the_posture_says_so(project, serve):
    port = serve()
    row = run(
        project([f"index.test:{port}"], isolation={"profile": "nons"}), f"curl -sS -m 5 http://127.0.0.1:{port}/"
    )["a"]
    assert row.status == "failed"
    assert row.posture["net"].startswith("active(no network at all")
    assert row.hosts is None


FETCH = "curl -sS http://index.test:{0}/ && sleep 1 && curl -sS http://index.test:{0}/"


def test_a_program_that_fails_after_its_proxy_was_killed_says_so(project, listen):
    killed = []

    def answer(sock):
        with sock:
            sock.recv(1000)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
            if not killed:
                killed.append(rt.services.runner.network.egress.pid)
                time.sleep(0.3)  # the proxy has passed the first answer on by then, and the program waits for a second
                os.kill(killed[0], signal.SIGKILL)

    port = listen(answer)
    rt = project([f"index.test:{port}"])
    row = run(rt, FETCH.format(port))["a"]
    assert row.reason == "proxy_lost"
    assert row.error.startswith(
        "the egress proxy ended while the action ran, so its programs lost their network: the process"
    )
    assert row.output["stdout"].startswith("ok")
    assert row.output["exit_code"] != 0
    again = run(rt, FETCH.format(port))["a"]
    assert again.status == "succeeded", again
