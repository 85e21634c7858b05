"""`interlock evidence export` and `interlock keys` on real runs, of proposals and of commands."""

from __future__ import annotations

import json
import os
import stat

import pytest
from evidence_world import Archive
from jsonschema_rs import validator_for

from interlock.engine.inspect.history import History
from interlock.engine.measured.run import Options, measure_command
from interlock.engine.measured.spec import RunSpec
from interlock.evidence import published
from interlock.journal.lock import held
from interlock.signing import Signer, parse_public_key
from interlock.surfaces.cli import app

CONFIGURATION = """
agent = "coder"
rules.allow = ["*"]
grants.coder = { tools = ["*"], unscoped = ["*"] }
workspace.mode = "direct"
guard = { cpu = 1.0, memory = 1.0, disk = 1.0, zombies = 100000 }
"""


@pytest.fixture
def run_line(tmp_path, monkeypatch, capsys):
    """Runs a command line in a project of its own; returns the exit code and the document."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    (root / "interlock.toml").write_text('agent = "coder"\n')

    def run(*argv):
        code = app.run([*argv, "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return run


@pytest.fixture
def measured(run_line, tmp_path):
    with History.open(tmp_path / "project", os.environ) as past:
        spec = RunSpec(command=("true",), run_id="run_m")
        return measure_command(past, spec, Options(profile="none"), directory=tmp_path / "project", env=os.environ)


def test_a_measured_run_is_exported_and_signed(run_line, measured, tmp_path):
    code, done = run_line("evidence", "export", "last")
    assert code == 0
    path = tmp_path / "project" / "run_m.tar.gz"
    assert (done["run_id"], done["path"], done["events"]) == ("run_m", "run_m.tar.gz", 4)
    archive = Archive(path.read_bytes())
    assert archive.correlation["command"]["outcome"] == "finished"
    assert archive.document("attestation.dsse.json")["signatures"][0]["keyid"] == done["signed_by"][0]
    assert archive.manifest["signed_head"]["payloadType"] == "application/vnd.interlock.journal-head.v1+json"
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    code, refused = run_line("evidence", "export", "last")
    assert (code, refused["error"]["code"]) == (2, "file_exists")
    assert run_line("evidence", "export", "last", "--force")[0] == 0
    assert path.read_bytes() == before


def test_keys_are_made_listed_exported_and_used(run_line, measured, tmp_path):
    code, made = run_line("keys", "make", "release")
    assert code == 0
    assert run_line("keys", "make", "release")[1]["error"]["code"] == "key_exists"
    assert run_line("keys", "make", "default")[0] == 2
    assert run_line("keys", "make", "../x")[0] == 2
    code, listed = run_line("keys", "list")
    assert [key["name"] for key in listed] == ["default", "release"]
    assert listed[1]["keyid"] == made["keyid"]
    assert "PRIVATE" not in json.dumps(listed)
    code, _ = run_line("keys", "export", "release", "--to", "release.pub")
    assert code == 0
    pem = (tmp_path / "project" / "release.pub").read_text()
    assert parse_public_key(pem).public_bytes_raw().hex() == made["keyid"].removeprefix("ed25519:")
    assert run_line("keys", "export", "release", "--to", "release.pub")[1]["error"]["code"] == "file_exists"
    code, done = run_line("evidence", "export", "run_m", "--key", "release", "-o", "a.tar.gz")
    assert done["signed_by"] == [made["keyid"]]
    assert (
        run_line("evidence", "export", "run_m", "--key", "other", "-o", "b.tar.gz")[1]["error"]["code"] == "not_found"
    )
    assert run_line("evidence", "export", "run_m", "--unsigned", "-o", "b.tar.gz")[1]["signed_by"] == []


def test_several_keys_sign_and_each_of_them_can_be_asked_for(run_line, measured, tmp_path):
    ids = {name: run_line("keys", "make", name)[1]["keyid"] for name in ("release", "audit", "other")}
    both = ["--key", "release", "--key", "audit"]
    code, done = run_line("evidence", "export", "run_m", *both, "-o", "a.tar.gz")
    assert (code, done["signed_by"]) == (0, sorted([ids["release"], ids["audit"]]))
    path = tmp_path / "project" / "a.tar.gz"
    attestation = Archive(path.read_bytes()).document("attestation.dsse.json")
    assert [signature["keyid"] for signature in attestation["signatures"]] == done["signed_by"]
    for asked in (["release"], ["audit"], ["release", "audit"]):
        keys = [part for name in asked for part in ("--key", ids[name])]
        assert run_line("evidence", "verify", "a.tar.gz", *keys)[1]["valid"]
    code, verdict = run_line("evidence", "verify", "a.tar.gz", "--key", ids["release"], "--key", ids["other"])
    assert (code, [error["code"] for error in verdict["errors"]]) == (4, ["signature_foreign"])
    # The order in which keys are named changes nothing.
    run_line("evidence", "export", "run_m", "--key", "audit", "--key", "release", "-o", "b.tar.gz")
    assert (tmp_path / "project" / "b.tar.gz").read_bytes() == path.read_bytes()


def test_a_key_signs_once_and_a_bundle_has_one_signature(run_line, measured, tmp_path):
    run_line("keys", "make", "release")
    twice = ["--key", "release", "--key", "release"]
    code, refused = run_line("evidence", "export", "run_m", *twice, "-o", "a.tar.gz")
    assert (code, refused["error"]["message"]) == (2, "`--key release` names a key twice")
    both = ["--key", "release", "--key", "default", "--bundle", "bundle.json"]
    code, refused = run_line("evidence", "export", "run_m", *both, "-o", "a.tar.gz")
    assert (code, refused["error"]["message"]) == (2, "a Sigstore bundle has exactly one signature")
    assert sorted(path.name for path in (tmp_path / "project").glob("*.*")) == ["interlock.toml"]


def test_a_public_key_has_the_form_that_securesystemslib_reads(run_line, capsys):
    assert app.run(["keys", "export", "--format", "securesystemslib"]) == 0
    key = json.loads(capsys.readouterr().out)
    assert key["keyid"] == "ed25519:" + key["keyval"]["public"]
    assert (key["keytype"], key["scheme"]) == ("ed25519", "ed25519")


def test_a_run_that_continues_is_not_exported(run_line, measured, tmp_path):
    with History.open(tmp_path / "project", os.environ) as past, held(past.directory("run_m"), past.disk):
        # The lock is this process's own: another descriptor of the same file is refused it all the same.
        code, refused = run_line("evidence", "export", "last")
    assert (code, refused["error"]["code"]) == (5, "run_locked")
    assert list((tmp_path / "project").glob("*run_m*")) == []


def test_a_head_of_another_history_is_refused(run_line, measured, tmp_path):
    with History.open(tmp_path / "project", os.environ) as past:
        head = past.directory("run_m") / "head.dsse.json"
        other = Signer.generate().sign(
            "application/vnd.interlock.journal-head.v1+json",
            b'{"epoch":1,"run":"run_m","seal":"sha256:00","seq":3,"version":2}',
        )
        head.write_bytes(other + b"\n")
    code, refused = run_line("evidence", "export", "last")
    assert (code, refused["error"]["code"]) == (4, "journal_rewritten")


def test_a_run_of_a_proposal_is_exported_with_its_decisions(run_line, tmp_path):
    (tmp_path / "project" / "interlock.toml").write_text(CONFIGURATION)
    assert app.run(["trust", "--yes", "--quiet"]) == 0
    code, result = run_line("call", "fs.write", '{"path": "a.txt", "content": "x"}')
    assert code == 0, result
    code, done = run_line("evidence", "export", "last", "--to", "p.tar.gz")
    assert code == 0, done
    archive = Archive((tmp_path / "project" / "p.tar.gz").read_bytes())
    (decision,) = archive.lines("layers/policy.ndjson")
    intent = next(line for line in archive.events() if line["kind"] == "action_intent")
    assert (decision["tool"], decision["decision"], decision["digest"]) == ("fs.write", "allow", intent["digest"])
    (binding,) = archive.correlation["bindings"]
    assert (binding["action"], binding["outcome"], binding["attempts"]) == ("call", "succeeded", 1)
    assert archive.claim("decisions") == ["allow:fs.write"]


def test_what_a_recorder_saw_is_in_the_archive_with_its_action(run_line, tmp_path):
    (tmp_path / "project" / "interlock.toml").write_text(CONFIGURATION + 'isolation.recorder = "notify"\n')
    assert app.run(["trust", "--yes", "--quiet"]) == 0
    code, result = run_line("call", "exec", '{"argv": ["cp", "interlock.toml", "copy"]}')
    assert code == 0, result
    code, done = run_line("evidence", "export", "last", "--to", "k.tar.gz")
    assert code == 0, done
    assert done["layers"]["kernel"] == "complete"
    archive = Archive((tmp_path / "project" / "k.tar.gz").read_bytes())
    assert any(path.endswith("/copy") for path in archive.claim("files_written"))
    assert any(path.endswith("/cp") for path in archive.claim("programs"))
    (binding,) = archive.correlation["bindings"]
    assert binding["kernel_records"] > 0
    assert archive.correlation["state"] == "clean"
    check = validator_for(json.loads((published.DIRECTORY / "kernel-line.schema.json").read_bytes()))
    for line in archive.lines("layers/kernel.ndjson"):
        check.validate(line)


def test_what_a_program_did_after_its_action_is_in_the_archive_under_its_handle(run_line, tmp_path):
    (tmp_path / "project" / "interlock.toml").write_text(CONFIGURATION + 'isolation.recorder = "notify"\n')
    actions = [
        {"id": "s", "tool": "proc.start", "parameters": {"command": "echo ready; read line; sleep 600"}},
        {"id": "s2", "tool": "proc.start", "parameters": {"command": "sleep 0.3; touch late; echo done; sleep 600"}},
        {"id": "w", "tool": "proc.wait", "parameters": {"handle": "$s2.output.handle", "output": "done"}},
    ]
    plan = {"agent": "coder", "actions": [{"type": "tool_call", **action} for action in actions]}
    (tmp_path / "project" / "plan.json").write_text(json.dumps(plan))
    assert app.run(["trust", "--yes", "--quiet"]) == 0
    assert app.run(["run", "plan.json", "--quiet"]) == 0
    code, done = run_line("evidence", "export", "last", "--to", "k.tar.gz")
    assert code == 0, done
    archive = Archive((tmp_path / "project" / "k.tar.gz").read_bytes())
    made = [e for e in archive.lines("layers/kernel.ndjson") if "create" in e.get("flags", ())]
    assert [(e["action"], os.path.basename(e["path"])) for e in made] == [("s2", "late")]
    events = archive.lines("events.ndjson")
    handles = {e["action"]: e["handle"] for e in events if e["kind"] == "process_started"}
    assert {e["action"]: e["handle"] for e in events if e["kind"] == "action_recorded"} == handles
    # Only `proc.wait`, which starts no process, has no recorder.
    assert done["layers"]["kernel"] == "partial"
    assert archive.health["notes"] == ["actions_without_recorder"]


@pytest.mark.parametrize("name", ["fifo", "link"])
def test_only_a_file_is_replaced_by_an_archive(run_line, measured, tmp_path, name):
    project = tmp_path / "project"
    os.mkfifo(project / "fifo")
    (project / "link").symlink_to("fifo")
    for line in (["-o", name], ["-o", "a.tar.gz", "--bundle", name]):
        code, refused = run_line("evidence", "export", "run_m", *line, "--force")
        assert (code, refused["error"]["message"]) == (2, f"`{name}` is not a regular file, so it is not replaced")
    assert stat.S_ISFIFO((project / "fifo").stat().st_mode)
    assert not (project / "a.tar.gz").exists()


def test_a_directory_that_is_not_there_is_named(run_line, measured):
    code, refused = run_line("evidence", "export", "run_m", "-o", "missing/a.tar.gz")
    assert (code, refused["error"]["code"], refused["error"]["path"]) == (2, "not_found", "missing/a.tar.gz")
