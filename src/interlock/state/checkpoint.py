"""A checkpoint file: the state, the tools and the head of the journal at one moment, to restore later.

Format history: 1: first. The file is one line of JSON with its own digest. It holds unredacted state values, so the writer
must give it mode 0600.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from interlock.model.canonical import CanonicalError, canonical, digest
from interlock.model.errors import IntegrityError, UsageError
from interlock.state.buffer import Buffer
from interlock.state.store import StateStore


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The journal's position: the last sealed event, and the digest of its seal."""

    seq: int
    seal: str


class Saved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key's value and version when the checkpoint was made."""

    value: Any
    version: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the file."""

    format: Literal["interlock.checkpoint"] = "interlock.checkpoint"
    version: Literal[1] = 1
    run: str
    workspace: str
    created_at_us: int
    journal: Head | None
    """None if the run keeps no journal (durability `off`)."""
    tools: dict[str, str]
    """Version (digest of the definition) by name."""
    state: dict[str, Saved]
    metadata: dict[str, Any] = {}


def save(
    store: StateStore,
    *,
    run: str,
    created_at_us: int,
    journal: Head | None,
    tools: dict[str, str],
    metadata: dict[str, Any] | None = None,
) -> bytes:
    """The bytes of a checkpoint of the state as it is now. Raises: StoreError, CanonicalError for odd metadata."""
    state = {key: Saved(value=entry.value, version=entry.version) for key, entry in store.snapshot().items()}
    checkpoint = Checkpoint(
        run=run,
        workspace=store.workspace,
        created_at_us=created_at_us,
        journal=journal,
        tools=tools,
        state=state,
        metadata=metadata or {},
    )
    value = msgspec.to_builtins(checkpoint)
    return msgspec.json.encode({**value, "digest": digest("checkpoint", value)}) + b"\n"


def load(data: bytes) -> Checkpoint:
    """The checkpoint in a file. Raises: UsageError if it is not a checkpoint, IntegrityError if it was damaged or edited."""
    try:
        value = msgspec.json.decode(data)
        if not isinstance(value, dict) or value.get("format") != "interlock.checkpoint":
            raise UsageError("this is not a checkpoint file", hint="`interlock runs checkpoint RUN -o FILE` makes one")
        claimed = value.pop("digest", None)
        if claimed != digest("checkpoint", value):
            raise IntegrityError("the checkpoint file was damaged or edited: its digest is not that of its content")
        return msgspec.convert(value, Checkpoint)
    except msgspec.ValidationError as error:
        raise UsageError(f"the checkpoint file is of another version: {error}") from None
    except (msgspec.DecodeError, CanonicalError, RecursionError, ValueError) as error:
        raise IntegrityError(f"the checkpoint file is damaged: {error}") from None


def restore(buffer: Buffer, store: StateStore, checkpoint: Checkpoint, *, merge: bool = False) -> None:
    """Write the checkpoint's state into a buffer; the caller commits it like any other change.

    Keys that differ are written; keys that the checkpoint lacks are removed, or kept with `merge`. Versions keep counting. A
    commit by another proposal in between makes this commit conflict. Raises: StoreError.
    """
    for key, saved in checkpoint.state.items():
        now = buffer.get(key)
        if now is None or canonical(now.value) != canonical(saved.value):
            buffer.write(key, saved.value)
    if not merge:
        for key in store.snapshot().keys() - checkpoint.state.keys():
            if buffer.get(key) is not None:
                buffer.delete(key)
