"""Describes a tool's exceptions for people: the full text, up to a limit.

The text comes from the tool, so it is redacted before it is journaled or shown.
"""

from __future__ import annotations

from typing import Final

from interlock.model.errors import InterlockError

CHARS_MAX: Final = 4_000
_CAUSES_MAX: Final = 5
_MEMBERS_MAX: Final = 10


def describe(error: BaseException) -> str:
    """Type and text of an exception with its notes, the members of a group and its causes, at most `CHARS_MAX` characters."""
    lines = list(_own(error))
    seen = {id(error)}
    cause = _cause(error)
    while cause is not None and id(cause) not in seen and len(seen) <= _CAUSES_MAX:
        seen.add(id(cause))
        lines.append("caused by " + "\n".join(_own(cause)))
        cause = _cause(cause)
    text = "\n".join(lines)
    return text if len(text) <= CHARS_MAX else f"{text[:CHARS_MAX]}... ({len(text) - CHARS_MAX} more characters)"


def text_of(error: BaseException) -> str:
    """The text of an exception, even if its `__str__` is broken."""
    try:
        text = str(error.message if isinstance(error, InterlockError) else error)
    except Exception:  # noqa: BLE001 - a class whose `__str__` raises
        text = f"a {type(error).__name__} that cannot be shown"
    return text.encode("utf-8", "replace").decode()


def exit_code(error: SystemExit) -> int:
    """The exit code requested by `sys.exit`: text means 1, nothing means 0."""
    code = error.code
    return code if isinstance(code, int) else 0 if code is None else 1


def describe_exit(error: SystemExit) -> str:
    """Describe a function's call of `sys.exit` (often by argparse)."""
    detail = f": {text_of(error).strip()[:CHARS_MAX]}" if isinstance(error.code, str) else ""
    return f"the function exited with code {exit_code(error)} (`SystemExit`){detail}"


def _own(error: BaseException) -> list[str]:
    text = text_of(error).strip()
    lines = [f"{type(error).__name__}: {text}" if text else type(error).__name__]
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        lines += [note.encode("utf-8", "replace").decode() for note in notes if isinstance(note, str)]
    if isinstance(error, BaseExceptionGroup):
        members = error.exceptions[:_MEMBERS_MAX]
        lines += [f"- {type(member).__name__}: {text_of(member).strip()}" for member in members]
        if len(error.exceptions) > len(members):
            lines.append(f"- and {len(error.exceptions) - len(members)} more")
    return lines


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)
