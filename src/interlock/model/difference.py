"""The unified difference of two texts, for a person to read before approving a change, and for reports.

The time is bounded for all texts: if they differ in more than `EDITS_MAX` lines, everything between the first and the
last different line is shown as replaced, which is longer than necessary, but still exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

CONTEXT_LINES: Final = 3
EDITS_MAX: Final = 600
"""Maximum number of removed and added lines for the shortest difference. The time grows with the square."""
NO_NEWLINE: Final = "\\ No newline at end of file"


class Difference(NamedTuple):
    """A unified difference without its header: each line begins with a space, `-`, `+`, `@@` or a backslash."""

    lines: tuple[str, ...]
    added: int
    """The number of added lines."""
    removed: int


class _Change(NamedTuple):
    """Replaces lines `a1` to `a2` of the first text by lines `b1` to `b2` of the second."""

    a1: int
    a2: int
    b1: int
    b2: int


def compare(before: str, after: str) -> Difference:
    """The difference of two texts; empty if they are equal. Only LF ends a line, so a changed CR changes its line."""
    a, b = _lines(before), _lines(after)
    changes = _changes(a, b)
    out: list[str] = []
    for hunk in _hunks(changes):
        out += _hunk_lines(hunk, a, b)
    return Difference(tuple(out), sum(c.b2 - c.b1 for c in changes), sum(c.a2 - c.a1 for c in changes))


def _lines(text: str) -> list[str]:
    *whole, last = text.split("\n")
    return [f"{line}\n" for line in whole] + ([last] if last else [])


def _changes(a: Sequence[str], b: Sequence[str]) -> list[_Change]:
    start, a_end, b_end = 0, len(a), len(b)
    while start < min(a_end, b_end) and a[start] == b[start]:
        start += 1
    while min(a_end, b_end) > start and a[a_end - 1] == b[b_end - 1]:
        a_end, b_end = a_end - 1, b_end - 1
    if start == a_end == b_end:
        return []
    found = _shortest(a[start:a_end], b[start:b_end])
    if found is None:
        return [_Change(start, a_end, start, b_end)]
    return [_Change(*(start + at for at in change)) for change in found]


def _shortest(a: Sequence[str], b: Sequence[str]) -> list[_Change] | None:
    """The shortest difference (Myers 1986, "An O(ND) difference algorithm"); None if it has more than `EDITS_MAX` lines."""
    if abs(len(a) - len(b)) > EDITS_MAX or not a or not b:
        return None
    reached = {1: 0}
    trace: list[dict[int, int]] = []
    for edits in range(EDITS_MAX + 1):
        trace.append(dict(reached) if edits else {})
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and reached[k - 1] < reached[k + 1])
            x = reached[k + 1] if down else reached[k - 1] + 1
            y = x - k
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            reached[k] = x
            if x >= len(a) and y >= len(b):
                return _walk_back(trace, edits, len(a), len(b))
    return None


def _walk_back(trace: list[dict[int, int]], edits: int, x: int, y: int) -> list[_Change]:
    """Trace back from the end of both texts to their start, along the diagonals that were reached."""
    changes: list[_Change] = []
    for step in range(edits, 0, -1):
        reached, k = trace[step], x - y
        down = k == -step or (k != step and reached[k - 1] < reached[k + 1])
        k = k + 1 if down else k - 1
        x, y = reached[k], reached[k] - k
        one = _Change(x, x, y, y + 1) if down else _Change(x, x + 1, y, y)
        if changes and (one.a2, one.b2) == (changes[-1].a1, changes[-1].b1):
            changes[-1] = _Change(one.a1, changes[-1].a2, one.b1, changes[-1].b2)
        else:
            changes.append(one)
    return changes[::-1]


def _hunks(changes: Sequence[_Change]) -> Iterator[list[_Change]]:
    """Group the changes that are so close that their context lines meet."""
    hunk: list[_Change] = []
    for change in changes:
        if hunk and change.a1 - hunk[-1].a2 > 2 * CONTEXT_LINES:
            yield hunk
            hunk = []
        hunk.append(change)
    if hunk:
        yield hunk


def _hunk_lines(hunk: Sequence[_Change], a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    lead = min(CONTEXT_LINES, hunk[0].a1)
    trail = min(CONTEXT_LINES, len(a) - hunk[-1].a2)
    a1, a2 = hunk[0].a1 - lead, hunk[-1].a2 + trail
    b1, b2 = hunk[0].b1 - lead, hunk[-1].b2 + trail
    yield f"@@ -{_range(a1, a2)} +{_range(b1, b2)} @@"
    at = a1
    for change in hunk:
        yield from _marked(" ", a[at : change.a1])
        yield from _marked("-", a[change.a1 : change.a2])
        yield from _marked("+", b[change.b1 : change.b2])
        at = change.a2
    yield from _marked(" ", a[at:a2])


def _range(start: int, end: int) -> str:
    """A line range in the notation of `patch`: an empty range names the line before it."""
    length = end - start
    return f"{start + 1 if length else start}" + ("" if length == 1 else f",{length}")


def _marked(mark: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield mark + line.removesuffix("\n")
        if not line.endswith("\n"):
            yield NO_NEWLINE
