"""Backs up a file that a coding agent changes with its own tool, and records its new state.

The previous content is durable before the client may proceed, so that undo has it even if Interlock is killed
meanwhile. In that case the change counts as made by others, and undo needs `--force`.
"""

from __future__ import annotations

import contextlib

from interlock.model.errors import ToolError
from interlock.workspace.backups import Backups, Change, Origin
from interlock.workspace.names import Rel
from interlock.workspace.nodes import Node
from interlock.workspace.tree import Workspace


class ClientChange:
    """The change of one file, with its missing parent directories. Both methods may be slow; call them in this order."""

    def __init__(self, workspace: Workspace, backups: Backups, origin: Origin, path: Rel) -> None:
        """`path` has no symbolic links."""
        self._workspace = workspace
        self._backups = backups
        self._origin = origin
        self._path = path
        self._before: dict[Rel, Node] = {}

    def begin(self) -> None:
        """Store the previous state durably. Raises: ToolError, also for a protected path; StoreError."""
        with self._workspace.changing():
            self._workspace.guard().check(self._path)
            for depth in range(1, len(self._path) + 1):
                part = self._path[:depth]
                if depth == len(self._path) or self._workspace.lstat(part) is None:
                    self._before[part] = self._workspace.examine(part, read=self._backups.keep).node
            self._backups.record(self._origin, [Change(p, node, node) for p, node in self._before.items()], by="other")

    def end(self) -> None:
        """Record the new state. Raises: StoreError."""
        changes = []
        with self._workspace.changing():
            for path, before in self._before.items():
                with contextlib.suppress(ToolError):  # if it cannot be read, undo finds that it was changed
                    after = self._workspace.examine(path).node
                    if not after.matches(before):
                        changes.append(Change(path, before, after))
            if changes:
                self._backups.record(self._origin, changes)
