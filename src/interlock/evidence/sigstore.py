"""The attestation as a Sigstore bundle (v0.3), for verifiers of that family: the same envelope, and the hint of a key.

It has no transparency log entry and no time stamp, so give a verifier the public key and tell it to require
neither.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from interlock.evidence.format import Envelope
from interlock.model.canonical import canonical
from interlock.model.errors import UsageError

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


def sigstore_bundle(envelope: Envelope) -> bytes:
    """The bundle, canonical and with a newline. Raises: UsageError unless there is one signature, as a bundle has it."""
    if len(envelope.signatures) != 1:
        raise UsageError(
            f"a Sigstore bundle has one signature, and this attestation has {len(envelope.signatures)}",
            hint="sign with one key",
        )
    document: dict[str, Any] = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": envelope.signatures[0].keyid}, "tlogEntries": []},
        "dsseEnvelope": msgspec.to_builtins(envelope),
    }
    return canonical(document) + b"\n"
