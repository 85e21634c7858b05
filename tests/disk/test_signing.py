"""Keys and signatures: made once, readable by nobody else, and what a signature does and does not vouch for."""

from __future__ import annotations

import base64
import contextlib
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from interlock.disk import Disk
from interlock.model.errors import IntegrityError, StoreError, UsageError
from interlock.signing import Signer, pae, parse_public_key, verify
from interlock.testing import CrashingDisk, SimulatedCrash

TYPE = "application/vnd.interlock.test+json"


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path / "keys", Disk())


def test_the_key_is_made_once_and_is_for_its_user_only(tmp_path: Path, signer: Signer):
    assert Signer.open(tmp_path / "keys", Disk()).keyid == signer.keyid
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "keys").iterdir()}
    assert modes == {"ed25519.pem": 0o600, "ed25519.pub.pem": 0o644, "lock": 0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert (tmp_path / "keys" / "ed25519.pub.pem").read_bytes() == signer.public_pem()


def test_processes_that_come_first_at_once_get_one_key(tmp_path: Path):
    program = "import sys, pathlib; from interlock.disk import Disk; from interlock.signing import Signer\n"
    program += "print(Signer.open(pathlib.Path(sys.argv[1]), Disk()).keyid)"
    arguments = [sys.executable, "-c", program, str(tmp_path / "keys")]
    others = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(4)]
    assert len({other.communicate()[0] for other in others}) == 1


def test_making_a_key_may_die_at_any_step(tmp_path: Path):
    counting = CrashingDisk()
    Signer.open(tmp_path / "count", counting)
    for at in range(len(counting.operations)):
        disk = CrashingDisk(at=at)
        with contextlib.suppress(SimulatedCrash):
            Signer.open(tmp_path / f"keys_{at}", disk)
        disk.power_loss()
        first = Signer.open(tmp_path / f"keys_{at}", Disk())
        assert Signer.open(tmp_path / f"keys_{at}", Disk()).keyid == first.keyid
        assert (tmp_path / f"keys_{at}" / "ed25519.pub.pem").read_bytes() == first.public_pem()


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path, signer: Signer):
    path = tmp_path / "keys" / "ed25519.pem"
    path.chmod(0o640)
    with pytest.raises(StoreError) as caught:
        Signer.open(tmp_path / "keys", Disk())
    assert caught.value.code == "key_exposed"
    path.chmod(0o600)
    elliptic = generate_private_key(SECP256R1())
    for content in (b"", b"garbage", elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())):
        path.write_bytes(content)
        with pytest.raises(StoreError) as caught:
            Signer.open(tmp_path / "keys", Disk())
        assert caught.value.code == "key_damaged"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        Signer.open(tmp_path / "keys", Disk())


def test_the_pre_authentication_encoding_is_the_one_of_the_dsse_specification():
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_is_dsse(signer: Signer):
    document = json.loads(signer.sign(TYPE, b"payload"))
    assert document.keys() == {"payloadType", "payload", "signatures"}
    assert (document["payloadType"], base64.b64decode(document["payload"])) == (TYPE, b"payload")
    [signature] = document["signatures"]
    parse_public_key(signature["keyid"]).verify(base64.b64decode(signature["sig"]), pae(TYPE, b"payload"))


def test_a_signature_is_vouched_for_only_by_a_key_that_the_caller_brings(tmp_path: Path, signer: Signer):
    envelope = signer.sign(TYPE, b"payload")
    alone = verify(envelope, TYPE)
    assert (alone.payload, alone.keyid, alone.vouched) == (b"payload", signer.keyid, False)
    assert verify(envelope, TYPE, key=signer.public_pem().decode()).vouched
    stranger = Signer.open(tmp_path / "other", Disk())
    with pytest.raises(IntegrityError) as caught:
        verify(envelope, TYPE, key=stranger.keyid)
    assert caught.value.code == "bad_signature"


def test_a_stranger_cannot_pass_for_the_key_that_was_asked_for(tmp_path: Path, signer: Signer):
    forged = json.loads(Signer.open(tmp_path / "other", Disk()).sign(TYPE, b"forged"))
    forged["signatures"][0]["keyid"] = signer.keyid
    for key in (None, signer.keyid):
        with pytest.raises(IntegrityError):
            verify(json.dumps(forged).encode(), TYPE, key=key)


def test_a_payload_of_another_type_is_refused(signer: Signer):
    with pytest.raises(IntegrityError):
        verify(signer.sign("application/other", b"{}"), TYPE)


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_an_envelope_with_any_byte_changed_never_says_something_else(signer: Signer, flip: int):
    envelope = signer.sign(TYPE, b"payload")
    refused = 0
    for position in range(len(envelope)):
        changed = bytearray(envelope)
        changed[position] ^= flip
        try:
            verified = verify(bytes(changed), TYPE, key=signer.keyid)
        except IntegrityError:
            refused += 1
        else:  # unused bits at the end of base64, or JSON that means the same
            assert verified.payload == b"payload"
    assert refused > len(envelope) * 0.9


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_as_envelope_are_refused_without_a_traceback(envelope: bytes):
    with pytest.raises(IntegrityError):
        verify(envelope, TYPE)


def test_what_is_not_a_public_key_is_a_usage_error(signer: Signer):
    elliptic = generate_private_key(SECP256R1()).public_key()
    pem = elliptic.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text in ("", "ed25519:", "ed25519:00", "ed25519:" + "z" * 64, "-----BEGIN PUBLIC KEY-----\n", pem):
        with pytest.raises(UsageError):
            verify(signer.sign(TYPE, b"x"), TYPE, key=text)
