"""Text replacement for `fs.edit`, between reading the file and writing it.

An agent writes lines with LF. They match any line endings in the file (CRLF, LF, both mixed; CR if the file has no LF).
An unchanged line keeps its ending; a new line gets the most common ending around it. An `old` that contains a CR is
matched exactly, and its `new` written exactly, if the file contains it in that form; otherwise its CRLFs are treated as
LF.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from interlock.lazy import lazy, lazy_pattern
from interlock.model.errors import ToolError

if TYPE_CHECKING:
    import difflib
else:
    difflib = lazy("difflib")

LINES_SHOWN_MAX: Final = 50
_NEAREST: Final = 3
_LINES_COMPARED_MAX: Final = 20_000
_LINE_CHARS_MAX: Final = 200
_UNDECODED: Final = lazy_pattern("[\udc80-\udcff]")
"""A byte that is not UTF-8, as a surrogate escape."""


class Edit(NamedTuple):
    """One replacement. `where` is the path of its parameters (`$.parameters` or `$.parameters.edits[2]`)."""

    old: str
    new: str
    times: int
    where: str

    def name(self, field: str) -> str:
        """The field for a message: `old`, or `edits[2].old` if it is one of several."""
        return f"{self.where}.{field}".removeprefix("$.parameters.")


def apply(text: str, edits: Sequence[Edit]) -> str:
    """Apply the edits in order and return the new text.

    Raises: ToolError `edit_mismatch`, `edit_unchanged`; no edit is applied then.
    """
    for edit in edits:
        text = _apply(text, edit)
    return text


def _apply(text: str, edit: Edit) -> str:
    if "\r" in edit.old and edit.old in text:
        plain = _Plain(text, [], [], "")
        old, new = edit.old, edit.new
    else:
        plain = _plain(text)
        old, new = edit.old.replace("\r\n", "\n"), edit.new.replace("\r\n", "\n")
    if old == new:
        raise ToolError(
            f"`{edit.name('old')}` and `{edit.name('new')}` are the same, so nothing would change",
            code="edit_unchanged",
            path=f"{edit.where}.new",
            retryable=False,
        )
    places = [match.start() for match in re.finditer(re.escape(old), plain.text)]
    if len(places) != edit.times:
        raise _mismatch(plain.text, old, places, edit)
    out, at = [], 0
    for place in places:
        start, end = plain.original(place), plain.original(place + len(old))
        out += [text[at:start], _with_ends(old, new, plain, place)]
        at = end
    return "".join([*out, text[at:]])


class _Plain(NamedTuple):
    """A text with LF line endings. `ends` are the original endings, `places` their positions, `usual` the most common one."""

    text: str
    places: list[int]
    ends: list[str]
    usual: str

    def original(self, place: int) -> int:
        """Convert a position to the original text, where each CRLF is one character longer."""
        return place + sum(len(end) - 1 for end in self.ends[: bisect.bisect_left(self.places, place)])


def _plain(text: str) -> _Plain:
    pattern = r"\r\n|\n" if "\n" in text else r"\r"
    places, ends, shorter = [], [], 0
    for match in re.finditer(pattern, text):
        places.append(match.start() - shorter)
        ends.append(match[0])
        shorter += len(match[0]) - 1
    usual = Counter(ends).most_common(1)[0][0] if ends else "\n"
    return _Plain(re.sub(pattern, "\n", text), places, ends, usual)


def _with_ends(old: str, new: str, plain: _Plain, place: int) -> str:
    """Restore the file's line endings in the new text: each unchanged line keeps its own."""
    if not plain.ends or "\n" not in new:
        return new if plain.usual in {"\n", ""} else new.replace("\n", plain.usual)
    first = bisect.bisect_left(plain.places, place)
    here = plain.ends[first : first + old.count("\n")]
    usual = Counter(here).most_common(1)[0][0] if here else plain.usual
    before, after = old.split("\n"), new.split("\n")
    wanted = [usual] * (len(after) - 1)
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "replace" and i2 - i1 == j2 - j1):
            for i, j in zip(range(i1, i2), range(j1, j2), strict=True):
                if i < len(here) and j < len(wanted):
                    wanted[j] = here[i]
    return "".join(line + end for line, end in zip(after, [*wanted, ""], strict=True))


def _mismatch(text: str, old: str, places: Sequence[int], edit: Edit) -> ToolError:
    """Returns an error with the line numbers of `old`, or of the nearest lines.

    The text of the lines is in the output, not in the message.
    """
    output: dict[str, Any] = {"occurrences": len(places)}
    if places:
        breaks = [match.start() for match in re.finditer("\n", text)]
        lines = [bisect.bisect_left(breaks, place) + 1 for place in places[:LINES_SHOWN_MAX]]
        output["lines"] = lines
        listed = _listed(lines) + (" ..." if len(places) > len(lines) else "")
        message = f"`{edit.name('old')}` occurs {_times(len(places))}, at {listed}, but `count` is {edit.times}"
        hint = "include more of the surrounding text, or correct `count`"
    else:
        nearest = _nearest(text, old)
        output["nearest"] = [{"line": line, "text": _UNDECODED.sub("\ufffd", found)} for line, found in nearest]
        message = f"`{edit.name('old')}` occurs 0 times, but `count` is {edit.times}"
        if nearest:
            message += f"; the nearest text is at {_listed([line for line, _ in nearest])}"
        hint = "compare it with the lines in `output.nearest` (white space matters), or read the file again"
    if _UNDECODED.search(text):
        message += "; the file is not UTF-8: give its `encoding`"
        hint = "such as `latin-1` or `cp1252`"
    return ToolError(message, code="edit_mismatch", path=f"{edit.where}.old", retryable=False, output=output, hint=hint)


def _listed(lines: Sequence[int]) -> str:
    return f"line {lines[0]}" if len(lines) == 1 else f"lines {', '.join(map(str, lines))}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _nearest(text: str, old: str) -> list[tuple[int, str]]:
    """Returns the lines most like the first non-blank line of `old`, with their numbers."""
    wanted = next((line.strip() for line in old.split("\n") if line.strip()), "")[:_LINE_CHARS_MAX]
    numbers: dict[str, list[int]] = {}
    lines = text.split("\n")[:_LINES_COMPARED_MAX]
    for number, line in enumerate(lines, 1):
        if line.strip():
            numbers.setdefault(line.strip()[:_LINE_CHARS_MAX], []).append(number)
    near = difflib.get_close_matches(wanted, numbers, n=_NEAREST, cutoff=0.6) if wanted else []
    found = [number for line in near for number in numbers[line]][:_NEAREST]
    return [(number, lines[number - 1][:_LINE_CHARS_MAX]) for number in found]
