"""The files of a workspace: the tree below its root, backups before each change, undo, layers, and the write lease."""

from typing import TYPE_CHECKING

from interlock.lazy import lazy_exports

if TYPE_CHECKING:
    from interlock.workspace.backups import Backups, Change, Entry, Origin, read_entries
    from interlock.workspace.claims import EVERYTHING, NOTHING, Claim, claimed_by_writing
    from interlock.workspace.layer_commit import (
        Blocked,
        CommitStoppedError,
        Plan,
        clear_interrupted,
        commit_layer,
        plan_commit,
        undo_commit,
    )
    from interlock.workspace.layer_diff import Difference
    from interlock.workspace.layer_mounts import LayerMounts
    from interlock.workspace.layer_places import kept_layers, layer_directories
    from interlock.workspace.layers import (
        Layer,
        layer_of,
        open_layer,
        remove_layer,
        reopen_layer,
        why_no_overlay,
    )
    from interlock.workspace.lease import LeaseQueue, Turn, WriteLease
    from interlock.workspace.nodes import ABSENT, Identity, Node, Seen
    from interlock.workspace.preview_layers import open_preview, preview_of, remove_previews, reopen_preview
    from interlock.workspace.process_changes import ProcessWatch, end_left_processes
    from interlock.workspace.registry import Registry, check_apart, state_directory
    from interlock.workspace.tree import Workspace, is_in_place
    from interlock.workspace.undo import Restored, UndoConflictError, plan_undo, restore
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "ABSENT": "nodes",
            "Backups": "backups",
            "Blocked": "layer_commit",
            "Change": "backups",
            "Claim": "claims",
            "Difference": "layer_diff",
            "CommitStoppedError": "layer_commit",
            "EVERYTHING": "claims",
            "Entry": "backups",
            "Identity": "nodes",
            "Layer": "layers",
            "LayerMounts": "layer_mounts",
            "LeaseQueue": "lease",
            "NOTHING": "claims",
            "Node": "nodes",
            "Origin": "backups",
            "Plan": "layer_commit",
            "ProcessWatch": "process_changes",
            "Registry": "registry",
            "Restored": "undo",
            "Seen": "nodes",
            "Turn": "lease",
            "UndoConflictError": "undo",
            "Workspace": "tree",
            "WriteLease": "lease",
            "check_apart": "registry",
            "claimed_by_writing": "claims",
            "clear_interrupted": "layer_commit",
            "commit_layer": "layer_commit",
            "end_left_processes": "process_changes",
            "is_in_place": "tree",
            "kept_layers": "layer_places",
            "layer_directories": "layer_places",
            "layer_of": "layers",
            "open_layer": "layers",
            "open_preview": "preview_layers",
            "plan_commit": "layer_commit",
            "plan_undo": "undo",
            "preview_of": "preview_layers",
            "read_entries": "backups",
            "remove_layer": "layers",
            "remove_previews": "preview_layers",
            "reopen_layer": "layers",
            "reopen_preview": "preview_layers",
            "restore": "undo",
            "state_directory": "registry",
            "undo_commit": "layer_commit",
            "why_no_overlay": "layers",
        },
    )

__all__ = [
    "ABSENT",
    "EVERYTHING",
    "NOTHING",
    "Backups",
    "Blocked",
    "Change",
    "Claim",
    "CommitStoppedError",
    "Difference",
    "Entry",
    "Identity",
    "Layer",
    "LayerMounts",
    "LeaseQueue",
    "Node",
    "Origin",
    "Plan",
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
    "clear_interrupted",
    "commit_layer",
    "end_left_processes",
    "is_in_place",
    "kept_layers",
    "layer_directories",
    "layer_of",
    "open_layer",
    "open_preview",
    "plan_commit",
    "plan_undo",
    "preview_of",
    "read_entries",
    "remove_layer",
    "remove_previews",
    "reopen_layer",
    "reopen_preview",
    "restore",
    "state_directory",
    "undo_commit",
    "why_no_overlay",
]
