"""Files of the workspace: the tree beneath its root, backups before each change, undo, and the write lease."""

from interlock.workspace.backups import Backups, Change, Entry, Origin, read_entries
from interlock.workspace.claims import EVERYTHING, NOTHING, Claim, claimed_by_writing
from interlock.workspace.lease import LeaseQueue, Turn, WriteLease
from interlock.workspace.nodes import ABSENT, Identity, Node, Seen
from interlock.workspace.process_changes import ProcessWatch, end_left_processes
from interlock.workspace.registry import Registry, check_apart, state_directory
from interlock.workspace.tree import Workspace
from interlock.workspace.undo import Restored, UndoConflictError, plan_undo, restore

__all__ = [
    "ABSENT",
    "EVERYTHING",
    "NOTHING",
    "Backups",
    "Change",
    "Claim",
    "Entry",
    "Identity",
    "LeaseQueue",
    "Node",
    "Origin",
    "ProcessWatch",
    "Registry",
    "Restored",
    "Seen",
    "Turn",
    "UndoConflictError",
    "Workspace",
    "WriteLease",
    "check_apart",
    "claimed_by_writing",
    "end_left_processes",
    "plan_undo",
    "read_entries",
    "restore",
    "state_directory",
]
