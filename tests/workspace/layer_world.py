"""Words for the tests of layers: a workspace with layers over it, and machines that allow less."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from interlock.disk import Disk, store_error
from interlock.testing.clock import FakeClock
from interlock.workspace import Backups, Origin, Workspace
from interlock.workspace.layer_commit import commit_layer, plan_commit
from interlock.workspace.layer_mounts import LayerMounts, UnmountableError
from interlock.workspace.layers import Layer, open_layer
from interlock.workspace.undo import plan_undo, restore


class NoOverlay(LayerMounts):
    """A machine whose kernel refuses overlayfs; the copy can be shown."""

    def mount_overlay(self, at, lower, upper, work, *, attach=False):
        raise UnmountableError("overlayfs refuses this workspace")


class NoMounts(NoOverlay):
    """A machine without mount namespaces."""

    def mount_tree(self, at, tree):
        raise UnmountableError("no mount namespace can be created here")


class World:
    """A workspace, a run's directory, and layers over it."""

    def __init__(self, tmp_path: Path, mounts: LayerMounts) -> None:
        self.root = tmp_path / "project"
        self.root.mkdir(exist_ok=True)
        self.run = tmp_path / "state" / "run_1"
        self.run.mkdir(parents=True, exist_ok=True)
        self.base = Workspace(self.root)
        self.mounts = mounts
        self.clock = FakeClock()
        self.main = Backups(self.run, Disk(), self.clock)

    def close(self) -> None:
        self.main.close()
        self.base.close()

    def layer(self, proposal: str = "p1") -> Layer:
        return open_layer(self.run, proposal, self.base, self.mounts)

    def commit(self, layer: Layer, **options):
        plan = plan_commit(layer, self.run, **options)
        commit_layer(layer, self.run, self.main, plan, Origin("p1", "sh"))
        return plan

    def undo(self, **which):
        return restore(self.base, self.run, plan_undo(self.run, **which), self.main, Origin("undo", "u"))

    def tree(self):
        return tree(self.root)


def tree(root):
    found = {}
    for path in sorted(Path(root).rglob("*")):
        seen = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[os.fsencode(path.relative_to(root))] = (stat.filemode(seen.st_mode), content)
    return found


def inside(layer: Layer, script: str) -> None:
    """Run a shell script as an action's process would run: in the layer's namespaces, in the workspace's own path."""
    user, mounts = layer.namespaces
    code = (
        "import ctypes,os,sys;libc=ctypes.CDLL(None);user,mnt=int(sys.argv[1]),int(sys.argv[2]);"
        "own=os.stat('/proc/self/ns/user').st_ino;"
        "own==os.fstat(user).st_ino or libc.setns(user,0x10000000)==0 or sys.exit('user');"
        "libc.setns(mnt,0x20000)==0 or sys.exit('mnt');"
        "os.chdir(sys.argv[3]);os.execv('/bin/sh',['sh','-ec',sys.argv[4]])"
    )
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(user), str(mounts), str(layer.base.root), script],
        pass_fds=(user, mounts), check=True,
    )  # fmt: skip


def fill(root: Path) -> None:
    (root / "a").write_text("a\n")
    (root / "d").mkdir()
    (root / "d" / "x").write_text("x\n")
    (root / "d" / "y").write_text("y\n")
    (root / "gone").mkdir()
    (root / "gone" / "z").write_text("z\n")
    (root / "link").symlink_to("a")
    (root / "same").write_text("same\n")


class Stop(BaseException):
    """The process dies here."""


class Dying(Disk):
    """Dies before its nth rename."""

    def __init__(self, after: int) -> None:
        self.left = after

    def rename_at(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            raise Stop
        return super().rename_at(*arguments, **options)


class Failing(Disk):
    """Reports an error at its operation number `at` (from 0), once, as a file system that is full or damaged does."""

    def __init__(self, at: int, number: int) -> None:
        self.left, self.number = at, number

    def fail(self) -> None:
        self.left -= 1
        if self.left == -1:
            error = OSError(self.number, os.strerror(self.number))
            raise store_error(error, "change it") from error

    def write(self, fd, data):
        self.fail()
        super().write(fd, data)

    def sync(self, fd):
        self.fail()
        super().sync(fd)

    def sync_filesystem(self, fd):
        self.fail()
        super().sync_filesystem(fd)

    def swap_at(self, *arguments, **options):
        self.fail()
        return super().swap_at(*arguments, **options)

    def rename_at(self, *arguments, **options):
        self.fail()
        super().rename_at(*arguments, **options)
