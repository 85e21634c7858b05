"""Result rows as HTML, for notebooks. Everything is escaped, because outputs come from tools and the outside world."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final, Protocol

import msgspec

CHARS_MAX: Final = 2_000
"""Maximum characters of one cell. The result has the whole value."""

_HEAD: Final = ("action", "status", "output", "ms")


class Row(Protocol):
    """The part of a row that is shown."""

    action_id: str
    status: Any
    reason: str | None
    output: Any
    error: str | None
    duration_ms: float


def rows_html(rows: Sequence[Row], *, title: str = "", note: str = "") -> str:
    """A table with a row for each action."""
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(row))}</tr>" for row in rows)
    caption = f"<caption>{_text(title)} <small>{_text(note)}</small></caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Row) -> tuple[str, ...]:
    status = row.status if row.reason is None else f"{row.status} ({row.reason})"
    parts = [] if row.error is None else [_text(row.error)]
    if row.output is not None:
        shown = row.output if isinstance(row.output, str) else msgspec.json.encode(row.output).decode()
        parts.append(f"<pre>{_text(shown)}</pre>")
    return _text(row.action_id), _text(status), "".join(parts), f"{row.duration_ms:.1f}"


def _text(value: str) -> str:
    cut = value if len(value) <= CHARS_MAX else f"{value[:CHARS_MAX]}... ({len(value) - CHARS_MAX} more characters)"
    return escape(cut)
