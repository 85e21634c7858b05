"""Tools that know nothing of Interlock read and verify what it exports: each is the real program or package."""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import duckdb
import pytest
from evidence_world import (
    FINISHED,
    Archive,
    Run,
    decided,
    intent,
    kernel_lines,
    succeeded,
)
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from interlock.engine.inspect.history import History
from interlock.engine.measured.run import Options, measure_command
from interlock.engine.measured.spec import RunSpec
from interlock.signing import pae
from interlock.surfaces.cli import app

NPM = ("@sigstore/verify@3.1.1", "@sigstore/bundle@4.0.0")
WHERE = {"proposal": "p", "action": "a", "attempt": 1}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A real run, exported with a Sigstore bundle, and the public key in every form; all of it by the command line."""
    room = tmp_path_factory.mktemp("outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(room)
        patch.setenv("INTERLOCK_STATE_DIR", str(room.with_name("outside-state")))
        (room / "interlock.toml").write_text('agent = "coder"\n')
        with History.open(room, os.environ) as past:
            spec = RunSpec(command=("true",), run_id="run_m")
            measure_command(past, spec, Options(profile="none"), directory=room, env=os.environ)
        for line in (
            ["evidence", "export", "run_m", "-o", "a.tar.gz", "--bundle", "attestation.sigstore.json"],
            ["keys", "export", "-o", "key.pem"],
            ["keys", "export", "--format", "securesystemslib", "-o", "key.json"],
            ["keys", "export", "--format", "keyid", "-o", "keyid"],
        ):
            assert app.run([*line, "--quiet"]) == 0
    return room


@pytest.fixture
def envelope(exported):
    return Archive((exported / "a.tar.gz").read_bytes()).document("attestation.dsse.json")


def ssl_key(exported):
    document = json.loads((exported / "key.json").read_bytes())
    return SSlibKey.from_dict(document.pop("keyid"), document)


def test_securesystemslib_verifies_the_envelope(exported, envelope):
    read = Envelope.from_dict(copy.deepcopy(envelope))  # it empties its argument
    key = ssl_key(exported)
    assert set(read.verify([key], 1)) == {key.keyid}
    assert read.payload_type == "application/vnd.in-toto+json"
    spoilt = {**copy.deepcopy(envelope), "payload": base64.b64encode(read.payload + b" ").decode()}
    with pytest.raises(VerificationError):
        Envelope.from_dict(spoilt).verify([key], 1)


def test_in_toto_reads_the_statement_and_its_subjects_are_the_archive(exported, envelope):
    message = json_format.Parse(base64.b64decode(envelope["payload"]), StatementMessage())
    statement = Statement.copy_from_pb(message)
    statement.validate()
    archive = Archive((exported / "a.tar.gz").read_bytes())
    subjects = {subject.name: subject.digest["sha256"] for subject in statement.pb.subject}
    assert subjects["manifest.json"] == hashlib.sha256(archive.members["manifest.json"]).hexdigest()
    assert statement.pb.predicate_type == "urn:interlock:evidence:v1"
    assert statement.pb.predicate["run_id"] == "run_m"


def test_openssl_verifies_the_signature(exported, envelope, tmp_path):
    signed = tmp_path / "signed"
    signed.write_bytes(pae(envelope["payloadType"], base64.b64decode(envelope["payload"])))
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", exported / "key.pem", "-rawin", "-in", signed]
    done = subprocess.run([*command, "-sigfile", tmp_path / "sig"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully")
    signed.write_bytes(signed.read_bytes() + b" ")
    done = subprocess.run([*command, "-sigfile", tmp_path / "sig"], capture_output=True, text=True, check=False)
    assert done.returncode == 1


@pytest.fixture(scope="module")
def sigstore():
    """The home of Sigstore's packages, installed once into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interlock-tests"
    home = cache / ("sigstore-" + "-".join(each.rpartition("@")[2] for each in NPM))
    if not (home / "complete").exists():
        home.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(home), *NPM]
        subprocess.run(install, check=True, timeout=100)
        (home / "complete").touch()
    return home


@pytest.mark.clients
def test_sigstore_verifies_the_bundle(exported, sigstore, tmp_path):
    program = Path(__file__).with_name("verify_bundle.mjs")
    keyid = (exported / "keyid").read_text().strip()
    bundle = json.loads((exported / "attestation.sigstore.json").read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"

    def verify(document, hint):
        (tmp_path / "bundle.json").write_text(json.dumps(document))
        command = ["node", program, sigstore, tmp_path / "bundle.json", exported / "key.pem", hint]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert verify(bundle, keyid).stdout == "verified\n"
    assert verify(bundle, "another").returncode != 0
    spoilt = copy.deepcopy(bundle)
    spoilt["dsseEnvelope"]["payload"] = base64.b64encode(b"{}").decode()
    assert "signature" in verify(spoilt, keyid).stderr.lower()


def test_a_bundle_needs_a_signature_and_is_not_replaced(exported, monkeypatch, capsys):
    monkeypatch.chdir(exported)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(exported.with_name("outside-state")))
    line = ["evidence", "export", "run_m", "-o", "b.tar.gz", "--bundle", "attestation.sigstore.json", "--json"]
    assert app.run(line) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "file_exists"
    assert app.run([*line, "--force", "--unsigned"]) == 2
    assert not (exported / "b.tar.gz").exists()


# -- the layers, as tables


@pytest.fixture
def unpacked(tmp_path):
    """An archive unpacked as anybody would."""
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED)
    opens = [{"call": "openat", "path": f"/w/{n % 7}", "access": "read"} for n in range(50)]
    programs = [{"call": "execve", "path": "/bin/sh", "argv": ["sh", "-c", "x"]}]
    run.kernel = kernel_lines(*opens, *programs, **WHERE)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(run.export(tmp_path).data)
    subprocess.run(["tar", "xzf", path, "-C", tmp_path], check=True)
    return tmp_path


def test_duckdb_reads_events_and_layers(unpacked):
    with duckdb.connect() as tables:
        query = "select path, count(*) n from read_json_auto(?) where call = 'openat' group by path order by path"
        rows = tables.execute(query, [str(unpacked / "layers/kernel.ndjson")]).fetchall()
        assert rows == [(f"/w/{n}", 8 if n < 1 else 7) for n in range(7)]
        query = """
            select p.tool, p.decision, count(k.seq) from read_json_auto(?) p join read_json_auto(?) k
            on p.proposal = k.proposal and p.action = k.action where k.kind = 'call' group by all
        """
        names = [str(unpacked / f"layers/{name}.ndjson") for name in ("policy", "kernel")]
        assert tables.execute(query, names).fetchall() == [("shell", "allow", 51)]
        kinds = tables.execute("select kind from read_json_auto(?) order by seq", [str(unpacked / "events.ndjson")])
        assert {"run_started", "action_intent", "seal"} <= {kind for (kind,) in kinds.fetchall()}


def test_jq_reads_events_layers_and_documents(unpacked):
    def jq(query, name):
        done = subprocess.run(["jq", "-c", query, unpacked / name], capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert jq('select(.call == "execve") | [.action, .argv[0]]', "layers/kernel.ndjson") == [["a", "sh"]]
    assert jq('select(.kind == "policy_decided").tool', "events.ndjson") == ["shell"]
    assert jq(".files_read.values | length", "capability-surface.json") == [7]
    assert jq(".members[].path", "manifest.json")[0] == "capability-surface.json"


def test_tar_of_every_family_reads_the_file(unpacked):
    listed = subprocess.run(["tar", "tzf", unpacked / "a.tar.gz"], capture_output=True, text=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress((unpacked / "a.tar.gz").read_bytes()))) as opened:
        assert listed.stdout.split() == opened.getnames()
    subprocess.run(["gzip", "-t", unpacked / "a.tar.gz"], check=True)
