"""The output of a file tool's dry run: its result, and a diff of the file before and after."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from interlock.model.tool import Context, Preview

LINES_MAX: Final = 400

MayRead = Callable[[Context, Any], bool]
"""True if the agent may read the file at a path (as given in the parameters)."""
Change = Callable[[dict[str, Any], Context], dict[str, Any]]


def with_difference(change: Change, preview: Preview, may_read: MayRead) -> Change:
    """Wrap the function of a file tool so that its dry run also shows a diff."""

    def changes(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        result = change(parameters, ctx)
        return result | _difference(parameters, ctx, preview, may_read) if ctx.dry_run else result

    return changes


def _difference(parameters: dict[str, Any], ctx: Context, preview: Preview, may_read: MayRead) -> dict[str, Any]:
    (file,) = preview(parameters, ctx.workspace)
    if file.note:
        return {"difference": [], "note": file.note}
    if file.before is not None and not may_read(ctx, file.path):
        return {"difference": [], "note": "the agent may not read this file, so the difference is not shown"}
    before, after = (file.before or "").splitlines(), (file.after or "").splitlines()
    lines = list(islice(difflib.unified_diff(before, after, lineterm=""), 2, None))
    note = {} if len(lines) <= LINES_MAX else {"note": f"{len(lines) - LINES_MAX} more lines are not shown"}
    return {"difference": lines[:LINES_MAX]} | note
