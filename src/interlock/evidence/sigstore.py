"""The attestation as a Sigstore bundle (v0.3): the same envelope, with a key hint.

It has no transparency log entry and no timestamp, so the verifier needs the public key, and must be told to require neither.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from interlock.evidence.format import Envelope
from interlock.model.canonical import canonical
from interlock.model.errors import UsageError

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


def sigstore_bundle(envelope: Envelope) -> bytes:
    """Returns the bundle in canonical JSON, with a newline.

    Raises: UsageError unless there is exactly one signature, as bundles require.
    """
    if len(envelope.signatures) != 1:
        raise UsageError(
            f"a Sigstore bundle needs exactly one signature, but this attestation has {len(envelope.signatures)}",
            hint="sign with one key",
        )
    document: dict[str, Any] = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": envelope.signatures[0].keyid}, "tlogEntries": []},
        "dsseEnvelope": msgspec.to_builtins(envelope),
    }
    return canonical(document) + b"\n"
