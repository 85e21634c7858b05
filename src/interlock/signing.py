"""The only module that touches private keys: one Ed25519 key a state directory, those of grant tokens, and DSSE envelopes.

An envelope is DSSE (https://github.com/secure-systems-lab/dsse, version 1): `{"payloadType", "payload", "signatures":
[{"keyid", "sig"}]}`, payload and signature in base64, the signature over the pre-authentication encoding
`DSSEv1 LEN(type) type LEN(payload) payload`. Our `keyid` is `ed25519:` + the 32 bytes of the public key in hex. So an
envelope can be checked against itself with nothing else at hand, which shows that it is whole, but vouches for no one:
only a caller who brings a key that was known before learns who signed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from interlock.disk import Disk, store_error
from interlock.lazy import lazy, lazy_pattern
from interlock.model import typed
from interlock.model.errors import IntegrityError, StoreError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import serialization
else:
    serialization = lazy("cryptography.hazmat.primitives.serialization")

PRIVATE_NAME: Final = "ed25519.pem"
PUBLIC_NAME: Final = "ed25519.pub.pem"
DEFAULT_NAME: Final = "default"
"""Of the first key, which is made when it is first needed."""
_NAMED_PRIVATE: Final = ".ed25519.pem"
_NAME: Final = lazy_pattern(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SCHEME: Final = "ed25519:"
_KEY_BYTES_MAX: Final = 16 * 1024
_PKCS8: Final = bytes.fromhex("302e020100300506032b657004220420")
"""What comes before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410)."""
_PRIVATE_PEM: Final = lazy_pattern(rb"-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/]{64})\n-----END PRIVATE KEY-----\n")


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature of an envelope; `sig` is base64."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A DSSE envelope; `payload` is base64."""

    payload_type: str
    payload: str
    signatures: tuple[Signature, ...]


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What an envelope says, once its signature was found good."""

    payload_type: str
    payload: bytes
    keyid: str
    """`ed25519:HEX` of the key that signed."""
    vouched: bool
    """True if the caller brought that key; False if the envelope merely agrees with itself."""


class Signer:
    """A private key, ready to sign. `keyid` is its public half."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Wrap a key; `open` is how one gets it."""
        self._key = key
        self.keyid = _keyid(key.public_key())

    @classmethod
    def open(cls, keys: Path, disk: Disk) -> Signer:
        """The key in the directory `keys`, made on first use (0600) together with its exported public half.

        Two processes that come first at once get the same key. Raises: StoreError (`key_exposed` if others may read the
        file, `key_damaged` if it is not an Ed25519 key).
        """
        disk.make_directory(keys)
        with _locked(keys, disk):
            path, public = keys / PRIVATE_NAME, keys / PUBLIC_NAME
            key = _load_private(path) if os.path.lexists(path) else _make(path, public, disk)
            if not public.exists():
                disk.write_atomic(public, _pem(key.public_key()), mode=0o644)
        return cls(key)

    @classmethod
    def make(cls, keys: Path, name: str, disk: Disk) -> Signer:
        """A new key of its own name beside the first one. Raises: UsageError `key_exists`, `usage`; StoreError."""
        private, public = _files(keys, name)
        disk.make_directory(keys)
        with _locked(keys, disk):
            if os.path.lexists(private):
                raise UsageError(
                    f"there is a key `{name}` already", code="key_exists", path=str(private), hint="use another name"
                )
            return cls(_make(private, public, disk))

    @classmethod
    def named(cls, keys: Path, name: str, disk: Disk) -> Signer:
        """The key of a name; the first one is called `default`. Raises: UsageError `not_found`; StoreError as `open`."""
        if name == DEFAULT_NAME:
            return cls.open(keys, disk)
        private, _ = _files(keys, name)
        if not os.path.lexists(private):
            raise UsageError(f"there is no key `{name}`", code="not_found", hint="`interlock keys list` shows them")
        return cls(_load_private(private))

    @classmethod
    def generate(cls) -> Signer:
        """A fresh key that is kept nowhere: what a block of a grant token names as the key of the next one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_secret(cls, secret: str) -> Signer:
        """The key of `secret`. Raises: UsageError if that is not 64 hex digits in lower case."""
        try:
            key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        except ValueError:
            key = None
        if key is None or key.private_bytes_raw().hex() != secret:
            raise UsageError("that is not the secret of an Ed25519 key (64 hex digits)")
        return cls(key)

    def secret(self) -> str:
        """The private key itself, as 64 hex digits: only for what is handed on together with it, such as a grant token."""
        return self._key.private_bytes_raw().hex()

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """The DSSE envelope over `payload`, as JSON bytes without a newline."""
        signature = self.signature(payload_type, payload)
        envelope = Envelope(
            payload_type=payload_type,
            payload=base64.b64encode(payload).decode(),
            signatures=(Signature(keyid=self.keyid, sig=base64.b64encode(signature).decode()),),
        )
        return msgspec.json.encode(envelope)

    def signature(self, payload_type: str, payload: bytes) -> bytes:
        """The signature of an envelope over `payload` (64 bytes)."""
        return self._key.sign(pae(payload_type, payload))

    def public_pem(self) -> bytes:
        """The public half as PEM, to be kept where the signer cannot write."""
        return _pem(self._key.public_key())


def key_names(keys: Path) -> list[str]:
    """The names of the keys in a directory, the first one's first."""
    named = sorted(path.name.removesuffix(_NAMED_PRIVATE) for path in keys.glob(f"*{_NAMED_PRIVATE}"))
    return [*([DEFAULT_NAME] if (keys / PRIVATE_NAME).exists() else []), *named]


def verify(envelope: bytes, payload_type: str, *, key: str | None = None) -> Verified:
    """Check an envelope of the given payload type.

    `key` is a public key that the caller trusts: PEM text or `ed25519:HEX`. Raises: IntegrityError `bad_signature` if no
    signature of that key (without `key`: of the key named in the envelope) is good; UsageError if `key` is not one.
    """
    try:
        document = typed.decode(envelope, Envelope)
        payload = base64.b64decode(document.payload, validate=True)
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise _bad(f"it is not a DSSE envelope: {error}") from None
    if document.payload_type != payload_type:
        raise _bad(f"it holds a `{document.payload_type[:100]}`, not a `{payload_type}`")
    wanted = None if key is None else _keyid(parse_public_key(key))
    for signature in document.signatures:
        if wanted is not None and signature.keyid != wanted:
            continue
        with contextlib.suppress(UsageError, binascii.Error, ValueError, InvalidSignature):
            public = parse_public_key(signature.keyid)
            public.verify(base64.b64decode(signature.sig, validate=True), pae(payload_type, payload))
            return Verified(
                payload_type=payload_type, payload=payload, keyid=signature.keyid, vouched=wanted is not None
            )
    raise _bad("no signature in it is good" if wanted is None else f"no signature of `{wanted}` in it is good")


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_public_key(text: str) -> Ed25519PublicKey:
    """A public key from PEM text or `ed25519:HEX`. Raises: UsageError."""
    try:
        if text.startswith(_SCHEME):
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.removeprefix(_SCHEME)))
        key = serialization.load_pem_public_key(text.encode())
        if isinstance(key, Ed25519PublicKey):
            return key
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise UsageError("that is not an Ed25519 public key (PEM, or `ed25519:` and 64 hex digits)")


@contextlib.contextmanager
def _locked(keys: Path, disk: Disk) -> Iterator[None]:
    lock = disk.lock(keys / "lock", wait=True)
    assert lock is not None
    try:
        yield
    finally:
        os.close(lock)


def _files(keys: Path, name: str) -> tuple[Path, Path]:
    """Where a named key is. Raises: UsageError."""
    if not _NAME.fullmatch(name) or name == DEFAULT_NAME:
        raise UsageError(
            f"a key cannot be called `{name[:80]}`",
            hint=f"letters, digits, `_` and `-`, at most 64, and not `{DEFAULT_NAME}`, which is the first key's",
        )
    return keys / f"{name}{_NAMED_PRIVATE}", keys / f"{name}.ed25519.pub.pem"


def _make(private: Path, public: Path, disk: Disk) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    disk.write_atomic(private, _private_pem(key))
    disk.write_atomic(public, _pem(key.public_key()), mode=0o644)
    return key


def _load_private(path: Path) -> Ed25519PrivateKey:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            data = os.read(fd, _KEY_BYTES_MAX)
        finally:
            os.close(fd)
    except OSError as error:
        raise store_error(error, f"open {path}") from error
    if mode & 0o077:
        raise StoreError(
            f"the signing key {path} has mode {mode:04o}: others may have read it",
            code="key_exposed",
            hint="if no one did, run chmod 600 on it; otherwise remove it and a new key is made",
        )
    try:
        key = _own_pem(data) or serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise StoreError(
            f"the signing key {path} is damaged or not an Ed25519 key",
            code="key_damaged",
            hint="restore it, or move it away and a new key is made",
        )
    return key


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _own_pem(data: bytes) -> Ed25519PrivateKey | None:
    """The key, if the file is as `_private_pem` writes it: then no one waits for the library's parsers to be loaded."""
    found = _PRIVATE_PEM.fullmatch(data)
    der = b"" if found is None else base64.b64decode(found[1])
    return Ed25519PrivateKey.from_private_bytes(der[len(_PKCS8) :]) if der.startswith(_PKCS8) else None


def _keyid(key: Ed25519PublicKey) -> str:
    return _SCHEME + key.public_bytes_raw().hex()


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _bad(why: str) -> IntegrityError:
    return IntegrityError(f"the signature cannot be trusted: {why}", code="bad_signature")
