"""The home of an action without a /tmp of its own is removed, even if its supervisor or the fork server is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from interlock.isolation.client import ForkServer
from interlock.model.errors import ToolError


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0


class Running:
    """A program that is running, with a file in its home."""

    def __init__(self, bench, name):
        self.place = bench.root / name
        self.task = asyncio.ensure_future(
            bench.start(
                "/bin/sh", "-c", bench.script(f"echo x > $HOME/file; echo $HOME > {name}; exec $MARK"), home=True
            )
        )

    async def started(self):
        until = time.monotonic() + 10
        while not (self.place.exists() and self.place.read_text().endswith("\n")):
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        self.home = Path(self.place.read_text().strip())
        assert (self.home / "file").exists()
        return self

    async def end(self):
        self.task.cancel()
        with contextlib.suppress(BaseException):
            await self.task


def wait_gone(path):
    until = time.monotonic() + 15
    while path.exists():
        assert time.monotonic() < until, f"{path} is still there"
        time.sleep(0.02)


def wait_childless(server):
    until = time.monotonic() + 10
    while server in map(parent_of, filter(str.isdigit, os.listdir("/proc"))):
        assert time.monotonic() < until, f"{server} still has a child"
        time.sleep(0.02)


def programs_of(bench, running):
    """Maps the marked program to its supervisor, for the one whose home this is."""
    return [
        (pid, parent_of(pid))
        for pid in bench.marked()
        if f"HOME={running.home}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]


@pytest.mark.parametrize("bench", ["nons", "none"], indirect=True)
def test_the_home_of_a_killed_supervisor_is_removed_by_the_fork_server(bench):
    async def killed():
        running = await Running(bench, "first").started()
        ((_, supervisor),) = programs_of(bench, running)
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(ToolError, match="killed"):
            await running.task
        return running.home

    wait_gone(asyncio.run(killed()))
    bench.wait_marked(0)
    assert bench.run("true", home=True).report["exit_code"] == 0


@pytest.mark.parametrize("bench", ["nons"], indirect=True)
def test_homes_of_a_killed_fork_server_are_removed_by_the_next_and_those_in_use_stay(bench):
    stranger = Path("/tmp/interlock-action-home-link")
    stranger.symlink_to(bench.root)

    async def killed():
        left = await Running(bench, "left").started()
        ((_, supervisor),) = programs_of(bench, left)
        os.kill(bench.server.pid, signal.SIGKILL)
        os.kill(supervisor, signal.SIGKILL)
        with contextlib.suppress(ToolError):
            await left.task
        assert left.home.exists()
        used = await Running(bench, "used").started()  # in a new server
        other = ForkServer(launch=lambda: bench.launch)
        other.warm_up()
        await asyncio.to_thread(wait_gone, left.home)
        await asyncio.to_thread(wait_childless, other.pid)  # it has looked at every home
        assert (used.home / "file").exists()
        await used.end()
        other.close()
        return used.home

    try:
        assert not asyncio.run(killed()).exists()
        assert stranger.is_symlink()
        assert bench.root.exists()
    finally:
        stranger.unlink()


@pytest.mark.parametrize("bench", ["nons"], indirect=True)
def test_the_process_that_looks_for_homes_is_collected(bench):
    assert bench.run("true", home=True).report["exit_code"] == 0
    wait_childless(bench.server.pid)
