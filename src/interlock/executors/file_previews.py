"""Previews of `fs.write`, `fs.edit` and `fs.delete`, shown to the person who approves the call.

A preview changes and decides nothing: the call itself repeats all its steps.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Final

from interlock.executors.encodings import marked
from interlock.executors.file_changes import FileText, content_of, edits_of, mark_of, read_whole, tree_of
from interlock.executors.text_edits import apply
from interlock.model.tool import FilePreview
from interlock.workspace import Workspace
from interlock.workspace.names import Rel
from interlock.workspace.tree import read_chunks, refused

PREVIEW_BYTES_MAX: Final = 1024 * 1024
"""Maximum size of a file, before and after the call."""


def write(parameters: dict[str, Any], workspace: Workspace) -> list[FilePreview]:
    """Preview the file that `fs.write` would create or replace. Raises: ToolError."""
    given = parameters["path"]
    path = workspace.locate(given)
    data = content_of(parameters, mark_of(workspace, path))
    if workspace.lstat(path) is None:
        return [_preview(given, None, data, parameters.get("encoding"))]
    before = _read(workspace, path)
    if before is None:
        return [_too_large(given)]
    after = before + data if parameters.get("append", False) else data
    return [_preview(given, before, after, parameters.get("encoding"))]


def edit(parameters: dict[str, Any], workspace: Workspace) -> list[FilePreview]:
    """Preview the file that `fs.edit` would change. Raises: ToolError, also for replacements that do not match."""
    given = parameters["path"]
    edits = edits_of(parameters)
    path = workspace.locate(given)
    before = read_whole(workspace, path)
    if len(before) > PREVIEW_BYTES_MAX:
        return [_too_large(given)]
    text = FileText.decode(before, parameters.get("encoding"))
    return [_preview(given, before, text.encode(apply(text.text, edits)), text.encoding)]


def delete(parameters: dict[str, Any], workspace: Workspace) -> list[FilePreview]:
    """Preview what `fs.delete` would remove; for a directory, how many entries it contains. Raises: ToolError."""
    given = parameters["path"]
    path = workspace.locate(given, follow=False)
    kind = workspace.examine(path).node.kind
    if kind == "file":
        before = _read(workspace, path)
        return [_too_large(given) if before is None else _preview(given, before, None, None)]
    if kind == "dir":
        within = len(tree_of(workspace, path, "path")) - 1
        return [FilePreview(given, note=f"a directory, with {within} files, links and directories in it")]
    return [FilePreview(given, note="a link; its target is kept" if kind == "symlink" else "there is no such file")]


def _read(workspace: Workspace, path: Rel) -> bytes | None:
    """Returns the content of a file; None if it is too large. Raises: ToolError."""
    fd = workspace.open_file(path)
    try:
        with refused("path"):
            if os.fstat(fd).st_size > PREVIEW_BYTES_MAX:
                return None
            return b"".join(read_chunks(fd))
    finally:
        os.close(fd)


def _preview(given: Any, before: bytes | None, after: bytes | None, encoding: str | None) -> FilePreview:
    """Decode both contents with the same encoding; otherwise different bytes could look alike."""
    contents = [data for data in (before, after) if data is not None]
    if max(map(len, contents)) > PREVIEW_BYTES_MAX:
        return _too_large(given)
    if encoding in (None, "base64"):
        encoding = marked(contents[-1]).encoding or "utf-8"
    try:
        old, new = (None if data is None else data.decode(encoding) for data in (before, after))
    except UnicodeDecodeError:
        sizes = " before and ".join(str(len(data)) for data in contents)
        return FilePreview(given, note=f"not text in {encoding} ({sizes} bytes{' after' if len(contents) > 1 else ''})")
    return FilePreview(given, old, new, None if before is None else hashlib.sha256(before).hexdigest())


def _too_large(given: Any) -> FilePreview:
    return FilePreview(given, note=f"too large to compare (over {PREVIEW_BYTES_MAX // 1024} KiB)")
