"""Walls through the gate: from the settings to what a process can reach, in the workspace itself and in a layer."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from engine_world import TOML, call, execute, statuses

from interlock.disk import Disk
from interlock.engine.local.walls import offered_walls
from interlock.journal import read as read_journal
from interlock.model.errors import ConfigurationError
from interlock.model.events import ActionIntent


def shell(command, **fields):
    return call("shell", "shell", parameters={"command": command}, **fields)


@pytest.fixture(params=["direct", "layer"])
def project(request, new_project):
    made = new_project(toml=f'{TOML % ""}[workspace]\nmode = "{request.param}"\n')
    (made.root / "a").write_text("original\n")
    return made


def test_without_a_word_of_configuration_a_process_sees_the_workspace_and_nothing_else(project, tmp_path):
    (tmp_path / "secret").write_text("secret")
    done = execute(
        project.open(),
        shell(f"cat a; echo new > b; cat {tmp_path}/secret ../secret {project.state}/* 2>/dev/null; true"),
    )
    assert statuses(done) == ["succeeded"]
    assert done.results[0].output["stdout"] == "original\n"
    assert (project.root / "b").read_text() == "new\n"
    posture = done.results[0].posture
    assert {posture[name] for name in ("syscalls", "fs", "namespaces", "net")} == {"active"}


def test_what_the_loader_reads_stays_as_it_is(project):
    before = (project.root / "interlock.toml").read_bytes()
    execute(project.open(), shell("echo x >> interlock.toml; rm -f interlock.toml; mv a interlock.toml; true"))
    assert (project.root / "interlock.toml").read_bytes() == before


def test_what_the_loader_reads_through_a_link_stays_as_it_is_too(project):
    (project.root / "shared").mkdir()
    (project.root / "shared" / "a.cedar").write_text("permit(principal, action, resource);")
    (project.root / "policy").symlink_to("shared")
    (project.root / "interlock.toml").write_text(
        (project.root / "interlock.toml").read_text() + '[policy]\nfiles = ["policy/*.cedar"]\n'
    )
    project.trust()
    tricks = (
        "echo x >> policy/a.cedar",
        "echo y >> shared/a.cedar",
        "mv shared gone",
        "mv policy old",
        "ln -sfn /tmp policy",
    )
    for trick in tricks:
        execute(project.open(), shell(f"{trick}; true"))
        assert (project.root / "policy").readlink().name == "shared", trick
        assert (project.root / "shared" / "a.cedar").read_text() == "permit(principal, action, resource);", trick


@pytest.mark.parametrize("profile", ["ns", "nons"])
@pytest.mark.parametrize("path", [".mcp.json", "policy/new.cedar", ".github/hooks/x.json", "interlock.lock"])
def test_a_file_for_the_loader_or_a_client_that_a_process_makes_fails_the_action(new_project, profile, path):
    """In the workspace itself: a wall can only be before what is there."""
    project = new_project(toml=f'{TOML % ""}[workspace]\nmode = "direct"\n[isolation]\nprofile = "{profile}"\n')
    done = execute(project.open(), shell(f"mkdir -p $(dirname {path}); echo x > {path}"))
    assert statuses(done) == ["failed"]
    assert done.results[0].reason == "path_protected"
    assert f"`{path.removesuffix('/x.json') if 'hooks' in path else path.partition('/')[0]}" in done.results[0].error
    assert statuses(execute(project.open(), shell("echo x > other; mkdir -p .github/other"))) == ["succeeded"]


def test_a_client_may_write_its_own_files_while_a_process_runs(new_project):
    """They are read-only for the process, so it was not the process."""
    project = new_project(toml=f'{TOML % ""}[workspace]\nmode = "direct"\n')
    (project.root / ".opencode").mkdir()
    (project.root / ".mcp.json").write_text("{}")
    script = "touch started; ! touch .opencode/x; ! touch .mcp.json; while [ ! -e .opencode/lock ]; do sleep 0.02; done"

    def write():
        while not (project.root / "started").exists():
            time.sleep(0.02)
        (project.root / ".mcp.json").write_text("{ }")
        (project.root / ".opencode" / "lock").write_text("x")

    client = threading.Thread(target=write)
    client.start()
    assert statuses(execute(project.open(), shell(script))) == ["succeeded"]
    client.join()


def test_a_file_of_the_loader_or_a_client_that_is_replaced_while_a_process_runs_fails_the_action(new_project):
    """An editor saves by a rename, which ends the read-only mount over the file: then the process can write it."""
    project = new_project(toml=f'{TOML % ""}[workspace]\nmode = "direct"\n')
    (project.root / ".mcp.json").write_text("{}")
    script = "touch started; while [ ! -e done ]; do sleep 0.02; done; echo evil >> .mcp.json"

    def save():
        while not (project.root / "started").exists():
            time.sleep(0.02)
        (project.root / "new").write_text("{ }")
        (project.root / "new").rename(project.root / ".mcp.json")
        (project.root / "done").touch()

    person = threading.Thread(target=save)
    person.start()
    result = execute(project.open(), shell(script))
    person.join()
    assert result.results[0].reason == "path_protected"
    assert "`.mcp.json`" in result.results[0].error


def test_a_missing_layer_that_is_required_stops_the_run_before_it_begins(new_project):
    made = new_project(toml=f'{TOML % ""}[isolation]\nprofile = "nons"\nrequire = ["namespaces"]\n')
    with pytest.raises(ConfigurationError) as caught:
        made.open()
    assert caught.value.code == "isolation_unavailable"
    assert "namespaces" in caught.value.message


def test_what_was_found_is_remembered_for_this_boot_and_user(project):
    execute(project.open(), shell("true"))
    (kept,) = project.state.glob("walls.json")
    assert f"{os.geteuid()}," in kept.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace by itself")
def test_what_was_found_is_not_believed_in_another_container(project):
    """A container may refuse Landlock or namespaces that another one with the same state directory, and boot, allows."""
    execute(project.open(), shell("true"))
    (kept,) = project.state.glob("walls.json")
    before = json.loads(kept.read_text())
    kept.write_text(json.dumps(before | {"layers": dict.fromkeys(before["layers"], "absent(another container)")}))
    script = (
        "import sys\nfrom pathlib import Path\nfrom interlock.disk import Disk\n"
        "from interlock.engine.local.walls import offered_walls\n"
        "print(offered_walls(Path(sys.argv[1]), Disk())['syscalls'])"
    )
    for around, found in (([], "absent(another container)"), (["unshare", "--mount"], "active")):
        command = [*around, sys.executable, "-c", script, str(project.state)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == found


@pytest.fixture
def machine(new_project):
    """Makes a project on a machine that refuses some layers: `machine("namespaces")`."""

    def made(*absent, isolation=""):
        project = new_project(toml=f"{TOML % ''}[isolation]\n{isolation}\n")
        project.state.mkdir(exist_ok=True)
        offered_walls(project.state, Disk())
        known = project.state / "walls.json"
        found = json.loads(known.read_text())
        found["layers"] |= dict.fromkeys(absent, "absent(refused)")
        known.write_text(json.dumps(found))
        return project

    return made


def test_where_namespaces_are_refused_the_next_weaker_walls_stand_and_it_is_reported(machine):
    runtime = machine("namespaces").open()
    done = execute(runtime, shell("echo ok"))
    assert done.results[0].output["stdout"] == "ok\n"
    posture = done.results[0].posture
    assert all(posture[name].startswith("active") for name in ("syscalls", "fs", "net"))
    assert posture["namespaces"] == "absent(profile `nons`)"
    (warning,) = [text for text in runtime.warnings if text.startswith("isolation.profile: ")]
    assert "`nons` is used in place of `ns`: namespaces absent(refused)" in warning


def test_weaker_walls_that_were_configured_cause_no_warning(machine):
    runtime = machine("namespaces", isolation='profile = "nons"').open()
    assert statuses(execute(runtime, shell("true"))) == ["succeeded"]
    assert not [text for text in runtime.warnings if "isolation" in text]


def test_where_no_wall_stands_no_process_starts_and_files_are_still_written(machine):
    project = machine("namespaces", "fs")
    write = call("fs.write", "write", parameters={"path": "b", "content": "new"})
    done = execute(project.open(), write, shell("touch c", failure_behavior="skip"))
    assert statuses(done) == ["succeeded", "failed"]
    assert done.results[1].reason == "isolation_failed"
    assert "namespaces absent(refused)" in done.results[1].error
    assert (project.root / "b").exists()
    assert not (project.root / "c").exists()


@pytest.mark.parametrize("mode", ["direct", "layer"])
def test_what_the_loader_reads_can_be_a_wall_without_namespaces_too(new_project, mode):
    toml = f'{TOML % ""}[isolation]\nprofile = "nons"\nrequire = ["configuration"]\n[workspace]\nmode = "{mode}"\n'
    project = new_project(toml=toml)
    (project.root / "src").mkdir()
    tricks = "echo x >> interlock.toml || mv interlock.toml src/ || touch beside || echo x > src/a"
    done = execute(project.open(), shell(tricks))
    assert statuses(done) == ["succeeded"]
    assert done.results[0].posture["configuration"].startswith("active(nothing is made")
    assert (project.root / "interlock.toml").read_text() == toml
    assert [path.name for path in (project.root / "src").iterdir()] == ["a"]


def test_without_walls_a_process_starts_only_if_that_was_written(machine):
    done = execute(machine("namespaces", "fs", isolation='profile = "none"').open(), shell("true"))
    assert statuses(done) == ["succeeded"]
    assert done.results[0].posture["fs"] == "absent(profile `none`)"


@pytest.mark.parametrize("profile", ["ns", "nons"])
def test_keys_other_sessions_and_the_environment_above_are_out_of_reach(new_project, monkeypatch, profile):
    """Every file of the state directory, every environment of a process above, and what another run of the agent wrote."""
    monkeypatch.setenv("INTERLOCK_TEST_SECRET", "above")
    project = new_project(toml=f'{TOML % ""}[isolation]\nprofile = "{profile}"\n')
    (project.root / "old").write_text("of another session")
    runtime = project.open()
    execute(runtime, call("fs.write", "write", parameters={"path": "old", "content": "new"}))
    kept = [path for path in project.state.rglob("*") if path.is_file()]
    assert {"ed25519.pem", "interlock.db", "journal.ndjson"} <= {path.name for path in kept}
    assert any("backups" in path.parts for path in kept)
    script = f"""
        for path in {" ".join(map(str, kept))}; do head -c1 "$path" && echo "$path"; done
        ls -A {project.state} && echo listed
        touch {project.state}/x && echo written
        for environment in /proc/[0-9]*/environ; do grep -a INTERLOCK_TEST_SECRET $environment && echo $environment; done
        for memory in /proc/{os.getpid()}/mem /proc/{os.getpid()}/fd/0 /proc/{os.getpid()}/cwd/.; do
            head -c0 $memory && echo $memory; done
        kill -0 {os.getpid()} && echo signalled
        true
    """
    done = execute(runtime, shell(script))
    assert statuses(done) == ["succeeded"]
    assert done.results[0].output["stdout"] == ""
    assert not (project.state / "x").exists()


def intents(project, done):
    found = read_journal(project.home / "runs" / done.run_id)
    return {event.action: event.posture for event in found if isinstance(event, ActionIntent)}


def test_the_walls_are_in_the_journal_before_the_process_starts(project):
    """So they are known of one whose outcome is not."""
    reading = call("fs.read", "read", parameters={"path": "a"})
    done = execute(project.open(), shell("true"), call("git.status", "git"), reading)
    decided = intents(project, done)
    assert decided["read"] == {}
    outcome = next(row.posture for row in done.results if row.action_id == "shell")
    differs = {"cgroup", "memory_tree", "disk"}  # what the supervisor reports
    assert {**outcome, **decided["shell"]}.keys() == outcome.keys()
    assert {name for name in outcome if decided["shell"].get(name) != outcome[name]} <= differs
    assert decided["git"]["namespaces"] == "active"


def test_where_no_process_can_start_the_intent_names_no_walls(machine):
    project = machine("namespaces", "fs", "syscalls")
    done = execute(project.open(), shell("true"))
    assert done.results[0].reason == "isolation_failed"
    assert intents(project, done) == {"shell": {}}


def test_each_tool_that_runs_in_a_process_tells_its_walls_beforehand(project):
    registry = project.open().services.registry
    found = {name: registry.find(name) for name, tool in registry.by_name.items() if tool.isolation == "process"}
    assert {"shell", "exec", "git.status", "git.push", "proc.start"} <= found.keys()
    assert all(one.binding.walls()["namespaces"] == "active" for one in found.values())
