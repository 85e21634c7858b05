"""Detects text encodings, and decodes and encodes text, for files and HTTP bodies.

An encoding is read from a byte order mark or given by name, never guessed. The mark is kept separate from the text.
"""

from __future__ import annotations

import codecs
from typing import Final, NamedTuple

ENCODINGS: Final = (
    "utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "latin-1", "iso8859-15", "cp1250", "cp1251", "cp1252",
    "koi8-r", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr",
)  # fmt: skip
"""The encodings that a call can name."""
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MARK_BYTES: Final = 4
_UNITS: Final = {"utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}


class Mark(NamedTuple):
    """A byte order mark, and the encoding that it names: `b""` and None if there is no mark."""

    mark: bytes
    encoding: str | None


def marked(start: bytes) -> Mark:
    """Returns the byte order mark at the start of a text."""
    return next((Mark(mark, name) for mark, name in _MARKS if start.startswith(mark)), Mark(b"", None))


def whole_characters(data: bytes, encoding: str, *, final: bool) -> tuple[str, int]:
    """Decode `data`. Returns the text and the number of bytes used. An incomplete last character is left out unless `final`.

    Raises: UnicodeDecodeError.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    text = decoder.decode(data, final=final)
    return text, len(data) - len(decoder.getstate()[0])


def character_start(before: bytes, after: bytes, encoding: str, offset: int) -> int:
    """Returns how many bytes before `offset` the character that spans it starts: 0 to 3.

    `before` holds up to three bytes before the offset, `after` those from the offset on.
    """
    unit = _UNITS.get(encoding)
    if unit is not None:
        return offset % unit
    if encoding != "utf-8" or not after or not _continues(after[0]):
        return 0
    for back, byte in enumerate(reversed(before), 1):
        if not _continues(byte):
            return back if byte >= 0xC0 else 0
    return 0


def _continues(byte: int) -> bool:
    return 0x80 <= byte < 0xC0
