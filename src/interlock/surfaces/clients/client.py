"""The description of a client: its files, its versions, its hooks, and what stays open. Each client's file creates one."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import interlock
from interlock.surfaces.clients.entries import Entry
from interlock.surfaces.clients.hooks import GATEWAY, Dialect
from interlock.surfaces.clients.trial import Place, Tried

Mode = Literal["guard", "replace"]
"""`replace`: the client's own tools are off, and Interlock's are offered. `guard`: hooks check the client's own tools."""
Scope = Literal["project", "user", "managed"]
"""Whose settings to change: the project's, the user's for all projects, or the machine's, which cannot be overridden."""

SERVER: Final = GATEWAY
STATE_VARIABLE: Final = "INTERLOCK_STATE_DIR"
_HERE: Final = str(Path(interlock.__file__).parent / "surfaces" / "clients")
HOOK_PROGRAM: Final = (
    sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({_HERE!r}); import hook_program; hook_program.run()",
)  # fmt: skip
"""Starts `hook_program.py`. It is imported instead of run by its path, so that it is not compiled for each call."""
HOOK_SECONDS: Final = 100
"""Time limit of a hook. The client's own limit must be greater, because many clients let a call pass when it is reached."""
CLIENT_HOOK_SECONDS: Final = 130


class Setup(NamedTuple):
    """The parameters for setting up a client."""

    mode: Mode
    scope: Scope
    agent: str | None
    root: Path
    """The project's root."""
    env: Mapping[str, str]

    @property
    def project(self) -> Path | None:
        """The project to which the hooks are bound; None in scopes that cover all projects."""
        return self.root if self.scope == "project" else None


class Client(NamedTuple):
    """One client. To add one, write a file that creates it, and list it in `known.py`."""

    name: str
    program: str
    """The command that starts it."""
    tested: tuple[str, ...]
    """The versions with which the doors were tested."""
    modes: tuple[Mode, ...]
    """The supported modes; the first is the default."""
    scopes: Mapping[tuple[Mode, Scope], Callable[[Setup], Path]]
    """The supported combinations of mode and scope, with the directory of the files."""
    files: Callable[[Setup], dict[str, tuple[Entry, ...]]]
    """The entries for each file, by the file's path in the scope's directory, or its absolute path."""
    more: Callable[[Setup, Mapping[Path, bytes | None]], dict[str, tuple[Entry, ...]]] | None = None
    """Further entries that depend on the content of the files above. Raises: UsageError."""
    comments: bool = False
    """True if it reads JSON with comments."""
    dialect: Dialect | None = None
    """The protocol of its hooks; None if it has none."""
    open_doors: Mapping[Mode, tuple[str, ...]] = {}
    """What stays open in each mode except for managed settings, in sentences for people. Each has a test."""
    not_read_in: str = ""
    """The directories of a project in which it does not read the project's settings when it is started there."""
    probe: Mapping[str, Any] = {}
    """An event before a call of a tool that does not exist. A working hook refuses it."""
    trial: Callable[[Place], list[Tried]] | None = None
    """Tries the client's own tools in a real run; None if that is not possible."""
    trial_files: tuple[str, ...] = ()
    """The files of a project that a trial needs."""
    trial_home_files: tuple[str, ...] = ()
    """The files of the user's home that a trial needs."""
    server_files: tuple[str, ...] = ()
    """The files of a project in which it finds MCP servers."""

    def left_open(self, mode: Mode, scope: Scope) -> tuple[str, ...]:
        """What stays open in this mode and scope."""
        if scope == "managed":
            return ()
        doors = self.open_doors.get(mode, ())
        if scope == "user" or not self.not_read_in:
            return doors
        user = "; take the scope `user`" if ("guard", "user") in self.scopes and mode == "guard" else ""
        return (
            *doors,
            f"started in {self.not_read_in}, it does not read the project's settings, and works without Interlock{user}",
        )


def home_of(setup: Setup) -> Path:
    """The user's home."""
    return Path(setup.env.get("HOME") or "~").expanduser()


def gateway_entry(setup: Setup) -> dict[str, Any]:
    """The server entry that starts the gateway."""
    server: dict[str, Any] = {
        "command": program(),
        "args": ["gateway", *([] if setup.agent is None else ["--agent", setup.agent])],
    }
    if STATE_VARIABLE in setup.env:  # otherwise the gateway would store holds where the terminal does not find them
        server["env"] = {STATE_VARIABLE: setup.env[STATE_VARIABLE]}
    return server


def _state(setup: Setup) -> str:
    """The state directory to name in a hook, so that variables of the client (its settings can set some) do not choose it.

    For all users of a machine there is none: each has an own one.
    """
    named = setup.env.get(STATE_VARIABLE, "")
    if named or setup.scope == "managed":
        return named
    return str(Path(setup.env.get("XDG_STATE_HOME") or home_of(setup) / ".local" / "state") / "interlock")


def program() -> str:
    """The absolute path of the command that this process runs as, because the client may have another PATH."""
    beside = Path(sys.executable).with_name("interlock")
    return str(beside) if os.access(beside, os.X_OK) else str(Path(sys.argv[0]).resolve())


def starts_gateway(command: str, arguments: Sequence[str], root: str) -> bool:
    """True if an MCP server is started as Interlock's gateway, by a program that the project at `root` did not bring."""
    if list(arguments[:1]) != ["gateway"]:
        return False
    real = os.path.realpath(command)
    if real == os.path.realpath(program()) or command == GATEWAY:
        return True
    return Path(command).is_absolute() and Path(real).name == GATEWAY and not Path(real).is_relative_to(root or "/")


def hook_command(client: str, setup: Setup, *, event: str = "") -> str:
    """The hook as a shell command. If the hook program cannot answer, it exits with code 2 and a reason.

    The interpreter is named by its absolute path, and ignores site packages and the environment. So it starts in a
    fraction of the time, and nothing that an agent could write takes part in it. In replace mode the gate refuses the
    client's own tools, for clients without a setting that removes them.
    """
    named = {
        "event": event,
        "project": "" if setup.project is None else str(setup.project),
        "agent": setup.agent or "",
        "mode": "replace" if setup.mode == "replace" else "",
        "state": _state(setup),
        "seconds": str(HOOK_SECONDS),
    }
    given = [f"{name}={value}" for name, value in named.items() if value]
    command = shlex.join([*HOOK_PROGRAM, client, *given])
    return f"{command} || {{ echo 'Interlock: no answer from its hook, so nothing is allowed' >&2; exit 2; }}"
