"""Edits that a client makes with its own tool: the texts to replace must be in the file exactly as the call says.

Where they are not, clients search for a similar text (other white space, other quotation marks, the first of several places),
and replace that. Then another change would be made than the one that was judged, shown and recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from interlock.executors.file_changes import FileText, edits_of, read_whole
from interlock.executors.text_edits import apply
from interlock.model.errors import ToolError
from interlock.surfaces.clients.hooks import PatchPart
from interlock.workspace.names import Rel
from interlock.workspace.tree import Workspace

_SHOWN_CHARS: Final = 80


def check_edit(workspace: Workspace, path: Rel, parameters: dict[str, Any], parts: Sequence[PatchPart]) -> None:
    """Refuse an `fs.edit` that does not fit the present file. `parts` are those of a patch, which replaces whole lines.

    Raises: ToolError `edit_mismatch`; `encoding_invalid` for a file that is not UTF-8, and others if it cannot be read.
    """
    text = FileText.decode(read_whole(workspace, path), parameters.get("encoding")).text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ToolError(
            "path: the file is not UTF-8, and a client would also change the bytes that it cannot decode",
            code="encoding_invalid",
            path="$.parameters.path",
            retryable=False,
        ) from None
    edits = edits_of(parameters)
    if not parts:
        apply(text, edits)
        return
    lines = text.removesuffix("\n").split("\n")
    same: Callable[[str], str] = str.rstrip if "\r" in text else str
    here = [same(line) for line in lines]
    at = 0
    for part, edit in zip(parts, edits, strict=True):
        if part.after:
            header = _first(lines, part.after, at)
            if header is None:
                raise _mismatch(edit.name("old"), f"the line `{part.after[:_SHOWN_CHARS]}` is not before it")
            at = header + 1
        old = [same(line) for line in edit.old.split("\n")]
        starts = range(len(here) - len(old) + 1)
        places = [one for one in starts if here[one] == old[0] and here[one : one + len(old)] == old]
        if len(places) != 1:
            raise _mismatch(edit.name("old"), f"its lines occur {len(places)} times")
        if places[0] < at or (part.at_end and places[0] + len(old) != len(lines)):
            raise _mismatch(edit.name("old"), "its lines are in another place")
        at = places[0] + len(old)


def _first(lines: list[str], header: str, start: int) -> int | None:
    """The line by which a client finds the place of a part: an equal one, else one that is equal but for white space."""
    forms: tuple[Callable[[str], str], ...] = (str, str.rstrip, str.strip)
    for form in forms:
        for number in range(start, len(lines)):
            if form(lines[number]) == form(header):
                return number
    return None


def _mismatch(what: str, why: str) -> ToolError:
    return ToolError(
        f"`{what}`: {why}, and a client would then change the most similar place: read the file again, and give the lines"
        " exactly, with enough around them that they occur once",
        code="edit_mismatch",
        path=f"$.parameters.{what}",
        retryable=False,
    )
