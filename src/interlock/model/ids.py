"""Ids as people type them: in full, or as an unambiguous prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from interlock.model.errors import UsageError

CANDIDATES_MAX: Final = 3
"""How many ids the error about an ambiguous prefix lists. A store needs to look for only one more."""


def choose_id(text: str, found: Sequence[str], *, what: str, hint: str) -> str:
    """The id that `text` stands for, among the ids with that prefix. `what` is for example `run`.

    Raises: UsageError `not_found`, `ambiguous_id`.
    """
    if text in found:
        return text
    if not text or not found:
        raise UsageError(f"there is no {what} `{text}`", code="not_found", hint=hint)
    if len(found) > 1:
        named = ", ".join(f"`{each}`" for each in found[:CANDIDATES_MAX])
        more = ", and others" if len(found) > CANDIDATES_MAX else ""
        raise UsageError(
            f"`{text}` is a prefix of more than one {what}: {named}{more}",
            code="ambiguous_id",
            hint="type more of the id",
        )
    return found[0]
