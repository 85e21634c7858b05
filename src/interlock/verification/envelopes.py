"""DSSE envelopes and public keys: who signed what."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

STATEMENT_TYPE: Final = "application/vnd.in-toto+json"
HEAD_TYPE: Final = "application/vnd.interlock.journal-head.v1+json"
_KEYID: Final = re.compile("ed25519:([0-9a-f]{64})")


class PublicKeyError(ValueError):
    """A text that is not an Ed25519 public key."""


def keyid_of(text: str) -> str:
    """Returns the `ed25519:HEX` of a public key, given as PEM or in this form. Raises: PublicKeyError."""
    text = text.strip()
    if _KEYID.fullmatch(text):
        return text
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise PublicKeyError("that is not an Ed25519 public key (PEM, or `ed25519:` and 64 hex digits)")
    return "ed25519:" + key.public_bytes_raw().hex()


def payload_of(envelope: dict[str, Any], payload_type: str) -> bytes | None:
    """Returns the payload of an envelope; None if it has another type or is not base64."""
    return _base64(envelope["payload"]) if envelope["payloadType"] == payload_type else None


def bad_signatures(envelope: dict[str, Any], payload: bytes) -> list[str]:
    """Returns the key ids whose signatures in an envelope are invalid."""
    kind = envelope["payloadType"].encode()
    signed = b" ".join((b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload))
    return [one["keyid"] for one in envelope["signatures"] if not _is_good(one, signed)]


def _is_good(signature: dict[str, str], signed: bytes) -> bool:
    found = _KEYID.fullmatch(signature["keyid"])
    sig = _base64(signature["sig"])
    if found is None or sig is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(found[1])).verify(sig, signed)
    except (ValueError, InvalidSignature):
        return False
    return True


def _base64(text: str) -> bytes | None:
    """Returns the decoded bytes; None unless the text is their canonical encoding."""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data).decode() == text else None
