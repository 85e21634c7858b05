"""`interlock capsule`: from an empty directory to a call, with nothing but the command line."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from interlock.surfaces.cli.app import run


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs a command in a new project; returns its exit code and what it printed, as JSON."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(root)

    def call(*argv):
        capsys.readouterr()
        code = run([*argv, "--json"])
        printed = capsys.readouterr().out
        return code, json.loads(printed) if printed else None

    return call


def configure(name):
    Path("interlock.toml").write_text(
        f'[rules]\nallow = ["{name}/*"]\n[grants.agent]\ntools = ["{name}/*"]\nunscoped = ["{name}/*"]\n'
    )


def make(cli, name="hello", lang="wat"):
    configure(name)
    assert cli("capsule", "new", name, "--lang", lang)[0] == 0
    assert cli("capsule", "build", name)[0] == 0
    assert cli("capsule", "install", name)[0] == 0
    assert cli("trust", "--yes")[0] == 0


def test_a_capsule_in_wat_from_nothing_to_a_call(cli):
    make(cli)
    code, found = cli("capsule", "list")
    assert (code, found["capsules"][0]["tools"], found["capsules"][0].get("problem")) == (0, ["hello/greet"], None)
    assert cli("capsule", "connectors") == (0, {"connectors": []})
    code, result = cli("capsule", "run", "hello", "greet", '{"name": "x"}')
    assert (code, result["output"]) == (0, {"hello": {"name": "x"}})
    code, result = cli("call", "hello/greet", "{}")
    assert (code, result["reason"]) == (1, "invalid_parameters")


def test_another_build_is_not_loaded_until_it_is_locked_and_trusted(cli):
    make(cli)
    source = Path("hello/capsule.wat")
    source.write_text(source.read_text().replace("somebody is greeted", "someone is  greeted"))
    assert cli("capsule", "build", "hello")[0] == 0
    code, found = cli("capsule", "list")
    assert (code, "different build" in found["capsules"][0]["problem"]) == (1, True)
    code, locked = cli("capsule", "lock")
    assert (code, locked["capsules"][0]["changed"]) == (0, True)
    assert cli("capsule", "list")[1]["error"]["code"] == "untrusted_configuration"
    assert cli("trust", "--yes")[0] == 0
    assert cli("capsule", "list")[0] == 0
    assert cli("capsule", "lock")[1]["capsules"][0]["changed"] is False


def test_one_that_is_not_offered_is_listed_with_its_problem(cli):
    make(cli)
    Path("interlock.lock").unlink()
    assert cli("trust", "--yes")[0] == 0
    code, found = cli("capsule", "list")
    (one,) = found["capsules"]
    assert (code, one["name"], one["tools"]) == (1, "hello", ["hello/greet"])
    assert "not locked" in one["problem"]


def test_a_runtime_that_is_killed_leaves_no_worker_and_a_run_that_can_be_settled(cli):
    make(cli)
    source, manifest = Path("hello/capsule.wat"), Path("hello/capsule.toml")
    source.write_text(source.read_text().replace("(drop (call $log", "(loop (br 0)) (drop (call $log"))
    manifest.write_text(manifest.read_text().replace("1000", "60000").replace("read_only = true\n", ""))
    assert cli("capsule", "build", "hello")[0] == 0
    assert cli("capsule", "lock")[0] == 0
    assert cli("trust", "--yes")[0] == 0
    command = [Path(sys.executable).with_name("interlock"), "call", "hello/greet", '{"name": "x"}']
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as runtime:
        worker = wait_for(lambda: busy_worker(psutil.Process(runtime.pid)))
        runtime.kill()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    (found,) = cli("recover")[1]
    assert (found["status"], found["need"]) == ("interrupted", "settle")
    (listed,) = cli("runs", "list")[1]
    assert listed["status"] == "interrupted"


def busy_worker(process):
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "executors.capsules.worker" in " ".join(child.cmdline()) and child.cpu_times().user > 0.6:
                return child
    return None


def wait_for(look):
    end = time.monotonic() + 20
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_the_configuration_file_keeps_what_is_in_it(cli):
    configure("hello")
    Path("interlock.toml").write_text("# mine\n" + Path("interlock.toml").read_text().rstrip("\n"))
    before = Path("interlock.toml").read_text()
    cli("capsule", "new", "hello")
    cli("capsule", "build", "hello")
    assert cli("capsule", "install", "hello")[0] == 0
    assert Path("interlock.toml").read_text().startswith(before)
    once = Path("interlock.toml").read_text()
    assert cli("capsule", "install", "hello")[0] == 0
    assert Path("interlock.toml").read_text() == once


def test_configured_values_are_checked_when_they_are_set_and_secrets_are_not_printed(cli, monkeypatch):
    make(cli)
    manifest = Path("hello/capsule.toml")
    manifest.write_text(
        manifest.read_text()
        + '[env.TIMES]\ntype = "integer"\ndefault = 2\n[env.TOKEN]\nsecret = true\n[env.PLACE]\nrequired = true\n'
    )
    rows = cli("capsule", "config", "list", "hello")[1]["config"]
    assert [(row["key"], row["value"], row["source"]) for row in rows] == [
        ("TIMES", "2", "default"),
        ("TOKEN", None, "none"),
        ("PLACE", None, "missing"),
    ]
    code, refused = cli("capsule", "config", "set", "hello", "TIMES", "many")
    assert (code, refused["error"]["code"]) == (2, "usage")
    assert "many" not in refused["error"]["message"]
    assert cli("capsule", "config", "set", "hello", "NONE", "1")[1]["error"]["code"] == "not_found"
    assert cli("capsule", "config", "set", "hello", "TIMES", "3")[0] == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hunter22\n")))
    assert cli("capsule", "config", "set", "hello", "TOKEN")[0] == 0
    rows = cli("capsule", "config", "list", "hello")[1]["config"]
    assert [row["value"] for row in rows] == ["3", "(secret)", None]
    assert cli("capsule", "config", "unset", "hello", "TIMES")[0] == 0
    assert cli("capsule", "config", "list", "hello")[1]["config"][0]["source"] == "default"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["new", "Hello"], "usage"),
        (["new", "../x"], "usage"),
        (["build", "."], "not_found"),
        (["install", "."], "not_found"),
        (["lock", "nothing"], "not_found"),
        (["config", "list", "nothing"], "not_found"),
    ],
)
def test_a_mistake_is_reported_in_one_line(cli, argv, code):
    configure("x")
    exit_code, found = cli("capsule", *argv)
    assert (exit_code, found["error"]["code"]) == (2, code)


def test_nothing_is_overwritten_by_new(cli):
    configure("x")
    Path("hello").mkdir()
    assert cli("capsule", "new", "hello")[1]["error"]["code"] == "conflict"


def test_source_that_cannot_be_assembled_says_where(cli):
    make(cli)
    Path("hello/capsule.wat").write_text("(module (func (nonsense)))")
    code, found = cli("capsule", "build", "hello")
    assert (code, "nonsense" in found["error"]["message"]) == (2, True)
