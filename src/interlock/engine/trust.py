"""The user's own decisions about a configuration: looking at its changes, and trusting them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from interlock.disk import Disk
from interlock.engine.inspect.policy_check import read_policies
from interlock.engine.people.identity import Proof, identify, open_desk
from interlock.settings import Change, SourceFile, TrustStore, gather, schema
from interlock.workspace.registry import state_directory


class Review(NamedTuple):
    """A project's current configuration, compared with the trusted one. Trusting it does not read it again."""

    root: Path
    files: tuple[SourceFile, ...]
    changes: list[Change]
    pin: bool
    """True if an approver has a PIN, so that trusting asks for a proof."""


def review(start: Path, env: Mapping[str, str]) -> Review:
    """Read the configuration and compare it with the trusted one. Raises: ConfigurationError, StoreError, IntegrityError."""
    disk = Disk()
    gathered = gather(start)
    changes = TrustStore(state_directory(env, disk), disk).check(gathered.root, gathered.files)
    with open_desk(start, env, trusted=False) as desk:
        pin = any(row.has_pin for row in desk.approvers.all())
    return Review(gathered.root, gathered.files, changes, pin)


def trust(reviewed: Review, env: Mapping[str, str], proof: Proof | None = None) -> None:
    """Record the reviewed configuration as trusted.

    Raises: AccessError if a proof is needed and is not valid; ConfigurationError if its policies do not load; StoreError.
    """
    if reviewed.pin:
        with open_desk(reviewed.root, env, trusted=False) as desk:
            identify(desk, proof or Proof())
    read_policies(reviewed.root, env)  # with policies that do not load, nothing would run
    disk = Disk()
    TrustStore(state_directory(env, disk), disk).record(reviewed.root, reviewed.files)
    if (reviewed.root / schema.PLACE).is_file():  # this version may have other settings than the one that wrote it
        schema.install(reviewed.root, disk)
