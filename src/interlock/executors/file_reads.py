"""`fs.read` and `fs.list`: read files beneath the workspace, within limits."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Callable
from typing import Any, Final

from interlock.executors.encodings import MARK_BYTES, character_start, marked, whole_characters
from interlock.lazy import lazy_pattern
from interlock.model.errors import ConfigurationError, ToolError
from interlock.model.globs import PathGlob
from interlock.model.tool import Context
from interlock.workspace.names import Rel, to_json
from interlock.workspace.tree import Workspace, hash_file, refused

READ_BYTES: Final = 1024 * 1024
READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""Keeps the output within `Limits.output_bytes` even if every character must be escaped."""
HASHED_BYTES_MAX: Final = 256 * 1024 * 1024
"""Larger files have no `sha256` in the output, because reading them completely would exceed the time-out."""
ENTRIES_MAX: Final = 10_000

_TYPES: Final = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
# Control characters that text files do not contain; each would take six bytes in JSON.
_BINARY: Final = bytes({*range(0x20), 0x7F} - set(b"\t\n\r\f\b\x1b"))
_BINARY_CHARACTERS: Final = tuple(map(chr, _BINARY))
_GLOBS_MAX: Final = 256
_BRACES: Final = lazy_pattern(r"\{([^{}]*,[^{}]*)\}")


def read(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Returns the function of `fs.read`."""
    workspace: Workspace = ctx.workspace
    offset, most = int(parameters.get("offset", 0)), int(parameters.get("max_bytes", READ_BYTES))
    need_file_name(parameters["path"])
    fd = workspace.open_file(workspace.locate(parameters["path"]))
    try:
        with refused("path"):
            size = os.fstat(fd).st_size
            wanted = parameters.get("encoding") or marked(_read_at(fd, 0, MARK_BYTES)).encoding or "utf-8"
            begin = max(0, offset - 3)
            wanted_bytes = offset - begin + most + 3
            window = _read_at(fd, begin, wanted_bytes)
            if begin == 0 and len(window) < wanted_bytes:  # this is the whole file
                sha256: str | None = hashlib.sha256(window).hexdigest()
            else:
                sha256 = hash_file(fd)[0] if size <= HASHED_BYTES_MAX else None
    finally:
        os.close(fd)
    before, data = window[: offset - begin], window[offset - begin :]
    page = _page(before, data, offset, most, wanted, end=offset + len(data) >= size)
    if page is None:
        data = data[:most]
        page = base64.b64encode(data).decode("ascii"), "base64", offset, offset + len(data)
    content, encoding, start, following = page
    more = following < size
    return {
        "content": content,
        "encoding": encoding,
        "size": size,
        "offset": start,
        "next_offset": following if more else None,
        "truncated": more,
        "sha256": sha256,
    }


def _page(
    before: bytes, data: bytes, offset: int, most: int, encoding: str, *, end: bool
) -> tuple[str, str, int, int] | None:
    """Returns a page of whole characters: text, encoding, its offset, and the offset of the next page; None if it is not text.

    `data` holds up to three bytes more than the page, so that one character always fits.
    """
    back = character_start(before, data, encoding, offset)
    data = before[len(before) - back :] + data
    start = offset - back
    if start == 0:  # the mark is not part of the text; `fs.edit` and `fs.write` preserve it
        start = len(marked(data).mark)
        data = data[start:]
    last = end and len(data) <= most
    piece = data if last else data[:most]
    try:
        text, used = whole_characters(piece, encoding, final=last)
        while used == 0 and len(piece) < len(data):  # the limit is less than one character
            piece = data[: len(piece) + 1]
            text, used = whole_characters(piece, encoding, final=end and len(piece) == len(data))
    except UnicodeDecodeError:
        return None
    if any(one in text for one in _BINARY_CHARACTERS):  # several times as fast as one pass over the characters
        return None
    return text, encoding, start, start + used


def need_file_name(path: Any, field: str = "path") -> None:
    """Raises: ToolError `not_a_file` for a path that ends with `/`, which names a directory."""
    try:
        text = path if isinstance(path, str) else base64.b64decode(path["b64"]).decode("utf-8", "surrogateescape")
    except ValueError:  # invalid base64, which `locate` reports
        return
    if text.endswith(("/", "/.")):
        raise ToolError(
            f"{field}: the path ends with `/`, which names a directory",
            code="not_a_file",
            path=f"$.parameters.{field}",
            retryable=False,
            hint="name the file itself, without the trailing `/`",
        )


def list_(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Returns the function of `fs.list`."""
    workspace: Workspace = ctx.workspace
    base = workspace.locate(parameters.get("path", "."))
    wanted = matcher(parameters.get("glob"), base)
    if parameters.get("recursive", False) or "/" in parameters.get("glob", ""):
        # Without a glob, every name matches, so reading can stop at the limit.
        found = workspace.walk(base, lenient=True, most=None if "glob" in parameters else ENTRIES_MAX + 1)
    else:
        names = workspace.names(base, most=None if "glob" in parameters else ENTRIES_MAX + 1)
        places = ((*base, name) for name in names if wanted((*base, name)))
        found = ((path, seen) for path in places if (seen := workspace.lstat(path)) is not None)
    entries: list[dict[str, Any]] = []
    for path, seen in found:
        if path == base and not stat.S_ISDIR(seen.st_mode):
            raise ToolError("path: the path is not a directory", code="not_a_directory", path="$.parameters.path")
        matches = path != base and wanted(path)
        if ctx.cancelled or (matches and len(entries) == ENTRIES_MAX):
            return {"entries": entries, "truncated": True}
        if matches:
            entries.append(_entry(path, seen))
    return {"entries": entries, "truncated": False}


def matcher(glob: str | None, base: Rel) -> Callable[[Rel], bool]:
    """Return a test whether a path beneath `base` matches. A glob without `/` applies to the file name, at any depth.

    Raises: ToolError `pattern_invalid`.
    """
    if glob is None:
        return lambda _path: True
    try:
        compiled = [PathGlob(each if "/" in each else f"**/{each}") for each in _alternatives(glob)]
    except ConfigurationError as error:
        raise ToolError(
            "glob: not a valid glob relative to `path`",
            code="pattern_invalid",
            path="$.parameters.glob",
            retryable=False,
            hint=error.hint,
        ) from error

    def wanted(path: Rel) -> bool:
        text = b"/".join(path[len(base) :]).decode("utf-8", "surrogateescape")
        return any(one.matches(text) for one in compiled)

    return wanted


def _alternatives(glob: str) -> list[str]:
    """Returns the globs that `{a,b}` expands to. Raises: ConfigurationError if there are too many."""
    found = [glob]
    while any(_BRACES.search(each) for each in found):
        found = [
            each[: match.start()] + part + each[match.end() :] if match else each
            for each in found
            for match in [_BRACES.search(each)]
            for part in (match[1].split(",") if match else [""])
        ]
        if len(found) > _GLOBS_MAX:
            raise ConfigurationError("the glob has too many alternatives", hint=f"at most {_GLOBS_MAX} in all")
    return found


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
