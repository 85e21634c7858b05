"""Signed heads: a small statement of a journal's position, which can be stored or published elsewhere.

The chain of seals reveals damage and partial edits. Someone with both the file and the key could rewrite the whole history; a
head signed by a key held elsewhere, or stored elsewhere, reveals that too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from interlock.disk import Disk, open_regular, store_error
from interlock.journal.index import require_reached
from interlock.journal.reader import corrupt, scan
from interlock.journal.sealing import HEAD_NAME, Head
from interlock.model import typed
from interlock.model.canonical import canonical
from interlock.model.errors import IntegrityError, UsageError
from interlock.signing import Signer, Verified, verify

HEAD_TYPE: Final = "application/vnd.interlock.journal-head.v1+json"


def sign_head(run_dir: Path, head: Head, signer: Signer, disk: Disk, *, locked: bool = False) -> bytes:
    """Sign a head and store it beside the journal (at the end of a run, and at checkpoints). Returns the DSSE envelope.

    A run begins with an empty file, whose name is on disk. The run's writer (`locked`) writes its first head into that file,
    which saves a rename and its sync. If a power failure interrupts this, the head has no last newline, and does not count.
    """
    envelope = signer.sign(HEAD_TYPE, canonical(msgspec.to_builtins(head)))
    path = run_dir / HEAD_NAME
    if locked and _is_empty(path):
        _fill(path, envelope + b"\n", disk)
    else:
        disk.write_atomic(path, envelope + b"\n")
    return envelope


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _fill(path: Path, data: bytes, disk: Disk) -> None:
    fd = disk.open_append(path)
    try:
        disk.write(fd, data)
        disk.sync_data(fd)
    finally:
        os.close(fd)


def read_head(run_dir: Path) -> bytes:
    """The signed head beside the journal. Raises: UsageError `not_found` if none was signed yet; StoreError."""
    try:
        with open_regular(run_dir / HEAD_NAME) as file:
            data = file.read()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise store_error(error, f"read {run_dir / HEAD_NAME}") from error
    if not data.endswith(b"\n"):
        raise UsageError(f"run `{run_dir.name}` has no signed head", code="not_found")
    return data.rstrip(b"\n")


def decode_head(envelope: bytes, *, key: str | None = None) -> tuple[Head, Verified]:
    """The head in a signed envelope, and its signer. `key` as in `signing.verify`. Raises: IntegrityError `bad_signature`."""
    verified = verify(envelope, HEAD_TYPE, key=key)
    try:
        return typed.decode(verified.payload, Head), verified
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"the signed document is not a head: {error}", code="bad_signature") from None


def verify_head(run_dir: Path, envelope: bytes, *, key: str | None = None) -> tuple[Head, Verified]:
    """Check that a journal is intact and contains a signed head.

    Raises: IntegrityError (`bad_signature`; `journal_corrupt`; `journal_truncated`; `journal_rewritten`); UsageError.
    """
    head, verified = decode_head(envelope, key=key)
    if head.run != run_dir.name:
        raise UsageError(f"the head belongs to run `{head.run}`, not to `{run_dir.name}`")
    status = scan(run_dir, at=head.seq)
    if status.corruption is not None:
        raise corrupt(run_dir, status.corruption)
    require_reached(status, head.seq, head.seal, "a signed head")
    return head, verified
