"""Splits policy text into statements, with their lines.

Cedar's parser does not report positions, so the text is split here: a statement ends at a `;` outside of strings and
comments. The tokens also give explanations the text of a clause, and errors the line of a word. Source of the token
rules: the Cedar language reference, "Grammar".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from interlock.lazy import lazy_pattern

_TOKEN = lazy_pattern(
    r"(?P<space>\s+|//[^\n]*)"
    r'|(?P<string>"(?:[^"\\]|\\.)*")'
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<number>[0-9]+)"
    r"|(?P<sign>::|==|!=|<=|>=|&&|\|\||.)",
    re.DOTALL,
)
_OPEN = frozenset("([{")
_CLOSE = frozenset(")]}")
_CHAINING = frozenset(("&&", "||", "+", "-", "*", ".", "!", "if"))
_BRACKET_WEIGHT = 5
NESTING_MAX = 1000
"""Nesting limit. Cedar's parser uses stack for each bracket and each operator of a chain, and aborts the process on overflow."""


class Token(msgspec.Struct, frozen=True, array_like=True):
    """A piece of text: `kind` is `string`, `word`, `number` or `sign`; `start` is its offset in the file."""

    kind: str
    text: str
    start: int
    line: int


class Statement(msgspec.Struct, frozen=True):
    """One policy's text, from its first token to its `;`."""

    file: str
    text: str
    tokens: tuple[Token, ...]

    @property
    def line(self) -> int:
        """The line of the first token, counted from 1."""
        return self.tokens[0].line

    @property
    def place(self) -> str:
        """`file:line`, the form used in errors."""
        return f"{self.file}:{self.line}"

    def place_of(self, word: str) -> str:
        """`file:line` of the first token equal to this word or string; of the statement if there is none."""
        quoted = f'"{word}"'
        for token in self.tokens:
            if token.text in (word, quoted):
                return f"{self.file}:{token.line}"
        return self.place

    @property
    def canonical(self) -> str:
        """The text without comments and with single spaces. The content hash covers this form."""
        return " ".join(token.text for token in self.tokens)


class Clause(msgspec.Struct, frozen=True):
    """A condition as the author wrote it: an operand of the top-level `&&` of a `when`, or a whole `unless`."""

    negated: bool
    text: str
    line: int


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a policy file, without spaces and comments. An unclosed string gives a single `"`, which Cedar refuses."""
    line = 1
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None  # the last alternative matches any character
        piece = match.group()
        if match.lastgroup != "space":
            yield Token(kind=match.lastgroup or "", text=piece, start=at, line=line)
        line += piece.count("\n")
        at = match.end()


def split(file: str, text: str) -> list[Statement]:
    """The statements of a file, in order. Text after the last `;` is also a statement, which Cedar refuses."""
    found: list[Statement] = []
    current: list[Token] = []
    for token in tokens(text):
        current.append(token)
        if token.text == ";" and token.kind == "sign":
            found.append(_statement(file, text, current))
            current = []
    if current:
        found.append(_statement(file, text, current))
    return found


def too_deep(statement: Statement) -> Token | None:
    """The token at which brackets and operator chains nest deeper than the parser can handle safely; None if none does."""
    open_, here, total = [0], 0, 0
    for token in statement.tokens:
        if token.kind == "string":
            continue
        if token.text in _OPEN:
            open_.append(here + _BRACKET_WEIGHT)
            total, here = total + _BRACKET_WEIGHT, 0
        elif token.text in _CLOSE and len(open_) > 1:
            total -= here + _BRACKET_WEIGHT
            here = open_.pop() - _BRACKET_WEIGHT + 1  # `x[..][..]` and `f(..)(..)` are also chains
            total += 1
        elif token.text == ",":
            total, here = total - here, 0
        elif token.text in _CHAINING:
            total, here = total + 1, here + 1
        if total > NESTING_MAX:
            return token
    return None


def _statement(file: str, text: str, parts: Sequence[Token]) -> Statement:
    end = parts[-1].start + len(parts[-1].text)
    return Statement(file=file, text=text[parts[0].start : end], tokens=tuple(parts))


def clauses(statement: Statement) -> list[Clause]:
    """The conditions of a statement in the order in which they are evaluated."""
    found: list[Clause] = []
    depth = 0
    keyword = ""
    body: list[Token] = []
    for token in statement.tokens:
        if token.kind == "sign" and token.text in _CLOSE:
            depth -= 1
            if depth == 0 and keyword:
                found.extend(_conditions(statement, keyword, body))
                keyword, body = "", []
        if depth > 0 and keyword:
            body.append(token)
        if token.kind == "sign" and token.text in _OPEN:
            depth += 1
        elif depth == 0 and token.kind == "word" and token.text in {"when", "unless"}:
            keyword = token.text
    return found


def _conditions(statement: Statement, keyword: str, body: list[Token]) -> Iterator[Clause]:
    """Split a `when` at its top-level `&&`, unless it has a top-level `||` or `if`, which bind more loosely."""
    cuts: list[int] = []
    depth = 0
    for at, token in enumerate(body):
        if token.kind == "sign" and token.text in _OPEN:
            depth += 1
        elif token.kind == "sign" and token.text in _CLOSE:
            depth -= 1
        elif depth == 0 and token.text in {"||", "if"}:
            cuts = []
            break
        elif depth == 0 and token.text == "&&":
            cuts.append(at)
    if keyword == "unless":
        cuts = []
    offset = statement.tokens[0].start
    for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(body)], strict=True):
        part = body[start:end]
        if part:
            text = statement.text[part[0].start - offset : part[-1].start - offset + len(part[-1].text)]
            yield Clause(negated=keyword == "unless", text=text, line=part[0].line)
