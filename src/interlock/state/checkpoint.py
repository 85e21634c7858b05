"""A checkpoint file: the state, the tools and the head of the journal at one moment, to be restored later.

Format history: 1: first. 2: an id; the run's row apart from the caller's metadata; optionally the run's events. The
file is one line of JSON with its own digest. It holds unredacted state values, so the writer must create it with mode
0600.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from interlock.model import typed
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
    """The content of a checkpoint file."""

    format: Literal["interlock.checkpoint"] = "interlock.checkpoint"
    version: Literal[1, 2] = 2
    id: str = ""
    """Empty in format 1."""
    run: str
    workspace: str
    created_at_us: int
    journal: Head | None
    """None if the run has no journal (durability `off`)."""
    tools: dict[str, str]
    """The version (digest of the definition) of each tool, by name."""
    state: dict[str, Saved]
    about_run: dict[str, Any] = {}
    """Agent, session and status of the run. In format 1 they are in `metadata`."""
    metadata: dict[str, Any] = {}
    """Metadata given by the caller."""
    events: list[dict[str, Any]] | None = None
    """The run's journal up to `journal`, with the redacted values; None if events were not included."""


class ToolDifferences(msgspec.Struct, frozen=True, kw_only=True):
    """Tools of a checkpoint that are no longer registered, or have another definition."""

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """True if there are any differences."""
        return bool(self.missing or self.changed)

    @property
    def text(self) -> str:
        """The differences as text for people."""
        parts = [("is missing", "are missing", self.missing), ("has", "have", self.changed)]
        return "; ".join(
            ", ".join(f"`{name}`" for name in names)
            + f" {one if len(names) == 1 else many}"
            + (" another definition" if names is self.changed else "")
            for one, many, names in parts
            if names
        )


def compare_tools(checkpoint: Checkpoint, versions: dict[str, str]) -> ToolDifferences:
    """Compare the tools of a checkpoint with the registered ones (version by name). New tools are not a difference."""
    saved = checkpoint.tools
    return ToolDifferences(
        missing=tuple(sorted(saved.keys() - versions.keys())),
        changed=tuple(sorted(name for name, version in saved.items() if versions.get(name, version) != version)),
    )


def save(
    store: StateStore,
    *,
    run: str,
    created_at_us: int,
    journal: Head | None,
    tools: dict[str, str],
    checkpoint_id: str = "",
    about_run: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    events: list[dict[str, Any]] | None = None,
) -> bytes:
    """Encode a checkpoint of the present state. Raises: StoreError; CanonicalError if the metadata is not JSON."""
    state = {key: Saved(value=entry.value, version=entry.version) for key, entry in store.snapshot().items()}
    checkpoint = Checkpoint(
        id=checkpoint_id,
        run=run,
        workspace=store.workspace,
        created_at_us=created_at_us,
        journal=journal,
        tools=tools,
        state=state,
        about_run=about_run or {},
        metadata=metadata or {},
        events=events,
    )
    value = msgspec.to_builtins(checkpoint)
    return msgspec.json.encode({**value, "digest": digest("checkpoint", value)}) + b"\n"


def load(data: bytes) -> Checkpoint:
    """Decode a checkpoint file. Raises: UsageError if it is not a checkpoint, IntegrityError if it was damaged or edited."""
    try:
        value = msgspec.json.decode(data)
        if not isinstance(value, dict) or value.get("format") != "interlock.checkpoint":
            raise UsageError("the file is not a checkpoint", hint="`interlock runs checkpoint RUN -o FILE` makes one")
        claimed = value.pop("digest", None)
        if claimed != digest("checkpoint", value):
            raise IntegrityError("the checkpoint file was damaged or edited: its digest does not match its content")
        return typed.convert(value, Checkpoint)
    except msgspec.ValidationError as error:
        raise UsageError(f"the checkpoint file has another version: {error}") from None
    except (msgspec.DecodeError, CanonicalError, RecursionError, ValueError) as error:
        raise IntegrityError(f"the checkpoint file is damaged: {error}") from None


def restore(buffer: Buffer, store: StateStore, checkpoint: Checkpoint, *, merge: bool = False) -> None:
    """Write the checkpoint's state into a buffer, which the caller commits like any other change.

    Keys that differ are written; keys that the checkpoint lacks are removed, or kept with `merge`. Versions keep
    counting. A commit by another proposal in between makes this commit conflict. Raises: StoreError.
    """
    for key, saved in checkpoint.state.items():
        now = buffer.get(key)
        if now is None or canonical(now.value) != canonical(saved.value):
            buffer.write(key, saved.value)
    if not merge:
        for key in store.snapshot().keys() - checkpoint.state.keys():
            if buffer.get(key) is not None:
                buffer.delete(key)
