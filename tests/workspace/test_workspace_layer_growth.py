"""What a diff, a commit and an undo of many files do, and hold in memory, grows with the number of changes and no faster."""

from __future__ import annotations

import contextlib
import os
import sys
import tracemalloc

import pytest
from layer_world import World

from interlock.workspace.layer_commit import plan_commit
from interlock.workspace.layer_mounts import LayerMounts

SIZES = 200, 400, 800


def make(here, count, content=b"new"):
    """So many files, every second of them in the workspace already, and a layer that has written all of them."""
    for number in range(count):
        directory = here.root / f"d{number // 50}"
        directory.mkdir(exist_ok=True)
        if number % 2:
            (directory / f"f{number}").write_text("old")
    layer = here.layer()
    for number in range(count):
        path = f"d{number // 50}/f{number}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=layer.workspace.fd)
        os.write(fd, content)
        os.close(fd)
    return layer


def calls(work):
    """How many functions are called, those of C too: each system call is one."""
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture
def worlds(tmp_path):
    """For each size a world and a layer in which all files have changed."""
    with contextlib.ExitStack() as stack:
        mounts = LayerMounts()
        stack.callback(mounts.close)
        made = []
        for size in SIZES:
            (tmp_path / str(size)).mkdir()
            here = stack.enter_context(contextlib.closing(World(tmp_path / str(size), mounts)))
            made.append((here, stack.enter_context(make(here, size))))
        yield made


def test_a_diff_a_commit_and_an_undo_do_so_much_for_each_change(worlds):
    counts = {"diff": [], "commit": [], "undo": []}
    for here, layer in worlds:
        counts["diff"].append(calls(lambda layer=layer, here=here: plan_commit(layer, here.run)))
        counts["commit"].append(calls(lambda layer=layer, here=here: here.commit(layer)))
        counts["undo"].append(calls(lambda here=here: here.undo()))
    for what, (small, middle, large) in counts.items():
        # Twice the step in size, at most twice the step in work, and a tenth for what depends on where things lie.
        assert large - middle <= 2.2 * (middle - small), (what, small, middle, large)


def test_memory_is_held_for_paths_and_never_for_contents(tmp_path):
    content, count = b"new\n" * 8192, 400
    with contextlib.ExitStack() as stack:
        mounts = stack.enter_context(contextlib.closing(LayerMounts()))
        here = stack.enter_context(contextlib.closing(World(tmp_path, mounts)))
        stack.enter_context(layer := make(here, count, content))
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        here.commit(layer)
        here.undo()
        peak = tracemalloc.get_traced_memory()[1]
    assert peak < count * 10_000 < len(content) * count / 3
