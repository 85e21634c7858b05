"""`fs.read` and `fs.list`: looking at files beneath the workspace, within limits."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable
from typing import Any, Final

from interlock.model.errors import ConfigurationError, ToolError
from interlock.model.globs import PathGlob
from interlock.model.tool import Context
from interlock.workspace.names import Rel, to_json
from interlock.workspace.tree import Workspace, hash_file, refused

READ_BYTES: Final = 1024 * 1024
READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""So that the output stays within `Limits.output_bytes` however its characters are escaped."""
HASHED_BYTES_MAX: Final = 256 * 1024 * 1024
"""Larger files have no `sha256` in the output: reading all of them would take longer than the time-out."""
ENTRIES_MAX: Final = 10_000

_TYPES: Final = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
# Control characters that no text file has; each would be six bytes in JSON.
_BINARY: Final = bytes({*range(0x20), 0x7F} - set(b"\t\n\r\f\b\x1b"))


def read(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """The function of `fs.read`."""
    workspace: Workspace = ctx.workspace
    offset, most = int(parameters.get("offset", 0)), int(parameters.get("max_bytes", READ_BYTES))
    fd = workspace.open_file(workspace.locate(parameters["path"]))
    try:
        with refused("path"):
            size = os.fstat(fd).st_size
            data = _read_at(fd, offset, most)
            sha256 = hash_file(fd)[0] if size <= HASHED_BYTES_MAX else None
    finally:
        os.close(fd)
    truncated = offset + len(data) < size
    content, encoding = as_text(data, truncated=truncated)
    return {"content": content, "encoding": encoding, "size": size, "truncated": truncated, "sha256": sha256}


def list_(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """The function of `fs.list`."""
    workspace: Workspace = ctx.workspace
    base = workspace.locate(parameters.get("path", "."))
    wanted = matcher(parameters.get("glob"), base)
    if parameters.get("recursive", False):
        # Without a glob every name counts, so no more of a directory than the limit is ever needed.
        found = workspace.walk(base, lenient=True, most=None if "glob" in parameters else ENTRIES_MAX + 1)
    else:
        names = workspace.names(base, most=None if "glob" in parameters else ENTRIES_MAX + 1)
        places = ((*base, name) for name in names if wanted((*base, name)))
        found = ((path, seen) for path in places if (seen := workspace.lstat(path)) is not None)
    entries: list[dict[str, Any]] = []
    for path, seen in found:
        if path == base and not stat.S_ISDIR(seen.st_mode):
            raise ToolError("path: it is not a directory", code="not_a_directory", path="$.parameters.path")
        matches = path != base and wanted(path)
        if ctx.cancelled or (matches and len(entries) == ENTRIES_MAX):
            return {"entries": entries, "truncated": True}
        if matches:
            entries.append(_entry(path, seen))
    return {"entries": entries, "truncated": False}


def matcher(glob: str | None, base: Rel) -> Callable[[Rel], bool]:
    """Whether a path beneath `base` is wanted. A glob without `/` is about the last name, at any depth.

    Raises: ToolError `pattern_invalid`.
    """
    if glob is None:
        return lambda _path: True
    try:
        compiled = PathGlob(glob if "/" in glob else f"**/{glob}")
    except ConfigurationError as error:
        raise ToolError(
            "glob: not a glob that is relative to `path`",
            code="pattern_invalid",
            path="$.parameters.glob",
            retryable=False,
            hint=error.hint,
        ) from error
    return lambda path: compiled.matches(b"/".join(path[len(base) :]).decode("utf-8", "surrogateescape"))


def as_text(data: bytes, *, truncated: bool = False) -> tuple[str, str]:
    """Content and encoding: the text of UTF-8 data, else base64. A character that the limit has cut in two is left out."""
    if len(data.translate(None, _BINARY)) == len(data):
        try:
            return data.decode("utf-8"), "utf-8"
        except UnicodeDecodeError as error:
            if truncated and error.reason == "unexpected end of data" and error.end == len(data):
                return data[: error.start].decode("utf-8"), "utf-8"
    return base64.b64encode(data).decode("ascii"), "base64"


def _read_at(fd: int, offset: int, most: int) -> bytes:
    pieces = []
    while most > 0 and (piece := os.pread(fd, most, offset)):
        pieces.append(piece)
        offset += len(piece)
        most -= len(piece)
    return b"".join(pieces)


def _entry(path: Rel, seen: os.stat_result) -> dict[str, Any]:
    return {
        "path": to_json(path),
        "type": _TYPES.get(stat.S_IFMT(seen.st_mode), "special"),
        "size": seen.st_size,
        "mode": f"{stat.S_IMODE(seen.st_mode):04o}",
        "mtime": seen.st_mtime_ns // 1000,
    }
