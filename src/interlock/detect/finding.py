"""The finding of a detector: a kind, and its place in the text."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """A range `text[start:end]` of the searched text, and what it seems to be."""

    kind: str
    start: int
    end: int
