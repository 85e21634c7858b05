"""The findings of a verification: each defect has a code, which docs/reference/evidence-format.md lists."""

from __future__ import annotations

from typing import Any, Final

import msgspec

WARNINGS: Final = frozenset(("unsigned", "not_vouched", "journal_unchecked"))
"""Codes that say what is not known; every other one makes an archive bad."""
SAME_MAX: Final = 5
"""Findings of one code in one member; more of them are counted."""
DEFECTS_MAX: Final = 10_000
"""After this number the search ends: a small file can have a great many of them."""
_SHOWN_CHARS: Final = 400


class ArchiveFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One defect, or one thing that is not known."""

    code: str
    where: str
    """The member, and `:LINE` where it has lines; empty if it is about the archive."""
    message: str


class DamageError(Exception):
    """A defect beyond which the archive cannot be read."""

    def __init__(self, code: str, where: str, message: str) -> None:
        """As a finding."""
        super().__init__(message)
        self.code, self.where, self.message = code, where, message


class Findings:
    """Collects findings, up to a number that is still readable."""

    def __init__(self) -> None:
        """Empty."""
        self._found: list[ArchiveFinding] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._total = 0

    def add(self, code: str, where: str, message: str) -> None:
        """Take one. Raises: DamageError `too_many_defects`."""
        self._total += 1
        if self._total == DEFECTS_MAX:
            raise DamageError("too_many_defects", "", f"there are {DEFECTS_MAX} defects: the rest was not looked at")
        self._keep(code, where, message)

    def add_damage(self, damage: DamageError) -> None:
        """Add the damage that ended the reading."""
        self._keep(damage.code, damage.where, damage.message)

    def _keep(self, code: str, where: str, message: str) -> None:
        key = (code, where.partition(":")[0])
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count <= SAME_MAX:
            self._found.append(ArchiveFinding(code=code, where=_shown(where), message=_shown(message)))

    @property
    def bad(self) -> bool:
        """True if there is a defect."""
        return any(code not in WARNINGS for code, _ in self._counts)

    def has(self, *codes: str) -> bool:
        """True if one of these was found."""
        return any(code in codes for code, _ in self._counts)

    def all(self) -> tuple[ArchiveFinding, ...]:
        """All findings, in the order in which they were found; a frequent one ends with a line that counts the rest."""
        more = [
            ArchiveFinding(code=code, where=member, message=f"{count - SAME_MAX} more of these")
            for (code, member), count in self._counts.items()
            if count > SAME_MAX
        ]
        return (*self._found, *more)


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A good signature."""

    keyid: str
    vouched: bool
    """True if the caller brought this key."""


class ArchiveVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a verification."""

    valid: bool
    """True if nothing is wrong; see the warnings for what is not known."""
    run_id: str | None
    events: int
    signatures: tuple[Signed, ...]
    head_signed_by: str | None
    """The key of the head that the run itself signed."""
    manifest_sha256: str | None
    layers: dict[str, str] | None
    """State of each layer, if the archive is valid."""
    notes: tuple[str, ...]
    """What was not observed, if the archive is valid."""
    errors: tuple[ArchiveFinding, ...]
    warnings: tuple[ArchiveFinding, ...]


class Documents(msgspec.Struct, frozen=True, kw_only=True):
    """The documents of a valid archive."""

    manifest: dict[str, Any]
    health: dict[str, Any]
    surface: dict[str, Any]
    correlation: dict[str, Any]


def _shown(text: str) -> str:
    """Text from an archive made safe to print: without terminal control characters, and shortened."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_SHOWN_CHARS])
    return shown if len(text) <= _SHOWN_CHARS else shown + "..."
