"""Raises the walls of a `WallSpec` around the calling process. Uses only the standard library.

Profile `ns`: the process is pid 1 of a new pid namespace and raises the walls around itself; then it starts the program and
remains its supervisor. The program can neither signal nor trace it, because pid 1 ignores signals from within its namespace,
and it is not dumpable. Profile `nons`: the forked child raises the walls around itself and executes the program.

Order: first what needs capabilities (network, root), then capabilities are dropped, then Landlock, then the filter,
which forbids most of the preceding steps. A failed step is an error: nothing runs behind incomplete walls.
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
"""Clone flags for an action, which the launcher starts in its own user namespace."""
_DEVICES: Final = tuple(f"/dev/{name}" for name in root.DEVICES)
"""Without a private root, there are no pseudo-terminals, because /dev/pts has the user's own, in which approvals are given."""
_HOST_NAME: Final = b"box"
_PRIVATE: Final = ("/tmp", "/dev/shm")  # noqa: S108 - private to the action


def enter_namespaces(walls: Walls, descriptors: dict[str, int], enter_network: Callable[[], int] | None = None) -> None:
    """As pid 1 of new namespaces: set up the network, and change the root. Raises: RefusedError, which names the step.

    `enter_network` enters a network namespace with its loopback up, and returns the family of its listeners. By default,
    this process's own namespace is used, which must not be `proxied`.
    """
    try:
        syscalls.call("sethostname", _HOST_NAME, len(_HOST_NAME))
        if walls["network"] != "machine":
            family = (enter_network or _raise_loopback)()
            if walls["network"] == "proxied":
                open_listeners(os.dup(descriptors[EGRESS]), walls["egress"]["ports"], family)
    except OSError as error:
        raise RefusedError("network", error.errno or errno.EINVAL) from error
    try:
        root.enter(walls, descriptors.get(ROOT))
    except OSError as error:
        raise RefusedError("root", error.errno or errno.EINVAL) from error


def confine_inside(walls: Walls, read: list[str], environment: dict[str, str]) -> None:
    """As pid 1: drop all capabilities, then apply Landlock and the filter.

    `read` as for `confine_alone`. Raises: RefusedError.
    """
    _drop()  # the bounding set is already empty: see `root.prepare`
    top, devices = walls["workspace"], ["/dev"]
    if "" in walls["readable"]:
        if syscalls.landlock_version():  # a second wall; without Landlock, the root alone confines
            places = _Places(["/"], [*_PRIVATE, *_written(walls)], [])
            _confine_files(places, devices, ports=None)  # its own network namespace confines the network
    else:  # the only wall within the workspace
        private = [path for path in _PRIVATE if not top.startswith(f"{path}/")]
        if len(private) < len(_PRIVATE):  # the workspace is in a directory for temporary files
            private.append(root.HOME)
            environment.setdefault("TMPDIR", root.HOME)
        shown = [*_beside(top), *read, *(bind["path"] for bind in walls["binds"])]
        _confine_files(_Places([*shown, *_read(walls)], private, _written(walls)), devices, ports=None)
    _filter("all")


def confine_alone(walls: Walls, read: list[str], environment: dict[str, str]) -> None:
    """Without namespaces: drop capabilities, then apply Landlock, which is the only wall around files here, and the filter.

    The process reads what the walls and `read` allow. It writes to its home (including temporary files) and where the
    walls allow. Raises: RefusedError.
    """
    home = [environment["HOME"]] if "HOME" in environment else []
    if home:
        environment.setdefault("TMPDIR", home[0])
    ports = walls["tcp_ports"] if walls["network"] == "ports" else []
    shown = [*read, "/proc", *(bind["path"] for bind in walls["binds"])]
    seen = [*shown, walls["workspace"]]
    if any(f"{path}/".startswith(f"{place.rstrip('/')}/") for path in walls["hidden"] for place in seen):
        raise RefusedError("hidden", errno.EACCES)  # Landlock cannot hide a path inside a shown directory
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
    """Paths that may be read, read and written, and only written."""

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


def _raise_loopback() -> int:
    syscalls.raise_loopback()
    return 0


def _written(walls: Walls) -> list[str | Beneath]:
    places = [Beneath(walls["workspace"], path) for path in walls["writable"]]
    return [*places, *(bind["path"] for bind in walls["binds"] if bind["writable"])]


def _guarded(walls: Walls) -> list[str | Beneath]:
    """Returns the writable paths without protected files: a directory that contains one is replaced by its other entries.

    Landlock rights add up from a directory to its contents, so the directory itself gets none: nothing can be created
    or removed there.
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
    """Everything that the root shows except the workspace: the other entries of each directory on the way to it."""
    found: list[str] = []
    directory = ""
    for name in workspace.strip("/").split("/"):
        found += [f"{directory}/{other}" for other in os.listdir(directory or "/") if other != name]
        directory += f"/{name}"
    return found
