"""Prints the output of commands: one JSON document with `--json`, else text for people without control characters.

Standard output carries the answer, standard error everything else (errors, notes, progress, prompts).
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

import msgspec

from interlock.lazy import lazy
from interlock.model.errors import Fault, InterlockError, StoreError

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

if TYPE_CHECKING:
    from interlock.surfaces.cli.drawing import Drawing

_COLORS: Final = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2", "bold": "1"}
_FAULTS: Final[dict[Fault, str]] = {
    "user": "",
    "agent": "The fault is in the proposal, not in this machine.",
    "tool": "",
    "machine": "The fault is in this machine, not in your input.",
    "interlock": "This is a bug in Interlock: please report it.",
}


_PROSE_MIN: Final = 20
"""Minimum columns for prose."""


class LongObject(NamedTuple):
    """A JSON object that is printed while it is generated: the fields of `head`, the list `name`, and fields known at the end."""

    head: dict[str, Any]
    name: str
    items: Iterable[Any]
    """Documents, or further objects of this class."""
    tail: Callable[[], dict[str, Any]] = dict


class Output:
    """The output of one command. The command-line options set its fields."""

    def __init__(self) -> None:
        """Default: text for people, in colours at a terminal."""
        self.json = False
        self.quiet = False
        self.unread = False
        """True once the reader of the output has closed it."""
        self._unsaid: list[Callable[[], Iterable[str]]] = []
        self.dumb = os.environ.get("TERM") == "dumb"
        """True for a terminal that cannot be drawn on."""
        self.no_color = bool(os.environ.get("NO_COLOR")) or self.dumb
        for stream in (sys.stdout, sys.stderr):
            # Do not fail on characters that the terminal's encoding lacks.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")

    # -- the answer

    def emit(self, document: Any, text: Callable[[], Iterable[str]] | None = None) -> None:
        """Print the answer: `document` with `--json`, else the lines from `text` (with `--quiet` only after a failure)."""
        if self.json:
            self.write(sys.stdout, _as_json(document, indent=sys.stdout.isatty()))
        elif text is not None and self.quiet:
            self._unsaid.append(text)
        elif text is not None:
            for line in text():
                self.write(sys.stdout, line)

    def emit_list(self, documents: Iterable[Any], text: Callable[[Any], str], *, lines: bool = False) -> None:
        """Print an answer of any length item by item: a line each; with `--json` a list (with `lines` a document per line)."""
        first = True
        for document in documents:
            if self.json:
                before = "" if lines else "[" if first else ","
                line = _as_json(document, indent=False)
                self.write(sys.stdout, before + (_printable(line) if sys.stdout.isatty() else line))
            elif not self.quiet:
                self.write(sys.stdout, text(document))
            first = False
            if self.unread:
                return
        if self.json and not lines:
            self.write(sys.stdout, "[]" if first else "]")

    def emit_object(self, document: LongObject, text: Callable[[], Iterable[str]]) -> None:
        """Print an answer of any length as `emit` does. With `--quiet` it is consumed but not printed."""
        if self.json:
            for piece in _pieces(document):
                if not self.unread:
                    self.write(sys.stdout, _printable(piece) if sys.stdout.isatty() else piece)
            return
        for line in text():
            if not self.quiet and not self.unread:
                self.write(sys.stdout, line)

    def explain_failure(self) -> None:
        """After a failure, print to standard error what `--quiet` suppressed, because it explains the failure."""
        for text in self._unsaid:
            for line in text():
                self.write(sys.stderr, line)
        self._unsaid.clear()

    def as_json(self, document: Any) -> str:
        """The document as JSON, formatted for people."""
        return _as_json(document, indent=True)

    def raw(self, text: str) -> None:
        """Print text that is itself the answer (a document, a policy), even with `--quiet`."""
        self.write(sys.stdout, clean(text, lines=True).removesuffix("\n"))

    # -- beside the answer

    def note(self, text: str) -> None:
        """Print a note for people to standard error; silent with `--quiet`."""
        if not self.quiet:
            self.write(sys.stderr, text)

    def warn(self, text: str) -> None:
        """Print a note marked as a warning."""
        self.note(self.paint("warning: ", "yellow", sys.stderr) + clean(text))

    def error(self, error: InterlockError) -> None:
        """Print an error: as a JSON document with `--json`, else what failed, where, whose fault it is and what to do."""
        if self.json:
            self.write(sys.stdout, _as_json({"error": error.as_dict()}, indent=sys.stdout.isatty()))
            return
        self.write(sys.stderr, self.paint("error: ", "red", sys.stderr) + clean(error.message) + f" ({error.code})")
        fault = _FAULTS[error.fault]
        for label, value in (("where", error.path), ("whose", fault), ("do", error.hint)):
            if value:
                self.write(sys.stderr, f"  {label + ':':7}{clean(value)}")

    # -- how

    def paint(self, text: str, color: str, stream: TextIO | None = None) -> str:
        """The text in a colour, if the stream is a terminal and colours are on."""
        stream = sys.stdout if stream is None else stream
        if self.no_color or not stream.isatty():
            return text
        return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"

    def drawing(self, stream: TextIO | None = None) -> Drawing | None:
        """The drawing for a stream; None unless it is a terminal that can be drawn on."""
        if self.dumb or self.json or not (sys.stdout if stream is None else stream).isatty():
            return None
        from interlock.surfaces.cli.drawing import Drawing  # noqa: PLC0415 - start-up: `rich` is only for terminals

        return Drawing(color=not self.no_color)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]], *, cut_last: bool = False) -> Iterable[str]:
        """Rows under a header for standard output: fitted to a terminal's width, else aligned. Cells are cleaned.

        With `cut_last` a terminal shows as much of the last cell as fits on one line.
        """
        cells = [[clean("" if cell is None else str(cell)) for cell in row] for row in rows]
        drawing = self.drawing()
        return aligned(head, cells) if drawing is None else drawing.table(head, cells, cut_last=cut_last)

    def folded(self, text: str, indent: int, hanging: int = 0) -> list[str]:
        """Prose wrapped beside `indent` columns, later lines `hanging` further in; one line if not at a terminal."""
        if not sys.stdout.isatty():
            return [text]
        import textwrap  # noqa: PLC0415 - start-up

        width = max(_PROSE_MIN, shutil.get_terminal_size().columns - indent)
        return textwrap.wrap(text, width, subsequent_indent=" " * hanging, break_on_hyphens=False) or [text]

    def fitted(self, lines: Iterable[str], stream: TextIO, hanging: int) -> Iterable[str]:
        """Lines for a stream. At a terminal, a line that is too long goes on `hanging` columns further in, never at the left."""
        if self.json or not stream.isatty():
            yield from lines
            return
        columns = shutil.get_terminal_size().columns
        drawing: Drawing | None = None
        for line in lines:
            if line.isascii() and len(line) <= columns:
                yield line
                continue
            if drawing is None:
                from interlock.surfaces.cli.drawing import Drawing  # noqa: PLC0415 - start-up: `rich` is only for terminals

                drawing = Drawing(color=not (self.no_color or self.dumb))
            yield from drawing.line(line, hanging)

    def write(self, stream: TextIO, line: str) -> None:
        """Write a line. If the reader is gone (`| head`, a closed terminal), stop writing, but let the command finish.

        Raises: StoreError if the line cannot be written for another reason, such as a full disk.
        """
        try:
            stream.write(line + "\n")
            stream.flush()
        except OSError as error:
            self.unread = True
            # Discard further output, so that the interpreter's flush at exit does not fail either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if error.errno not in {errno.EPIPE, errno.EIO}:
                which = "standard output" if stream is sys.stdout else "standard error"
                raise StoreError(f"{which} cannot be written: {os.strerror(error.errno or 0)}") from None


def clean(text: str, *, lines: bool = False) -> str:
    """The text with control and invisible characters escaped.

    Line breaks and tabs are kept if `lines` is true.
    """
    if text.isascii() and text.isprintable():
        return text
    from interlock.detect.unicode import SELECTORS, find_unseen  # noqa: PLC0415 - start-up: most text is plain

    # Python considers fillers and variation selectors printable, but they are invisible.
    unseen = {i for found in find_unseen(text) for i in range(found.start, found.end)}
    return "".join(
        c if (lines and c in "\n\t") or (c.isprintable() and i not in unseen and c not in SELECTORS) else _escape(c)
        for i, c in enumerate(text)
    )


def brief(value: Any, width: int = 100) -> str:
    """A value on one line, truncated to a width."""
    text = value if isinstance(value, str) else _as_json(value, indent=False)
    text = clean(text)
    return text if len(text) <= width else text[: width - 3] + "..."


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Rows as aligned columns under a header; the last column is not padded."""
    cells = [[*head], *([*row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _as_json(document: Any, *, indent: bool) -> str:
    try:
        data = msgspec.json.encode(document)
        text = (msgspec.json.format(data, indent=2) if indent else data).decode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can express only as an escape
        text = json.dumps(msgspec.to_builtins(document), indent=2 if indent else None)
    return _printable(text) if indent else text


def _pieces(document: LongObject) -> Iterator[str]:
    """The lines of a long object, broken only between its parts."""
    head = _as_json(document.head, indent=False)[1:-1]
    start = f"{{{head}{',' if head else ''}{_as_json(document.name, indent=False)}:["
    first = True
    for item in document.items:
        before = start if first else ","
        first = False
        for piece in _pieces(item) if isinstance(item, LongObject) else (_as_json(item, indent=False),):
            yield before + piece
            before = ""
    tail = _as_json(document.tail(), indent=False)[1:-1]
    yield (start if first else "") + "]" + ("," + tail if tail else "") + "}"


def _printable(text: str) -> str:
    """JSON in which every character that could control a terminal is escaped."""
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    """Escape a character. It must be inside a string, because JSON is ASCII elsewhere."""
    return json.dumps(character)[1:-1]
