"""`interlock gateway` as clients meet it: a child process that speaks MCP on standard input and output."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from gateway_world import COMMAND, ENVELOPE, WAIT_S

REVISIONS = ["2025-03-26", "2025-06-18", "2025-11-25"]


def nothing_is_left(project) -> None:
    """Every run is over: nothing waits for a person to settle its outcome."""
    until = time.monotonic() + 60
    while "no unfinished runs" not in (said := project.interlock("recover")):
        assert time.monotonic() < until, said
        time.sleep(0.05)


def hold_of(text: str) -> str:
    return text.partition("interlock approvals approve ")[2].partition("`")[0]


def test_a_client_of_any_revision_is_served(project):
    (project.root / "a.txt").write_text("hello")
    with project.gateway() as gateway:
        before = gateway.request("tools/list")
        assert "initialized" in before["error"]["message"]
        for revision in REVISIONS:
            assert gateway.initialize(revision)["protocolVersion"] == revision
            tools = gateway.request("tools/list")["result"]["tools"]
            assert [tool["name"] for tool in tools] == ["fs_list", "fs_read", "fs_write", "shell"]
            assert "hello" in gateway.call("fs_read", path="a.txt")[0]
        assert gateway.initialize("1999-01-01")["protocolVersion"] == "2025-11-25"
        found = gateway.request("server/discover", _meta=ENVELOPE)["result"]
        assert found["supportedVersions"] == [*REVISIONS, "2026-07-28"]
        assert (found["resultType"], found["cacheScope"]) == ("complete", "private")
        read = gateway.request("tools/call", _meta=ENVELOPE, name="fs_read", arguments={"path": "a.txt"})["result"]
        assert read["resultType"] == "complete"
        assert read["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "interlock"
        other = {**ENVELOPE, "io.modelcontextprotocol/protocolVersion": "2030-01-01"}
        refused = gateway.request("tools/list", _meta=other)["error"]
        assert (refused["code"], refused["data"]["requested"]) == (-32022, "2030-01-01")
        assert "2026-07-28" in refused["data"]["supported"]


def test_what_an_agent_did_three_times_takes_one_call_the_fourth_time(project):
    """The third sentence of issue 14, through a door: learnt from calls, read and approved by a person, used by the agent."""
    project.configure(
        """
        agent = "coder"
        [rules]
        allow = ["fs.*", "memory.*", "skills.*"]
        [grants.coder]
        tools = ["*"]
        [learning]
        memory = true
        distill = true
        """
    )
    for month in ("jan", "feb", "mar"):
        with project.gateway() as gateway:
            gateway.initialize()
            tools = [tool["name"] for tool in gateway.request("tools/list")["result"]["tools"]]
            assert {"memory_read", "memory_write", "skills_find", "skills_run"} <= set(tools)
            assert not gateway.call("fs_write", path=f"{month}.txt", content="total: 1")[1]
            assert "total: 1" in gateway.call("fs_read", path=f"{month}.txt")[0]
            gateway.process.stdin.close()  # as a client ends it
            assert gateway.process.wait(WAIT_S) == 0
    (skill,) = json.loads(project.interlock("skills", "list", "--json"))
    assert (skill["state"], len(skill["evidence"]), skill["tools"]) == ("candidate", 3, ["fs.read", "fs.write"])
    name = skill["name"]
    assert '"$parameter"' in project.interlock("skills", "show", name)
    project.interlock("skills", "test", name, "--parameters", '{"path": "apr.txt"}')
    project.interlock("skills", "approve", name, "--digest", skill["digest"])
    with project.gateway() as gateway:
        gateway.initialize()
        assert name in gateway.call("skills_find", goal="fs write and read")[0]
        said, failed = gateway.call("skills_run", name=name, parameters={"path": "apr.txt"})
    assert (failed, (project.root / "apr.txt").read_text()) == (False, "total: 1")
    assert said.count('"status":"succeeded"') == 2


def test_a_client_need_not_wait_for_the_answer_to_its_greeting(project):
    with project.gateway() as gateway:
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        messages = (
            {"id": 1, "method": "initialize", "params": hello},
            {"method": "notifications/initialized"},
            {"id": 2, "method": "tools/list"},
        )
        gateway.write(b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in messages))
        gateway.process.stdin.close()
        answers = {each["id"]: each["result"] for each in (gateway.read(), gateway.read())}
        assert answers[2]["tools"]


def test_a_bad_frame_gets_an_error_and_other_calls_continue(project):
    with project.gateway() as gateway:
        gateway.initialize()
        gateway.write(b"{half a line\n\n  \n")
        assert gateway.read()["error"]["code"] == -32700
        gateway.write(b'{"jsonrpc":"2.0","id":9,"method":"ping","id":9}\n')
        assert "twice" in gateway.read()["error"]["message"]
        gateway.send({"jsonrpc": "2.0", "id": 99, "result": {}})  # an answer to nothing
        gateway.send([{"jsonrpc": "2.0", "id": 1, "method": "ping"}])
        assert "batches" in gateway.read()["error"]["message"]
        gateway.write(b"x" * (51 * 1024 * 1024) + b"\n")
        assert "50 MiB" in gateway.read()["error"]["message"]
        for method, why in (
            ("resources/read", "servers whose lock has them"),
            ("prompts/list", "servers whose lock has them"),
            ("completion/complete", "no completions"),
            ("logging/setLevel", "log messages"),
            ("no/such", "no method `no/such`"),
        ):
            refused = gateway.request(method)["error"]
            assert (refused["code"], why in refused["message"]) == (-32601, True), refused
        assert gateway.request("tools/call", name="nope")["error"]["code"] == -32602
        assert gateway.request("tools/call", name="fs_read", arguments=[1])["error"]["code"] == -32602
        assert gateway.request("tools/list", cursor="x")["error"]["code"] == -32602
        text, is_error = gateway.call("fs_read", wrong=1)
        assert is_error
        assert "path" in text
        assert "wrong" in text
        assert gateway.request("ping")["result"] == {}


def test_batches_belong_to_one_revision(project):
    with project.gateway() as gateway:
        gateway.initialize("2025-03-26")
        gateway.send(
            [
                {"jsonrpc": "2.0", "id": "a", "method": "ping"},
                {"jsonrpc": "2.0", "method": "notifications/progress"},
                {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
                {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fs_list"}},
            ]
        )
        answers = gateway.read()
        assert {answer["id"] for answer in answers} == {"a", None, 1}


def test_what_the_rules_refuse_is_reported_to_the_model(project):
    with project.gateway() as gateway:
        gateway.initialize()
        text, is_error = gateway.call("fs_read", path="../outside")
        assert is_error
        assert "Nothing was done" in text or "path" in text


def test_a_held_call_continues_when_it_is_called_again(project):
    with project.gateway("--wait", "0s") as gateway:
        gateway.initialize()
        text, is_error = gateway.call("fs_write", path="b", content="1")
        assert is_error
        assert text.startswith("[HELD]")
        assert gateway.call("fs_write", path="b", content="1")[0] == text, "it is not asked about twice"
        assert not (project.root / "b").exists()
        project.interlock("approvals", "approve", hold_of(text))
        assert gateway.call("fs_write", path="b", content="1")[1] is False
        assert (project.root / "b").read_text() == "1"
        again, _ = gateway.call("fs_write", path="b", content="1")
        assert hold_of(again) != hold_of(text), "an approval is for one call"


def test_a_held_call_survives_the_gateway_and_the_client(project):
    with project.gateway("--wait", "1h") as gateway:
        gateway.initialize()
        gateway.send(
            {
                "jsonrpc": "2.0",
                "id": 5,
                "method": "tools/call",
                "params": {
                    "name": "fs_write",
                    "arguments": {"path": "b", "content": "1"},
                    "_meta": {"progressToken": "p"},
                },
            }
        )
        told = gateway.read()
        assert told["method"] == "notifications/progress"
        hold = hold_of(told["params"]["message"])
        gateway.process.kill()
    project.interlock("approvals", "approve", hold)
    assert not (project.root / "b").exists()
    with project.gateway() as gateway:
        gateway.initialize()
        assert gateway.call("fs_write", path="b", content="1")[1] is False
    assert (project.root / "b").read_text() == "1"
    assert json.loads(project.interlock("approvals", "list", "--json")) == []


@pytest.mark.parametrize("answer", ["approve", "deny"])
def test_an_answer_during_the_wait_ends_it(project, answer):
    with project.gateway("--wait", "1h") as gateway:
        gateway.initialize()
        gateway.send(
            {
                "jsonrpc": "2.0",
                "id": 5,
                "method": "tools/call",
                "params": {
                    "name": "fs_write",
                    "arguments": {"path": "b", "content": "1"},
                    "_meta": {"progressToken": 1},
                },
            }
        )
        hold = hold_of(gateway.read()["params"]["message"])
        assert gateway.request("ping")["result"] == {}, "others are served meanwhile"
        project.interlock("approvals", answer, hold, *(["--reason", "no"] if answer == "deny" else []))
        while (message := gateway.read()).get("id") != 5:
            pass
        result = message["result"]
        assert result["isError"] is (answer == "deny")
        assert (project.root / "b").exists() is (answer == "approve")
        if answer == "deny":
            assert "approval_denied" in result["content"][0]["text"]


def test_the_same_call_twice_at_once_is_two_calls(project):
    with project.gateway() as gateway:
        gateway.initialize()
        for message_id in ("a", "b"):
            call = {"name": "shell", "arguments": {"command": "echo x >> log; sleep 0.3"}}
            gateway.send({"jsonrpc": "2.0", "id": message_id, "method": "tools/call", "params": call})
        answers = [gateway.read(), gateway.read()]
        assert {answer["id"] for answer in answers} == {"a", "b"}
        assert not any(answer["result"]["isError"] for answer in answers)
    assert (project.root / "log").read_text() == "x\nx\n"


def test_a_cancelled_call_ends_and_is_not_answered(project):
    with project.gateway() as gateway:
        gateway.initialize()
        call = {"name": "shell", "arguments": {"command": (program := Program(600)).command}}
        gateway.send({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": call})
        gateway.send({"jsonrpc": "2.0", "id": 5, "method": "ping"})
        assert "in flight" in gateway.read()["error"]["message"]
        program.wait_begun()
        gateway.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "5"}})
        gateway.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
        program.wait_gone()
        assert gateway.request("ping")["result"] == {}
        gateway.process.stdin.close()
        assert gateway.process.wait(timeout=60) == 0
    nothing_is_left(project)


def test_a_cancelled_call_that_was_approved_leaves_nothing_to_resume(project):
    project.configure(
        (project.root / "interlock.toml").read_text().replace('"shell"]\nask = [', ']\nask = ["shell", ', 1)
    )
    program = Program(600)
    arguments = {"command": program.command}
    with project.gateway("--wait", "0s") as gateway:
        gateway.initialize()
        project.interlock("approvals", "approve", hold_of(gateway.call("shell", **arguments)[0]))
        params = {"name": "shell", "arguments": arguments}
        gateway.send({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params})
        program.wait_begun()
        gateway.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
        program.wait_gone()
        assert gateway.request("ping")["result"] == {}
        gateway.process.stdin.close()
        assert gateway.process.wait(timeout=60) == 0
    nothing_is_left(project)


@pytest.mark.parametrize("end", ["eof", "term", "int"])
def test_the_gateway_ends_with_its_client(project, end):
    with project.gateway() as gateway:
        gateway.initialize()
        program = Program(1 if end == "eof" else 600)
        call = {"name": "shell", "arguments": {"command": program.command}}
        gateway.send({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": call})
        program.wait_begun()
        if end == "eof":  # a client that has said all still gets its answers
            gateway.process.stdin.close()
            assert gateway.read()["result"]["isError"] is False
        else:
            gateway.process.send_signal(signal.SIGTERM if end == "term" else signal.SIGINT)
        assert gateway.process.wait(timeout=60) == 0
        program.wait_gone()
    nothing_is_left(project)


def test_a_client_that_is_gone_is_not_an_error(project):
    with project.gateway() as gateway:
        gateway.initialize()
        gateway.process.stdout.close()
        gateway.send({"jsonrpc": "2.0", "id": 5, "method": "ping"})
        assert gateway.process.wait(timeout=60) == 0
        assert b"Traceback" not in gateway.process.stderr.read()


def test_an_agent_without_tools_is_warned_about(project):
    with project.gateway("--agent", "stranger") as gateway:
        gateway.initialize()
        gateway.process.stdin.close()
        said = gateway.process.stderr.read().decode()
    assert "agent `stranger` has no tools" in said


@pytest.mark.parametrize("what", ["/dev/null", "interlock.toml"])
def test_standard_input_that_cannot_be_waited_for_is_an_error(project, what):
    with (project.root / what).open("rb") as given:
        done = subprocess.run(
            [*COMMAND, "gateway"],
            cwd=project.root,
            env=project.env,
            stdin=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
    assert done.returncode == 2
    assert "standard input is not a pipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_large_arguments_and_results(project):
    with project.gateway("--wait", "0s") as gateway:
        gateway.initialize()
        (project.root / "big").write_text("x" * 900_000)
        text, is_error = gateway.call("fs_read", path="big", max_bytes=1_000_000)
        assert not is_error
        assert len(text) > 900_000
        text, _ = gateway.call("fs_write", path="c", content="y" * 900_000)
        assert text.startswith("[HELD]")
        text, is_error = gateway.call("fs_write", path="c", content="y" * 20_000_000)
        assert is_error
        assert "limit" in text or "more than" in text


def test_a_configuration_that_is_edited_holds_for_the_next_call(project):
    with project.gateway() as gateway:
        gateway.initialize()
        text = (project.root / "interlock.toml").read_text()
        project.configure(text.replace('allow = ["fs.read", ', 'deny = ["fs.read"]\nallow = ['))
        names = [tool["name"] for tool in gateway.request("tools/list")["result"]["tools"]]
        assert "fs_read" not in names
        text, is_error = gateway.call("fs_read", path="interlock.toml")
        assert is_error
        assert "policy" in text


class Program:
    """A program that sleeps for a time that no other process has in its arguments: its pid differs out here."""

    def __init__(self, seconds: int):
        self.seconds = f"{seconds}.{os.getpid()}{time.monotonic_ns()}"
        self.command = f"exec sleep {self.seconds}"

    def lives(self) -> bool:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if self.seconds.encode() in entry.read_bytes().split(b"\0"):
                    return True
        return False

    def wait_begun(self) -> None:
        until = time.monotonic() + 60
        while not self.lives():
            assert time.monotonic() < until, "the process did not begin"
            time.sleep(0.02)

    def wait_gone(self) -> None:
        until = time.monotonic() + 60
        while self.lives():
            assert time.monotonic() < until, "the process still runs"
            time.sleep(0.02)
