"""Presents the differences in a layer to a person, before the approval of an effect and before the commit of a layer."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from interlock.model.tool import FilePreview
from interlock.workspace import Difference, Layer, Node, Workspace
from interlock.workspace.names import link_stored, show, show_bytes
from interlock.workspace.tree import read_chunks

_TEXT_BYTES_MAX: Final = 1024 * 1024


def preview_difference(one: Difference, layer: Layer) -> FilePreview:
    """The texts of one path before and after, for comparison; a note if there are none. Raises: ToolError."""
    path = show(one.path)
    note = _note(one)
    if note:
        return FilePreview(path, note=note, permissions="" if one.kind == "attributes" else _attributes(one))
    texts = []
    for node, tree in ((one.before, layer.base), (one.after, layer.workspace)):
        text = None if node.kind == "absent" else _text(tree, one)
        if text is None and node.kind != "absent":
            note = f"not text, or too large to compare ({one.kind}, {one.after.size or 0} bytes)"
            return FilePreview(path, note=note, permissions=_permissions(one))
        texts.append(text)
    return FilePreview(path, texts[0], texts[1], permissions=_permissions(one))


def _permissions(one: Difference) -> str:
    """A note on permissions: that they change, or that a new file is executable or has more than its mode shows."""
    before, after = one.before.mode, one.after.mode
    if one.after.kind == "absent":
        return ""
    if one.before.kind == "absent":
        mode = f"permissions {after:o}: it can be run" if after is not None and after & 0o111 else ""
    else:
        mode = f"permissions {before or 0:o} become {after or 0:o}" if before != after else ""
    return "; ".join(filter(None, (mode, _attributes(one))))


def _attributes(one: Difference) -> str:
    """A note on extended attributes and access control lists, if a path that stays or is new gets other ones."""
    same = one.after.kind == "absent" or (one.before.attributes or {}) == (one.after.attributes or {})
    return "" if same else "its extended attributes or access control lists change"


def _note(one: Difference) -> str:
    if one.kind == "times":
        return "only the time of its last change differs"
    if one.kind == "attributes":
        return "only extended attributes or access control lists differ"
    kinds = {node.kind for node in (one.before, one.after)}
    if one.kind == "mode":
        return f"permissions {one.before.mode or 0:o} become {one.after.mode or 0:o}"
    if kinds <= {"file", "absent"}:
        return ""
    leaves = ", which leads out of the workspace" if one.leaves_workspace else ""
    return f"{_what(one.before)} becomes {_what(one.after)}{leaves}"


def _what(node: Node) -> str:
    if node.kind == "symlink" and node.target is not None:
        return f"a symbolic link to `{show_bytes(link_stored(node.target))}`"
    return {"dir": "a directory", "file": "a file", "absent": "nothing"}.get(node.kind, node.kind)


def _text(tree: Workspace, one: Difference) -> str | None:
    fd, data = tree.open_file(one.path), b""
    try:
        for chunk in read_chunks(fd):
            data += chunk
            if len(data) > _TEXT_BYTES_MAX:
                return None
    finally:
        os.close(fd)
    with contextlib.suppress(UnicodeDecodeError):
        return data.decode()
    return None
