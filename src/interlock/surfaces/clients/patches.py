"""The patch format of `apply_patch`, which Codex and others use: translates a patch to one of Interlock's calls.

A patch of one file is one call. A patch of several files is refused, because rules, approvals and undo apply to single
calls: the model is told to make one patch per file. Nothing is read here; the client applies the patch.
"""

from __future__ import annotations

from typing import Any, Final

from interlock.surfaces.clients.hooks import NativeCall, PatchPart, Verdict, deny, write_call

_BEGIN: Final = "*** Begin Patch"
_END: Final = "*** End Patch"
_END_OF_FILE: Final = "*** End of File"
_ADD: Final = "*** Add File: "
_UPDATE: Final = "*** Update File: "
_DELETE: Final = "*** Delete File: "
_MOVE: Final = "*** Move to: "
_MARKS: Final = tuple(
    f"*** {word}" for word in ("Begin Patch", "End Patch", "Add ", "Update ", "Delete ", "Move ", "End of")
)
_SEVERAL: Final = deny("a patch that changes several files is not supported: make one patch for each file.")


def patch_call(patch: str) -> NativeCall | Verdict:
    """The call; a refusal for a patch of several files, or one that moves a file. Raises: ValueError for other text."""
    lines = patch.strip().split("\n")
    if len(lines) < 3 or lines[0].strip() != _BEGIN or lines[-1].strip() != _END:
        raise ValueError("the text is not a patch between `*** Begin Patch` and `*** End Patch`")
    head, body = lines[1], lines[2:-1]
    if head != head.strip() or any(head.startswith(f"{kind} ") for kind in (_ADD, _UPDATE, _DELETE)):
        raise ValueError(f"{head[:80]!r} has white space around the path: some clients take it off")
    if any(line[:1].isspace() and line.strip().startswith(_MARKS) for line in body):
        return _SEVERAL  # what is a line of the file for one client ends the patch for another
    if head.startswith(_ADD):
        if any(line[:1] != "+" for line in body):
            return _SEVERAL
        return write_call(head.removeprefix(_ADD), "".join(f"{line[1:]}\n" for line in body))
    if head.startswith(_DELETE):
        return _SEVERAL if body else NativeCall("fs.delete", {"path": head.removeprefix(_DELETE)}, writes="path")
    if not head.startswith(_UPDATE):
        raise ValueError(f"`{head[:80]}` does not start the patch of a file")
    if body and body[0].startswith(_MOVE):
        return deny("a patch that moves a file is not supported: create the new file, and delete the old one.")
    return _update_call(head.removeprefix(_UPDATE), body)


def _update_call(path: str, body: list[str]) -> NativeCall | Verdict:
    """The call for an update: each part of the patch replaces one text by another."""
    parts: list[tuple[list[str], list[str]]] = []
    places: list[PatchPart] = []
    for line in body:
        if line.startswith("@@") or not parts or places[-1].at_end:
            parts.append(([], []))
            places.append(PatchPart(line.removeprefix("@@").removeprefix(" ") if line.startswith("@@") else ""))
            if line.startswith("@@"):
                continue
        old, new = parts[-1]
        if line == _END_OF_FILE:
            places[-1] = PatchPart(places[-1].after, at_end=True)
            continue
        if line.startswith("***"):
            return _SEVERAL
        if line[:1] not in (" ", "+", "-", ""):
            raise ValueError(f"`{line[:80]}` is not a line of a patch")
        if line[:1] != "+":
            old.append(line[1:])
        if line[:1] != "-":
            new.append(line[1:])
    edits: list[dict[str, Any]] = [{"old": "\n".join(old), "new": "\n".join(new)} for old, new in parts]
    if not edits or any(not edit["old"] for edit in edits):
        return deny("each part of a patch must show a line of the file that it changes: add the lines around it.")
    parameters = edits[0] if len(edits) == 1 else {"edits": edits}
    return NativeCall("fs.edit", {"path": path, **parameters}, writes="path", parts=tuple(places))
