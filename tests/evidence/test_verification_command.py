"""`interlock evidence verify` and `verify_archive`, on archives of real runs, without anything of the machine that wrote them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from damage import EVENTS, HEALTH, codes, edited, members_of, resealed
from evidence_world import FINISHED, Run, decided, intent, succeeded

import interlock
from interlock.disk import Disk
from interlock.engine.inspect.history import History
from interlock.engine.measured.run import Options, measure_command
from interlock.engine.measured.spec import RunSpec
from interlock.journal import JournalWriter
from interlock.model import events as e
from interlock.signing import Signer
from interlock.surfaces.cli import app
from interlock.testing.clock import FakeClock
from interlock.verification.findings import WARNINGS

ROOT = Path(__file__).parents[2]
TOKEN = "ghp_q7Zk2Lw9Xv4Bn8Rt1Yp6Mc3Hd5Jf0GsAaEuQ"
PAGE = ROOT / "docs/reference/evidence-format.md"


@pytest.fixture
def signer():
    return Signer.generate()


@pytest.fixture
def archive(tmp_path, signer):
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(run.export(tmp_path, [signer]).data)
    return path


@pytest.fixture
def bare(tmp_path, monkeypatch, capsys):
    """A command line on a machine that has nothing of Interlock's: no project, and no state directory that could be made."""
    nowhere = tmp_path / "elsewhere"
    nowhere.mkdir()
    monkeypatch.chdir(nowhere)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", "/proc/none")

    def run(*argv):
        code = app.run([*map(str, argv)])
        assert list(nowhere.iterdir()) == []
        return code, capsys.readouterr()

    return run


def test_an_archive_is_verified_with_the_public_key_alone(bare, archive, signer, tmp_path):
    pem = tmp_path / "key.pub"
    pem.write_bytes(signer.public_pem())
    for key in (pem, signer.keyid):
        code, said = bare("evidence", "verify", archive, "--key", key)
        assert (code, said.err) == (0, "")
        assert said.out.splitlines()[0].startswith("a.tar.gz: valid; run run_")
        assert f"signed by {signer.keyid}, a key that you gave" in said.out
        assert "notes: contract_only_mode" in said.out


def test_without_a_key_it_says_that_nobody_vouched(bare, archive, signer):
    code, said = bare("evidence", "verify", archive)
    assert code == 0
    assert f"not_vouched: attestation.dsse.json: signed by {signer.keyid}" in said.out


def test_a_bad_archive_ends_with_4_and_names_what_is_wrong(bare, archive, signer):
    changed = edited(members_of(archive.read_bytes()), HEALTH, lambda d: d.update(notes=[]))
    archive.write_bytes(resealed(changed, Signer.generate()))
    code, said = bare("evidence", "verify", archive, "--key", signer.keyid)
    assert code == 4
    assert said.out.splitlines()[0] == "a.tar.gz: BAD"
    assert "health_mismatch: observation-health.json: `notes`" in said.out
    assert "signature_foreign" in said.out


def test_the_document_has_everything(bare, archive, signer):
    code, said = bare("evidence", "verify", archive, "--key", signer.keyid, "--json")
    found = json.loads(said.out)
    assert code == 0
    assert found["valid"] is True
    assert found["signatures"] == [{"keyid": signer.keyid, "vouched": True}]
    assert found["layers"] == {"events": "complete", "kernel": "absent", "policy": "complete", "sdk": "absent"}
    assert (found["errors"], found["warnings"]) == ([], [])
    assert found["archive"] == str(archive)


def test_a_text_in_an_archive_cannot_steer_a_terminal(bare, archive):
    changed = {**members_of(archive.read_bytes()), "\x1b[2Jx\u202e": b""}
    from damage import pack  # noqa: PLC0415

    archive.write_bytes(pack(changed))
    code, said = bare("evidence", "verify", archive)
    assert code == 4
    assert "\x1b" not in said.out
    assert "\u202e" not in said.out
    assert r"\x1b[2Jx" in said.out


@pytest.mark.parametrize("words", [["missing.tar.gz"], [".", "--key", "ed25519:" + "0" * 64]])
def test_a_file_that_cannot_be_read_is_a_mistake_of_the_caller(bare, words):
    code, said = bare("evidence", "verify", *words, "--json")
    assert code == 2
    assert json.loads(said.out)["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "key", ["ed25519:00", "ed25519:" + "G" * 64, "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"]
)
def test_a_key_that_is_not_one_is_a_mistake_of_the_caller(bare, archive, key):
    code, said = bare("evidence", "verify", archive, "--key", key, "--json")
    assert (code, json.loads(said.out)["error"]["code"]) == (2, "usage")


def test_from_python(archive, signer, tmp_path):
    pem = tmp_path / "key.pub"
    pem.write_bytes(signer.public_pem())
    for keys in ([signer.keyid], [pem], [signer.public_pem().decode()]):
        verdict = interlock.verify_archive(archive, keys=keys)
        assert verdict.valid
        assert verdict.signatures[0].vouched
    bad = interlock.verify_archive(str(archive), keys=[Signer.generate().keyid])
    assert [found.code for found in bad.errors] == ["signature_foreign"]
    with pytest.raises(interlock.UsageError):
        interlock.verify_archive(tmp_path / "none.tar.gz")


def test_real_runs_are_valid(tmp_path, monkeypatch):
    """A measured command and a proposal whose program a recorder has watched: as they are written, so they are verified."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    (root / "interlock.toml").write_text(
        'agent = "coder"\nrules.allow = ["*"]\ngrants.coder = { tools = ["*"], unscoped = ["*"] }\n'
        'guard = { cpu = 1.0, memory = 1.0, disk = 1.0, zombies = 100000 }\nisolation.recorder = "notify"\n'
    )
    assert app.run(["trust", "--yes", "--quiet"]) == 0
    assert app.run(["call", "exec", '{"argv": ["cp", "interlock.toml", "copy"]}', "--quiet"]) == 0
    assert app.run(["call", "proc.start", '{"command": "touch late; sleep 600"}', "--quiet"]) == 0
    with History.open(root, os.environ) as past:
        spec = RunSpec(command=("ls", "/"), run_id="run_m")
        measure_command(past, spec, Options(profile="none"), directory=root, env=os.environ)
        runs = sorted(past.index.ids())
    assert len(runs) == 3
    for run in runs:
        assert app.run(["evidence", "export", run, "--to", "x.tar.gz", "--force", "--quiet"]) == 0
        verdict = interlock.verify_archive("x.tar.gz")
        assert verdict.errors == ()
        assert verdict.head_signed_by == verdict.signatures[0].keyid
        assert codes(Path("x.tar.gz").read_bytes(), verdict.head_signed_by) == []


class Home:
    """A project with a run, to whose journal a test appends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = directory / "journal.ndjson"
        self.before = self.journal.read_bytes()

    def append(self, *messages):
        """The run as it ended, and these messages."""
        self.journal.write_bytes(self.before)
        writer = JournalWriter.open(
            self.directory, run_id="run_m", disk=Disk(), clock=FakeClock(), durability="full", create=False
        )
        for message in messages:
            writer.append(e.ActionLog(proposal="p", action="a", message=message))
        writer.close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    (root / "interlock.toml").write_text('agent = "coder"\n')
    with History.open(root, os.environ) as past:
        spec = RunSpec(command=("true",), run_id="run_m")
        measure_command(past, spec, Options(profile="none"), directory=root, env=os.environ)
        return Home(past.directory("run_m"))


def test_at_home_each_event_is_compared_also_a_redacted_one(home, capsys):
    home.append(f"the token {TOKEN} is here", "plain")
    assert app.run(["evidence", "export", "run_m", "-o", "x.tar.gz", "--quiet"]) == 0
    assert b'"sealed":"hmac-sha256:' in members_of(Path("x.tar.gz").read_bytes())[EVENTS]

    def compared():
        code = app.run(["evidence", "verify", "x.tar.gz", "--at-home", "--json"])
        return code, [(one["code"], one["message"]) for one in json.loads(capsys.readouterr().out)["errors"]]

    assert compared() == (0, [])
    home.append(f"the token {TOKEN} is here", "plain", "and more since")
    assert compared() == (0, [])
    other = (4, [("home_mismatch", "the local journal has another event there")])
    home.append(f"the token {TOKEN} is there", "plain")
    assert compared() == other
    home.append(f"the token {TOKEN} is here", "other")
    assert compared() == other
    home.append()
    assert compared() == (4, [("home_mismatch", "the local journal ends before it")])


def test_a_run_that_is_not_here_cannot_be_compared(home, archive, capsys):
    assert app.run(["evidence", "verify", str(archive), "--at-home", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not_found"


# -- the room itself


def test_a_verification_loads_no_other_part_of_interlock():
    code = (
        "import sys, interlock.verification.verify; print(*sorted(m for m in sys.modules if m.startswith('interlock')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - {"interlock", "interlock._version", "interlock.lazy"}
    assert {name.split(".")[1] for name in loaded} == {"verification"}


def test_every_code_is_on_the_page_and_every_code_on_the_page_can_be_found():
    section = PAGE.read_text().split("## Verdicts")[1].split("## Schemas")[0]
    documented = set(
        re.findall(
            r"`([a-z_]+)`", "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
        )
    )
    given = set(WARNINGS)
    calls = re.compile(r"(?:findings\.add|\badd|DamageError|StrictJsonError)\(\s*(.*?)[,)]", re.DOTALL)
    for path in (ROOT / "src/interlock/verification").glob("*.py"):
        for first in calls.findall(path.read_text()):
            given |= set(re.findall(r'(?<!f)"([a-z_]+)"', first))
    given |= {"health_mismatch", "surface_mismatch", "correlation_mismatch"}
    given |= {"home_mismatch"}  # found by the command line, which has the run
    assert given == documented
