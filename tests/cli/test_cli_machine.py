"""`doctor`, `telemetry`, `keys`."""

from __future__ import annotations

import json

from cli_driving import call

from interlock.engine.inspect import doctor


def facts(cli, *argv):
    said = cli("doctor", "--json", *argv)
    return said, {(fact["section"], fact["name"]): fact for fact in said.json["facts"]}


def test_doctor_says_what_is_here_and_what_is_not(cli):
    said, found = facts(cli)
    assert (said.code, said.json["ok"]) == (0, True)
    assert found["isolation", "L0"]["status"] == "ok"
    assert found["isolation", "R1"]["status"] == "ok"
    assert {"L1", "L2", "L3", "profile"} <= {name for section, name in found if section == "isolation"}
    assert found["state", "directory"]["detail"] == str(cli.root.parent / "state")
    assert found["project", "configuration"]["status"] == "ok"
    assert found["approvals", "approvers"]["status"] == "warning"
    assert found["runs", "unfinished"]["detail"] == "none"
    doors = [fact for (section, _), fact in found.items() if section == "gaps around Interlock"]
    assert doors
    assert all(fact["hint"] for fact in doors)
    text = cli("doctor").out
    assert text.index("limits of this version on every machine") < text.index("gaps around Interlock: own tools")


def test_doctor_is_fitted_to_the_terminal(cli, terminal):
    code, text = terminal("doctor", "--no-color", columns=60).end()
    assert code == 0
    lines = text.splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith(" " * 11) for line in lines)


def test_doctor_begins_with_what_matters_and_its_remedy(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + "# an edit\n")
    lines = cli("doctor").out.splitlines()
    assert lines[0] == "no proposal runs until this is fixed"
    assert lines[1].split(maxsplit=1)[0] == "problem"
    assert "not trusted" in lines[1]
    assert "interlock trust" in lines[2]
    marks = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert marks == sorted(marks, key=["problem", "warning", "ok", "limit", "absent"].index)


def test_doctor_says_in_one_line_what_is_absent(cli, monkeypatch):
    monkeypatch.setattr(
        doctor, "LAYERS", (("X1", "first", "a wall of another system"), ("X2", "second", "another one"))
    )
    (absent,) = [line for line in cli("doctor").out.splitlines() if line.startswith("  absent")]
    assert "X1" in absent
    assert "X2" in absent
    assert "interlock doctor --json" in absent


def test_doctor_says_what_an_old_git_cannot_do(cli, tmp_path, monkeypatch):
    old = tmp_path / "bin" / "git"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho git version 2.34.1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    fact = facts(cli)[1]["machine", "git"]
    assert fact["status"] == "warning"
    assert "2.34.1" in fact["detail"]
    assert "https" in fact["detail"]


def test_doctor_finds_what_is_wrong(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + "# an edit\n")
    said, found = facts(cli)
    assert (said.code, said.json["ok"]) == (1, False)
    assert "not trusted" in found["project", "configuration"]["detail"]
    path.write_text('agnet = "x"\n')
    assert facts(cli)[1]["project", "configuration"]["status"] == "problem"


def test_doctor_sees_unfinished_runs_and_questions(cli):
    (cli.root / "a.txt").write_text("1")
    cli("run", cli.plan(call("fs.move", source="a.txt", destination="b.txt")), "--no-wait")
    _, found = facts(cli)
    assert found["runs", "unfinished"]["detail"] == "1 held"
    assert found["approvals", "holds"]["detail"].startswith("1 ")


def test_doctor_works_without_a_project(bare):
    said, found = facts(bare)
    assert said.code == 0
    assert found["project", "configuration"]["status"] == "warning"


def test_doctor_tells_where_each_setting_came_from(cli, monkeypatch):
    monkeypatch.setenv("INTERLOCK_GUARD_CPU", "0.5")
    settings = {s["path"]: s for s in cli("doctor", "--config", "--json").json}
    assert settings["agent"] == {"path": "agent", "value": "coder", "source": "interlock.toml"}
    assert settings["guard.cpu"]["source"] == "environment INTERLOCK_GUARD_CPU"
    assert settings["guard.memory"]["source"] == "default"
    assert "environment INTERLOCK_GUARD_CPU" in cli("doctor", "--config").out


def test_a_snapshot_of_the_machine(bare):
    view = bare("telemetry", "--json").json
    assert view["cpus"] >= 1
    assert view["processes"]["total"] >= 1
    assert "cpus: " in bare("telemetry").out


def test_only_the_public_key_is_shown(cli):
    shown = cli("keys", "show", "--json").json
    assert shown["keyid"].startswith("ed25519:")
    assert "PUBLIC KEY" in shown["public_key"]
    assert "PRIVATE" not in cli("keys", "show").out


def test_doctor_warns_of_other_mcp_servers_and_not_of_the_gateway(cli):
    path = cli.root / ".mcp.json"
    gateway = {"interlock": {"command": "interlock", "args": ["gateway"]}}
    alone, beside = ({"mcpServers": one} for one in (gateway, {**gateway, "other": {"command": "x"}}))
    for text, warned in ((json.dumps(alone), False), (json.dumps(beside), True), ("{", True)):
        path.write_text(text)
        assert (("gaps around Interlock", ".mcp.json") in facts(cli)[1]) is warned


def test_nobody_is_told_to_try_clients_that_were_just_tried(cli):
    (cli.root / ".mcp.json").write_text('{"mcpServers": {"memory": {"command": "x"}}}')
    for tried in (False, True):
        facts = doctor.examine(cli.root, cli.env, clients_tried=tried)
        assert any("--clients" in (fact.hint or "") for fact in facts) is not tried
        (named,) = [fact for fact in facts if fact.name == ".mcp.json"]
        assert "`memory` without Interlock" in named.detail
