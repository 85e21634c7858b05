"""The files that a question shows: as they are when it is asked, and whether they still are when it is answered (step 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from interlock.approvals import FileShown, Hold
from interlock.engine.proposals.action_run import ActionRun
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.model.errors import ToolError
from interlock.verify.paths import values_at
from interlock.workspace import Workspace


def paths_of(action: ActionRun, parameters: dict[str, Any]) -> list[Any]:
    """The paths among the parameters, in the order of the tool's marks, and those that the call writes besides (undo)."""
    tool = action.tool
    if action.run.services.workspace is None or tool is None:
        return []
    pointers = [tuple(pointer.split("/")[1:]) for pointer, mark in tool.marks if mark.startswith("path.")]
    entailed = sorted(write.where for write in action.run.entailed.get(action.index, ()) if write.tool is not None)
    return [
        *(value for steps in pointers for value in values_at(parameters, steps)),
        *(msgspec.json.decode(where) for where in entailed),
    ]


async def read_files(action: ActionRun) -> tuple[FileShown, ...]:
    """The files among the parameters, as they are now. A name can be a secret like any other text."""
    desk, paths = action.run.services.desk, paths_of(action, action.parameters)
    redact = desk.questions.redact
    return tuple(
        FileShown(path=redact(_shown(path)), digest=digest, there=there)
        for path, (digest, there) in zip(paths, await _look_at(action.run, paths), strict=True)
    )


def _shown(path: Any) -> str:
    """A path parameter as the question shows it. `./` marks a text that only looks like the form of other names."""
    if isinstance(path, str):
        return f"./{path}" if path.startswith('{"b64":') else path
    return msgspec.json.encode(path).decode()


async def _look_at(run: ProposalRun, paths: Sequence[Any]) -> list[tuple[str | None, bool]]:
    """What each path names now: its digest, and whether anything is there. On a thread: a large file takes a while to read."""
    workspace = run.services.workspace
    if workspace is None or not paths:
        return []
    found: list[tuple[str | None, bool]] = await run.services.threads.run(
        run.loop, lambda: [_look(workspace, path) for path in paths]
    )
    keyed = run.services.redactor.keyed  # a file can be small and secret, and its digest stands in the question
    return [(None if digest is None else keyed(digest), there) for digest, there in found]


def _look(workspace: Workspace, path: Any) -> tuple[str | None, bool]:
    """The digest of what a path names now, and whether there is anything."""
    try:
        place = workspace.locate(path)
        seen = workspace.examine(place)
    except ToolError:
        return None, True  # it cannot be read, so it is not shown; the tool will report why
    node = seen.node
    # The resolved place is part of it: a link on the way that leads elsewhere by now changes what was shown.
    text = b"%b\0%b" % (b"/".join(place), f"{node.kind}:{node.sha256}:{node.mode}".encode())
    return "sha256:" + hashlib.sha256(text).hexdigest(), node.kind != "absent"


def changed_since(last: Hold | None, files: tuple[FileShown, ...]) -> list[str]:
    """Why an approved call is asked about again: the files that are not what the last question showed."""
    if last is None or last.status != "approved":
        return []
    shown = {file.path: file.digest for file in last.files}
    changed = [file.path for file in files if shown.get(file.path, file.digest) != file.digest]
    return [f"`{path}` has changed since it was approved" for path in changed]


async def forget_if_changed(action: ActionRun) -> None:
    """Withdraw the approval if a file is no longer the one that was shown: the action is judged without it, and asked again."""
    if not action.shown:
        return
    there = await _look_at(action.run, [path for path, _ in action.shown])
    if any(seen != digest for (seen, _), (_, digest) in zip(there, action.shown, strict=True)):
        action.discharged, action.shown, action.changed = frozenset(), (), True


async def pin_again(action: ActionRun) -> None:
    """Expect from now on what lies there now."""
    if action.shown:
        there = await _look_at(action.run, [path for path, _ in action.shown])
        action.shown = tuple((path, digest) for (path, _), (digest, _) in zip(action.shown, there, strict=True))
