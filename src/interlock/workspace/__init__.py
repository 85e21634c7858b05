"""Remembers files: the tree beneath its root, backups before each change, undo, and who may write."""

from interlock.workspace.backups import Backups, Change, Entry, Origin
from interlock.workspace.nodes import ABSENT, Identity, Node, Seen
from interlock.workspace.tree import Workspace

__all__ = ["ABSENT", "Backups", "Change", "Entry", "Identity", "Node", "Origin", "Seen", "Workspace"]
