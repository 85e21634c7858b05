"""Signed heads: what they show, and what they do not."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from journaling import RUN, log, open_writer

from interlock.disk import Disk
from interlock.journal import JournalWriter, decode_head, read_head, scan, sign_head, verify_head
from interlock.model.errors import IntegrityError, UsageError
from interlock.signing import Signer


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path / "keys", Disk())


def write(writer: JournalWriter, *messages: str) -> None:
    for message in messages:
        writer.append(log(message))
        writer.flush()


@pytest.fixture
def signed(tmp_path: Path, signer: Signer) -> tuple[Path, bytes]:
    """A run of three batches; the head was signed after the second."""
    with open_writer(tmp_path / RUN) as writer:
        write(writer, "0", "1")
        envelope = sign_head(tmp_path / RUN, writer.head(), signer, Disk())
        write(writer, "2")
    return tmp_path / RUN, envelope


def codes(call: object) -> str:
    with pytest.raises((UsageError, IntegrityError)) as caught:
        call()
    return caught.value.code


def test_a_head_lies_beside_the_journal_and_is_small(signed: tuple[Path, bytes], signer: Signer):
    run_dir, envelope = signed
    assert read_head(run_dir) == envelope
    assert len(envelope) < 800
    payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    assert payload.keys() == {"run", "seq", "seal", "epoch", "version"}
    assert (payload["run"], payload["seq"], payload["version"]) == (RUN, 1, 2)
    head, verified = decode_head(envelope)
    assert head.seal == scan(run_dir, at=1).seal_at
    assert verified.keyid == signer.keyid


def test_the_journal_goes_through_its_head(signed: tuple[Path, bytes], signer: Signer):
    run_dir, envelope = signed
    for key, vouched in ((None, False), (signer.keyid, True), (signer.public_pem().decode(), True)):
        head, verified = verify_head(run_dir, envelope, key=key)
        assert (head.seq, verified.vouched) == (1, vouched)


def test_truncation_another_history_and_damage_are_told_apart(signed: tuple[Path, bytes]):
    run_dir, envelope = signed
    path = run_dir / "journal.ndjson"
    data = path.read_bytes()
    path.write_bytes(b"".join(data.splitlines(keepends=True)[:2]))
    assert codes(lambda: verify_head(run_dir, envelope)) == "journal_truncated"
    path.write_bytes(b"?" + data[1:])
    assert codes(lambda: verify_head(run_dir, envelope)) == "journal_corrupt"
    path.unlink()
    with open_writer(run_dir) as writer:
        write(writer, "0", "another", "2")
    assert codes(lambda: verify_head(run_dir, envelope)) == "journal_rewritten"


def test_a_head_of_another_run_or_by_another_key_is_refused(signed: tuple[Path, bytes], tmp_path: Path):
    run_dir, envelope = signed
    stranger = Signer.open(tmp_path / "other keys", Disk())
    assert codes(lambda: verify_head(run_dir, envelope, key=stranger.keyid)) == "bad_signature"
    with open_writer(tmp_path / "run_b") as writer:
        write(writer, "0")
    assert codes(lambda: verify_head(tmp_path / "run_b", envelope)) == "usage"


def test_something_else_signed_with_the_same_key_is_no_head(signed: tuple[Path, bytes], signer: Signer):
    run_dir, _ = signed
    other = signer.sign("application/vnd.in-toto+json", b"{}")
    assert codes(lambda: verify_head(run_dir, other)) == "bad_signature"
    nonsense = signer.sign("application/vnd.interlock.journal-head.v1+json", b"{}")
    assert codes(lambda: verify_head(run_dir, nonsense)) == "bad_signature"


def test_a_run_without_a_signed_head_says_so(tmp_path: Path):
    open_writer(tmp_path / RUN).close()
    assert codes(lambda: read_head(tmp_path / RUN)) == "not_found"
