"""The finding of a detector: a kind, and its place in the text."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """A stretch `text[start:end]` of the text that was searched, and what it is taken for."""

    kind: str
    start: int
    end: int
