"""The process of the resident gate: `python -I -m interlock.surfaces.resident.program`. Only one per state directory.

It listens on `<state directory>/gate/socket` and logs errors to `log` beside it. It exits on SIGTERM, on `interlock
gate stop`, when a newer Interlock wants to take over, and after half an hour without requests. Held calls are on disk,
and a waiting hook asks the next gate again, so nothing is lost however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from interlock import _version
from interlock.disk import Disk
from interlock.engine.local.clock import SystemClock
from interlock.model.errors import InterlockError
from interlock.surfaces.resident.projects import Projects
from interlock.surfaces.resident.server import Server
from interlock.workspace.registry import state_directory

IDLE_S: Final = 30 * 60
LOOK_S: Final = 60
"""Interval of the check that its directory still exists."""
DRAIN_S: Final = 2.0
"""How long the gate waits at its end for calls that clients are executing."""
_WAIT_FOR_OTHER_S: Final = 10.0
_LOG_BYTES_MAX: Final = 4 * 1024 * 1024
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def main() -> int:
    """Run the gate of this state directory until it ends."""
    # read before anything else: the version that this process has loaded
    version_text = Path(_version.__file__).read_bytes()
    os.umask(0o077)
    os.chdir("/")  # do not keep the directory of the starting client busy
    disk = Disk()
    try:
        state = state_directory(os.environ, disk)
        disk.make_directory(state / "gate")
        asyncio.run(_serve(state, disk, version_text))
    except InterlockError as error:
        _log(f"{error.code}: {error.message}")
        return error.exit_code
    return 0


async def _serve(state: Path, disk: Disk, version_text: bytes) -> None:
    home = state / "gate"
    lock = await _alone(home, disk)
    if lock is None:
        return
    if (home / "log").exists() and (home / "log").stat().st_size > _LOG_BYTES_MAX:
        os.truncate(home / "log", 0)
    projects = Projects(state, _log)
    server = Server(projects, version_text, _log)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, server.stopping.set)
    listening = await asyncio.start_unix_server(server.serve, sock=_listen(home))
    own = _inode(home / "socket")
    try:
        await _until_the_end(server, lambda: _inode(home / "socket") == own)
    finally:
        # Remove the name first: a client that connects now starts the next gate, which waits for the lock.
        if _inode(home / "socket") == own:  # the directory may be gone, or belong to another gate by now
            (home / "socket").unlink(missing_ok=True)
        listening.close()
        await server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await asyncio.gather(*(project.calls.drain() for project in projects.all()))
        left = any(project.calls.open_count for project in projects.all())
        await projects.close()
        os.close(lock)
        if left:
            # Clients are working: their runs stay open on disk, as if this process were killed, for the next gate to
            # settle.
            os._exit(0)


async def _alone(home: Path, disk: Disk) -> int | None:
    """The lock of the only gate; None if another gate is running. Waits for one that is exiting."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _WAIT_FOR_OTHER_S
    while True:
        lock = disk.lock(home / "lock")
        if lock is not None:
            return lock
        if (home / "socket").exists() or loop.time() > until:
            return None
        await asyncio.sleep(0.02)


def _listen(home: Path) -> socket.socket:
    directory = os.open(home, _DIRECTORY)
    try:
        (home / "socket").unlink(missing_ok=True)  # left by a killed gate: this process has the lock
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(f"/proc/self/fd/{directory}/socket")  # the path of a socket is limited to 107 bytes
        listening.listen(128)
        return listening
    finally:
        os.close(directory)


async def _until_the_end(server: Server, is_found: Callable[[], bool]) -> None:
    """Wait until the gate is to exit. `is_found` tells whether its socket still exists."""
    loop = asyncio.get_running_loop()
    used_at = loop.time()
    stopping = asyncio.ensure_future(server.stopping.wait())
    try:
        while not stopping.done():
            server.used.clear()
            used = asyncio.ensure_future(server.used.wait())
            await asyncio.wait([stopping, used], timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            if used.done() or server.is_busy:
                used_at = loop.time()
            used.cancel()
            if loop.time() - used_at >= IDLE_S or not is_found():
                return
    finally:
        stopping.cancel()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _log(text: str) -> None:
    stamp = SystemClock().now_us() // 1_000_000
    sys.stderr.write(f"{stamp} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
