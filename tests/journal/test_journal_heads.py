"""Signed heads: what they show, and what they do not."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path

import pytest
from journaling import RUN, log, open_writer

from interlock.disk import Disk
from interlock.journal import JournalWriter, decode_head, read_head, scan, sign_head, verify_head
from interlock.model.errors import IntegrityError, StoreError, UsageError
from interlock.signing import Signer
from interlock.testing import CrashingDisk, SimulatedCrash


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


def test_truncation_another_history_and_damage_are_distinguished(signed: tuple[Path, bytes]):
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


def test_something_else_signed_with_the_same_key_is_not_a_head(signed: tuple[Path, bytes], signer: Signer):
    run_dir, _ = signed
    other = signer.sign("application/vnd.in-toto+json", b"{}")
    assert codes(lambda: verify_head(run_dir, other)) == "bad_signature"
    nonsense = signer.sign("application/vnd.interlock.journal-head.v1+json", b"{}")
    assert codes(lambda: verify_head(run_dir, nonsense)) == "bad_signature"


def test_a_run_without_a_signed_head_says_so(tmp_path: Path):
    open_writer(tmp_path / RUN).close()
    assert codes(lambda: read_head(tmp_path / RUN)) == "not_found"


def ended(run_dir: Path, disk: Disk, signer: Signer, acknowledged: list[bytes]) -> None:
    """A run whose writer signs its head twice: at its end, and after it was resumed."""
    for create in (True, False):
        with open_writer(run_dir, disk=disk, create=create) as writer:
            write(writer, "a", "b")
            acknowledged.append(sign_head(run_dir, writer.head(), signer, disk, locked=True))


@pytest.mark.parametrize("fault", ["crash", "full", "failed"])
@pytest.mark.parametrize(("survives", "names"), [(0, False), (0.5, False), (0.5, True), (1, True)])
def test_after_a_fault_at_any_write_a_head_is_whole_or_not_there(
    tmp_path: Path, signer: Signer, fault: str, survives: float, names: bool
):
    counting = CrashingDisk()
    ended(tmp_path / "run_count", counting, signer, [])
    assert counting.operations.count("rename") == 1  # only the second head replaces a file
    for at in range(len(counting.operations)):
        run_dir, disk, acknowledged = tmp_path / f"run_{at}", CrashingDisk(at=at, fault=fault), [b""]
        with contextlib.suppress(SimulatedCrash, StoreError):
            ended(run_dir, disk, signer, acknowledged)
        disk.power_loss(survives=lambda unsynced: int(unsynced * survives), names=names)
        found = b""
        with contextlib.suppress(UsageError):
            found = read_head(run_dir)
        if acknowledged[-1]:
            assert found, (at, disk.operations[at])
            assert decode_head(found)[0].seq >= decode_head(acknowledged[-1])[0].seq
        if found:  # never more than the journal has
            verify_head(run_dir, found, key=signer.keyid)


def test_a_head_without_its_last_byte_does_not_count_and_is_replaced(tmp_path: Path, signer: Signer):
    run_dir = tmp_path / RUN
    with open_writer(run_dir) as writer:
        assert (run_dir / "head.dsse.json").read_bytes() == b""
        assert codes(lambda: read_head(run_dir)) == "not_found"
        write(writer, "0")
        envelope = sign_head(run_dir, writer.head(), signer, Disk(), locked=True)
        (run_dir / "head.dsse.json").write_bytes(envelope)
        assert codes(lambda: read_head(run_dir)) == "not_found"
        assert sign_head(run_dir, writer.head(), signer, Disk(), locked=True) == envelope
    assert read_head(run_dir) == envelope
