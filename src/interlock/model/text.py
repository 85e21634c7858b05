"""Decodes text files written by people: UTF-8, with or without a byte order mark (BOM)."""

from __future__ import annotations

import codecs
from typing import Final

BOM: Final = codecs.BOM_UTF8
_OTHERS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def without_bom(data: bytes) -> bytes:
    """The bytes after a UTF-8 byte order mark, or all of them if there is none."""
    return data.removeprefix(BOM)


def decode_utf8(data: bytes) -> str:
    """The text without its byte order mark. Raises: UnicodeDecodeError; `why_not_utf8` describes the error."""
    return without_bom(data).decode()


def starts_foreign(data: bytes) -> bool:
    """True if a byte order mark of UTF-16 or UTF-32 is found."""
    return any(data.startswith(mark) for mark, _ in _OTHERS)


def why_not_utf8(data: bytes) -> str:
    """Explain why these bytes are not UTF-8: the encoding of their byte order mark, or the first invalid byte."""
    for mark, name in _OTHERS:
        if data.startswith(mark):
            return f"not UTF-8: it begins with the byte order mark of {name}; save it as UTF-8"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start} is invalid"
    return "not UTF-8"
