"""Approvers, who may answer holds, and their proofs: a token, and an optional PIN.

An agent runs as the user's own uid, so being that uid proves nothing. A token has 256 bits and is stored as SHA-256; a PIN is
short and is stored with scrypt. Failures are counted in the database, for all processes, and an attempt counts as a
failure from before it is checked until it has succeeded, so that parallel attempts gain nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from interlock.approvals.audit import Audit
from interlock.approvals.hold import ANY_GROUP, Approver
from interlock.approvals.time import SharedTime
from interlock.disk import Database
from interlock.model import typed
from interlock.model.clock import Ids
from interlock.model.errors import UsageError

_SCHEMA: Final = (
    """create table approvers (
        name text primary key, display text not null, groups text not null, token_hash text not null, pin_salt text not null,
        pin_hash text not null, created_at_us bigint not null
    )""",
    "create table approvers_attempts (id text primary key, source text not null, at_us bigint not null)",
    "create index approvers_attempts_source on approvers_attempts (source, at_us)",
)

FAILURES_MAX: Final = 5
FAILURES_WINDOW_US: Final = 15 * 60 * 1_000_000
"""After this many failures from one source (a remote address, an approver's PIN) within the window, the source must wait."""

PIN_FAILURES_MAX: Final = 50
"""After this many failures since the last success, however long ago, a PIN is locked: four digits are quickly guessed."""
PIN_CHARS_MIN: Final = 4
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 1  # 16 MiB, some 50 ms: OWASP's minimum for interactive use


class AccessError(UsageError):
    """The caller could not prove that they are an approver. Codes: `unauthenticated` (401), `too_many_failures` (429)."""

    default_code = "unauthenticated"


class ApproverRow(msgspec.Struct, frozen=True, kw_only=True):
    """An approver as `approvers list` shows it."""

    name: str
    display: str
    groups: tuple[str, ...]
    has_pin: bool
    created_at_us: int


class Approvers:
    """The table of approvers."""

    def __init__(
        self,
        database: Database,
        time: SharedTime,
        ids: Ids,
        audit: Audit,
        *,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`groups` are those of the configuration: see `configured`."""
        self._database = database
        self._time = time
        self._ids = ids
        self._audit = audit
        self.configured: Mapping[str, Sequence[str]] = groups or {}
        """`[approvals] groups`: group to names. They add to the table's."""
        database.migrate("approvers", _SCHEMA)

    def add(self, name: str, *, display: str = "", groups: Sequence[str] = (), pin: str | None = None) -> str:
        """Add an approver. Returns the token, which is not stored.

        Raises: UsageError if the name is taken or empty, a group has no name, or the PIN too short.
        """
        if not name or not f"{name}{display}".isprintable() or name != name.strip():
            raise UsageError("an approver's name must be printable, and not empty")
        if any(not group or not group.isprintable() or group == ANY_GROUP for group in groups):
            raise UsageError(f"a group's name must be printable, not empty, and not `{ANY_GROUP}`")
        if pin is not None and len(pin) < PIN_CHARS_MIN:
            raise UsageError(f"a PIN must have at least {PIN_CHARS_MIN} characters")
        token = "".join(self._ids.new("token").removeprefix("token_") for _ in range(2))
        salt = self._ids.new("salt") if pin is not None else ""
        pin_hash = _pin_hash(pin, salt) if pin is not None else ""
        with self._database.transaction():
            now = self._time.tick()
            self._database.execute(
                "insert into approvers values (?, ?, ?, ?, ?, ?, ?) on conflict (name) do nothing",
                (name, display or name, msgspec.json.encode(groups).decode(), _token_hash(token), salt, pin_hash, now),
            )
            if self._database.changes != 1:
                raise UsageError(
                    f"an approver `{name}` already exists", hint="remove the approver first to issue a new token"
                )
            self._audit.write(now, "approver_added", name, detail={"groups": list(groups), "pin": pin is not None})
        return token

    def remove(self, name: str) -> bool:
        """Remove an approver, whose token stops working at once. Returns False if there is no such approver."""
        with self._database.transaction():
            now = self._time.tick()
            self._database.execute("delete from approvers_attempts where source = ?", (f"pin:{name}",))
            self._database.execute("delete from approvers where name = ?", (name,))
            removed = self._database.changes == 1
            if removed:
                self._audit.write(now, "approver_removed", name)
            return removed

    def all(self) -> list[ApproverRow]:
        """Returns all approvers, by name. If there are none, the local user may answer, and `doctor` warns."""
        rows = self._database.execute(
            "select name, display, groups, pin_hash, created_at_us from approvers order by name"
        )
        return [
            ApproverRow(
                name=r[0], display=r[1], groups=self._groups(r[0], r[2]), has_pin=bool(r[3]), created_at_us=r[4]
            )
            for r in rows
        ]

    def by_token(self, token: str, source: str) -> Approver:
        """Returns the approver with this token. `source` identifies the origin of the attempt, for counting failures.

        Raises: AccessError.
        """
        given = _token_hash(token)
        found = None
        for name, display, groups, stored in self._database.execute(
            "select name, display, groups, token_hash from approvers"
        ):
            if hmac.compare_digest(stored, given):  # no early exit, so that the time does not reveal which one matched
                found = Approver(id=name, display=display, groups=self._groups(name, groups))
        if found is None:
            # 256 bits cannot be guessed, so a right token is never refused because of failures from the same address.
            self._begin_attempt(source)
            raise AccessError("the token belongs to no approver", hint="`interlock approvers add` makes one")
        return found

    def by_pin(self, name: str, pin: str) -> Approver:
        """Returns the approver with this name and PIN. Raises: AccessError, the same for a wrong name and a wrong PIN."""
        attempt = self._begin_attempt(f"pin:{name}")
        rows = self._database.execute(
            "select display, groups, pin_salt, pin_hash from approvers where name = ?", (name,)
        )
        display, groups, salt, stored = rows[0] if rows else (name, "[]", "", "")
        right = hmac.compare_digest(_pin_hash(pin, salt), stored)
        if not right or not stored:
            raise AccessError("the name or PIN is wrong, or no PIN is set")
        self._end_attempt(attempt)
        return Approver(id=name, display=display, groups=self._groups(name, groups))

    def _groups(self, name: str, stored: str) -> tuple[str, ...]:
        configured = (group for group, names in self.configured.items() if name in names)
        return tuple(sorted({*typed.decode(stored, list[str]), *configured}))

    def _begin_attempt(self, source: str) -> str:
        attempt = self._ids.new("attempt")
        with self._database.transaction():
            now = self._time.tick()
            since = now - FAILURES_WINDOW_US
            self._database.execute(
                "delete from approvers_attempts where at_us <= ? and source not in (select 'pin:' || name from approvers)",
                (since,),
            )
            rows = self._database.execute(
                "select count(*), count(case when at_us > ? then 1 end) from approvers_attempts where source = ?",
                (since, source),
            )
            if rows[0][0] >= PIN_FAILURES_MAX:
                raise AccessError(
                    "the PIN is locked after too many failures",
                    code="too_many_failures",
                    hint="use the token, or set a new PIN with `interlock approvers remove` and `add`",
                )
            if rows[0][1] >= FAILURES_MAX:
                raise AccessError(
                    "too many failed attempts",
                    code="too_many_failures",
                    hint=f"wait {FAILURES_WINDOW_US // 60_000_000} minutes",
                )
            self._database.execute("insert into approvers_attempts values (?, ?, ?)", (attempt, source, now))
            self._audit.write(now, "authentication_tried", source)
        return attempt

    def _end_attempt(self, attempt: str) -> None:
        """Remove an attempt that succeeded, and old failures of the same source."""
        self._database.execute(
            "delete from approvers_attempts where id = ?1 or (at_us <= ?2 and source ="
            " (select source from approvers_attempts where id = ?1))",
            (attempt, self._time.now_us() - FAILURES_WINDOW_US),
        )


def _token_hash(token: str) -> str:
    return hashlib.sha256(b"interlock.token.v1\n" + token.encode("utf-8", "surrogatepass")).hexdigest()


def _pin_hash(pin: str, salt: str) -> str:
    data = pin.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt.encode(), n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).hex()
