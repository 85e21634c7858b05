"""One policy: its text, its syntax tree, its id, and the annotations that turn a forbid into a hold.

`@id("name")`, `@hold("group")`, `@quorum("2")`, `@ttl("10m")` and `@reason("...")` are Interlock's annotations. Any
other annotation is an error, because a misspelt `@hold` would make a plain forbid and a misspelt `@quorum` a quorum of
one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from interlock.lazy import lazy_pattern
from interlock.model.canonical import digest
from interlock.model.values import nearest_name
from interlock.policy import syntax
from interlock.policy.source import Statement, too_deep

ANNOTATIONS: Final = ("id", "hold", "quorum", "ttl", "reason")
QUORUM_MAX: Final = 100
TTL_MAX_MS: Final = 30 * 24 * 3_600_000
_TOO_DEEP: Final = "the condition is nested more than 100 levels deep; use `[...].contains(x)` or several policies"
_TTL = lazy_pattern(r"([1-9][0-9]{0,9})(ms|s|m|h|d)")
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_ID = lazy_pattern(r"[^\x00-\x1f\x7f]{1,256}")


class Problem(msgspec.Struct, frozen=True):
    """A problem with the policies: its place (`file:line`) and a message."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class Absence(Problem, frozen=True):
    """A tool, tag or server that this process does not know. Another process may register it, so it is a warning."""

    kind: str
    """`Action`, `Tool`, `Server` or `tag`."""
    name: str


class PolicyError(Exception):
    """A policy cannot be used. `load` collects these errors into one ConfigurationError."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(place, message)


class Hold(msgspec.Struct, frozen=True):
    """The content of `@hold`, `@quorum` and `@ttl`: who must approve, how many approvals, within what time."""

    group: str | None
    quorum: int
    ttl_ms: int | None


class Policy(msgspec.Struct, frozen=True):
    """A parsed statement. `content` is the hash that an approval discharges; a changed text has another hash."""

    id: str
    content: str
    forbid: bool
    hold: Hold | None
    reason: str
    """The text of `@reason`, or empty; shown with every decision of this policy."""
    tree: syntax.Template
    statement: Statement


def parse(statement: Statement) -> Policy:
    """Parse and check one statement. Raises: PolicyError."""
    if deep := too_deep(statement):
        raise PolicyError(f"{statement.file}:{deep.line}", _TOO_DEEP)
    try:
        trees, templates = syntax.parse(statement.text)
    except ValueError as error:
        raise PolicyError(_syntax_place(statement, str(error)), _syntax_message(str(error))) from None
    if templates:
        raise PolicyError(statement.place, "a template (`?principal`, `?resource`) is not supported; name the entity")
    if len(trees) != 1:
        raise PolicyError(statement.place, "expected one policy ending in `;`")
    (tree,) = trees
    notes = dict(tree.annotations)
    for name in notes:
        if name not in ANNOTATIONS:
            raise PolicyError(statement.place_of(name), f"unknown annotation `@{name}`{nearest(name, ANNOTATIONS)}")
    content = digest("policy", statement.canonical)
    name = notes.get("id", content[:19])
    if not _ID.fullmatch(name):
        raise PolicyError(statement.place, "`@id` must be 1 to 256 characters without control characters")
    return Policy(
        id=name,
        content=content,
        forbid=tree.effect == "forbid",
        hold=_hold(statement, tree, notes),
        reason=notes.get("reason", ""),
        tree=tree,
        statement=statement,
    )


def _syntax_message(message: str) -> str:
    if "nesting exceeds" in message:
        return _TOO_DEEP
    return message.removeprefix("cedarpy: ")


def _syntax_place(statement: Statement, message: str) -> str:
    """The place of a syntax error: the token in the parser's message, if it occurs only once."""
    named = re.search(r"unexpected token `(.+?)`", message)
    if named:
        lines = [token.line for token in statement.tokens if token.text == named[1]]
        if len(lines) == 1:
            return f"{statement.file}:{lines[0]}"
    return statement.place


def _hold(statement: Statement, tree: syntax.Template, notes: dict[str, str]) -> Hold | None:
    if "hold" not in notes:
        for name in ("quorum", "ttl"):
            if name in notes:
                raise PolicyError(statement.place_of(name), f"`@{name}` needs `@hold`")
        return None
    if tree.effect == "permit":
        raise PolicyError(statement.place_of("hold"), "`@hold` belongs on a forbid: forbidden unless approved")
    return Hold(
        group=notes["hold"] or None,
        quorum=_quorum(statement, notes.get("quorum", "1")),
        ttl_ms=_ttl_ms(statement, notes["ttl"]) if "ttl" in notes else None,
    )


def _quorum(statement: Statement, text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text) or int(text) > QUORUM_MAX:
        raise PolicyError(statement.place_of("quorum"), f'`@quorum` must be a number from "1" to "{QUORUM_MAX}"')
    return int(text)


def _ttl_ms(statement: Statement, text: str) -> int:
    match = _TTL.fullmatch(text)
    ms = int(match[1]) * _UNIT_MS[match[2]] if match else 0
    if not 0 < ms <= TTL_MAX_MS:
        raise PolicyError(statement.place_of("ttl"), '`@ttl` must be a duration such as "10m", at most "30d"')
    return ms


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` if a known name is similar, else empty."""
    found = nearest_name(name, sorted(known))
    return f"; did you mean `{found}`?" if found is not None else ""
