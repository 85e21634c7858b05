"""The common fields of all events of a journal, and the form of values in them. The kinds are in `events`."""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Kept(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A value as the journal stores it."""

    digest: str
    """Digest of the original's canonical JSON (what = `value`): `sha256:...`, or `hmac-sha256:...` under the run's key
    if the view is redacted or absent, so that the journal alone does not allow anyone to confirm a guess of the
    redacted text.
    """
    bytes: int
    """Length of the original's canonical JSON."""
    view: Any = None
    """The redacted value; absent if it is over `Limits.inline_value_bytes`."""
    private: bool = False
    """True if the original differs from the view and is in `private/` (until the retention time `keep` is over)."""


APART: Final = object()
"""The view of a value that is too large for an event, and is therefore neither redacted nor shown."""


class Event(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="kind"):
    """The fields of every event."""

    seq: int = -1
    ts: int = -1
    mono: int = -1
    proposal: str | None = None
    action: str | None = None
    step: int | None = None
