"""`interlock gate`. The command tree refers to this module by name, and passes the output functions in click's context."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import click

from interlock.disk import Disk
from interlock.model import typed
from interlock.model.errors import StoreError
from interlock.surfaces.clients.hook_program import Failure, Gate
from interlock.workspace.registry import state_directory

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.02


class Speaks(Protocol):
    """The output functions that the command line passes in."""

    def emit(self, document: Any, text: Callable[[], Iterable[str]] | None = None) -> None:
        """Print the answer: one document with `--json`, else lines."""


@click.group("gate")
def gate() -> None:
    """Start, inspect and stop the resident gate, which the hooks of coding agents use. They start it when needed."""


@gate.command("start")
@click.pass_obj
def start(out: Speaks) -> None:
    """Start the gate of this user, unless it is running."""
    status = _ask(b"status", start=True)
    out.emit(status, lambda: _text(status))


@gate.command("status")
@click.pass_obj
def show_status(out: Speaks) -> None:
    """Show whether the gate is running, and which projects are open in it."""
    status = _ask(b"status", start=False)
    out.emit(status, lambda: _text(status))


@gate.command("stop")
@click.pass_obj
def stop(out: Speaks) -> None:
    """Stop the gate. Held calls stay on disk; the next hook starts it again."""
    status = _ask(b"status", start=False)
    if status["running"]:
        _ask(b"stop", start=False)
        until = time.monotonic() + _STOP_SECONDS
        while not _has_ended(status["pid"]):
            if time.monotonic() > until:
                raise StoreError("the gate does not exit", code="gate_failed", hint=f"`kill {status['pid']}` ends it")
            time.sleep(_LOOK_SECONDS)
    out.emit({"stopped": status["running"]}, lambda: ["stopped" if status["running"] else "not running"])


def _ask(what: bytes, *, start: bool) -> dict[str, Any]:
    """The gate's answer, with `running`. Raises: StoreError `gate_failed`."""
    state = state_directory(os.environ, Disk())
    asked = Gate(str(state), time.monotonic() + _START_SECONDS)
    request = b"interlock 1 " + what + b"\n" + bytes(16)
    try:
        answer = asked.ask(request) if start else asked.ask_once(request)
    except Failure as error:
        raise StoreError(str(error), code="gate_failed", hint=f"`{state}/gate/log` may show the reason") from None
    if answer is None:
        return {"running": False}
    size = int.from_bytes(answer[1:9], "big")
    return {"running": True, **typed.decode(answer[17 : 17 + size], dict)}


def _has_ended(pid: int) -> bool:
    """True once the gate has released its lock, or another gate has it."""
    disk = Disk()
    lock = disk.lock(state_directory(os.environ, disk) / "gate" / "lock")
    if lock is None:
        return bool(_ask(b"status", start=False).get("pid", pid) != pid)
    os.close(lock)
    return True


def _text(status: dict[str, Any]) -> Iterator[str]:
    if not status["running"]:
        yield "not running; a hook starts it when needed"
        return
    yield f"running: version {status['version']}, process {status['pid']}"
    for project in status["projects"]:
        yield f"  {project['root']}: {project['open']} calls in progress, {project['waiting']} waiting for approval"
