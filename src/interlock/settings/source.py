"""Decodes configuration files: UTF-8, TOML, and the line of each setting."""

from __future__ import annotations

import tomllib
from typing import Any, Final

from interlock.lazy import lazy_pattern
from interlock.model.errors import ConfigurationError
from interlock.model.text import decode_utf8, why_not_utf8, without_bom
from interlock.settings.decode import Locate, Place, dotted

_LINE: Final = lazy_pattern(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_BARE: Final = lazy_pattern(r"\s*([A-Za-z0-9_.-]{1,60})\s*=\s*([A-Za-z_*./~-][\w*./~-]{0,60})\s*(?:#.*)?")
_PLAINER: Final = {
    "Cannot overwrite a value": "a key is set twice",
}
_HEADER: Final = lazy_pattern(r"\s*(\[\[?)(.+?)\]\]?\s*(?:#.*)?$")
_ASSIGNMENT: Final = lazy_pattern(r"""\s*((?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+|\s*\.\s*)+?)\s*=""")
_KEY: Final = lazy_pattern(r""""((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+)""")


def utf8(data: bytes, name: str) -> str:
    """The text of a file, without a byte order mark. Raises: ConfigurationError with the line that is not UTF-8."""
    try:
        return decode_utf8(data)
    except UnicodeDecodeError as error:
        line = without_bom(data).count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"the file is {why_not_utf8(data)}", path=f"{name}:{line}") from None


def parse_toml(data: bytes, name: str) -> dict[str, Any]:
    """The table of a TOML document. Raises: ConfigurationError with the line."""
    try:
        return tomllib.loads(utf8(data, name))
    except tomllib.TOMLDecodeError as error:
        found = _LINE.search(str(error))
        line = int(found[1]) if found and found[1] else data.count(b"\n") + 1
        text = _LINE.sub("", str(error))
        raise ConfigurationError(
            f"not TOML: {_PLAINER.get(text, text)}", path=f"{name}:{line}", hint=_toml_hint(text, data, line)
        ) from None
    except RecursionError:
        raise ConfigurationError("the file is not valid TOML: it is nested too deeply", path=name) from None
    except ValueError:  # an integer of thousands of digits, or a date that does not exist
        raise ConfigurationError("the file is not valid TOML: a number or date is out of range", path=name) from None


def _toml_hint(text: str, data: bytes, line: int) -> str | None:
    """What to do about the commonest mistake: a text without quotes."""
    source = data.decode("utf-8", "replace").splitlines()[line - 1 : line]
    bare = _BARE.fullmatch(source[0]) if text == "Invalid value" and source else None
    return None if bare is None else f'a text needs quotes: `{bare[1]} = "{bare[2]}"`'


def locator(data: bytes, name: str, prefix: Place = ()) -> Locate:
    """A function that formats a setting's place: `interlock.toml:12: rules.allow[2]`, or without the line.

    It works line by line, so a line of a multi-line string that looks like a key can mislead it.
    """

    def locate(place: Place) -> str:
        line = _find(without_bom(data).decode(errors="replace"), (*prefix, *place))
        return f"{name}:{line}: {dotted(place)}" if line else f"{name}: {dotted(place)}"

    return locate


def _find(text: str, place: Place) -> int | None:
    """The line of the longest prefix of the place in the file."""
    best, best_length = None, 0
    table: Place = ()
    seen: dict[Place, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _keys(header[2])
            if header[1] == "[[":
                index = seen[table] = seen.get(table, -1) + 1
                table = (*table, index)
            here = table
        elif assignment := _ASSIGNMENT.match(line):
            here = (*table, *_keys(assignment[1]))
        else:
            continue
        if best_length < len(here) <= len(place) and place[: len(here)] == here:
            best, best_length = number, len(here)
    return best


def _keys(text: str) -> Place:
    return tuple(next(filter(None, groups), "") for groups in _KEY.findall(text))
