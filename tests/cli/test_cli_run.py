"""`run`, `undo`, dry runs, stopping and resuming: what a user sees of the gate."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from cli_driving import call, work_directly

READ = call("fs.list")
SLOW = call("shell", command="echo started > started; sleep 20")


def wait_for(condition, seconds=20.0):
    """Look until it is there; a generous bound only for a hang."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def test_a_run_is_one_document_the_result(cli):
    said = cli.real("run", cli.plan(call("fs.write", path="b.txt", content="hi"), READ), "--json")
    assert (said.code, said.err) == (0, "")
    result = said.json
    assert list(result)[:3] == ["run_id", "proposal_id", "status"]
    assert result["status"] == "succeeded"
    assert [row["status"] for row in result["results"]] == ["succeeded", "succeeded"]
    assert (cli.root / "b.txt").read_text() == "hi"


def test_a_run_for_people_names_the_run(cli):
    said = cli("run", cli.plan(READ))
    assert said.out.splitlines()[0].startswith("ok")
    assert "1 executed" in said.out
    assert cli("runs", "list", "--json").json[0]["run_id"] in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plan.yaml", "actions:\n- {type: tool_call, tool: fs.list}\n"),
        ("plan.yml", "actions:\n- type: tool_call\n  tool: fs.list\n"),
        ("plan", "actions: [{type: tool_call, tool: fs.list}]\n"),
        ("plan.txt", '  {"actions": [{"type": "tool_call", "tool": "fs.list"}]}'),
    ],
)
def test_a_plan_is_json_or_yaml_by_its_name_or_its_beginning(cli, name, text):
    (cli.root / name).write_text(text)
    assert cli("run", name).code == 0
    assert cli("run", "-", stdin=text).code == 0


@pytest.mark.parametrize(
    ("text", "code", "path"),
    [
        ('{"actions": [], "x": 1}', "malformed_proposal", "$.x"),
        ('{"actions": [], "actions": []}', "malformed_proposal", None),
        ('{"actions": [{"type": "tool_call", "tool": 5}]}', "malformed_proposal", "$.actions[0].tool"),
        ("", "malformed_proposal", None),
        ("a: &x 1", "malformed_proposal", "line 1, column 4"),
        ('{"agent": "operator", "actions": [{"type": "tool_call", "tool": "undo", "parameters": {"run": "x"}}]}',
         "malformed_proposal", "$.agent"),
    ],
)  # fmt: skip
def test_a_malformed_plan_is_exit_2_with_the_field(cli, text, code, path):
    said = cli("run", "-", "--json", stdin=text)
    assert (said.code, said.error["code"], said.error.get("path")) == (2, code, path or said.error.get("path"))


def test_a_plan_that_is_not_there(cli):
    said = cli("run", "missing.json", "--json")
    assert (said.code, said.error["code"], said.error["path"]) == (2, "not_found", "missing.json")
    assert cli("run", ".", "--json").error["code"] == "usage"


def test_an_action_that_is_not_allowed_or_fails_is_exit_1(cli):
    said = cli("run", cli.plan(call("proc.kill", pid=1, start_time=1)), "--json")
    assert (said.code, said.json["status"]) == (1, "rejected")
    said = cli("run", cli.plan(call("fs.write", path="x", content="1"), call("shell", command="exit 3")))
    assert said.code == 1
    assert "exit_code" in said.out
    assert not (cli.root / "x").exists()


def test_a_dry_run_changes_nothing(cli):
    said = cli("run", cli.plan(call("fs.write", path="x", content="1")), "--dry-run", "--json")
    assert said.code == 0
    assert not (cli.root / "x").exists()


def test_agent_and_session_of_the_command_line(cli):
    said = cli("run", cli.plan(READ), "--agent", "nobody", "--json")
    assert said.json["results"][0]["reason"] == "grant_missing"
    assert cli("run", cli.plan(READ), "--session", "s1").code == 0
    assert [row["session"] for row in cli("sessions", "show", "s1", "--json").json["runs"]] == ["s1"]
    assert cli("run", cli.plan(READ), "--agent", "", "--json").error["code"] == "usage"


def test_a_setting_can_be_tightened_for_a_run_and_never_loosened(cli):
    said = cli("run", cli.plan(READ, READ), "--set", "budget.proposal.actions=1", "--json")
    assert [row["reason"] for row in said.json["results"]] == [None, "budget_exceeded"]
    assert cli("run", "plan.json", "--set", "journal.durability=off", "--json").error["code"] == "override_loosens"
    assert cli("run", "plan.json", "--set", "guard.cpu", "--json").error["code"] == "usage"


def test_undo_takes_a_run_back_and_can_be_undone(cli):
    run_id = cli.run(call("fs.write", path="x", content="1"))["run_id"]
    said = cli("undo", run_id, "--json")
    assert (said.code, said.json["status"]) == (0, "succeeded")
    assert not (cli.root / "x").exists()
    assert cli("undo", said.json["run_id"]).code == 0
    assert (cli.root / "x").read_text() == "1"


def test_undo_of_one_action_and_of_what_somebody_else_changed(cli):
    run_id = cli.run(call("fs.write", path="x", content="1"), call("fs.write", path="y", content="1"))["run_id"]
    assert cli("undo", run_id, "--action", "a1").code == 0
    assert sorted(p.name for p in cli.root.iterdir() if len(p.name) == 1) == ["y"]
    (cli.root / "y").write_text("somebody's")
    said = cli("undo", run_id, "--action", "a2", "--json")
    assert (said.code, said.json["results"][0]["reason"]) == (1, "undo_conflict")
    assert (cli.root / "y").read_text() == "somebody's"
    assert cli("undo", run_id, "--action", "a2", "--force").code == 0
    assert not (cli.root / "y").exists()


def test_an_undo_that_conflicts_with_later_changes_says_how_to_continue(cli):
    run_id = cli.run(call("fs.write", path="x", content="1"), call("fs.write", path="y", content="1"))["run_id"]
    (cli.root / "y").write_text("somebody's")
    said = cli("undo", run_id)
    assert said.code == 1
    assert "undo_conflict" in said.out
    assert "--skip-changed" in said.err
    assert "--force" in said.err
    said = cli("undo", run_id, "--skip-changed")
    assert said.code == 1
    assert "removed      x  (a1)" in said.out
    assert "a2: undo_conflict: `y` was left as it is: others have changed it since" in said.out
    assert "--skip-changed" not in said.err
    assert cli("undo", run_id, "--skip-changed", "--force").code == 2
    said = cli("undo", run_id, "--force")
    assert said.code == 0
    assert "removed      y  (a2)" in said.out
    assert "--force" not in said.err


def test_an_incomplete_undo_is_not_a_success(cli):
    run_id = cli.run(
        call("fs.write", path="x", content="1"), {"type": "state_write", "parameters": {"key": "k", "value": 1}}
    )["run_id"]
    cli.run({"type": "state_write", "parameters": {"key": "k", "value": 2}})
    said = cli("undo", run_id)
    assert said.code == 1
    assert "state_conflict" in said.out
    assert "--force" in said.err


def test_an_undo_that_left_something_is_not_ok(cli):
    work_directly(cli)
    run_id = cli.run(call("fs.write", path="x", content="1"), call("shell", command="true"))["run_id"]
    said = cli("undo", run_id)
    assert said.code == 1
    assert "not undone: a2: not_exactly_undoable" in said.out
    assert "partly undone: 1 not undone; run run_" in said.out
    assert not (cli.root / "x").exists()


def test_an_undo_that_undid_nothing_says_so(cli):
    work_directly(cli)
    run_id = cli.run(call("shell", command="echo 1 > x"))["run_id"]
    said = cli("undo", run_id)
    assert said.code == 1
    assert "nothing was undone: 1 not undone; run run_" in said.out
    assert "ok: " not in said.out
    assert cli("undo", run_id, "--json").code == 1


def test_undo_of_a_run_that_is_not_there(cli):
    said = cli("undo", "run_none", "--json")
    assert (said.code, said.error["code"]) == (2, "not_found")
    assert cli("runs", "list", "--json").json == []
    assert cli("resume", "run_none", "--json").error["code"] == "not_found"


def test_a_finished_run_is_not_resumed(cli):
    run_id = cli.run(READ)["run_id"]
    said = cli("resume", run_id, "--json")
    assert (said.code, said.error["code"]) == (2, "run_finished")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_says_how_to_continue_and_does(cli, number):
    work_directly(cli)
    plan = cli.plan(call("fs.write", path="x", content="1"), SLOW, call("fs.write", path="y", content="1"))
    process = cli.start("run", plan, "--json")
    wait_for((cli.root / "started").exists)
    process.send_signal(number)
    out, err = process.communicate(timeout=25)
    error = json.loads(out)["error"]
    assert (process.returncode, error["code"]) == (1, "interrupted")
    assert b"Traceback" not in err
    run_id = cli("runs", "list", "--json").json[0]["run_id"]
    assert f"interlock resume {run_id}" in error["hint"]
    assert cli("runs", "list", "--json").json[0]["status"] == "interrupted"
    need = cli("recover", "--json").json[0]
    assert (need["run_id"], need["actions"]) == (run_id, ["a2"])
    asked = cli("resume", run_id, "--json")
    assert (asked.code, asked.json["proposals"][0]["results"][1]["reason"]) == (3, "unknown_outcome")
    assert cli("recover", "--json").json[0]["need"] == "settle"
    said = cli("recover", run_id, "--action", "a2", "--as", "succeeded", "--json")
    assert (said.code, said.json["status"]) == (0, "succeeded")
    assert (cli.root / "y").read_text() == "1"
    assert cli("recover", "--json").json == []


def test_a_closed_terminal_stops_the_run_and_a_second_hangup_changes_nothing(cli):
    """The kernel and the shell both send SIGHUP, and nothing can be written any more."""
    work_directly(cli)
    master, slave = os.openpty()
    tidy = call("shell", command="trap 'sleep 0.3; echo x > tidied; exit 0' TERM; echo x > started; sleep 20 & wait")
    process = cli.start("run", cli.plan(tidy), stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    wait_for((cli.root / "started").exists)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=25) == 1
    assert (cli.root / "tidied").exists()
    assert cli("runs", "list", "--json").json[0]["status"] == "interrupted"


def test_a_run_under_nohup_outlives_its_terminal(cli):
    work_directly(cli)
    slow = call("shell", command="echo x > started; while [ ! -e go ]; do sleep 0.02; done; echo x > done")
    process = cli.start("run", cli.plan(slow), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for((cli.root / "started").exists)
    process.send_signal(signal.SIGHUP)
    (cli.root / "go").touch()
    process.communicate(timeout=25)
    assert process.returncode == 0
    assert (cli.root / "done").exists()


def test_a_second_signal_leaves_at_once(cli):
    work_directly(cli)
    stubborn = call("shell", command="trap '' TERM; echo x > started; sleep 20")
    process = cli.start("run", cli.plan(stubborn))
    wait_for((cli.root / "started").exists)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode in (1, 130)


def test_a_killed_run_is_found_before_the_next_one_and_resumed(cli):
    work_directly(cli)
    plan = cli.plan(call("fs.write", path="x", content="1"), SLOW)
    process = cli.start("run", plan)
    wait_for((cli.root / "started").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=15)
    dead = cli("runs", "list", "--json").json[0]["run_id"]
    said = cli("run", cli.plan(READ, name="next.json"))
    assert said.code == 0
    assert f"unfinished: {dead}" in said.err
    assert f"interlock recover {dead} --action a2" in said.err
    ended = cli("recover", dead, "--action", "a2", "--as", "undo", "--json")
    assert (ended.code, ended.json["status"]) == (1, "failed")
    assert not (cli.root / "x").exists()
    assert cli("recover").out == "no unfinished runs\n"


def test_the_steps_of_an_unfinished_run_are_in_the_order_in_which_they_are_taken(cli):
    (cli.root / "a.txt").write_text("1")
    held = cli.run(call("fs.move", source="a.txt", destination="b.txt"), flags=("--no-wait",))
    run, hold = held["run_id"], held["results"][0]["output"]["approval"]
    said = cli("run", cli.plan(READ, name="next.json"))
    steps = f"`interlock approvals show {hold}`, then `interlock resume {run}`"
    assert f"unfinished: {run}: it waits for an answer; {steps}\n" in said.err
    assert f"  interlock approvals show {hold}\n  interlock resume {run}\n" in cli("recover").out


def test_several_unfinished_runs_take_one_line(cli):
    write = call("fs.move", source="a.txt", destination="b.txt")
    (cli.root / "a.txt").write_text("1")
    for _ in range(2):
        assert cli("run", cli.plan(write), "--no-wait").code == 3
    said = cli("run", cli.plan(READ, name="next.json"))
    (line,) = [line for line in said.err.splitlines() if "unfinished" in line]
    assert "2 runs (2 held)" in line
    assert "`interlock recover`" in line


def test_recover_needs_all_of_run_action_and_answer(cli):
    assert cli("recover", "--action", "a1", "--json").error["code"] == "usage"
    assert cli("recover", "run_none", "--json").error["code"] == "not_found"


def test_a_held_action_without_waiting_is_exit_3(cli):
    (cli.root / "a.txt").write_text("1")
    said = cli("run", cli.plan(call("fs.move", source="a.txt", destination="b.txt")), "--no-wait", "--json")
    assert (said.code, said.json["status"]) == (3, "held")
    approval = said.json["results"][0]["output"]["approval"]
    assert f"approvals approve {approval}" in said.err
    need = cli("recover", "--json").json[0]
    assert (need["need"], need["approvals"]) == ("answer", [approval])
    assert cli("approvals", "approve", approval, "--json").json["code"] == "resolved"
    assert cli("recover", "--json").json[0]["need"] == "resume"
    resumed = cli("resume", said.json["run_id"], "--json")
    assert (resumed.code, resumed.json["status"]) == (0, "succeeded")
    assert (cli.root / "b.txt").exists()


def test_a_waiting_run_is_answered_from_another_process(cli):
    (cli.root / "a.txt").write_text("1")
    process = cli.start("run", cli.plan(call("fs.move", source="a.txt", destination="b.txt")), "--json")
    hold = wait_for(lambda: cli("approvals", "list", "--json").json)[0]
    assert cli("approvals", "edit", hold["id"], '{"destination": "c.txt"}').code == 0
    out, err = process.communicate(timeout=20)
    assert (process.returncode, json.loads(out)["status"]) == (0, "succeeded")
    assert f"interlock approvals approve {hold['id']}".encode() in err
    assert (cli.root / "c.txt").exists()


def test_a_killed_waiting_run_asks_nothing_twice(cli):
    (cli.root / "a.txt").write_text("1")
    process = cli.start("run", cli.plan(call("fs.move", source="a.txt", destination="b.txt")))
    hold = wait_for(lambda: cli("approvals", "list", "--json").json)[0]
    process.kill()
    process.communicate(timeout=15)
    assert cli("approvals", "approve", hold["id"]).code == 0
    assert cli("resume", hold["run"]).code == 0
    assert (cli.root / "b.txt").exists()
    assert len(cli("approvals", "list", "--status", "all", "--json").json) == 1


def test_a_process_that_failed_is_shown_with_its_last_words_and_attempts(cli):
    command = "echo one >&2; printf '\\033[31mtwo\\n\\n' >&2; exit 3"
    plan = cli.plan({**call("shell", command=command), "failure_behavior": "retry", "max_retries": 1})
    said = cli("run", plan)
    assert said.code == 1
    assert "2 attempts" in said.out
    assert "             | one\n             | \\x1b[31mtwo\n" in said.out


def test_an_unknown_outcome_needs_an_approver_where_approvers_exist(cli):
    work_directly(cli)
    token = cli("approvers", "add", "ann", "--json").json["token"]
    (cli.root.parent / "ann").write_text(token)
    process = cli.start("run", cli.plan(SLOW))
    wait_for((cli.root / "started").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=15)
    (need,) = cli("recover", "--json").json
    assert need["need"] == "settle"
    (listed,) = cli("approvals", "list", "--json").json
    assert (listed["id"], listed["kind"]) == (need["approvals"][0], "unknown_outcome")
    settle = ("recover", need["run_id"], "--action", "a1", "--as", "succeeded", "--json")
    refused = cli(*settle)
    assert (refused.code, refused.error["code"]) == (2, "unauthenticated")
    assert cli("resume", need["run_id"], "--json").json["status"] == "held"
    assert cli(*settle, "--token-file", str(cli.root.parent / "ann")).json["status"] == "succeeded"
