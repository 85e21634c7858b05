"""`verify`, `simulate`, `explain`: looking at a proposal without running it."""

from __future__ import annotations

import pytest
from cli_driving import call


def write(key, value, **fields):
    return {"type": "state_write", "parameters": {"key": key, "value": value}, **fields}


@pytest.mark.parametrize("command", ["verify", "simulate", "explain"])
def test_looking_leaves_no_trace(cli, command):
    cli(command, cli.plan(call("fs.write", path="x", content="1"), write("k", 1)))
    assert not (cli.root / "x").exists()
    assert cli("runs", "list", "--json").json == []


@pytest.mark.parametrize("command", ["verify", "simulate", "explain"])
def test_a_malformed_plan_is_exit_2(cli, command):
    said = cli(command, "-", "--json", stdin='{"actions": 1}')
    assert (said.code, said.error["path"]) == (2, "$.actions")


def test_verify_names_what_is_wrong(cli):
    report = cli("verify", cli.plan(call("fs.reed"), call("fs.read", path=1), call("fs.list")), "--json")
    assert report.code == 1
    found = {(i["action_id"], i["code"]) for i in report.json["issues"]}
    assert found == {("a1", "unknown_tool"), ("a2", "invalid_parameters")}
    assert report.json["valid"] is False
    assert "fs.read" in cli("verify", "plan.json").out
    good = cli("verify", cli.plan(call("fs.list"), write("k", 1), {**write("k", 2), "dependencies": ["a2"]}), "--json")
    assert (good.code, good.json["valid"], good.json["execution_levels"]) == (0, True, [["a1", "a2"], ["a3"]])


def test_simulate_predicts_the_state_and_what_cannot_run(cli):
    cli.run(write("old", 1))
    fails = {"type": "assertion", "parameters": {"key": "old", "expected": 5}}
    said = cli("simulate", cli.plan(write("new", {"x": 1}), write("from", "$a1.output"), fails), "--json")
    assert said.code == 1
    assert said.json["state"] == {"new": {"x": 1}, "old": 1}
    assert said.json["unknown"] == ["from"]
    assert [(d["action_id"], d["reason"]) for d in said.json["dropped"]] == [("a3", "assertion_failed")]
    assert "new = " in cli("simulate", "plan.json").out


def test_explain_says_which_step_answers_and_why(cli):
    plan = cli.plan(
        call("fs.list"),
        call("fs.move", source="a", destination="b"),
        call("proc.kill", pid=5, start_time=1),
        call("fs.read", path="$a1.output.entries[0].path"),
        call("fs.read"),
        {**write("k", 1), "preconditions": [{"key": "missing", "value": 1}]},
        call("nothing"),
    )
    said = cli("explain", plan, "--json")
    assert said.code == 1
    found = [(one["answer"], one["step"], one["reason"]) for one in said.json]
    assert found == [
        ("allow", 7, None),
        ("ask", 6, "held"),
        ("reject", 5, "policy_denied"),
        ("unknown", 3, None),
        ("reject", 3, "invalid_parameters"),
        ("reject", 4, "precondition_failed"),
        ("reject", 1, "unknown_tool"),
    ]
    assert said.json[1]["asks"][0]["policy"] == "ask:fs.move"
    assert "deny:proc.kill" in said.json[2]["policies"]
    text = cli("explain", plan).out
    assert "needs 1 approver: the rules say to ask: fs.move, by `ask:fs.move` (rules.ask[0])" in text
    assert "allowed by `allow:fs.list` (rules.allow[1])" in text
    assert "`deny:proc.kill` (rules.deny[0])" in text
    for noise in ("it has no conditions", ":permit", "step ", ")`:1"):  # what has no part in an answer
        assert noise not in text


def test_explain_names_a_denial_and_not_the_question_that_it_overrides(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text().replace('deny = ["proc.kill"]', 'deny = ["proc.kill", "path(secret/**)"]'))
    assert cli("trust", "--yes").code == 0
    (cli.root / "secret").mkdir()
    text = cli("explain", cli.plan(call("fs.move", source="secret/a", destination="b"))).out
    assert "policy_denied" in text
    assert "ask:fs.move" not in text


def test_explain_says_what_would_have_permitted_an_action(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text().replace('"shell", ', '"shell(pytest *)", '))
    assert cli("trust", "--yes").code == 0
    text = cli("explain", cli.plan(call("shell", command="pytest -q; git push"))).out
    assert "no policy permits it" in text
    assert "allow:shell(pytest *)" in text
    assert "is not met" in text


def test_explain_sees_what_earlier_actions_write(cli):
    needs = {**write("b", 1), "preconditions": [{"key": "a", "value": 1}]}
    assert cli("explain", cli.plan(write("a", 1), needs)).code == 0
    assert cli("explain", cli.plan(call("fs.move", source="a", destination="b"))).code == 3


def test_explain_for_another_agent(cli):
    (one,) = cli("explain", cli.plan(call("fs.list")), "--agent", "nobody", "--json").json
    assert (one["answer"], one["step"], one["reason"]) == ("reject", 2, "grant_missing")


def test_a_misspelt_tool_is_guessed_wherever_it_is_refused(cli):
    plan = cli.plan(call("fs.lst"))
    for command in ("verify", "run", "explain"):
        assert "did you mean `fs.list`?" in cli(command, plan, "--json").out


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"\xff\xfe bad", "p.yaml"),
        (b"actions:\n - {a: b\n", "p.yaml: line 3, column 1"),
        (b"actions:\n - tool: fs.list\n", "p.yaml: $.actions[0].type"),
    ],
)
def test_a_malformed_plan_is_named(cli, text, where):
    (cli.root / "p.yaml").write_bytes(text)
    for command in ("run", "verify", "explain"):
        assert cli(command, "p.yaml", "--json").error["path"] == where


def test_a_simulation_without_state_says_so(cli):
    assert "no keys" in cli("simulate", cli.plan(call("fs.list"))).out
