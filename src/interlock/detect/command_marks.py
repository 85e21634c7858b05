"""Marks the parts of a command line for people who read it: programs, redirections, assignments, operators.

For display only: rules judge the result of `commands.parse_shell`.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from interlock.detect.commands import OPERATORS_MAX, TEXT_CHARS_MAX, shell_parser
from interlock.detect.redact import DONE

if TYPE_CHECKING:
    from tree_sitter import Node

Part = Literal["program", "redirection", "assignment", "operator"]
_REDIRECTIONS: Final = frozenset(("file_redirect", "heredoc_redirect", "herestring_redirect"))
_OPERATORS: Final = frozenset(("&&", "||", ";", ";;", "|", "|&", "&", "$(", "<(", ">(", "`", "(", ")", "!", "{", "}"))


class Mark(NamedTuple):
    """A part of a command line, from character `start` up to `end`."""

    part: Part
    start: int
    end: int


def mark_command(text: str) -> list[Mark]:
    """Returns the parts of a command line, ordered by where they begin; an inner part follows the one that contains it.

    Empty for a text that is too long to be parsed.
    """
    if len(text) > TEXT_CHARS_MAX or max(text.count("|"), text.count("(")) > OPERATORS_MAX:
        return []
    source = plain_redactions(text).encode("utf-8", "replace")
    found: list[Mark] = []
    stack: list[Node] = [shell_parser().parse(source).root_node]
    while stack:
        node = stack.pop()
        part = _part_of(node)
        if part is not None and node.end_byte > node.start_byte:
            found.append(Mark(part, node.start_byte, node.end_byte))
        stack.extend(reversed(node.children))
    if source.isascii():
        return found
    # Convert byte offsets to character offsets: a continuation byte begins no character.
    at = list(accumulate((byte & 0xC0 != 0x80 for byte in source), initial=0))
    return [Mark(mark.part, at[mark.start], at[mark.end]) for mark in found]


def plain_redactions(text: str) -> str:
    """Replace each redacted value by a plain word of the same length: its brackets are not shell syntax."""
    return DONE.sub(lambda match: re.sub(r"[^a-z0-9]", "_", match[0]), text)


def _part_of(node: Node) -> Part | None:
    if node.type == "command_name":
        return "program"
    if node.type in _REDIRECTIONS:
        return "redirection"
    if node.type == "variable_assignment":
        return "assignment"
    return "operator" if not node.is_named and node.type in _OPERATORS else None
