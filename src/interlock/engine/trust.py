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
    """A project's configuration as it is now, against what was trusted. Nothing is read a second time when it is trusted."""

    root: Path
    files: tuple[SourceFile, ...]
    changes: list[Change]
    pin: bool
    """True if an approver has a PIN: then trusting asks for a proof."""


def review(start: Path, env: Mapping[str, str]) -> Review:
    """Read the configuration and compare it with what was trusted. Raises: ConfigurationError, StoreError, IntegrityError."""
    disk = Disk()
    gathered = gather(start)
    changes = TrustStore(state_directory(env, disk), disk).check(gathered.root, gathered.files)
    with open_desk(start, env, trusted=False) as desk:
        pin = any(row.has_pin for row in desk.approvers.all())
    return Review(gathered.root, gathered.files, changes, pin)


def trust(reviewed: Review, env: Mapping[str, str], proof: Proof | None = None) -> None:
    """Record what was reviewed as trusted.

    Raises: AccessError if a proof is needed and not good; ConfigurationError if its policies do not load; StoreError.
    """
    if reviewed.pin:
        with open_desk(reviewed.root, env, trusted=False) as desk:
            identify(desk, proof or Proof())
    read_policies(reviewed.root, env)  # nothing would run with policies that do not load
    disk = Disk()
    TrustStore(state_directory(env, disk), disk).record(reviewed.root, reviewed.files)
    if (reviewed.root / schema.PLACE).is_file():  # this version may know other settings than the one that wrote it
        schema.install(reviewed.root, disk)
