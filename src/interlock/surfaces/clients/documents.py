"""Edits clients' configuration files as text: JSON, JSON with comments, TOML.

Comments and layout stay where nothing changes.

The new content is computed on plain values (`entries.py`). Here the text is edited to match, and read again as a check.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import tomlkit
from tomlkit.exceptions import TOMLKitError

from interlock.model.errors import ProposalError, UsageError
from interlock.model.values import parse_json

_INDENT: Final = "  "


def read_document(data: bytes, path: Path, *, comments: bool = False) -> dict[str, Any]:
    """The object in a file; `comments` if its client reads JSON with comments. Raises: UsageError `client_file`."""
    try:
        if path.suffix == ".toml":
            return tomllib.loads(data.decode())
        text = data.decode("utf-8")
        value = parse_json((_without_comments(text) if comments else text).encode()) if text.strip() else {}
    except ProposalError as error:
        raise unusable(path, f"{error.message}{f' ({error.path})' if error.path else ''}") from None
    except ValueError as error:  # not UTF-8, or not valid TOML
        raise unusable(path, str(error)) from None
    if not isinstance(value, dict):
        raise unusable(path, "it does not contain a JSON object")
    return value


def rewrite_document(data: bytes | None, wanted: dict[str, Any], path: Path, *, comments: bool = False) -> bytes:
    """Edit the file's bytes so that it holds what is `wanted`. Raises: UsageError `client_file`."""
    old = {} if data is None else read_document(data, path, comments=comments)
    if data is not None and _same(old, wanted):
        return data
    if path.suffix == ".toml":
        text = _rewrite_toml("" if data is None else data.decode(), wanted, path)
    elif comments and data is not None and data.strip():
        mark = "\ufeff" if data.startswith(b"\xef\xbb\xbf") else ""
        text = mark + _rewrite_json(data.decode().removeprefix(mark), wanted)
    else:
        text = json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
    written = text.encode()
    if not _same(read_document(written, path, comments=comments), wanted):
        raise unusable(path, "Interlock cannot edit its layout without changing more")
    return written


def unusable(path: Path, why: str) -> UsageError:
    """The error for a client's file that cannot be edited."""
    return UsageError(
        f"`{path.name}` cannot be edited: {why}",
        code="client_file",
        path=str(path),
        hint="fix the file, or move it away; nothing was changed",
    )


def _rewrite_toml(text: str, wanted: dict[str, Any], path: Path) -> str:
    try:
        document = tomlkit.parse(text)
        _fill(document, wanted)
        written = tomlkit.dumps(document)
        # The empty line before a table that is gone.
        return written if text.endswith("\n\n") else re.sub(r"\n\n+\Z", "\n", written)
    except TOMLKitError as error:
        raise unusable(path, str(error)) from None


def _fill(place: Any, wanted: dict[str, Any]) -> None:
    """Make a table hold what is wanted, without touching what it already has."""
    for key in list(place):
        if key not in wanted:
            del place[key]
    for key, value in wanted.items():
        if key not in place:
            place[key] = value
        elif isinstance(value, dict) and isinstance(place[key], dict):
            _fill(place[key], value)
        elif not _same(place[key], value):
            place[key] = value


class _Node(NamedTuple):
    """A value in the text, and its position."""

    start: int
    end: int
    value: Any
    members: tuple[tuple[int, str, _Node], ...] = ()
    """For an object: the start of each key, the key, and the value; for a list, the index is the key."""


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def _rewrite_json(text: str, wanted: dict[str, Any]) -> str:
    """Make one change after the other, each in the text that the previous one produced."""
    while True:
        blank = _without_comments(text)
        edits = next(_changes(_parse(blank, _skip(blank, 0)), wanted, text, 0), None)
        if edits is None:
            return text
        for edit in reversed(edits):
            text = text[: edit.start] + edit.text + text[edit.end :]


def _changes(node: _Node, wanted: Any, text: str, depth: int) -> Iterator[tuple[_Edit, ...]]:
    """The changes that lead to what is wanted. Only the first applies to this text. Its edits are in order."""
    if _same(node.value, wanted):
        return
    if isinstance(node.value, dict) and isinstance(wanted, dict):
        for member in node.members:
            if member[1] not in wanted:
                yield (_removal(node, member, text),)
            else:
                yield from _changes(member[2], wanted[member[1]], text, depth + 1)
        for key, value in wanted.items():
            if key not in node.value:
                yield _addition(node, f"{_text(key)}: {_text(value, depth + 1)}", text, depth)
    elif isinstance(node.value, list) and isinstance(wanted, list) and (kept := _kept(node.value, wanted)) is not None:
        for index, member in enumerate(node.members):
            if index not in kept:
                yield (_removal(node, member, text),)
        for value in wanted[len(kept) :]:
            yield _addition(node, _text(value, depth + 1), text, depth)
    else:
        yield (_Edit(node.start, node.end, _text(wanted, depth)),)


def _same(left: Any, right: Any) -> bool:
    """True if equal as JSON: `1` is not `true`."""
    first, second = (json.dumps(each, sort_keys=True, default=repr) for each in (left, right))  # repr: dates in TOML
    return first == second


def _kept(old: list[Any], wanted: list[Any]) -> list[int] | None:
    """The indices of a list's values that stay; None unless the wanted list is these values followed by new ones."""
    left, right = ([json.dumps(value, sort_keys=True) for value in values] for values in (old, wanted))
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    indexes = [block.a + step for block in blocks for step in range(block.size)]
    return indexes if [left[index] for index in indexes] == right[: len(indexes)] else None


def _addition(node: _Node, added: str, text: str, depth: int) -> tuple[_Edit, ...]:
    """A member after the last one."""
    inside = text[node.start + 1 : node.end - 1]
    if not node.members:
        line, end = "\n" + _INDENT * (depth + 1), "\n" + _INDENT * depth
        if not inside.strip():
            return (_Edit(node.start + 1, node.end - 1, f"{line}{added}{end}"),)
        at = node.start + 1 + len(inside.rstrip())  # after a comment
        return (_Edit(at, node.end - 1, f"{line}{added}{end}"),)
    last = node.members[-1][2].end
    comma = _comma_after(text, last)
    at = _line_end(text, last if comma is None else comma + 1, node.end - 1)
    line = "\n" + _INDENT * (depth + 1) if "\n" in inside else " "
    return (*(() if comma is not None else (_Edit(last, last, ","),)), _Edit(at, at, f"{line}{added}"))


def _line_end(text: str, at: int, limit: int) -> int:
    """The position after a comment that follows on the same line."""
    newline = text.find("\n", at, limit)
    rest = text[at : newline if newline >= 0 else at]
    return at + len(rest.rstrip()) if rest.strip().startswith("//") else at


def _removal(node: _Node, member: tuple[int, str, _Node], text: str) -> _Edit:
    """A member with the comma that separates it from its neighbours, and the white space before it."""
    blank = _blanked(text)
    begin, end = member[0], member[2].end
    while begin > node.start + 1 and text[begin - 1] in " \t\r\n":
        begin -= 1
    comma = _comma_after(text, end)
    # A comment before it may end with the line.
    follows = text[end if comma is None else comma + 1 :].lstrip(" \t")
    ends_line = blank[begin - 1] != text[begin - 1] and "\n" in text[begin : member[0]] and follows[:1] not in "\r\n"
    left = "\n" if ends_line else ""
    if comma is not None:
        return _Edit(begin, comma + 1, left)
    before = begin
    while before > node.start + 1 and blank[before - 1] in " \t\r\n":
        before -= 1
    if blank[before - 1] == ",":  # it is the last member: the comma before it goes too, but what is between stays
        return _Edit(before - 1, end, text[before:begin] + left)
    return _Edit(begin, end, left)


def _comma_after(text: str, at: int) -> int | None:
    blank = _blanked(text)
    at = _skip(blank, at)
    return at if blank[at : at + 1] == "," else None


def _text(value: Any, depth: int = 0) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n" + _INDENT * depth)


def _blanked(text: str) -> str:
    """The text with comments replaced by spaces, so that positions stay the same."""
    parts, at = [], 0
    while at < len(text):
        if text[at] == '"':
            end = at + 1
            while end < len(text) and text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            parts.append(text[at : end + 1])
            at = end + 1
            continue
        end = at
        if text.startswith("//", at):
            end = text.find("\n", at) if "\n" in text[at:] else len(text)
        elif text.startswith("/*", at) and (found := text.find("*/", at + 2)) >= 0:
            end = found + 2
        parts.append("".join(c if c in "\r\n" else " " for c in text[at:end]) or text[at])
        at = max(end, at + 1)
    return "".join(parts)


def _without_comments(text: str) -> str:
    """As `_blanked`, but also without commas before a closing bracket."""
    found = list(_blanked(text))
    inside, last = False, None
    at = 0
    while at < len(found):
        char = found[at]
        if inside:
            at += 1 if char == "\\" else 0
            inside = char != '"'
        elif char == '"':
            inside, last = True, None
        elif char == ",":
            last = at
        elif char in "]}" and last is not None:
            found[last], last = " ", None
        elif char not in " \t\r\n":
            last = None
        at += 1
    return "".join(found)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


_DECODER: Final = json.JSONDecoder()


def _parse(text: str, at: int) -> _Node:
    """The value at a position of a JSON text."""
    if text[at] not in "{[":
        value, end = _DECODER.raw_decode(text, at)
        return _Node(at, end, value)
    start, is_object = at, text[at] == "{"
    members: list[tuple[int, str, _Node]] = []
    at = _skip(text, at + 1)
    while text[at] not in "}]":
        begin, key = at, str(len(members))
        if is_object:
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        node = _parse(text, at)
        members.append((begin, key, node))
        at = _skip(text, node.end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    value = {key: node.value for _, key, node in members} if is_object else [node.value for _, _, node in members]
    return _Node(start, at + 1, value, tuple(members))
