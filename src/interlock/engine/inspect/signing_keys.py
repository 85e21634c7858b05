"""The signing keys of a state directory, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from interlock.disk import Disk
from interlock.engine.local.location import locate
from interlock.signing import DEFAULT_NAME, Signer, key_names


class ShownKey(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key without its private half."""

    name: str
    keyid: str
    """`ed25519:` and the public key in hex."""
    public_key: str
    """The public key in PEM format."""
    path: str
    """The directory of the private half."""


def make_key(start: Path, env: Mapping[str, str], name: str) -> ShownKey:
    """Make a key. Raises: UsageError `key_exists`; StoreError; ConfigurationError."""
    disk = Disk()
    keys = locate(start, env, disk).state / "keys"
    return _shown(name, Signer.make(keys, name, disk), keys)


def list_keys(start: Path, env: Mapping[str, str]) -> list[ShownKey]:
    """All keys; the first one is made if there is none. Raises: StoreError, ConfigurationError."""
    disk = Disk()
    keys = locate(start, env, disk).state / "keys"
    Signer.open(keys, disk)
    return [_shown(name, Signer.named(keys, name, disk), keys) for name in key_names(keys)]


def find_key(start: Path, env: Mapping[str, str], name: str = DEFAULT_NAME) -> ShownKey:
    """One key. Raises: UsageError `not_found`; StoreError; ConfigurationError."""
    disk = Disk()
    keys = locate(start, env, disk).state / "keys"
    return _shown(name, Signer.named(keys, name, disk), keys)


def _shown(name: str, signer: Signer, keys: Path) -> ShownKey:
    return ShownKey(name=name, keyid=signer.keyid, public_key=signer.public_pem().decode(), path=str(keys))
