"""What protects a process, said plainly: one entry a layer, `active` or `absent(reason)`."""

from __future__ import annotations

from typing import Final

_NOT_BUILT: Final = "absent(not built yet)"

_POSTURE: Final[dict[str, str]] = {
    # L0, in place for every process: a step of it that fails keeps the program from being started
    "environment": "active",
    "descriptors": "active",
    "session": "active",
    "no_new_privs": "active",
    "limits": "active",
    "tree": "active",
    # L1 to L5, recorder and cgroup
    "syscalls": _NOT_BUILT,
    "fs": _NOT_BUILT,
    "namespaces": _NOT_BUILT,
    "layer": _NOT_BUILT,
    "net": _NOT_BUILT,
    "record": _NOT_BUILT,
    "cgroup": _NOT_BUILT,
    "memory_tree": "absent(the memory limit is for each process; one for the tree needs a cgroup)",
}


def posture() -> dict[str, str]:
    """The posture of a process that the fork server starts."""
    return dict(_POSTURE)
