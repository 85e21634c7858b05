"""The walls around one process action: the interface between the code that decides what is allowed and the launcher.

A `WallSpec` is made in the runtime (by the executors, from the grant and the settings; the workspace layer and the egress proxy
add their descriptors), travels as JSON with its descriptors beside it, and is carried out by `walls` in the process that it is
for. Nothing in it is secret.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from interlock.isolation.wire import EGRESS, INWARD, ROOT, Bind, Network, Profile, Walls


@dataclasses.dataclass(frozen=True, kw_only=True)
class WallSpec:
    """The walls around one action. Paths are absolute unless said otherwise."""

    profile: Profile
    workspace: str
    """The workspace's root: the same path inside as outside."""
    root: int | None = None
    """The merged root of a workspace layer: a directory descriptor that is mounted at `workspace` in place of the directory
    there. Stays the caller's. None: the directory itself (`direct`)."""
    copy: str | None = None
    """A directory that is shown at `workspace` in place of the directory there: a layer that is a copy."""
    writable: tuple[str, ...] = ("",)
    """Paths beneath the workspace (relative; "" is all of it) that may be written; the rest of it is read-only."""
    readable: tuple[str, ...] = ("",)
    """Paths beneath the workspace (relative; "" is all of it) that may be read. What may only be written cannot be read back."""
    protected: tuple[str, ...] = ()
    """Paths beneath the workspace (relative) that are never written: what the loader reads."""
    guarded: bool = False
    """In `nons`, where a file cannot be excepted from a directory that is written: nothing is made, renamed or removed in the
    directories that hold a protected file; what is beside it, and beneath that, is written as ever."""
    hidden: tuple[str, ...] = ()
    """Paths that are empty inside, should they be beneath something that is seen: the state directory."""
    binds: tuple[Bind, ...] = ()
    """What is seen besides the system's own directories and the workspace."""
    network: Network = "none"
    tcp_ports: tuple[int, ...] = ()
    """With the network `ports`: the only ports that the program may connect to."""
    egress: int | None = None
    """With `proxied`: one end of a socket (SOCK_SEQPACKET) on which the listeners of the new network namespace are passed out
    before the program starts (`walls._enter_network`). Stays the caller's."""
    inward: int | None = None
    """With `proxied`: one end of a socket on which others may ask for sockets of the program's network namespace
    (`interlock.isolation.inward`). Stays the caller's."""
    egress_plan: Any = None
    """A JSON value for the code that makes the listeners: ports, for example."""
    tmp_bytes: int = 1024**3
    """Size of the private /tmp (and of /dev/shm)."""

    def wire(self) -> Walls:
        """The JSON form, without the descriptors."""
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
        """The descriptors that go with it, by name (`ROOT`, `EGRESS`, `INWARD`)."""
        given = {ROOT: self.root, EGRESS: self.egress, INWARD: self.inward}
        return {name: fd for name, fd in given.items() if fd is not None}
