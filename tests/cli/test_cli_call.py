"""`interlock call` and `interlock state`: one tool through the gate, and what runs have left in the state."""

from __future__ import annotations

import json

import pytest
from cli_driving import call

from interlock.model.result import CallResult, HostUse
from interlock.surfaces.cli.call import _print
from interlock.surfaces.cli.output import Output


def test_one_tool_is_called_and_its_result_printed(cli):
    (cli.root / "a.txt").write_text("hello\n")
    said = cli("call", "fs.read", '{"path": "a.txt"}')
    assert (said.code, json.loads(said.out)["content"]) == (0, "hello\n")
    assert "run run_" in said.err
    document = cli("call", "fs.read", '{"path": "a.txt"}', "--json").json
    assert (document["tool"], document["status"]) == ("fs.read", "succeeded")
    assert cli("runs", "show", document["run_id"]).code == 0


def test_parameters_come_from_standard_input_too(cli):
    assert cli("call", "fs.write", "-", stdin='{"path": "b.txt", "content": "from stdin"}').code == 0
    assert (cli.root / "b.txt").read_text() == "from stdin"


@pytest.mark.parametrize(
    ("tool", "parameters", "code", "word"),
    [
        ("proc.kill", '{"pid": 1, "start_time": 1}', 1, "policy_denied"),
        ("fs.read", '{"path": "missing"}', 1, "not_found"),
        ("fs.read", "{}", 1, "invalid_parameters"),
        ("nothing", "{}", 1, "unknown_tool"),
        ("fs.read", "[]", 2, "JSON object"),
        ("fs.read", '{"path": 1, "path": 2}', 2, "JSON object"),
        ("fs.read", "{", 2, "JSON object"),
    ],
)
def test_the_exit_code_reports_the_outcome_of_the_call(cli, tool, parameters, code, word):
    said = cli("call", tool, parameters)
    assert (said.code, word in said.err) == (code, True), said


def test_a_background_program_of_a_call_ends_with_it_and_the_command_says_so(bare):
    (bare.root / "interlock.toml").write_text(
        '[rules]\nallow = ["proc.start"]\n[grants.agent]\ntools = ["proc.start"]\n'
    )
    bare("trust", "--yes")
    said = bare("call", "proc.start", '{"command": "sleep 1000"}')
    assert said.code == 0, said
    assert "the program ended with this call" in said.err


def test_an_error_names_the_file(cli):
    assert "nope.txt: there is no such file" in cli("call", "fs.read", '{"path": "nope.txt"}').err
    assert "nope.txt: there is no such file" in cli("run", cli.plan(call("fs.read", path="nope.txt"))).out


def test_hosts_that_were_refused_are_shown(cli, capsys):
    use = HostUse(host="evil.example.com", outcome="refused", reason="host_denied")
    row = {"action_id": "call", "status": "failed", "error": "it ended", "reason": "exit_code", "hosts": (use,)}
    _print(Output(), CallResult(**row, tool="shell", run_id="run_x"), "")
    assert "refused evil.example.com: host_denied" in capsys.readouterr().err


def test_a_held_call_is_left_open_and_continues_after_the_answer(cli):
    (cli.root / "a").write_text("")
    arguments = ("call", "fs.move", '{"source": "a", "destination": "b"}', "--no-wait", "--call-id", "one")
    said = cli(*arguments)
    assert said.code == 3
    [hold] = cli("approvals", "list", "--json").json
    assert f"interlock approvals approve {hold['id']}" in said.err
    assert "runtime." not in said.err, "a person at the command line is not told the Python way"
    assert cli(*arguments, "--json").error["hint"].startswith("`interlock approvals approve")
    assert cli("approvals", "approve", hold["id"]).code == 0
    assert cli(*arguments).code == 0
    assert (cli.root / "b").exists()


def test_the_agent_and_its_session_are_those_that_are_named(cli):
    said = cli("call", "fs.list", "--agent", "stranger", "--session", "s", "--json")
    assert said.json["reason"] == "grant_missing"
    [row] = cli("runs", "list", "--session", "s", "--json").json
    assert row["agent"] == "stranger"


def write(key, value):
    return {"type": "state_write", "parameters": {"key": key, "value": value}}


@pytest.fixture
def state(cli):
    grant = '[grants.coder]\ntools = ["*"]\n'
    text = (cli.root / "interlock.toml").read_text()
    (cli.root / "interlock.toml").write_text(text.replace(grant, grant + 'state_keys = ["**"]\n'))
    assert cli("trust", "--yes").code == 0
    cli.run(write("build.ok", True), write("build.id", {"n": 7}), write("other", None))
    cli.run(write("build.id", {"n": 8}))
    return cli


def test_the_state_is_listed_by_pattern_and_a_key_is_printed(state):
    assert [row["key"] for row in state("state", "list", "--json").json] == ["build.id", "build.ok", "other"]
    assert [row["key"] for row in state("state", "list", "build.*", "--json").json] == ["build.id", "build.ok"]
    assert json.loads(state("state", "get", "build.id").out) == {"n": 8}
    assert state("state", "get", "other").out == "null\n"
    assert state("state", "get", "build.id", "--json").json == {"key": "build.id", "version": 2, "value": {"n": 8}}
    assert state("state", "get", "missing", "--json").error["code"] == "not_found"


def test_the_history_of_a_key_names_runs_and_actions(state):
    first, second = state("state", "history", "build.id", "--json").json
    assert (first["version"], first["value"], first["action"]) == (1, {"n": 7}, "a2")
    newest = state("runs", "list", "--json").json[0]["run_id"]
    assert (second["version"], second["run"]) == (2, newest)
    assert newest in state("state", "history", "build.id").out
    assert state("state", "history", "missing", "--json").error["code"] == "not_found"


def test_state_needs_no_usable_configuration(state):
    (state.root / "interlock.toml").write_text("not toml")
    assert state("state", "get", "build.ok").out == "true\n"


def test_completion_offers_the_keys(state):
    said = state.real(COMP_WORDS="interlock state get build.", COMP_CWORD="3", _INTERLOCK_COMPLETE="bash_complete")
    assert said.out.split() == ["plain,build.id", "plain,build.ok"]


def test_the_audit_says_who_asked_and_who_answered_and_follows(cli):
    (cli.root / "a").write_text("")
    cli("call", "fs.move", '{"source": "a", "destination": "b"}', "--no-wait")
    [hold] = cli("approvals", "list", "--json").json
    follow = cli.start("approvals", "audit", hold["id"], "--follow", "--json")
    try:
        assert json.loads(follow.stdout.readline())["event"] == "asked"
        cli("approvals", "deny", hold["id"], "--reason", "no")
        assert json.loads(follow.stdout.readline())["event"] == "voted"
    finally:
        follow.kill()
        follow.communicate()
    records = cli("approvals", "audit", hold["id"], "--json").json
    assert [record["event"] for record in records][:2] == ["asked", "voted"]
    assert {record["subject"] for record in records} == {hold["id"]}
    assert cli("approvals", "audit", "--after", str(records[-1]["seq"]), "--json").json == []
    assert "voted" in cli("approvals", "audit").out


def test_an_audit_of_what_is_not_known_is_an_error(cli):
    said = cli("approvals", "audit", "hold_nothing", "--json")
    assert (said.code, said.error["code"]) == (2, "not_found")
