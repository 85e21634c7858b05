"""The changes that a held call would make to text files: computed by the tool, redacted, and compared line by line (step 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from interlock.approvals import ChangeShown
from interlock.engine.proposals.action_run import ActionRun
from interlock.model.difference import compare
from interlock.model.errors import ToolError
from interlock.model.tool import FilePreview

_CHARS_MAX: Final = 1024 * 1024
"""The maximum length of one difference."""


async def read_previews(action: ActionRun) -> Sequence[FilePreview]:
    """The files that the call would change, before and after; empty if the tool cannot compute them."""
    tool, run = action.tool, action.run
    workspace = run.workspace
    if tool is None or tool.preview is None or workspace is None or tool.secrets:
        return ()
    preview, parameters = tool.preview, action.parameters
    found: Sequence[FilePreview] = await run.services.threads.run(
        run.loop, lambda: _ask(preview, parameters, workspace)
    )
    return found


def _ask(preview: Any, parameters: dict[str, Any], workspace: Any) -> Sequence[FilePreview]:
    try:
        found: Sequence[FilePreview] = preview(parameters, workspace)
    except ToolError as error:
        return [FilePreview(parameters.get("path"), note=f"the call would fail: {error.message}")]
    return found


async def compare_previews(
    action: ActionRun, previews: Sequence[FilePreview], show: Callable[[Any], str]
) -> tuple[ChangeShown, ...]:
    """The differences as an approver sees them; `show` converts a path to text. Runs on a thread: large files take a while."""
    desk = action.run.services.desk
    if not previews:
        return ()
    redact, parameters = desk.questions.redact, action.parameters
    found: tuple[ChangeShown, ...] = await action.run.services.threads.run(
        action.run.loop, lambda: tuple(compare_preview(one, parameters, redact, show(one.path)) for one in previews)
    )
    return found


def compare_preview(
    one: FilePreview, parameters: dict[str, Any], redact: Callable[[Any], Any], path: str
) -> ChangeShown:
    """One difference, redacted; `parameters` are those of the call that makes it."""
    if one.note:
        return ChangeShown(path=path, note=redact(one.note), permissions=one.permissions)
    # Redacted before they are compared, so that a secret over several lines is recognised; and with the parameters, which
    # say whether something could run a value.
    texts = redact({"before": one.before or "", "after": one.after or "", "parameters": parameters})
    difference = compare(texts["before"], texts["after"])
    there, stays = one.before is not None, one.after is not None
    if sum(map(len, difference.lines)) > _CHARS_MAX:
        note = f"the difference is too large to show ({difference.removed} lines removed, {difference.added} added)"
        return ChangeShown(path=path, before=there, after=stays, note=note, permissions=one.permissions)
    note = ""
    if not difference.lines and there == stays:
        note = "the content stays as it is" if one.before == one.after else "only what is hidden differs"
    return ChangeShown(
        path=path, lines=difference.lines, added=difference.added, removed=difference.removed, before=there, after=stays,
        note=note, permissions=one.permissions,
    )  # fmt: skip
