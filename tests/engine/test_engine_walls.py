"""Walls through the gate: from the settings to what a process can reach, in the workspace itself and in a layer."""

import os

import pytest
from engine_world import TOML, call, execute, statuses

from interlock.model.errors import ConfigurationError


def shell(command, name="shell"):
    return call("shell", name, parameters={"command": command})


@pytest.fixture(params=["direct", "layer"])
def project(request, new_project):
    made = new_project(toml=f'{TOML % ""}[isolation]\nprofile = "ns"\n[workspace]\nmode = "{request.param}"\n')
    (made.root / "a").write_text("original\n")
    return made


def test_a_process_works_in_the_workspace_and_sees_nothing_else(project, tmp_path):
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
