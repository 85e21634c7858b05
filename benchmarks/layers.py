"""A layer over a tree of 20,000 files in which 1,000 change: mount, diff, commit, undo; compared with `cp -a` and git.

    python benchmarks/layers.py [--quick] [--json]

Goal: mount and diff in time proportional to the changes. Only the layer's commit is durable and can be undone.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from interlock.disk import Disk
from interlock.testing.clock import FakeClock
from interlock.workspace import (
    Backups,
    LayerMounts,
    Origin,
    Workspace,
    commit_layer,
    open_layer,
    plan_commit,
    remove_layer,
)
from interlock.workspace.undo import plan_undo, restore

QUICK = "--quick" in sys.argv
FILES, CHANGED, ROUNDS = (2_000, 100, 1) if QUICK else (20_000, 1_000, 3)
GIT = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "gc.auto=0"]


def make_tree(root: Path) -> None:
    """Create this many files of 2 KiB, a hundred in each directory."""
    for number in range(FILES):
        path = root / f"d{number // 100}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%08d\n" % number * 228)


def change(write) -> None:
    """Change every twentieth file."""
    for number in range(0, FILES, FILES // CHANGED):
        write(Path(f"d{number // 100}") / f"f{number}", b"changed %d\n" % number * 150)


def by_layer(root: Path, directory: Path, mounts: LayerMounts, took: dict[str, list[float]]) -> None:
    """One round: mount, change, diff, commit, undo, remove."""
    run = directory / "run"
    run.mkdir()
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(Workspace(root))
        backups = Backups(run, Disk(), FakeClock())
        stack.callback(backups.close)
        with timed(took, "mount"):
            layer = open_layer(run, "p", base, mounts)

        def write(path: Path, data: bytes) -> None:
            fd = os.open(os.fsencode(path), os.O_WRONLY | os.O_TRUNC, dir_fd=layer.workspace.fd)
            os.write(fd, data)
            os.close(fd)

        with timed(took, "change"):
            change(write)
        with timed(took, "diff (names)"):
            assert sum(1 for path in layer.candidates() if len(path) == 2) == CHANGED
        with timed(took, "plan (contents, conflicts)"):
            plan = plan_commit(layer, run)
        assert len(plan.changes) == CHANGED
        with timed(took, "commit, durable, with backups"):
            commit_layer(layer, run, backups, plan, Origin("p", "a"))
        with timed(took, "undo, durable, with backups"):
            restore(base, run, plan_undo(run), backups, Origin("u", "u"))
        layer.close()
        with timed(took, "remove"):
            remove_layer(layer.directory, Disk())
    shutil.rmtree(run)


def by_copy(root: Path, directory: Path, took: dict[str, list[float]]) -> None:
    """`cp -a` there, change, `diff -rq`, `cp -a` back."""
    copy = directory / "copy"
    with timed(took, "cp -a"):
        subprocess.run(["cp", "-a", root, copy], check=True)
    with timed(took, "change"):
        change(lambda path, data: (copy / path).write_bytes(data))
    with timed(took, "diff -rq"):
        subprocess.run(["diff", "-rq", root, copy], stdout=subprocess.DEVNULL, check=False)
    with timed(took, "cp -a back, not durable"):
        subprocess.run(["cp", "-a", f"{copy}/.", f"{directory}/back"], check=True)
    shutil.rmtree(copy)
    shutil.rmtree(directory / "back")


def by_git(root: Path, directory: Path, took: dict[str, list[float]]) -> None:
    """`git worktree add`, change, `git status`, commit there, and merge."""
    work = directory / "work"
    with timed(took, "git worktree add"):
        subprocess.run([*GIT, "worktree", "add", "-q", "-b", "side", work], cwd=root, check=True)
    with timed(took, "change"):
        change(lambda path, data: (work / path).write_bytes(data))
    with timed(took, "git status"):
        subprocess.run([*GIT, "status", "--porcelain"], cwd=work, stdout=subprocess.DEVNULL, check=True)
    with timed(took, "git commit and merge, not durable"):
        subprocess.run([*GIT, "commit", "-qam", "x"], cwd=work, check=True)
        subprocess.run([*GIT, "merge", "-q", "--no-progress", "--ff-only", "side"], cwd=root, check=True)
    subprocess.run([*GIT, "reset", "-q", "--hard", "HEAD^"], cwd=root, check=True)
    subprocess.run([*GIT, "worktree", "remove", "--force", work], cwd=root, check=True)
    subprocess.run([*GIT, "branch", "-qD", "side"], cwd=root, check=True)


@contextlib.contextmanager
def timed(took: dict[str, list[float]], what: str):
    """Add the milliseconds of the block."""
    began = time.perf_counter()
    yield
    took.setdefault(what, []).append((time.perf_counter() - began) * 1000)


def main() -> None:
    """Print the medians, alternating between the three."""
    found: dict[str, dict[str, list[float]]] = {"layer": {}, "cp -a": {}, "git": {}}
    mounts = LayerMounts()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        directory = Path(place)
        root, repository = directory / "tree", directory / "repository"
        root.mkdir()
        make_tree(root)
        shutil.copytree(root, repository)
        subprocess.run([*GIT, "init", "-q"], cwd=repository, check=True)
        subprocess.run([*GIT, "add", "."], cwd=repository, check=True)
        subprocess.run([*GIT, "commit", "-qm", "one"], cwd=repository, check=True)
        os.sync()
        for _ in range(ROUNDS):
            by_layer(root, directory, mounts, found["layer"])
            by_copy(root, directory, found["cp -a"])
            by_git(repository, directory, found["git"])
    mounts.close()
    if "--json" in sys.argv:
        json.dump({n: {w: statistics.median(t) for w, t in took.items()} for n, took in found.items()}, sys.stdout)
        return
    print(f"{FILES} files, {CHANGED} changed, {ROUNDS} rounds; medians in ms")
    for name, took in found.items():
        print(f"\n{name}")
        for what, times in took.items():
            print(f"  {what:36} {statistics.median(times):10.1f}")


if __name__ == "__main__":
    main()
