"""The findings of a verification: each defect has a code, listed in docs/reference/evidence-format.md."""

from __future__ import annotations

from typing import Any, Final

import msgspec

WARNINGS: Final = frozenset(("unsigned", "not_vouched", "journal_unchecked"))
"""Codes that report something unknown; all others make an archive invalid."""
SAME_MAX: Final = 5
"""Maximum number of findings with one code per member; further ones are counted."""
DEFECTS_MAX: Final = 10_000
"""The search stops after this number of defects, because a small file can have very many."""
_SHOWN_CHARS: Final = 400


class ArchiveFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One defect, or one thing that is unknown."""

    code: str
    where: str
    """The member, with `:LINE` if it has lines; empty if the finding is about the archive."""
    message: str


class DamageError(Exception):
    """A defect after which the archive cannot be read any further."""

    def __init__(self, code: str, where: str, message: str) -> None:
        """`code`, `where` and `message` as in a finding."""
        super().__init__(message)
        self.code, self.where, self.message = code, where, message


class Findings:
    """Collects findings, up to a readable number."""

    def __init__(self) -> None:
        """Starts empty."""
        self._found: list[ArchiveFinding] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._total = 0

    def add(self, code: str, where: str, message: str) -> None:
        """Add a finding. Raises: DamageError `too_many_defects`."""
        self._total += 1
        if self._total == DEFECTS_MAX:
            raise DamageError("too_many_defects", "", f"there are {DEFECTS_MAX} defects: the rest was not checked")
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
        """Returns True if any of these codes was found."""
        return any(code in codes for code, _ in self._counts)

    def all(self) -> tuple[ArchiveFinding, ...]:
        """Returns all findings, in the order found; for a frequent one, a last line counts the rest."""
        more = [
            ArchiveFinding(code=code, where=member, message=f"{count - SAME_MAX} more of these")
            for (code, member), count in self._counts.items()
            if count > SAME_MAX
        ]
        return (*self._found, *more)


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A valid signature."""

    keyid: str
    vouched: bool
    """True if the caller provided this key."""


class ArchiveVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a verification."""

    valid: bool
    """True if there is no defect; the warnings list what is unknown."""
    run_id: str | None
    events: int
    signatures: tuple[Signed, ...]
    head_signed_by: str | None
    """The key that signed the run's own head."""
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
    """Text from an archive, made safe to print: without terminal control characters, and shortened."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_SHOWN_CHARS])
    return shown if len(text) <= _SHOWN_CHARS else shown + "..."
