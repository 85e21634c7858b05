"""Layers: copy-on-write views of a workspace, one for each proposal, in `runs/<run id>/workspace/`.

`<number>/` is one layer: `layer.json` (the format version and a description), and either `upper/` and `work/` of an
overlay or `tree/` (a copy) with `copied.ndjson` (the list of copied paths). `backups/` records the actions' changes in
the layer, with the data to undo each of them. A layer whose proposal ended without a commit is kept: it gets a file
`kept`, and the run's next layers are stacked on it.

Format version history:
  1 (2026-11): first.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

import msgspec

from interlock.disk import Disk
from interlock.lazy import lazy
from interlock.model import typed
from interlock.model.clock import Clock
from interlock.model.errors import IntegrityError, StoreError, ToolError
from interlock.workspace.backups import Backups, index_bytes
from interlock.workspace.layer_copy import copy_workspace, left_out, read_copied
from interlock.workspace.layer_diff import (
    Difference,
    Directories,
    Listed,
    Uncommittable,
    Upper,
    compare,
    copy_candidates,
    handle_of,
    inode,
    known_directories,
    list_directories,
    node_at,
    overlay_candidates,
)
from interlock.workspace.layer_mounts import LayerMounts, Mounted, UnmountableError, nested_mounts, unmountable
from interlock.workspace.layer_places import LAYERS, kept_layers, layer_directories
from interlock.workspace.layer_size import LayerSize
from interlock.workspace.names import Rel
from interlock.workspace.nodes import NOTHING, Identity, Node, identity
from interlock.workspace.tree import Workspace

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

VERSION: Final = 1
_CLOCK_SLACK_NS: Final = 100_000_000
"""Tolerance when measuring by how much a clock was set back."""
_STEPS_NS: Final = (2_000_000_000, 1_000_000_000, 10_000_000, 1_000_000, 1_000, 100, 1)
"""Steps in which file systems store timestamps. A time that is a multiple of one by chance only costs the wait for it."""
_TICK_SECONDS_MAX: Final = 5
"""How long to wait for the timestamps to move on. Without the wait, files changed just before seem to be edited later."""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of `layer.json`."""

    version: int
    proposal: str
    kind: Literal["overlay", "copy"]
    why: str
    """Why it is not an overlay; empty if it is one."""
    base: str
    """The workspace's path, for people."""
    began_ns: int
    """Wall-clock time when the layer was opened. What was changed beneath it since has this ctime or a later one.

    If the clock was set back since, see `Layer.began_ns`.
    """
    boot: str = ""
    """The boot of the machine (its random id), for `ahead_ns`."""
    ahead_ns: int = 0
    """Wall-clock time minus the time since that boot."""
    below: list[str] = []
    """The run's kept layers beneath this one, oldest first."""
    below_proposals: list[str] = []
    """The proposals of those layers. Their commits do not count as changes by others."""
    directories: list[Listed] = []
    """The uppermost directories of the workspace when the layer was opened. Only for an overlay."""
    index_bytes: int = 0
    """See `read_entries`: what the run recorded before the layer was opened are not changes since then."""


class Layer:
    """One open layer. `workspace` is its view. End it with `close`, which keeps its contents, or `remove_layer`."""

    def __init__(self, directory: Path, manifest: Manifest, base: Workspace, mounted: Mounted | int) -> None:
        """Called by `open_layer` and `reopen_layer`. `mounted` is the view, or the descriptor of a copy that is not mounted."""
        self.directory = directory
        self.manifest = manifest
        self.base = base
        self.namespaces = mounted.namespaces if isinstance(mounted, Mounted) else None
        root = mounted.root if isinstance(mounted, Mounted) else mounted
        self.workspace = Workspace(base.root, disk=base.disk, fd=root)
        self.workspace.protected = base.protected
        self.workspace.layer = self
        self.upper = Upper(os.fsencode(directory / "upper"))
        overlay = manifest.kind == "overlay"
        self.size = LayerSize(
            directory / ("upper" if overlay else "tree"),
            lambda: () if overlay else (copy.size for copy, _ in self.known().values()),
        )
        self._looked: dict[Rel, Identity] = {}
        self._moved: set[bytes | None] | None = None
        self._replaced: dict[Rel, bool] = {}
        self._known: dict[Rel, tuple[Identity, Identity]] | None = None
        self._directories: Directories | None = None

    @property
    def copy(self) -> Path | None:
        """See `View.copy`."""
        return self.directory / "tree" if self.manifest.kind == "copy" else None

    def stack(self) -> list[Path]:
        """See `View.stack`."""
        if self.copy is not None:
            return [self.copy]
        below = [self.directory.parent / name / "upper" for name in reversed(self.manifest.below)]
        return [self.directory / "upper", *(path for path in below if path.is_dir()), self.base.root]

    @property
    def began_ns(self) -> int:
        """When the layer was opened, by the present wall clock: earlier than stored if the clock was set back since.

        A clock that was set back and forward again in between, or across a reboot, is not detected.
        """
        then = self.manifest
        if then.boot != _boot():
            return then.began_ns
        # read first, while `_moment` reads it last; see there
        now_since_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        set_back_ns = then.ahead_ns - (time.clock_gettime_ns(time.CLOCK_REALTIME) - now_since_boot_ns)
        return then.began_ns - (set_back_ns + _CLOCK_SLACK_NS if set_back_ns > 0 else 0)

    @property
    def posture(self) -> str:
        """`overlay`, or `copy(why)`."""
        return "overlay" if self.manifest.kind == "overlay" else f"copy({self.manifest.why})"

    def candidates(self) -> Iterator[Rel]:
        """The paths that may differ from the lower tree."""
        if self.manifest.kind == "overlay":
            return overlay_candidates(self.upper.walk(), self.base)
        copies = {path: copy for path, (copy, _) in self.known().items()}
        return copy_candidates(copies, self.base, self.workspace, left_out(self.base))

    def differences(self, only: Iterable[Rel] | None = None) -> tuple[list[Difference], list[Uncommittable]]:
        """The differences from the workspace at all paths, or at `only` these, and those that cannot be committed.

        Raises: ToolError.
        """
        self._replaced.clear()
        self._moved = None
        found, left = compare(self.candidates() if only is None else only, self.base, self.workspace)
        if self.manifest.kind == "copy" and (mounts := nested_mounts(self.base.root)):
            mounted = [one for one in found if one.path in mounts and not one.before.kind == one.after.kind == "dir"]
            found = [one for one in found if one not in mounted]
            left += [Uncommittable(one.path, "something is mounted there", one.kind) for one in mounted]
        why = "a process took the permissions of this directory away"
        return found, [*left, *(Uncommittable(path, why) for path in self.upper.unreadable)]

    def changed_since_look(self) -> list[Rel]:
        """See `View.changed_since_look`."""
        now: dict[Rel, Identity] = {}
        for path in self.candidates():
            found = None
            with contextlib.suppress(ToolError):
                found = self.workspace.lstat(path)
            now[path] = NOTHING if found is None else identity(found)
        before, self._looked = self._looked, now
        changed = [path for path, seen in now.items() if before.get(path) != seen]
        return sorted({*changed, *(path for path in before if path not in now)})

    def lower_node(self, path: Rel) -> Node:
        """See `View.lower_node`."""
        return node_at(self.base, path)

    def edited_below(self, one: Difference, own: Collection[Rel]) -> bool:
        """True if others have, or may have, changed the lower file since the layer was opened.

        Only times and identities show this: the record made after a process takes what others changed meanwhile as the
        state before it. `own` are directories in which the run itself has changed names since.
        """
        path, found = one.path, self.base.lstat(one.path) if one.before.kind != "absent" else None
        if self.manifest.kind == "copy":
            original = self.known().get(path, (NOTHING, NOTHING))[1]
            if found is None or original == NOTHING:
                return found is not None or original != NOTHING
            return identity(found)[:2] != original[:2] if path in own else identity(found) != original
        if found is None:
            origin = self.upper.origin(path)
            return origin is not None and self._is_gone(path, origin)
        if found.st_ctime_ns >= self.began_ns and not (stat.S_ISDIR(found.st_mode) and path in own):
            return True
        return any(self._is_replaced(path[:depth], own) for depth in range(1, len(path)))

    def original(self, path: Rel, _found: Identity) -> Identity:
        """The lower file when the layer was opened, for a copy of this view; no file's if others changed it since."""
        if self.manifest.kind == "copy":
            return self.known().get(path, (NOTHING, NOTHING))[1]
        found = self.base.lstat(path)
        if found is None:
            return NOTHING
        return identity(found)._replace(inode=0) if found.st_ctime_ns >= self.began_ns else identity(found)

    def _is_replaced(self, directory: Rel, own: Collection[Rel]) -> bool:
        """True if others have replaced a directory; then the times of its contents prove nothing."""
        if directory not in self._replaced:
            self._replaced[directory] = self._look_for_replaced(directory, own)
        return self._replaced[directory]

    def _look_for_replaced(self, directory: Rel, own: Collection[Rel]) -> bool:
        found, above = self.base.lstat(directory), directory[:-1]
        if found is None:
            return False
        if self._directories is None:
            self._directories = known_directories(self.manifest.directories)
        listed = self._directories.get(above)
        if listed is not None:
            return listed.get(directory[-1]) != inode(found, os.fstat(self.base.fd).st_dev)
        # A rename into the directory above sets the times of both, which no program can set back.
        parent = self.base.lstat(above)
        if parent is None or min(found.st_ctime_ns, parent.st_ctime_ns) < self.began_ns:
            return False
        if directory not in own or above not in own:
            return True  # others have changed names in both; it may be another directory
        origin = self.upper.origin(directory)
        if origin and not self.manifest.below and (handle := handle_of(self.base, directory)) is not None:
            return handle != origin
        # a rename sets only the ctime, and a new name in the directory sets both
        return found.st_ctime_ns != found.st_mtime_ns

    def _is_gone(self, path: Rel, origin: bytes) -> bool:
        """True if others have removed the lower file that was copied up to `path`, or moved or linked it there."""
        depth, above = len(path) - 1, None
        while depth >= 0 and above is None:
            with contextlib.suppress(ToolError):
                above = self.base.lstat(path[:depth])
            depth -= 1
        if above is not None and above.st_ctime_ns < self.began_ns:
            return False  # nothing was removed there since the layer was opened
        if self.manifest.below:
            return False  # its origin may be in a layer that has been committed since
        if self._moved is None:
            touched = (one for one, found, _ in self.upper.walk() if not stat.S_ISDIR(found.st_mode))
            self._moved = {handle_of(self.base, one) for one in touched}
        return origin not in self._moved

    def known(self) -> dict[Rel, tuple[Identity, Identity]]:
        """For a copy: each copied path with the identities of copy and original. Raises: IntegrityError."""
        if self._known is None:
            self._known = read_copied(self.directory)
        return self._known

    def keep(self, why: str) -> None:
        """Keep the layer of a proposal that ended without a commit, for `interlock commit` or `discard`. Raises: StoreError."""
        self.base.disk.write_atomic(self.directory / "kept", why.encode())

    def backups(self, clock: Clock) -> Backups:
        """The record of what actions did inside the layer."""
        return Backups(self.directory, self.base.disk, clock)

    def sync(self) -> None:
        """See `View.sync`."""
        name = "upper" if self.manifest.kind == "overlay" else "tree"
        fd = os.open(self.directory / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.base.disk.sync_filesystem(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the view. The layer's contents stay."""
        self.workspace.close()
        for fd in self.namespaces or ():
            os.close(fd)
        self.namespaces = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def layer_of(run: Path, proposal: str) -> Path | None:
    """The layer of a proposal; None if there is none. Raises: IntegrityError `layer_damaged`."""
    return next((one for one in layer_directories(run) if read_manifest(one).proposal == proposal), None)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a layer. Raises: IntegrityError `layer_damaged`."""
    try:
        manifest = typed.decode((directory / "layer.json").read_bytes(), Manifest)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise IntegrityError("the record of a layer is damaged", code="layer_damaged", path=str(directory)) from error
    if manifest.version != VERSION:
        raise IntegrityError(
            f"the layer has format {manifest.version}, which this version does not know",
            code="layer_damaged",
            path=str(directory),
            hint="use the Interlock that made it",
        )
    return manifest


def open_layer(run: Path, proposal: str, base: Workspace, mounts: LayerMounts, *, attach: bool = False) -> Layer:
    """Create a layer for a proposal over the workspace and the run's kept layers: an overlay if possible, else a copy.

    With `attach`, processes with their own root must be able to see it. Raises: StoreError `layer_unavailable` if
    neither an overlay nor a copy is possible; IntegrityError.
    """
    kept = kept_layers(run)
    names = [one.name for one in kept]
    proposals = [read_manifest(one).proposal for one in kept]
    recorded = index_bytes(run)
    directory = _new_directory(run / LAYERS, base.disk)
    try:
        _check_base(base, kept)
        for part in ("upper", "work"):
            (directory / part).mkdir(mode=0o700)
        _take_mode(base, directory / "upper")
        mounted: Mounted | int = _mount_overlay(directory, base, mounts, kept, attach=attach)
        moment, listed = _moment(base), list_directories(base)
        manifest = Manifest(
            VERSION, proposal, "overlay", "", str(base.root), *moment, names, proposals, listed, recorded
        )
    except UnmountableError as error:
        moment = _moment(base)
        try:
            mounted = _copy(directory, base, mounts, kept)
        except BaseException:
            with contextlib.suppress(StoreError):
                remove_layer(directory, base.disk)
            raise
        manifest = Manifest(
            VERSION, proposal, "copy", str(error), str(base.root), *moment, names, proposals, [], recorded
        )
    try:
        base.disk.write_atomic(directory / "layer.json", msgspec.json.encode(manifest))
        base.disk.sync_directory(directory.parent)
    except BaseException:
        _let_go(mounted)
        raise
    return Layer(directory, manifest, base, mounted)


def _let_go(mounted: Mounted | int) -> None:
    """Close a view that is not in use."""
    for fd in (mounted,) if isinstance(mounted, int) else (mounted.root, *mounted.namespaces):
        os.close(fd)


def why_no_overlay(place: Path, base: Workspace, mounts: LayerMounts) -> str | None:
    """Why layers cannot be overlays here, found by mounting one in `place`; None if they can."""
    try:
        _check_base(base, [])
        for part in ("upper", "work"):
            (place / part).mkdir(mode=0o700)
        mounted = _mount_overlay(place, base, mounts, [], attach=True)
    except UnmountableError as error:
        return str(error)
    _let_go(mounted)
    return None


def reopen_layer(directory: Path, base: Workspace, mounts: LayerMounts) -> Layer:
    """Reopen a layer whose process ended. Raises: StoreError `layer_unavailable`, IntegrityError `layer_damaged`."""
    manifest = read_manifest(directory)
    below = [directory.parent / name for name in manifest.below if (directory.parent / name / "upper").is_dir()]
    try:
        if manifest.kind == "overlay":
            mounted: Mounted | int = _mount_overlay(directory, base, mounts, below)
        else:
            mounted = _show(directory / "tree", base, mounts)
    except UnmountableError as error:
        raise unmountable(error) from None
    return Layer(directory, manifest, base, mounted)


def remove_layer(directory: Path, disk: Disk) -> None:
    """Delete a layer that was committed or discarded. Raises: StoreError."""
    with contextlib.suppress(FileNotFoundError):
        (directory / "layer.json").unlink()  # without it, a half-deleted layer does not count as one
    with contextlib.suppress(OSError, StoreError):  # what remains is reported below
        _flatten(directory, disk)
    disk.remove_tree(directory)


def _flatten(top: Path, disk: Disk) -> None:
    """Delete all directories of a tree, after moving each one up into the top directory.

    Processes leave directories that are nested too deep for a path, or have mode 0; overlayfs leaves the latter as
    well.
    """
    number = 0
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        pending = _directories_in(root)
        while pending:
            name = pending.pop()
            os.chmod(name, 0o700, dir_fd=root)
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
            try:
                for inside in _directories_in(fd):
                    os.chmod(inside, 0o700, dir_fd=fd)
                    number += 1
                    to = b".interlock-flat-%d" % number
                    disk.rename_at(fd, inside, root, to, replace=False)
                    pending.append(to)
                for other in os.listdir(fd):  # noqa: PTH208 - a descriptor
                    os.unlink(other, dir_fd=fd)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)


def _directories_in(fd: int) -> list[bytes]:
    with os.scandir(fd) as entries:
        return [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _new_directory(parent: Path, disk: Disk) -> Path:
    """A new directory with the next number. The proposals of a run may create layers at the same time."""
    disk.make_directory(parent)
    number = 1 + max((int(one.name) for one in parent.iterdir() if one.name.isdecimal()), default=0)
    while True:
        directory = parent / str(number)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            return directory
        number += 1


def _mount_overlay(
    directory: Path, base: Workspace, mounts: LayerMounts, kept: list[Path], *, attach: bool = False
) -> Mounted:
    work = directory / "work"
    for inside in work.iterdir() if work.is_dir() else ():
        inside.chmod(0o700)
    lower = [*(one / "upper" for one in reversed(kept)), base.root]
    return mounts.mount_overlay(base.root, lower, directory / "upper", work, attach=attach)


def _take_mode(base: Workspace, upper: Path) -> None:
    """Copy the workspace's permissions to the upper directory, because the merged root shows those."""
    found = os.fstat(base.fd)
    upper.chmod(stat.S_IMODE(found.st_mode))


def _check_base(base: Workspace, kept: list[Path]) -> None:
    """Raises: UnmountableError if no kernel can mount an overlay over these."""
    if kept and read_manifest(kept[-1]).kind == "copy":
        raise UnmountableError("the run's previous layer is a copy")
    found = os.fstat(base.fd)
    if os.geteuid() != 0 and (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        raise UnmountableError(
            "the workspace belongs to another user or group, which a user namespace cannot represent"
        )


def _moment(base: Workspace) -> tuple[int, str, int]:
    """The present moment for a `Manifest`: `began_ns`, `boot`, `ahead_ns`."""
    began_ns, wall_ns = fresh_timestamp_ns(base), time.clock_gettime_ns(time.CLOCK_REALTIME)
    # Read after the wall clock here and before it in `began_ns`, so that a pause in between never looks like a clock
    # set back.
    return began_ns, _boot(), wall_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def fresh_timestamp_ns(base: Workspace) -> int:
    """A timestamp later than every one from before this call, and not later than any from after it (nanoseconds).

    Where the file system of `base` stores less of them (ext4 with small inodes, FAT), the next one that it can store.

    Timestamps are the coarse time, which changes every few milliseconds. From Linux 6.13 on ("multigrain timestamps"), a
    file that was looked at since its last change gets the exact time instead, and no file gets an earlier one after
    that. So a file in memory is changed and looked at until its timestamp passes the exact time: there with the second
    change, on older kernels with the next tick. The tick can be late while the processor that keeps the time of a
    virtual machine is not running.
    """
    before, until = time.clock_gettime_ns(time.CLOCK_REALTIME), time.monotonic() + _TICK_SECONDS_MAX
    step_ns = _step_ns(base)
    wanted = (before // step_ns + 1) * step_ns
    fd = os.memfd_create("interlock-tick")
    try:
        _stamp_ns(fd)
        while (stamp := _stamp_ns(fd)) < wanted and time.monotonic() < until:
            time.sleep(max(0.0002, min((wanted - stamp) / 1e9, _TICK_SECONDS_MAX)))
        return stamp - stamp % step_ns
    finally:
        os.close(fd)


def _step_ns(base: Workspace) -> int:
    """In which steps the file system stores timestamps, as far as that of the workspace's directory shows it."""
    changed_ns = os.fstat(base.fd).st_ctime_ns
    return next(step for step in _STEPS_NS if changed_ns % step == 0)


def _stamp_ns(fd: int) -> int:
    """Change the file and return the timestamp of that."""
    os.fchmod(fd, 0o600)
    return os.fstat(fd).st_ctime_ns


def _copy(directory: Path, base: Workspace, mounts: LayerMounts, kept: list[Path]) -> Mounted | int:
    """Copy the workspace (or the run's last layer), and mount it where possible. Raises: StoreError."""
    for name in ("upper", "work"):
        shutil.rmtree(directory / name, ignore_errors=True)
    if kept:
        with reopen_layer(kept[-1], base, mounts) as below:
            copy_workspace(below.workspace, directory, below.original)
    else:
        copy_workspace(base, directory)
    return _show(directory / "tree", base, mounts)


def _show(tree: Path, base: Workspace, mounts: LayerMounts) -> Mounted | int:
    with contextlib.suppress(UnmountableError):
        return mounts.mount_tree(base.root, tree)
    return os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
