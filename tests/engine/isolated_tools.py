"""Functions for the tests of isolation in a process: what they do shows where they run."""

import os
import socket
import time
from pathlib import Path

import interlock

SEEN = []
OTHER = Path(__file__).with_name("engine_world.py")


@interlock.tool(isolation="process", read_only=True)
def where(secret: str) -> dict:
    """What a call sees."""
    SEEN.append(secret)
    try:
        read = Path(secret).read_text()
    except OSError as error:
        read = type(error).__name__
    try:
        socket.create_connection(("127.0.0.1", 1), 1)
    except OSError as error:
        network = type(error).__name__
    return {
        "pid": os.getpid(), "cwd": str(Path.cwd()), "read": read, "network": network, "calls": len(SEEN),
        "environment": "INTERLOCK_TEST_SECRET" in os.environ,
    }  # fmt: skip


@interlock.tool(isolation="process", timeout="500ms")
async def hang(seconds: str, ctx: interlock.Context) -> None:
    """Log, start a program that would live on, and sleep."""
    ctx.log("begun")
    if os.fork() == 0:
        os.setsid()
        os.execvp("sleep", ["sleep", seconds])
    time.sleep(60)


@interlock.tool(isolation="process")
def write(path: str, text: str) -> None:
    """Write a file of the workspace."""
    Path(path).write_text(text)


@interlock.tool(isolation="process")
def end() -> None:
    """End the process."""
    os._exit(3)
