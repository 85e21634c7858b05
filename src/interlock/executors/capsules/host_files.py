"""The host functions `fs-read` and `fs-write`: files of the proposal's workspace, in its layer if it has one.

Changes are made by the functions of the built-in file tools, so they are backed up, recorded and undone in the same
way. All functions block, and run on a thread.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from typing import Final

from interlock.executors import file_changes
from interlock.executors.capsules.rights import FILE_TOOLS, Access, FileTool, Rights
from interlock.executors.file_reads import need_file_name
from interlock.model.capsule import Capabilities
from interlock.model.errors import ToolError
from interlock.model.globs import PathGlob
from interlock.model.tool import Context
from interlock.workspace import Workspace
from interlock.workspace.tree import read_chunks, refused

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
NAMES_MAX: Final = 10_000
CHANGES_MAX: Final = 1_000
"""Maximum number of changes per call."""


class Files:
    """The file operations of one call."""

    def __init__(self, ctx: Context, rights: Rights, capabilities: Capabilities) -> None:
        """Opens nothing yet."""
        self._ctx = ctx
        self._rights = rights
        self._globs: dict[Access, list[PathGlob]] = {
            "read": [PathGlob(glob) for glob in capabilities.fs_read],
            "write": [PathGlob(glob) for glob in capabilities.fs_write],
        }
        self._changes = 0
        self.stopped = False
        """True once the call was stopped; changes that have not begun are then refused."""

    def read(self, path: str) -> bytes:
        """Returns the content of a file. Raises: ToolError."""
        workspace: Workspace = self._context("fs.read").workspace
        need_file_name(path)
        fd = workspace.open_file(workspace.locate(path))
        try:
            with refused("path"):
                found = os.fstat(fd)
                _need_one_name(found)
                if found.st_size > FILE_BYTES_MAX:
                    raise _too_large()
                data = bytearray()
                for part in read_chunks(fd):
                    data += part
                    if len(data) > FILE_BYTES_MAX:
                        raise _too_large()
                return bytes(data)
        finally:
            os.close(fd)

    def list_(self, path: str) -> bytes:
        """Returns the entries of a directory that the capsule may read, as a JSON list. Raises: ToolError."""
        workspace: Workspace = self._context("fs.list").workspace
        # Check the entries and not the directory: a glob such as `data/*.csv` does not match `data`.
        base = Workspace.resolve(workspace, workspace.parse(path or "."))
        names: list[str] = []
        for name in workspace.names(base):
            if len(names) == NAMES_MAX:
                break
            place = (*base, name)
            try:
                workspace.permit(place)
                seen = workspace.lstat(place)
            except ToolError:
                continue
            if seen is not None:
                names.append(name.decode() + ("/" if stat.S_ISDIR(seen.st_mode) else ""))
        return json.dumps(names).encode()

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file. Raises: ToolError."""
        if len(data) > FILE_BYTES_MAX:
            raise _too_large()
        ctx = self._changing("fs.write")
        content = base64.b64encode(data).decode()
        file_changes.write({"path": path, "content": content, "encoding": "base64"}, ctx)

    def delete(self, path: str) -> None:
        """Remove a file or an empty directory. Raises: ToolError."""
        file_changes.delete({"path": path}, self._changing("fs.delete"))

    def _changing(self, tool: FileTool) -> Context:
        self._changes += 1
        if self._changes > CHANGES_MAX:
            raise ToolError(f"a call changes at most {CHANGES_MAX} files", code="limit_exceeded", retryable=False)
        return self._context(tool)

    def _context(self, tool: FileTool) -> Context:
        access = FILE_TOOLS[tool]
        ctx = self._rights.for_files(self._ctx, tool, lambda path: self._declares(access, path), lambda: self.stopped)
        if ctx.workspace is None:
            raise ToolError("there is no workspace here", code="not_found", retryable=False)
        return ctx

    def _declares(self, access: Access, path: str) -> bool:
        return any(glob.matches(path) for glob in self._globs[access])


def _need_one_name(found: os.stat_result) -> None:
    """Refuse a file with several hard links, which may be a file outside the workspace. Raises: ToolError."""
    if found.st_nlink > 1:
        raise ToolError(
            "path: the file has several hard links, so it may be a file outside the workspace",
            code="path_denied",
            retryable=False,
        )


def _too_large() -> ToolError:
    return ToolError(f"path: a capsule reads and writes at most {FILE_BYTES_MAX} bytes", code="file_too_large")
