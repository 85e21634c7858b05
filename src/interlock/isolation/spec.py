"""The walls around one process action: the interface between the code that decides what is allowed and the launcher.

A `WallSpec` is created in the runtime (by the executors, from grant and settings; the workspace layer and the egress
proxy add their descriptors). It is sent as JSON with its descriptors, and `walls` applies it in the process that it is
for. It contains no secrets. Uses only the standard library, because the attacks' range does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from interlock.isolation.wire import EGRESS, INWARD, ROOT, Bind, Network, Profile, Walls


class WallSpec(NamedTuple):
    """The walls around one action. Paths are absolute unless stated otherwise."""

    profile: Profile
    workspace: str
    """The workspace's root, which has the same path inside and outside."""
    root: int | None = None
    """The merged root of a workspace layer, a directory descriptor; None: the directory itself (`direct`).

    It is mounted at `workspace` in place of the directory there. The caller keeps it.
    """
    copy: str | None = None
    """A directory shown at `workspace` in place of the directory there: a layer that is a copy."""
    writable: tuple[str, ...] = ("",)
    """Paths beneath the workspace (relative; "" is all of it) that may be written. The rest is read-only."""
    readable: tuple[str, ...] = ("",)
    """Paths beneath the workspace (relative; "" is all of it) that may be read.

    A path that is only writable cannot be read back.
    """
    protected: tuple[str, ...] = ()
    """Paths beneath the workspace (relative) that are never written, because Interlock loads them."""
    guarded: bool = False
    """For `nons`: nothing can be created, renamed or removed in directories that contain a protected file.

    `nons` cannot exclude a file from a writable directory. Existing files and directories beside it stay writable.
    """
    hidden: tuple[str, ...] = ()
    """Paths that appear empty inside if they are beneath something visible: the state directory."""
    binds: tuple[Bind, ...] = ()
    """Paths visible besides the system's own directories and the workspace."""
    network: Network = "none"
    tcp_ports: tuple[int, ...] = ()
    """With the network `ports`: the only ports that the program may connect to."""
    egress: int | None = None
    """With `proxied`: one end of a socket (SOCK_SEQPACKET) that passes out the listeners of the new network namespace.

    They are passed before the program starts (`walls._enter_network`). The caller keeps the end.
    """
    inward: int | None = None
    """With `proxied`: one end of a socket that requests sockets of the program's network namespace.

    See `interlock.isolation.inward`. The caller keeps the end.
    """
    egress_plan: Any = None
    """A JSON value for the code that creates the listeners, such as ports."""
    tmp_bytes: int = 1024**3
    """Size of the private /tmp (and of /dev/shm)."""

    def wire(self) -> Walls:
        """Returns the JSON form, without the descriptors."""
        return {
            "profile": self.profile,
            "workspace": self.workspace,
            "layer": self.root is not None,
            "copy": self.copy or "",
            "writable": list(self.writable),
            "readable": list(self.readable),
            "protected": list(self.protected),
            "guarded": self.guarded,
            "hidden": list(self.hidden),
            "binds": list(self.binds),
            "network": self.network,
            "tcp_ports": list(self.tcp_ports),
            "egress": self.egress_plan,
            "tmp_bytes": self.tmp_bytes,
        }

    def descriptors(self) -> dict[str, int]:
        """Returns the descriptors to send with it, by name (`ROOT`, `EGRESS`, `INWARD`)."""
        given = {ROOT: self.root, EGRESS: self.egress, INWARD: self.inward}
        return {name: fd for name, fd in given.items() if fd is not None}
