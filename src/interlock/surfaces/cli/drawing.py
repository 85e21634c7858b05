"""Draws differences, marked text and tables at a terminal with `rich`, fitted to its width.

Imported only when something is drawn, because importing `rich` takes longer than most commands.
"""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_MIN: Final = 20
_STYLES: Final = {"+": "green", "-": "red", "@": "cyan", "\\": "dim"}
_GAP: Final = 2
"""Columns between the columns of a table."""
_LAST_MIN: Final = 12
"""Least columns for the last column of a table."""
_LAST_MIN_FOLDED: Final = 8
"""The same where other columns fold."""
_CUT: Final = "..."
_CHANGED: Final = "reverse"
_TRAILING: Final = "on red"
"""White space at the end of an added line, which is invisible otherwise."""


class Drawing:
    """Draws lines for a terminal; each is a string with colours and without a line end."""

    def __init__(self, *, color: bool) -> None:
        """Use the terminal's present width."""
        self.width = max(WIDTH_MIN, shutil.get_terminal_size().columns)
        self._console = Console(
            file=io.StringIO(), force_terminal=True, width=self.width, color_system="standard" if color else None,
            no_color=not color, highlight=False, markup=False, emoji=False, legacy_windows=False,
        )  # fmt: skip

    def line(self, line: str, hanging: int) -> Iterator[str]:
        """One line, which may have colours; what does not fit goes on `hanging` columns further in, after a space if possible."""
        text = Text.from_ansi(line)
        text.expand_tabs(4)
        cuts = list(_after_words(text.plain, self.width, max(WIDTH_MIN, self.width - hanging)))
        for number, part in enumerate(text.divide(cuts)):
            yield " " * (hanging * bool(number)) + self._render(part)

    def marked(self, spans: Iterable[tuple[str, str]], indent: int) -> Iterator[str]:
        """Styled text (rich's style names; text may have several lines), each line folded and indented."""
        text = Text()
        for part, style in spans:
            text.append(part, style or None)
        for line in text.split("\n", allow_blank=True):
            yield from self._folded(line, " " * indent, " " * indent)

    def difference(self, lines: Sequence[str], indent: int) -> Iterator[str]:
        """A unified difference in colours, with the changed parts of lines marked."""
        changed = dict(_changed_parts(lines))
        for at, line in enumerate(lines):
            text = Text(line, style=_STYLES.get(line[:1], ""))
            if at in changed:
                text.stylize(_CHANGED, *changed[at])
            if line[:1] == "+" and line[1:].strip():
                text.stylize(_TRAILING, len(line.rstrip()))
            yield from self._folded(text, " " * indent, " " * (indent + 2))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]], *, cut_last: bool = False) -> Iterator[str]:
        """Rows under a header, without empty columns. Only the last column folds; with `cut_last` it is cut to its room.

        If the terminal is too narrow for that, other columns fold between words, and in a very narrow one anywhere.
        """
        cells = [[*head], *([*row] for row in rows)]
        shown = [n for n in range(len(head)) if any(row[n] for row in cells[1:])] or [0]
        cells = [[row[n] for n in shown] for row in cells]
        widths, lines = self._widths(cells)
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for name, width in zip(cells[0], widths, strict=True):
            table.add_column(Text(name), overflow="fold", min_width=width, max_width=width)
        room = None if widths[-1] is None or not cut_last else widths[-1] * lines
        for *row, last in cells[1:]:
            cut = last if room is None or cell_len(last) <= room else set_cell_size(last, room - len(_CUT)) + _CUT
            table.add_row(*map(Text, (*row, cut)))
        yield from (line.rstrip() for line in self._render(table).splitlines())

    def _widths(self, cells: Sequence[Sequence[str]]) -> tuple[list[int | None], int]:
        """The width of each column (None: as it comes), and the number of lines of a row."""
        whole = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
        words = [
            max(cell_len(word) for cell in column for word in (cell.split() or [""]))
            for column in zip(*cells, strict=True)
        ]
        for lines, least, widths in ((1, _LAST_MIN, whole), (2, _LAST_MIN_FOLDED, words)):
            room = self.width - sum(width + _GAP for width in widths[:-1])
            if room >= min(whole[-1], least):
                return [*widths[:-1], min(room, whole[-1])], lines
        return [None] * len(whole), 1

    def _folded(self, text: Text, first: str, others: str) -> Iterator[str]:
        room = max(WIDTH_MIN, self.width - len(others))
        text.expand_tabs(4)
        cuts = list(itertools.accumulate(map(len, chop_cells(text.plain, room))))[:-1]
        for number, part in enumerate(text.divide(cuts)):
            yield (others if number else first) + self._render(part)

    def _render(self, what: Any) -> str:
        with self._console.capture() as capture:
            self._console.print(what, end="", soft_wrap=isinstance(what, Text))
        return capture.get()


def _after_words(text: str, first: int, others: int) -> Iterator[int]:
    """Where to cut a text into lines of so many columns: after a space in the second half of the line, else anywhere."""
    start, room = 0, first
    while cell_len(text[start : start + room + 1]) > room:
        size = len(chop_cells(text[start : start + room + 1], room)[0])
        space = text.rfind(" ", start + size // 2, start + size)
        start = space + 1 if space >= 0 else start + size
        yield start
        room = others


def _changed_parts(lines: Sequence[str]) -> Iterator[tuple[int, tuple[int, int]]]:
    """The changed part of each line, where a block of removed lines is followed by as many added ones."""
    at = 0
    for mark, group in itertools.groupby(line[:1] for line in lines):
        size = len(list(group))
        if mark == "-" and all(line[:1] == "+" for line in lines[at + size : at + 2 * size]):
            after = at + 2 * size
            if after == len(lines) or (after < len(lines) and lines[after][:1] != "+"):
                for one in range(at, at + size):
                    start, end, other_end = _differing(lines[one], lines[one + size])
                    if start > 1 or end < len(lines[one]):  # otherwise the whole line differs
                        yield one, (start, end)
                        yield one + size, (start, other_end)
        at += size


def _differing(one: str, other: str) -> tuple[int, int, int]:
    """Where two lines start to differ after their marks, and where the difference ends in each."""
    start, most = 1, min(len(one), len(other))
    while start < most and one[start] == other[start]:
        start += 1
    same = 0
    while same < most - start and one[-1 - same] == other[-1 - same]:
        same += 1
    return start, len(one) - same, len(other) - same
