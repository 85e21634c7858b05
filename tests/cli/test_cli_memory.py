"""`interlock memory`: the person sees what agents noted, corrects it, and makes it forgotten."""

from __future__ import annotations

from cli_driving import call


def test_undo_from_the_command_line_withdraws_a_note_and_leaves_nothing_behind(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text().replace('"fs.read",', '"fs.read", "memory.*",') + "[learning]\nmemory = true\n")
    assert cli("trust", "--yes").code == 0
    assert cli("call", "memory.write", '{"subject": "build", "value": "make"}').code == 0
    said = cli("undo", "last")
    assert (said.code, "not undone" in said.out, "no tool" in said.err) == (0, False, False)
    assert "withdrawn    fact mem_" in said.out
    assert "nothing left" not in said.out
    assert "no facts" in cli("memory", "list").out


def test_a_person_sees_corrects_and_forgets_what_an_agent_noted(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text().replace('"fs.read",', '"fs.read", "memory.*",') + "[learning]\nmemory = true\n")
    assert cli("trust", "--yes").code == 0
    assert cli("memory", "list").out == "no facts\n"
    done = cli.run(call("memory.write", subject="remote", predicate="name", value="evil\x1b[2J", scope="workspace"))
    assert done["status"] == "succeeded", done
    fact = done["results"][0]["output"]["id"]
    assert "evil\\x1b[2J" in cli("memory", "list").out
    shown = cli("memory", "show", fact[:12], "--json").json
    assert (shown["author"], shown["run"], shown["flags"]) == ("agent:coder", done["run_id"], ["control_characters"])
    corrected = cli("memory", "correct", fact, "origin", "--json").json
    assert (corrected["value"], corrected["author"].split(":")[0]) == ("origin", "person")
    assert [one["fact"]["value"] for one in cli("memory", "search", "remote", "--json").json] == ["origin"]
    assert len(cli("memory", "list", "--all", "--json").json) == 2
    assert cli("memory", "forget", corrected["id"], fact).code == 0
    assert cli("memory", "list", "--all", "--json").json == []
    assert cli("memory", "show", fact, "--json").error["code"] == "not_found"
    assert cli("memory", "forget", "--json").error["code"] == "usage"


def test_once_there_are_approvers_only_they_correct_and_forget(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text().replace('"fs.read",', '"fs.read", "memory.*",') + "[learning]\nmemory = true\n")
    assert cli("trust", "--yes").code == 0
    fact = cli.run(call("memory.write", subject="a", value=1))["results"][0]["output"]["id"]
    assert cli("approvers", "add", "ann", "--group", "ops", "--json").code == 0
    for words in (("correct", fact, "2"), ("forget", fact)):
        assert cli("memory", *words, "--json").error["code"] == "unauthenticated"
    assert [one["value"] for one in cli("memory", "list", "--json").json] == [1]
