"""Measured runs and their archives from Python."""

from __future__ import annotations

import hashlib

import pytest
from evidence_world import Archive

import interlock
from interlock.engine.inspect.history import History


@pytest.fixture
def root(tmp_path, monkeypatch):
    made = tmp_path / "project"
    made.mkdir()
    (made / "interlock.toml").write_text('agent = "coder"\n')
    monkeypatch.chdir(made)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    return made


def test_a_command_is_measured_and_exported(root):
    spec = interlock.RunSpec.of(["sh", "-c", "exit 3"]).with_run_id("nightly").with_env("SECRET_KEY", "value-of-it")
    outcome = interlock.measure(spec, profile="none")
    assert (outcome.run_id, outcome.exit_code, outcome.signal, outcome.success) == ("nightly", 3, None, False)
    assert outcome.archive == root / "nightly.tar.gz"
    archive = Archive(outcome.archive.read_bytes())
    started = next(line for line in archive.events() if line["kind"] == "command_started")
    assert (started["command"], started["env_keys"]) == (["sh", "-c", "exit 3"], ["SECRET_KEY"])
    assert b"value-of-it" not in archive.tar
    assert outcome.health == {"events": "complete", "kernel": "absent", "policy": "absent", "sdk": "absent"}
    assert outcome.notes == ("contract_only_mode",)
    assert outcome.error is None


def test_what_cannot_be_started_leaves_an_archive(root):
    outcome = interlock.measure(interlock.RunSpec.of(["no-such-program"]), archive="x.tar.gz", profile="none")
    assert (outcome.exit_code, outcome.error["code"]) == (None, "spawn_failed")
    assert Archive(outcome.archive.read_bytes()).correlation["command"]["outcome"] == "spawn_failed"


def test_nothing_runs_if_the_archive_cannot_be_written_or_the_spec_is_wrong(root):
    (root / "there.tar.gz").write_bytes(b"mine")
    touch = interlock.RunSpec.of(["touch", "ran"])
    refused = {
        "file_exists": lambda: interlock.measure(touch, archive="there.tar.gz", profile="none"),
        "not_found": lambda: interlock.measure(touch, key="nobody", profile="none"),
        "run_id_colon": lambda: interlock.measure(touch.with_run_id("a:b"), profile="none"),
        "unknown_shim": lambda: interlock.measure(touch.with_agent_shim("other"), profile="none"),
    }
    for code, act in refused.items():
        with pytest.raises(interlock.InterlockError) as caught:
            act()
        assert caught.value.code == code
    assert not (root / "ran").exists()
    assert (root / "there.tar.gz").read_bytes() == b"mine"


def test_a_skeleton_runs_nothing_and_is_not_a_run(root):
    spec = interlock.RunSpec.of(["touch", "ran"]).with_run_id("s").with_agent_shim("openai-agents")
    paths = [interlock.skeleton_archive(spec, name) for name in ("a.tar.gz", "b.tar.gz")]
    first, second = (path.read_bytes() for path in paths)
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    archive = Archive(first)
    assert archive.health["notes"] == ["contract_only_mode", "not_run"]
    assert archive.health["agent_shim"] == "openai-agents"
    assert not (root / "ran").exists()
    with History.open(root, {"INTERLOCK_STATE_DIR": str(root.parent / "state")}) as past:
        assert past.runs() == []


def test_what_the_recorder_of_a_command_saw_is_of_the_command(root):
    spec = interlock.RunSpec.of(["cp", "interlock.toml", "copy"])
    outcome = interlock.measure(spec, archive="r.tar.gz", profile="none", recorder="notify")
    assert outcome.health["kernel"] == "complete", outcome
    archive = Archive(outcome.archive.read_bytes())
    assert any(path.endswith("/copy") for path in archive.claim("files_written"))
    command = archive.correlation["command"]
    assert (command["outcome"], command["recorders"]) == ("finished", 1)
    assert command["kernel_records"] > 0
    assert (archive.correlation["state"], archive.correlation["bindings"]) == ("clean", [])
    assert archive.health["network_coverage"] == "complete"
