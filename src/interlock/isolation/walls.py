"""Raises the walls of a `WallSpec` around the calling process. Standard library only.

Profile `ns`: the process is pid 1 of a new pid namespace and raises them around itself; then it starts the program and stays its
supervisor. A program can neither signal nor trace it: pid 1 takes no signal from within its namespace,
and it is not dumpable. Profile `nons`: the forked child raises them around itself and becomes the program.

Order: what needs capabilities first (network, root), then capabilities go, then Landlock, then the filter, which forbids most of
what came before. A step that fails is an error: nothing runs behind half a wall.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from interlock.isolation import landlock, root, seccomp, syscalls
from interlock.isolation.egress.listeners import open_listeners
from interlock.isolation.landlock import Beneath
from interlock.isolation.layer0 import RefusedError
from interlock.isolation.wire import EGRESS, ROOT, Walls

NAMESPACES: Final = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNET
)
"""The flags of clone for an action, which the launcher starts in its own user namespace."""
_DEVICES: Final = tuple(f"/dev/{name}" for name in root.DEVICES)
"""Without a root of its own: no pseudo-terminals, because /dev/pts has those of the user, approvals and all."""
_HOST_NAME: Final = b"box"
_PRIVATE: Final = ("/tmp", "/dev/shm")  # noqa: S108 - the action's own


def enter_namespaces(
    walls: Walls, descriptors: dict[str, int], enter_network: Callable[[Walls], None] | None = None
) -> None:
    """As pid 1 of new namespaces: set up the network, and take the root. Raises: RefusedError naming the step.

    `enter_network` enters a network namespace with its loopback up; unless given, this process's own is used.
    """
    try:
        syscalls.call("sethostname", _HOST_NAME, len(_HOST_NAME))
        if walls["network"] != "machine":
            (enter_network or _raise_loopback)(walls)
        if walls["network"] == "proxied":
            open_listeners(os.dup(descriptors[EGRESS]), walls["egress"]["ports"])
    except OSError as error:
        raise RefusedError("network", error.errno or errno.EINVAL) from error
    try:
        root.enter(walls, descriptors.get(ROOT))
    except OSError as error:
        raise RefusedError("root", error.errno or errno.EINVAL) from error


def confine_inside(walls: Walls, read: list[str], environment: dict[str, str]) -> None:
    """As pid 1: give up all capabilities, then Landlock and the filter. `read` as for `confine_alone`. Raises: RefusedError."""
    _drop()  # the bounding set is empty already: see `root.prepare`
    top, devices = walls["workspace"], ["/dev"]
    if "" in walls["readable"]:
        if syscalls.landlock_version():  # a second wall around what the root shows; without it the root alone holds
            places = _Places(["/"], [*_PRIVATE, *_written(walls)], [])
            _confine_files(places, devices, ports=None)  # a network namespace of its own is around it
    else:  # the only wall within the workspace
        private = [path for path in _PRIVATE if not top.startswith(f"{path}/")]
        if len(private) < len(_PRIVATE):  # the workspace is in a directory of temporary files
            private.append(root.HOME)
            environment.setdefault("TMPDIR", root.HOME)
        shown = [*_beside(top), *read, *(bind["path"] for bind in walls["binds"])]
        _confine_files(_Places([*shown, *_read(walls)], private, _written(walls)), devices, ports=None)
    _filter("all")


def confine_alone(walls: Walls, read: list[str], environment: dict[str, str]) -> None:
    """Without namespaces: capabilities, Landlock, which is the only wall around files here, and the filter.

    The process reads what the walls say and `read`; it writes in its home (temporary files too) and where the walls say. Raises:
    RefusedError.
    """
    home = [environment["HOME"]] if "HOME" in environment else []
    if home:
        environment.setdefault("TMPDIR", home[0])
    ports = walls["tcp_ports"] if walls["network"] == "ports" else []
    shown = [*read, "/proc", *(bind["path"] for bind in walls["binds"])]
    seen = [*shown, walls["workspace"]]
    if any(f"{path}/".startswith(f"{place.rstrip('/')}/") for path in walls["hidden"] for place in seen):
        raise RefusedError("hidden", errno.EACCES)  # Landlock cannot hide what is in a directory that is shown
    syscalls.drop_bounding_set()
    _drop()
    written, whole = _guarded(walls) if walls["guarded"] else _written(walls), "" in walls["readable"]
    if whole:
        places = _Places([*shown, walls["workspace"]], [*home, *written], [])
    else:
        places = _Places([*shown, *_read(walls)], home, written)
    machine = walls["network"] == "machine"
    _confine_files(places, _DEVICES, ports=None if machine else ports)
    _filter("inet" if machine else "tcp" if ports else "pairs")


def _drop() -> None:
    try:
        syscalls.drop_capabilities()
        syscalls.forbid_new_privileges()
    except OSError as error:
        raise RefusedError("capabilities", error.errno or errno.EINVAL) from error


class _Places(NamedTuple):
    """What may be read, read and written, and written only."""

    read: Sequence[str | Beneath]
    write: Sequence[str | Beneath]
    write_only: Sequence[str | Beneath]


def _confine_files(places: _Places, devices: Sequence[str], *, ports: list[int] | None) -> None:
    try:
        landlock.confine(**places._asdict(), devices=devices, ports=ports)
    except OSError as error:
        raise RefusedError("landlock", error.errno or errno.EINVAL) from error


def _filter(sockets: seccomp.Sockets) -> None:
    try:
        seccomp.load(sockets)
    except OSError as error:
        raise RefusedError("seccomp", error.errno or errno.EINVAL) from error


def _raise_loopback(_: Walls) -> None:
    syscalls.raise_loopback()


def _written(walls: Walls) -> list[str | Beneath]:
    places = [Beneath(walls["workspace"], path) for path in walls["writable"]]
    return [*places, *(bind["path"] for bind in walls["binds"] if bind["writable"])]


def _guarded(walls: Walls) -> list[str | Beneath]:
    """What is written if protected files have to be left out: instead of a directory that holds one, all that is beside it.

    Rights add up from a directory to what is in it, so the directory itself gets none: nothing is made or removed there.
    """
    top, protected = walls["workspace"], set(walls["protected"])
    above = {"/".join(path.split("/")[:depth]) for path in protected for depth in range(path.count("/") + 1)}
    found: list[str | Beneath] = [bind["path"] for bind in walls["binds"] if bind["writable"]]
    pending = list(walls["writable"])
    while pending:
        place = pending.pop()
        if place in protected or any(place.startswith(f"{path}/") for path in protected):
            continue
        if place not in above:
            found.append(Beneath(top, place))
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            pending += [f"{place}/{name}".lstrip("/") for name in os.listdir(f"{top}/{place}")]
    return found


def _read(walls: Walls) -> list[str | Beneath]:
    return [Beneath(walls["workspace"], path) for path in walls["readable"]]


def _beside(workspace: str) -> list[str]:
    """All that the root shows but the workspace: in each directory on the way to it, what is beside."""
    found: list[str] = []
    directory = ""
    for name in workspace.strip("/").split("/"):
        found += [f"{directory}/{other}" for other in os.listdir(directory or "/") if other != name]
        directory += f"/{name}"
    return found
