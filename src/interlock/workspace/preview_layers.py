"""Temporary layers above a view. They hold the effects of one call for review, and are then committed or discarded.

They are stored beside the layers of the run, as `preview-<number>/`, each with its `layer.json`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from interlock.disk import Disk
from interlock.model.errors import StoreError
from interlock.workspace.layer_mounts import LayerMounts, UnmountableError, unmountable
from interlock.workspace.layers import VERSION, Layer, Manifest, fresh_timestamp_ns, read_manifest, remove_layer
from interlock.workspace.tree import Workspace

_PREFIX: Final = "preview-"


def open_preview(run: Path, key: str, view: Workspace, mounts: LayerMounts, *, attach: bool) -> Layer:
    """Create a preview layer above `view`, which is a workspace or the view of a layer. `key` names the call.

    Raises: StoreError `layer_unavailable` if no overlay can be mounted there.
    """
    view.disk.make_directory(parent := run / "workspace")
    number = 1
    while (directory := parent / f"{_PREFIX}{number}").exists():
        number += 1
    directory.mkdir(mode=0o700)
    for part in ("upper", "work"):
        (directory / part).mkdir(mode=0o700)
    manifest = Manifest(VERSION, key, "overlay", "", str(view.root), fresh_timestamp_ns(view))
    view.disk.write_atomic(directory / "layer.json", msgspec.json.encode(manifest))
    try:
        return _mount(directory, manifest, view, mounts, attach=attach)
    except BaseException:
        with contextlib.suppress(StoreError):
            remove_layer(directory, view.disk)
        raise


def reopen_preview(directory: Path, view: Workspace, mounts: LayerMounts) -> Layer:
    """Reopen a preview layer. Raises: StoreError `layer_unavailable`, IntegrityError `layer_damaged`."""
    return _mount(directory, read_manifest(directory), view, mounts, attach=False)


def preview_of(run: Path, key: str) -> Path | None:
    """The preview layer of a call; None if there is none. Raises: IntegrityError `layer_damaged`."""
    parent = run / "workspace"
    found = sorted(parent.glob(f"{_PREFIX}*/layer.json")) if parent.is_dir() else []
    return next((path.parent for path in found if read_manifest(path.parent).proposal == key), None)


def remove_previews(run: Path, disk: Disk) -> None:
    """Delete all preview layers of a run. Raises: StoreError."""
    for directory in (run / "workspace").glob(f"{_PREFIX}*"):
        remove_layer(directory, disk)


def _mount(directory: Path, manifest: Manifest, view: Workspace, mounts: LayerMounts, *, attach: bool) -> Layer:
    work = directory / "work"
    for inside in work.iterdir():
        inside.chmod(0o700)
    lower = [view.root] if view.layer is None else view.layer.stack()
    try:
        mounted = mounts.mount_overlay(view.root, lower, directory / "upper", work, attach=attach)
    except UnmountableError as error:
        raise unmountable(error) from None
    return Layer(directory, manifest, view, mounted)
