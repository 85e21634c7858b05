"""Looking back: `runs`, `sessions`, `tools`."""

from __future__ import annotations

import json
import stat

import msgspec
import pytest
from cli_driving import call

from interlock.disk import Database, Disk
from interlock.journal import Head, scan, sign_head
from interlock.signing import Signer
from interlock.surfaces.cli import results, runs

READ = call("fs.list")


def journal(cli, run_id):
    (path,) = (cli.root.parent / "state").glob(f"*/runs/{run_id}/journal.ndjson")
    return path


def write(key, value):
    return {"type": "state_write", "parameters": {"key": key, "value": value}}


def test_runs_are_listed_newest_first_with_their_id_first(cli):
    first, second = (cli.run(READ)["run_id"] for _ in range(2))
    cli("run", cli.plan(call("nothing")))
    rows = cli("runs", "list", "--json").json
    assert [next(iter(row)) for row in rows] == ["run_id"] * 3
    assert [row["run_id"] for row in rows[1:]] == [second, first]
    assert rows[0]["status"] == "rejected"
    assert [r["run_id"] for r in cli("runs", "list", "--json", "--status", "succeeded", "--limit", "1").json] == [
        second
    ]
    assert cli("runs", "list").out.splitlines()[0].startswith("RUN ")


def test_a_list_that_is_cut_says_so(cli):
    for _ in range(2):
        cli.run(READ)
    cut = cli("runs", "list", "--limit", "1")
    assert len(cut.out.splitlines()) == 2
    assert "newest 1" in cut.err
    assert "newest" not in cli("runs", "list", "--limit", "2").err
    assert cli("runs", "list", "--limit", "9" * 20).code == 2


def test_there_may_be_no_runs(cli):
    assert cli("runs", "list").out == "no runs\n"
    assert cli("sessions", "list").out == "no sessions\n"


def test_show_has_the_results(cli):
    result = cli.run(write("k", 1), call("shell", command="exit 2"))
    shown = cli("runs", "show", result["run_id"], "--json").json
    assert shown["run_id"] == result["run_id"]
    (proposal,) = shown["proposals"]
    assert proposal["status"] == "failed"
    assert proposal["cost"] == result["cost"]
    assert [(r["status"], r["reason"]) for r in proposal["results"]] == [
        (r["status"], r["reason"]) for r in result["results"]
    ]
    assert "exit_code" in cli("runs", "show", result["run_id"]).out


def test_a_long_run_is_shown_up_to_a_limit_and_says_so(cli, monkeypatch):
    run_id = cli.run(*(write("k", n) for n in range(4)), call("fs.list"))["run_id"]
    whole = cli("runs", "show", run_id)
    assert (whole.err, whole.out.count("state_write k")) == ("", 4)
    cut = cli("runs", "show", run_id, "--limit", "2")
    assert (cut.code, cut.out.count("state_write k")) == (0, 2)
    assert "ok: 5 executed" in cut.out
    assert "the first 2 actions, and the run has 5: `--limit` shows more" in cut.err
    monkeypatch.setattr(runs, "SHOWN", 3)
    assert "the first 3 actions" in cli("runs", "show", run_id).err
    assert "there are more" in cli("runs", "show", run_id, "--tool", "state_write").err
    assert cli("runs", "show", run_id, "--tool", "fs.list").err == ""
    document = cli("runs", "show", run_id, "--json").json
    assert len(document["proposals"][0]["results"]) == 5
    assert "truncated" not in document
    document = cli("runs", "show", run_id, "--json", "--limit", "2").json
    assert (len(document["proposals"][0]["results"]), document["truncated"]) == (2, True)


def test_the_log_is_the_journal(cli):
    run_id = cli.run(READ)["run_id"]
    events = cli("runs", "log", run_id, "--json").json
    assert [e["seq"] for e in events] == list(range(len(events)))
    assert (events[0]["kind"], events[-1]["kind"]) == ("run_started", "run_finished")
    assert [e["seq"] for e in cli("runs", "log", run_id, "--json", "--from", "3").json] == list(range(3, len(events)))
    lines = cli("runs", "log", run_id).out.splitlines()
    shown = [e["seq"] for e in events if e["kind"] != "machine_sampled"]
    assert [int(line.split()[0]) for line in lines] == shown
    assert cli("runs", "log", run_id, "--quiet").out == ""


def test_the_log_for_people_says_what_happened_and_nothing_twice(cli):
    (cli.root / "a.txt").write_text("one")
    edit = call("fs.edit", path="a.txt", old="one", new="two")
    run_id = cli.run(edit, write("k", 1), call("shell", command="echo out; exit 3"))["run_id"]
    text = cli("runs", "log", run_id).out
    for said in (
        "proposal_received 3 actions",
        "policy_decided    allow by allow:fs.edit",
        "action_intent     fs.edit a.txt",
        "action_succeeded  1 replacement in a.txt",
        "state_changed     k = 1",
        "action_failed     exit_code: the process ended with exit code 3; out",
        "run_finished      failed",
    ):
        assert said in text, text
    for internal in ("sha256:", "posture", "telemetry", "boot=", "pid=", "attempt=1", "cost=0", "machine_sampled"):
        assert internal not in text, text
    assert "posture" in cli("runs", "log", run_id, "--json").out


def test_a_decision_that_is_made_again_is_shown_once(cli):
    (cli.root / "a.txt").write_text("1")
    plan = cli.plan(call("fs.move", source="a.txt", destination="b.txt"))
    run_id = cli("run", plan, "--no-wait", "--json").json["run_id"]
    assert cli("approvals", "approve", "last").code == 0
    assert cli("resume", run_id).code == 0
    decisions = [e["decision"] for e in cli("runs", "log", run_id, "--json").json if e["kind"] == "policy_decided"]
    assert decisions.count("hold") > 1
    text = cli("runs", "log", run_id).out
    assert text.count("policy_decided    hold") == 1
    assert "hold_resolved     approved by" in text


@pytest.mark.parametrize("command", ["show", "log", "check", "head"])
def test_a_run_that_is_not_there(cli, command):
    said = cli("runs", command, "run_none", "--json")
    assert (said.code, said.error["code"]) == (2, "not_found")


def test_a_whole_run_checks_out(cli):
    run_id = cli.run(write("k", 1))["run_id"]
    found = cli("runs", "check", run_id, "--json").json
    assert (found["ok"], found["problems"], found["torn_bytes"]) == (True, [], 0)
    assert found["signed_up_to"] == found["events"] - 1
    assert cli("runs", "check", run_id).out.startswith("whole")


def test_a_damaged_journal_is_exit_4_and_the_offset_is_named(cli):
    run_id = cli.run(write("k", 1))["run_id"]
    path = journal(cli, run_id)
    data = bytearray(path.read_bytes())
    at = data.index(b"proposal_received")
    data[at] ^= 1
    path.write_bytes(data)
    said = cli("runs", "check", run_id, "--json")
    assert (said.code, said.json["ok"]) == (4, False)
    assert 0 < said.json["offset"] <= at
    assert "journal_corrupt" in {p["code"] for p in said.json["problems"]}
    assert f"byte {said.json['offset']}" in cli("runs", "check", run_id).out
    assert cli("runs", "show", run_id).code == 4
    logged = cli("runs", "log", run_id)
    assert logged.code == 4
    assert "run_started" in logged.out
    assert cli("runs", "log", run_id, "--json").error["code"] == "journal_corrupt"
    assert cli("undo", run_id).code == 1


def test_a_truncated_a_rewritten_and_a_missing_journal_are_exit_4(cli):
    run_id, other = cli.run(write("k", 1))["run_id"], cli.run(write("k", 2))["run_id"]
    path = journal(cli, run_id)
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines[:-1]) if b'"kind":"seal"' in line)
    path.write_bytes(b"".join(lines[: last + 1]))
    said = cli("runs", "check", run_id, "--json")
    assert (said.code, {p["code"] for p in said.json["problems"]}) == (4, {"journal_truncated"})
    path.unlink()
    said = cli("runs", "check", run_id, "--json")
    assert (said.code, said.json["ok"]) == (4, False)
    assert cli("runs", "check", other).code == 0


def test_the_signed_head_is_small_and_names_the_run(cli):
    run_id = cli.run(READ)["run_id"]
    printed, document = cli("runs", "head", run_id).out, cli("runs", "head", run_id, "--json").json
    assert json.loads(printed) == document
    assert document["payloadType"].startswith("application/vnd.interlock.journal-head")
    keyid = cli("keys", "show", "--json").json["keyid"]
    assert document["signatures"][0]["keyid"] == keyid


def problems(cli, run_id):
    said = cli("runs", "check", run_id, "--json")
    codes = {problem["code"] for problem in said.json["problems"]}
    assert (said.code, said.json["ok"]) == ((4, False) if codes else (0, True))
    return codes


def test_a_check_says_whose_key_signed(cli):
    run_id = cli.run(READ)["run_id"]
    keyid = cli("keys", "show", "--json").json["keyid"]
    assert cli("runs", "check", run_id, "--json").json["signed_by"] == keyid
    assert keyid in cli("runs", "check", run_id).out


def test_a_head_that_another_key_signed_is_damage(cli, tmp_path):
    run_id = cli.run(READ)["run_id"]
    directory = journal(cli, run_id).parent
    sign_head(directory, scan(directory).head, Signer.open(tmp_path / "forged", Disk()), Disk())
    assert problems(cli, run_id) == {"bad_signature"}
    for file in (directory.parents[2] / "keys").glob("ed25519*"):
        file.unlink()
    assert problems(cli, run_id) == {"bad_signature"}


def test_a_finished_run_without_its_head_is_damaged(cli):
    run_id = cli.run(READ)["run_id"]
    head = journal(cli, run_id).parent / "head.dsse.json"
    head.unlink()
    assert problems(cli, run_id) == {"head_missing"}


def test_a_finished_run_whose_head_was_signed_before_its_end_is_damaged(cli):
    run_id = cli.run(READ, READ)["run_id"]
    directory = journal(cli, run_id).parent
    seal = msgspec.json.decode(
        next(line for line in journal(cli, run_id).read_bytes().splitlines() if b'"seal"' in line[:16])
    )
    early = Head(run=run_id, seq=seal["last"], seal=seal["digest"], epoch=seal["epoch"])
    sign_head(directory, early, Signer.open(directory.parents[2] / "keys", Disk()), Disk())
    assert problems(cli, run_id) == {"head_missing"}


def test_a_run_that_died_before_it_was_signed_is_signed_by_recovery(cli):
    run_id = cli.run(READ)["run_id"]
    directory = journal(cli, run_id).parent
    (directory / "head.dsse.json").unlink()
    db = Database(directory.parents[1] / "interlock.db")
    db.execute("update runs set status = 'running', finished_us = null where run_id = ?", (run_id,))
    db.close()
    assert cli("recover").code == 0
    assert problems(cli, run_id) == set()


def test_a_checkpoint_brings_the_state_back_exactly_or_merged(cli):
    run_id = cli.run(write("a", 1), write("b", 2))["run_id"]
    saved = cli("runs", "checkpoint", run_id, "-o", "state.json", "--json").json
    assert (saved["run_id"], saved["keys"]) == (run_id, 2)
    assert stat.S_IMODE((cli.root / "state.json").stat().st_mode) == 0o600
    cli.run(write("a", 9), write("c", 3))
    merged = cli("runs", "restore", "state.json", "--merge", "--json").json
    assert (merged["written"], merged["removed"]) == (1, 0)
    exact = cli("runs", "restore", "state.json", "--json").json
    assert (exact["written"], exact["removed"], exact["checkpoint_of"]) == (0, 1, run_id)
    assert cli("simulate", cli.plan(READ), "--json").json["state"] == {"a": 1, "b": 2}
    assert cli("runs", "check", exact["run_id"]).code == 0
    assert cli("runs", "show", exact["run_id"]).code == 0


def test_a_checkpoint_has_an_id_the_callers_metadata_and_events_if_wanted(cli):
    run_id = cli.run(write("a", 1))["run_id"]
    saved = cli("runs", "checkpoint", run_id, "-o", "c.json", "--metadata", "note=before", "--events", "--json").json
    done = cli("runs", "restore", "c.json", "--json").json
    assert (done["checkpoint_id"], done["metadata"]) == (saved["id"], {"note": "before"})
    held = json.loads((cli.root / "c.json").read_text().splitlines()[0])
    assert [event["kind"] for event in held["events"]][:2] == ["run_started", "proposal_received"]
    assert held["events"][-1]["seq"] == saved["seq"]
    assert held["about_run"]["status"] == "succeeded"
    assert "note: before" in cli("runs", "restore", "c.json").out
    assert cli("runs", "checkpoint", run_id, "-o", "c.json", "--metadata", "note", "--json").code == 2


MODULE = """
import interlock

@interlock.tool(read_only=True)
def counted(x: int) -> int:
    return x
"""


def test_other_tools_than_those_of_the_checkpoint_are_named_and_refused_unless_told(cli):
    configuration = (cli.root / "interlock.toml").read_text()
    (cli.root / "own.py").write_text(MODULE + MODULE[MODULE.index("@") :].replace("counted", "gone"))
    (cli.root / "interlock.toml").write_text(configuration + '[tools]\nmodules = ["own"]\n')
    assert cli("trust", "--yes").code == 0
    run_id = cli.run(write("a", 1))["run_id"]
    cli("runs", "checkpoint", run_id, "-o", "c.json")
    assert cli("runs", "restore", "c.json").code == 0
    cli.run(write("a", 2))
    (cli.root / "own.py").write_text(MODULE.replace("x: int", "x: str"))
    assert cli("trust", "--yes").code == 0
    said = cli("runs", "restore", "c.json", "--json")
    assert (said.code, said.error["code"]) == (1, "tools_differ")
    assert "`gone` is missing; `counted` has another definition" in said.error["message"]
    assert cli("simulate", cli.plan(READ), "--json").json["state"] == {"a": 2}
    done = cli("runs", "restore", "c.json", "--accept-tools", "--json").json
    assert (done["tools_missing"], done["tools_changed"]) == (["gone"], ["counted"])
    assert cli("simulate", cli.plan(READ), "--json").json["state"] == {"a": 1}


def test_what_is_not_a_checkpoint_is_not_restored(cli):
    run_id = cli.run(write("a", 1))["run_id"]
    cli("runs", "checkpoint", run_id, "-o", "c.json")
    text = (cli.root / "c.json").read_text()
    (cli.root / "edited.json").write_text(text.replace('"value":1', '"value":2'))
    assert cli("runs", "restore", "edited.json", "--json").code == 4
    assert cli("runs", "restore", "interlock.toml", "--json").code in (2, 4)
    assert cli("runs", "restore", "missing", "--json").error["code"] == "not_found"


def test_pruned_runs_are_gone(cli):
    first, second = (cli.run(READ)["run_id"] for _ in range(2))
    assert cli("runs", "prune", first, "--json").error["code"] == "usage"
    for argv in (
        ["prune", "--yes"],
        ["prune", first, "--older-than", "1h"],
        ["prune", "--older-than", "soon", "--yes"],
    ):
        assert cli("runs", *argv, "--json").error["code"] == "usage"
    assert cli("runs", "prune", first, "--yes", "--json").json == {"pruned": [first]}
    assert [row["run_id"] for row in cli("runs", "list", "--json").json] == [second]
    assert cli("runs", "prune", "--older-than", "1h", "--yes", "--json").json == {"pruned": []}
    assert cli("runs", "prune", "--older-than", "1ms", "--yes", "--json").json == {"pruned": [second]}
    assert cli("runs", "prune", "run_none", "--yes", "--json").error["code"] == "not_found"


def test_sessions_group_runs_failed_ones_too(cli):
    cli.run(READ, flags=("--session", "s"))
    cli.run(call("shell", command="exit 1"), flags=("--session", "s"))
    cli.run(READ)
    (row,) = cli("sessions", "list", "--json").json
    assert (row["session"], row["runs"]) == ("s", 2)
    assert len(cli("sessions", "show", "s", "--json").json["runs"]) == 2
    assert cli("sessions", "show", "t", "--json").error["code"] == "not_found"


def test_tools_are_listed_with_their_definitions(cli):
    tools = {tool["name"]: tool for tool in cli("tools", "list", "--json").json}
    assert tools["fs.read"]["read_only"] is True
    assert tools["shell"]["version"].startswith("sha256:")
    assert "fs.read" in cli("tools", "list").out


def test_a_run_that_waits_is_shown_as_waiting(cli):
    (cli.root / "a.txt").write_text("1")
    plan = cli.plan(call("fs.list"), call("fs.move", source="a.txt", destination="b.txt"))
    result = cli("run", plan, "--no-wait", "--json").json
    (shown,) = cli("runs", "show", result["run_id"], "--json").json["proposals"]
    assert shown["status"] == "held"
    assert [row["status"] for row in shown["results"]] == [row["status"] for row in result["results"]]
    assert shown["results"][1]["output"] == result["results"][1]["output"]
    assert shown["cost"]["actions_executed"] == result["cost"]["actions_executed"] == 1
    asked = cli("approvals", "show", result["results"][1]["output"]["approval"]).out
    assert "a.txt (exists" in asked
    assert "b.txt (does not exist yet)" in asked


def test_only_statuses_that_a_run_can_have_are_looked_for(cli):
    cli.run(call("fs.list"))
    assert len(cli("runs", "list", "--status", "succeeded", "--json").json) == 1
    assert cli("runs", "list", "--status", "rolled_back", "--json").error["code"] == "usage"


def test_an_undo_of_many_things_names_the_first_and_says_where_the_others_are(cli, monkeypatch):
    monkeypatch.setattr(results, "UNDONE_SHOWN", 2)
    run_id = cli.run(*(write(f"k{n}", n) for n in range(5)))["run_id"]
    said = cli("undo", run_id)
    assert said.out.count("restored     state k") == 2
    assert "and 3 more: `interlock runs show run_" in said.out
    whole = cli("runs", "show", "last", "--action", "undo").out
    assert all(f'"k{n}"' in whole for n in range(5))
    first, _ = (cli.run(*(write(f"k{n}", value) for n in range(5)))["run_id"] for value in ("a", "b"))
    said = cli("undo", first)
    assert (said.code, said.out.count("\nnot undone: ")) == (1, 2)


def test_an_undo_names_a_file_that_is_not_utf_8(cli):
    name = {"b64": "Y2Fm6Q=="}
    for force in ((), ("--force",)):
        run_id = cli.run({"type": "tool_call", "tool": "fs.write", "parameters": {"path": name, "content": "x"}})[
            "run_id"
        ]
        said = cli("undo", run_id, *force)
        assert (said.code, "caf\\xe9" in said.out) == (0, True), said
