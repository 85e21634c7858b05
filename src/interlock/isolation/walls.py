"""Raises the walls of a `WallSpec` around the calling process. Standard library only.

Profile `ns`: the process is pid 1 of a new pid namespace and raises them around itself; then it starts the program and stays its
supervisor. A program can neither signal nor trace it: pid 1 takes no signal from within its namespace,
and it is not dumpable. Profile `nons`: the forked child raises them around itself and becomes the program.

Order: what needs capabilities first (network, root), then capabilities go, then Landlock, then the filter, which forbids most of
what came before. A step that fails is an error: nothing runs behind half a wall.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from interlock.isolation import landlock, root, seccomp, syscalls
from interlock.isolation.egress.listeners import open_listeners
from interlock.isolation.layer0 import RefusedError
from interlock.isolation.wire import EGRESS, ROOT, Walls

NAMESPACES: Final = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNET
)
"""The flags of clone for an action, which the launcher starts in its own user namespace."""
_DEVICES: Final = tuple(f"/dev/{name}" for name in (*root.DEVICES, "ptmx", "pts"))
_HOST_NAME: Final = b"box"


def enter_namespaces(walls: Walls, descriptors: dict[str, int]) -> None:
    """As pid 1 of new namespaces: set up the network, and take the root. Raises: RefusedError naming the step."""
    try:
        syscalls.call("sethostname", _HOST_NAME, len(_HOST_NAME))
        _enter_network(walls, descriptors)
    except OSError as error:
        raise RefusedError("network", error.errno or errno.EINVAL) from error
    try:
        root.enter(walls, descriptors.get(ROOT))
    except OSError as error:
        raise RefusedError("root", error.errno or errno.EINVAL) from error


def confine_inside(walls: Walls) -> None:
    """As pid 1: give up all capabilities, then Landlock and the filter. Raises: RefusedError."""
    _drop()  # the bounding set is empty already: see `root.prepare`
    if syscalls.landlock_version():  # a second wall around what the root shows; without it the root alone holds
        writable = ["/tmp", "/dev/shm", *_writable(walls)]  # noqa: S108 - the private ones
        _confine_files(["/"], writable, ["/dev"], ports=None)  # a network namespace of its own is around it
    _filter("all")


def confine_alone(walls: Walls, read: list[str], environment: dict[str, str]) -> None:
    """Without namespaces: capabilities, Landlock, which is the only wall around files here, and the filter.

    The process writes in its home (temporary files too) and where the walls say. Raises: RefusedError.
    """
    home = [environment["HOME"]] if "HOME" in environment else []
    if home:
        environment.setdefault("TMPDIR", home[0])
    ports = walls["tcp_ports"] if walls["network"] == "ports" else []
    shown = [*read, "/proc", walls["workspace"], *(bind["path"] for bind in walls["binds"])]
    if any(path.startswith(f"{walls['workspace']}/") for path in walls["hidden"]):
        raise RefusedError("hidden", errno.EACCES)  # Landlock cannot hide what lies in a directory that is shown
    syscalls.drop_bounding_set()
    _drop()
    _confine_files(shown, [*home, *_writable(walls)], _DEVICES, ports=ports)
    _filter("tcp" if ports else "pairs")


def _drop() -> None:
    try:
        syscalls.drop_capabilities()
        syscalls.forbid_new_privileges()
    except OSError as error:
        raise RefusedError("capabilities", error.errno or errno.EINVAL) from error


def _confine_files(read: list[str], write: list[str], devices: Sequence[str], *, ports: list[int] | None) -> None:
    try:
        landlock.confine(read=read, write=write, devices=devices, ports=ports)
    except OSError as error:
        raise RefusedError("landlock", error.errno or errno.EINVAL) from error


def _filter(sockets: seccomp.Sockets) -> None:
    try:
        seccomp.load(sockets)
    except OSError as error:
        raise RefusedError("seccomp", error.errno or errno.EINVAL) from error


def _enter_network(walls: Walls, descriptors: dict[str, int]) -> None:
    if walls["network"] == "proxied":
        open_listeners(os.dup(descriptors[EGRESS]), walls["egress"]["ports"])
    else:
        syscalls.raise_loopback()


def _writable(walls: Walls) -> list[str]:
    top = walls["workspace"]
    places = [f"{top}/{path}" if path else top for path in walls["writable"]]
    return [*places, *(bind["path"] for bind in walls["binds"] if bind["writable"])]
