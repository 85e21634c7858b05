"""`interlock run --commit`, `diff`, `commit`, `discard`: a person decides what becomes of a layer."""

import json
import os

import pytest
from cli_driving import call, work_directly

from interlock.disk import Disk
from interlock.journal import lock

COMMAND = "echo agent > a; echo new > new; rm gone; echo evil > .envrc; ln -s /etc out"


@pytest.fixture
def project(cli):
    (cli.root / "a").write_text("original\n")
    (cli.root / "gone").write_text("x\n")
    return cli


def run(cli, command=COMMAND, *options):
    plan = cli.root.parent / "plan.json"
    plan.write_text(
        json.dumps(
            {"actions": [{"type": "tool_call", "id": "sh", "tool": "shell", "parameters": {"command": command}}]}
        )
    )
    done = cli("run", str(plan), "--json", *options)
    return json.loads(done.out), done


def test_a_kept_layer_is_shown_committed_by_path_and_then_as_a_whole(project):
    result, _ = run(project, COMMAND, "--commit", "never")
    run_id = result["run_id"]
    assert result["workspace"]["status"] == "kept"
    assert (project.root / "a").read_text() == "original\n"
    shown = project("diff", run_id)
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert "~ a" in lines
    assert "+ new" in lines
    assert "- gone" in lines
    assert any(line.startswith("+ .envrc  # held") for line in lines)
    assert any(line.startswith("+ out (symlink)  # a link to outside") for line in lines)
    assert project("commit", run_id, "a").code == 0
    assert (project.root / "a").read_text() == "agent\n"
    assert not (project.root / "new").exists()
    rest = project("commit", run_id)
    assert rest.code == 1
    assert "commit_incomplete" in rest.err or ".envrc" in rest.err
    assert (project.root / "new").exists()
    assert not (project.root / "gone").exists()
    assert not (project.root / ".envrc").exists()
    assert project("commit", run_id, ".envrc").code == 0
    assert (project.root / ".envrc").exists()
    assert project("diff", run_id).code == 2
    back = project("undo", run_id)
    assert (project.root / "a").read_text() == "original\n", back.err
    assert (project.root / "gone").exists()
    assert not os.path.lexists(project.root / "out")
    assert not (project.root / ".envrc").exists()


def test_a_discarded_layer_leaves_nothing(project):
    result, _ = run(project, COMMAND, "--commit", "ask")
    assert project("discard", result["run_id"]).code == 0
    assert (project.root / "a").read_text() == "original\n"
    assert (project.root / "gone").exists()
    assert project("commit", result["run_id"]).code == 2


def test_an_undo_of_the_run_drops_its_layer(project):
    result, _ = run(project, COMMAND, "--commit", "never")
    project("undo", result["run_id"])
    assert (project.root / "a").read_text() == "original\n"
    assert project("diff", result["run_id"]).code == 2


def test_a_conflict_is_committed_around(project):
    result, _ = run(project, "echo agent > a; echo new > new", "--commit", "never")
    (project.root / "a").write_text("person\n")
    done = project("commit", result["run_id"])
    assert done.code == 1
    assert "`a` (conflict)" in done.err
    assert (project.root / "a").read_text() == "person\n"
    assert (project.root / "new").exists()


def test_without_layers_nothing_waits(cli):
    work_directly(cli)
    result, _ = run(cli, "echo x > b")
    assert result["workspace"] is None
    done = cli("diff", result["run_id"])
    assert done.code == 2
    assert "has no layer" in done.err


def test_the_flag_asks_for_a_layer_whatever_the_mode_is(cli):
    work_directly(cli)
    result, _ = run(cli, "echo x > b", "--commit", "never")
    assert result["workspace"]["status"] == "kept"
    assert not (cli.root / "b").exists()


def test_what_is_ok_before_the_run_is_over_is_said_to_be_in_its_layer(cli):
    plan = cli.plan(call("fs.write", path="a", content="1"), call("fs.move", source="a", destination="b"))
    said = cli("run", plan, "--no-wait")
    assert said.code == 3
    assert "in the proposal's layer" in said.err
    assert not (cli.root / "a").exists()


def test_changes_that_wait_are_reported_with_what_to_do(cli):
    said = cli("run", cli.plan(call("fs.write", path="a", content="1")), "--commit", "never")
    assert "1 change waits in the layer for a commit" in said.err
    assert "`interlock discard run_" in said.err


def test_a_layer_that_a_person_has_committed_in_part_is_not_said_to_have_changed_nothing(project):
    result, _ = run(project, "echo x > b; echo y > c", "--commit", "never")
    done = project("commit", result["run_id"], "b")
    assert done.code == 0
    assert "1 change still waits" in done.err
    said = project("runs", "show", result["run_id"])
    assert "for a commit" in said.out + said.err
    assert "as they were" not in said.out + said.err


def test_why_a_layer_could_not_be_committed_is_shown_where_people_look(project):
    result, _ = run(project, "echo agent > a; echo agent > b", "--commit", "never")
    run_id = result["run_id"]
    (project.root / "b").mkdir()
    (project.root / "b" / "inside").write_text("person\n")
    assert project("commit", run_id, "a").code == 0
    assert project("commit", run_id).code == 1
    discarded = project("discard", run_id)
    assert discarded.code == 0
    assert "1 path is already committed" in discarded.err
    assert f"`interlock undo {run_id}`" in discarded.err


def test_a_path_that_the_layer_does_not_change_is_refused_and_nothing_is_committed(project):
    result, _ = run(project, "echo agent > a; echo new > new", "--commit", "never")
    done = project("commit", result["run_id"], "new", "neww")
    assert done.code == 2
    assert "change nothing at or beneath `neww`: nothing was committed" in done.err
    assert not (project.root / "new").exists()
    assert project("commit", result["run_id"], "new").code == 0
    again = project("commit", result["run_id"], "new")  # as after a commit that was interrupted
    assert (again.code, again.out) == (0, "there was nothing to commit\n")


def test_a_name_that_is_not_utf8_is_given_as_it_is_or_as_it_is_shown(project):
    result, _ = run(
        project, "echo 1 > $(printf 'b\\377'); echo 2 > 'b\\xff'; echo 3 > $(printf 'n\\nl')", "--commit", "never"
    )
    run_id = result["run_id"]
    assert project("diff", run_id).out.splitlines() == ["+ b\\\\xff", "+ b\\xff", "+ n\\nl"]
    assert [one["path"] for one in json.loads(project("diff", run_id, "--json").out)] == [
        "b\\xff", {"b64": "Yv8="}, "n\nl",
    ]  # fmt: skip
    assert project("commit", run_id, "n\\nl").out == "committed n\\nl\n"
    assert project("commit", run_id, os.fsdecode(b"b\xff")).out == "committed b\\xff\n"
    assert sorted(os.listdir(os.fsencode(project.root))) == [b"a", b"b\xff", b"gone", b"interlock.toml", b"n\nl"]
    assert project("commit", run_id, "b\\xff").code == 0
    assert (project.root / "b\\xff").read_text() == "2\n"


def test_what_is_never_committed_has_its_own_sign_and_advice(project):
    os.mkfifo(project.root / "pipe")
    result, _ = run(project, "rm pipe; mkfifo made; touch -d @5 a", "--commit", "never")
    assert project("diff", result["run_id"]).out.splitlines() == [
        "t a",
        "+ made (special)  # never committed: not a readable file, directory or link",
        "- pipe (special)  # never committed: not a readable file, directory or link",
    ]
    done = project("commit", result["run_id"])
    assert done.code == 1
    assert "PATH" not in done.err
    assert f"`interlock discard {result['run_id']}` drops the rest" in done.err
    assert (project.root / "a").stat().st_mtime == 5


def test_a_run_that_is_at_work_or_waits_is_said_to_be(project):
    result, _ = run(project, "echo new > new", "--commit", "never")
    run_id = result["run_id"]
    (directory,) = (project.root.parent).rglob(run_id)
    with lock.held(directory, Disk()):
        for command in ("commit", "discard"):
            done = project(command, run_id)
            assert done.code != 0
            assert "it is at work, and its layers can be committed or discarded once it is over" in done.err
            assert f"`interlock stop {run_id}`" in done.err
    waiting = project(
        "run",
        project.plan(call("fs.write", path="a", content="1"), call("fs.move", source="a", destination="b")),
        "--no-wait",
        "--json",
    )
    waiting_id = json.loads(waiting.out)["run_id"]
    for command in ("diff", "commit", "discard"):
        done = project(command, waiting_id)
        assert done.code == 2
        assert "it waits for an answer. Its layer is committed when it has succeeded" in done.err


def test_the_content_of_what_waits_is_shown_line_by_line_for_all_of_it_or_some_paths(project):
    secret = "ghp_" + "a1B2c3D4e5" * 4
    (project.root / "run.sh").write_text("exit\n")
    command = (
        f"echo agent > a; mkdir d; echo 'token = {secret}' > d/new; rm gone; chmod 755 run.sh; echo 'exit 0' > run.sh;"
        " touch -d 2001-01-01 d/old; printf '\\377' > bytes; ln -s /etc/passwd out; printf '#!/bin/sh\\n' > x; chmod 700 x"
    )
    result, _ = run(project, command, "--commit", "never")
    shown = project("diff", result["run_id"], "--content")
    assert shown.code == 0
    for text in (
        "~ a\n    @@ -1 +1 @@\n    -original\n    +agent\n",
        "- gone\n    @@ -1 +0,0 @@\n    -x\n",
        "~ run.sh\n    permissions 644 become 755\n",
        "+ x\n    permissions 700: it can be run\n",
        "+ bytes\n    not text",
        "a symbolic link to `/etc/passwd`, which leads out of the workspace",
        "+token = [redacted:",
    ):
        assert text in shown.out, shown.out
    assert secret not in shown.out
    some = project("diff", result["run_id"], "d", "--content", "--json").json
    assert [one["path"] for one in some] == ["d", "d/new", "d/old"]
    assert some[1]["content"]["added"] == 1
    assert "content" not in project("diff", result["run_id"], "a", "--json").json[0]
    assert project("diff", result["run_id"], "nothing").code == 2


def test_differences_of_a_layer_have_a_limit_for_all_of_them_and_say_so(project, monkeypatch):
    monkeypatch.setattr("interlock.engine.runs.kept_layers._CONTENT_CHARS_MAX", 1)
    result, _ = run(project, "echo 1 > b; echo 2 > c", "--commit", "never")
    first, second = project("diff", result["run_id"], "--content", "--json").json
    assert first["content"]["lines"] == ["@@ -0,0 +1 @@", "+1"]
    assert "not compared" in second["content"]["note"]
