"""Redacts exported lines one by one, and searches the written archive for secrets (the sweep).

Events and layers were redacted before they were written. At export, two more things are known: every secret of the run
(from the originals stored beside the journal), and the neighbours of each line. Therefore a secret is found wherever it
recurs, even split over two lines, and so are its two halves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from itertools import takewhile
from typing import Any, Final

import msgspec

from interlock.detect import Redactor, find_secrets, may_hold_secret
from interlock.detect.literals import LiteralFinder
from interlock.detect.redact import DONE, free_name
from interlock.evidence.observed import KERNEL_WORDS
from interlock.model.canonical import keyed_digest
from interlock.model.errors import IntegrityError
from interlock.model.events import Event

LITERAL_CHARS_MIN: Final = 6
"""A shorter value would be found everywhere."""
LITERALS_MAX: Final = 1000
_PIECE_CHARS_MIN: Final = 8
"""Minimum length for a part of a secret at the edge of a text to be recognised."""
_SEAM_CHARS: Final = 512
_ROUNDS_MAX: Final = 4
_KNOWN_MAX: Final = 50_000
_KNOWN_CHARS_MAX: Final = 400
"""Bounds of the cache of clean texts, because paths, ids and names recur often."""


class Redaction:
    """Redacts lines with the key of the state directory, knowing the secrets of one run."""

    def __init__(self, key: bytes) -> None:
        """`key` is the key of the fingerprints in the journal."""
        self._key = key
        self._redactor = Redactor(key)
        self._literals: list[str] = []
        self._known: set[str] = set()
        self._finder: LiteralFinder | None = None
        self._runs: set[str] = set()
        self._clean: set[str] = set()
        self._swept: set[str] = set()
        """Separate from `_clean`, because the sweep must not rely on what redaction considered clean."""

    # -- knowledge about the run

    def learn(self, shown: Any, original: Any, run_id: str) -> None:
        """Learn the secrets in a value: the texts that its redacted view replaced.

        What every archive of the run contains anyway is not learnt, because an agent chooses what it passes as a secret.
        """
        self._runs.add(run_id)
        for secret in _replaced(shown, original):
            if self._is_in_every_archive(secret):
                continue
            if len(self._literals) < LITERALS_MAX and len(secret) >= LITERAL_CHARS_MIN and secret not in self._known:
                self._known.add(secret)
                self._literals.append(secret)
                self._finder = None
                self._clean.clear()

    @property
    def literals(self) -> list[str]:
        """The secrets learnt so far."""
        return self._literals

    def sealed(self, line: bytes) -> str:
        """Returns the keyed digest of an event's sealed line, without its newline."""
        return keyed_digest(self._key, "event", line)

    # -- lines

    def clean(self, line: bytes, searched: bytes | None = None) -> bytes:
        """Redact a line of JSON. Returns the same object if it has no secrets. `searched` is the part that may contain any."""
        data = line if searched is None else searched
        if not may_hold_secret(data) and not self._may_hold_literal(data):
            return line
        value = msgspec.json.decode(line)
        clean = self._texts(value)
        return line if clean is value else msgspec.json.encode(clean) + b"\n"

    def clean_block(self, lines: list[bytes], body: Callable[[bytes], bytes]) -> list[bytes]:
        """Redact lines; much faster than one at a time. `body` returns the part of a line that may contain secrets."""
        bodies = list(map(body, lines))
        block = b"".join(bodies)
        if not may_hold_secret(block) and not self._may_hold_literal(block):
            return lines
        return [self.clean(line, part) for line, part in zip(lines, bodies, strict=True)]

    def text(self, text: str) -> str:
        """Redact a text. Returns the same object if it has no secrets."""
        if text in self._clean:
            return text
        for _ in range(_ROUNDS_MAX):
            clean = self._pieces(self._redactor.redact_text(self._without_literals(text)))
            if clean == text:
                _remember(self._clean, text)
                return text
            text = clean
        return text

    def across(self, before: str, after: str) -> tuple[str, str]:
        """Redact a secret that spans two texts, of which the second may continue the first."""
        head, tail = before[-_SEAM_CHARS:], after[:_SEAM_CHARS]
        seam = len(head)
        for found in find_secrets(head + tail):
            if found.start < seam < found.end:
                sign = self._redactor.fingerprint(found.kind, (head + tail)[found.start : found.end])
                return before[: len(before) - seam + found.start] + sign, sign + after[found.end - seam :]
        return before, after

    def _texts(self, value: Any) -> Any:
        """Redact every text in a value. Returns the same object if nothing changed."""
        if isinstance(value, str):
            return self.text(value) if len(value) > 3 else value
        if isinstance(value, dict):
            if self._is_clean(value):
                return value
            members: dict[str, Any] = {}
            for key, inner in value.items():
                members[free_name(members, self._name(key))] = self._texts(inner)
            same = (
                all(map(lambda new, old: new is old, members.values(), value.values()))
                and members.keys() == value.keys()
            )
            return value if same else members
        if isinstance(value, list):
            items = [self._texts(inner) for inner in value]
            return value if all(map(lambda new, old: new is old, items, value)) else items
        return value

    def _is_clean(self, members: dict[str, Any]) -> bool:
        """Returns True if every text in an object is known to be clean.

        This is common, because most lines repeat texts of others.
        """
        texts, others = _sorted_out(members)
        if not self._clean.issuperset(texts) and any(self.text(text) is not text for text in texts):
            return False
        return all(self._texts(value) is value for value in others)

    def _name(self, name: str) -> str:
        return self.text(name) if len(name) > LITERAL_CHARS_MIN else name

    def _may_hold_literal(self, data: bytes) -> bool:
        if not self._literals:
            return False
        return self._find().occurs(data) or any(
            literal[:_PIECE_CHARS_MIN].encode() in data or literal[-_PIECE_CHARS_MIN:].encode() in data
            for literal in self._literals
        )

    def _find(self) -> LiteralFinder:
        if self._finder is None:
            self._finder = LiteralFinder([*self._literals, *map(_escaped, self._literals)])
        return self._finder

    def _without_literals(self, text: str) -> str:
        for literal in self._literals:
            if literal in text:
                text = text.replace(literal, self._redactor.fingerprint("known", literal))
        return text

    def _pieces(self, text: str) -> str:
        """Redact the start of a known secret at the end of the text, the end of one at its start, and longer parts anywhere."""
        for literal in self._literals:
            text = self._piece_at_end(text, literal)
            text = self._piece_at_start(text, literal)
            text = self._pieces_inside(text, literal)
        return text

    def _pieces_inside(self, text: str, literal: str) -> str:
        """Redact the beginnings and ends of a known secret that are at least a third of it."""
        least = max(_PIECE_CHARS_MIN, -(-len(literal) // 3))
        if len(literal) < 2 * _PIECE_CHARS_MIN:
            return text
        if literal[:least] in text:
            text = "".join(self._without_beginnings(text, literal, least))
        if literal[-least:] in text:
            text = "".join(self._without_beginnings(text[::-1], literal[::-1], least, backwards=True))[::-1]
        return text

    def _without_beginnings(self, text: str, literal: str, least: int, *, backwards: bool = False) -> Iterator[str]:
        """Yield a text in parts, in which beginnings of a secret are redacted. `backwards`: both are reversed."""
        start = 0
        while (at := text.find(literal[:least], start)) >= 0:
            yield text[start:at]
            same = takewhile(lambda pair: pair[0] == pair[1], zip(text[at : at + len(literal)], literal, strict=False))
            start = at + sum(1 for _ in same)
            piece = text[at:start]
            yield self._shown_piece(piece[::-1])[::-1] if backwards else self._shown_piece(piece)
        yield text[start:]

    def _piece_at_end(self, text: str, literal: str) -> str:
        at = text.rfind(literal[:_PIECE_CHARS_MIN], max(0, len(text) - len(literal)))
        if at < 0 or len(literal) < 2 * _PIECE_CHARS_MIN or not literal.startswith(text[at:]):
            return text
        return text[:at] + self._shown_piece(text[at:])

    def _piece_at_start(self, text: str, literal: str) -> str:
        at = text.find(literal[-_PIECE_CHARS_MIN:], 0, len(literal))
        end = at + _PIECE_CHARS_MIN
        if at < 0 or len(literal) < 2 * _PIECE_CHARS_MIN or not literal.endswith(text[:end]):
            return text
        return self._shown_piece(text[:end]) + text[end:]

    def _shown_piece(self, piece: str) -> str:
        return piece if self._is_in_every_archive(piece) else self._redactor.fingerprint("piece", piece)

    def _is_in_every_archive(self, text: str) -> bool:
        """Returns True for a word of the format, or a part of the id of a run. Without these, no one could read the lines."""
        return text in format_words() or any(text in run_id for run_id in self._runs)

    # -- the sweep

    def sweep(self, member: str, lines: Iterable[bytes], number: int) -> None:
        """Search written lines for secrets. Raises: IntegrityError `secret_in_archive`, which names the line.

        `number` is the number of the first line, from 1.
        """
        for offset, line in enumerate(lines):
            if (may_hold_secret(line) or self._may_hold_literal(line)) and self._has_secret(line):
                raise IntegrityError(
                    "a secret was found in the finished archive, which was therefore not written",
                    code="secret_in_archive",
                    path=f"{member}:{number + offset}",
                    hint="please report this: the redaction before it should have replaced it",
                )

    def _has_secret(self, line: bytes) -> bool:
        if any(literal.encode() in line or _escaped(literal).encode() in line for literal in self._literals):
            return True
        return self._holds_secret(msgspec.json.decode(line))

    def _holds_secret(self, value: Any) -> bool:
        if value.__class__ is str:
            if value in self._swept:
                return False
            if len(value) > 3 and find_secrets(value):
                return True
            _remember(self._swept, value)
            return False
        if isinstance(value, dict):
            texts, others = _sorted_out(value)
            unknown = not self._swept.issuperset(texts) and any(map(self._holds_secret, texts))
            return unknown or any(map(self._holds_secret, others))
        return isinstance(value, list) and any(map(self._holds_secret, value))


@functools.cache
def format_words() -> str:
    """Returns every name and value that the format itself puts into an archive, separated by NUL."""
    words = {str(kind.__struct_config__.tag) for kind in Event.__subclasses__()} | KERNEL_WORDS
    pending: list[Any] = [
        msgspec.json.decode(file.read_bytes()) for file in files("interlock.evidence").joinpath("schemas").iterdir()
    ]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            words.update(value.get("properties", ()))
            words.update(word for word in (value.get("const"), *value.get("enum", ())) if isinstance(word, str))
            pending += [inner for name, inner in value.items() if name not in ("const", "enum")]
        elif isinstance(value, list):
            pending += value
    return "\0".join(sorted(words))


def _sorted_out(members: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Split an object into its names and texts, and its containers."""
    values = members.values()
    texts = [*members, *(value for value in values if value.__class__ is str)]
    return texts, [value for value in values if value.__class__ in (dict, list)]


def _remember(texts: set[str], text: str) -> None:
    if len(text) <= _KNOWN_CHARS_MAX:
        if len(texts) >= _KNOWN_MAX:
            texts.clear()
        texts.add(text)


def _escaped(text: str) -> str:
    """Returns the text in JSON encoding, without quotes."""
    return msgspec.json.encode(text)[1:-1].decode()


def _replaced(shown: Any, original: Any) -> Iterator[str]:
    """Yields the values that a view replaced by fingerprints."""
    if isinstance(original, str):
        if isinstance(shown, str) and shown != original:
            if DONE.fullmatch(shown):
                yield original
            yield from (original[found.start : found.end] for found in find_secrets(original))
    elif isinstance(original, dict):
        if isinstance(shown, dict):
            for name, inner in original.items():
                yield from _replaced(shown.get(name), inner)
    elif isinstance(original, list) and isinstance(shown, list) and len(shown) == len(original):
        for one, other in zip(shown, original, strict=True):
            yield from _replaced(one, other)
