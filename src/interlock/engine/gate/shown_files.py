"""The files that a question shows: their state when it is asked, and whether that is unchanged when it is answered (step 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from interlock.approvals import ChangeShown, FileShown, Hold
from interlock.engine.proposals.action_run import ActionRun
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.lazy import lazy
from interlock.model.errors import ToolError
from interlock.model.tool import FilePreview
from interlock.verify.paths import values_at
from interlock.workspace import Workspace

if TYPE_CHECKING:
    from interlock.engine.gate import previews as previewing
else:
    previewing = lazy("interlock.engine.gate.previews")

_LOOKS_AGAIN: Final = 3
"""The number of times that files are read again if they change while they are read."""


def paths_of(action: ActionRun, parameters: dict[str, Any]) -> list[Any]:
    """The paths among the parameters, in the order of the tool's marks, and other paths that the call writes (undo)."""
    tool = action.tool
    if action.run.workspace is None or tool is None:
        return []
    pointers = [tuple(pointer.split("/")[1:]) for pointer, mark in tool.marks if mark.startswith("path.")]
    entailed = sorted(write.where for write in action.run.entailed.get(action.index, ()) if write.tool is not None)
    return [
        *(value for steps in pointers for value in values_at(parameters, steps)),
        *(msgspec.json.decode(where) for where in entailed),
    ]


async def look_at_files(action: ActionRun) -> tuple[tuple[FileShown, ...], tuple[ChangeShown, ...]]:
    """The current files among the parameters, and the changes that the call would make to them.

    Both are made from the same contents: the approval is valid while the files are as shown, so the differences must match them.
    """
    desk, paths = action.run.services.desk, paths_of(action, action.parameters)
    looks, previews = await _look_and_preview(action, paths)
    for _ in range(_LOOKS_AGAIN):
        if _agree(looks, previews):
            break
        looks, previews = await _look_and_preview(action, paths)
    if not _agree(looks, previews):
        previews = [FilePreview(one.path, note="the file keeps changing") for one in previews]
    redact = desk.questions.redact  # a name can be a secret like any other text
    files = tuple(
        FileShown(path=redact(_shown(path)), digest=look.digest, there=look.there)
        for path, look in zip(paths, looks, strict=True)
    )
    changes = await previewing.compare_previews(action, previews, lambda path: str(redact(_shown(path))))
    return files, changes


def _shown(path: Any) -> str:
    """A path parameter as the question shows it. `./` marks a text that only looks like an escaped name."""
    if isinstance(path, str):
        return f"./{path}" if path.startswith('{"b64":') else path
    return msgspec.json.encode(path).decode()


async def _look_and_preview(action: ActionRun, paths: Sequence[Any]) -> tuple[list[_Look], Sequence[FilePreview]]:
    looks = await _look_at(action.run, paths)
    return looks, await previewing.read_previews(action)


def _agree(looks: Sequence[_Look], previews: Sequence[FilePreview]) -> bool:
    """True if the previews were made from the same contents as the looks."""
    return {one.sha256 for one in previews} - {None} <= {look.sha256 for look in looks}


class _Look(NamedTuple):
    """The file that a path names."""

    digest: str | None
    """Keyed, as it may be shown; None if it cannot be read."""
    there: bool
    sha256: str | None
    """Hex digest of a file's content."""


async def _look_at(run: ProposalRun, paths: Sequence[Any]) -> list[_Look]:
    """The file that each path names now. Runs on a thread: a large file takes a while to read."""
    workspace = run.workspace
    if workspace is None or not paths:
        return []
    keyed = run.services.redactor.keyed  # a file can be small and secret, and its digest is part of the question
    found: list[_Look] = await run.services.threads.run(
        run.loop, lambda: [_look(workspace, path, keyed) for path in paths]
    )
    return found


def _look(workspace: Workspace, path: Any, keyed: Callable[[str], str]) -> _Look:
    try:
        place = workspace.locate(path)
        seen = workspace.examine(place)
    except ToolError:
        return _Look(
            None, there=True, sha256=None
        )  # it cannot be read, so it is not shown; the tool will report the reason
    node = seen.node
    # The digest includes the resolved path: a link that now leads elsewhere counts as a change.
    text = b"%b\0%b" % (b"/".join(place), f"{node.kind}:{node.sha256}:{node.mode}".encode())
    digest = keyed("sha256:" + hashlib.sha256(text).hexdigest())
    return _Look(digest, there=node.kind != "absent", sha256=node.sha256)


def changed_since(last: Hold | None, files: tuple[FileShown, ...]) -> list[str]:
    """The reason for asking again about an approved call: the files that differ from those in the last question."""
    if last is None or last.status != "approved":
        return []
    shown = {file.path: file.digest for file in last.files}
    changed = [file.path for file in files if shown.get(file.path, file.digest) != file.digest]
    return [f"`{path}` has changed since it was approved" for path in changed]


async def forget_if_changed(action: ActionRun) -> None:
    """Withdraw the approval if a file differs from the shown one: the action is judged without it, and asked about again."""
    if not action.shown:
        return
    there = await _look_at(action.run, [path for path, _ in action.shown])
    if any(look.digest != digest for look, (_, digest) in zip(there, action.shown, strict=True)):
        action.discharged, action.shown, action.changed = frozenset(), (), True


async def pin_again(action: ActionRun) -> None:
    """Expect the current contents from now on."""
    if action.shown:
        there = await _look_at(action.run, [path for path, _ in action.shown])
        action.shown = tuple((path, look.digest) for (path, _), look in zip(action.shown, there, strict=True))
