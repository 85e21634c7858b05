"""The posture of a process: one entry per layer of isolation, `active` or `absent(reason)`.

`probe` finds out what the machine supports; the posture of an action follows from that and from its profile. The rule that
nothing degrades silently is implemented here: an unavailable profile becomes the next weaker one with a reason, or an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from interlock.isolation.wire import Network, Profile

ACTIVE: Final = "active"
PROBED: Final = ("syscalls", "fs", "signals", "namespaces", "net")
"""The layers that a machine may lack, which `isolation.require` can name."""
_L0: Final = ("environment", "descriptors", "session", "no_new_privs", "limits", "tree")
"""Layers that every process has; if a step of them fails, the program is not started."""
_NEEDED: Final[dict[Profile, tuple[str, ...]]] = {
    "ns": ("namespaces", "syscalls"),
    "nons": ("fs", "syscalls"),
    "none": (),
}
_NO_GROUP: Final = "absent(no control group was delegated)"
MEMORY_BY: Final = {
    True: "active(the kernel holds the tree, by its cgroup)",
    False: "active(measured 20 times a second for the tree; RLIMIT_DATA holds each process)",
}
"""How the memory of a tree is limited: by its cgroup (True), or measured (False)."""
Recorder = Literal["none", "notify"]
"""What records the calls of processes: nothing, or seccomp user notification. An eBPF recorder would be added here."""
_NO_RECORDER: Final = "absent(not switched on: `isolation.recorder`)"
_RECORDS: Final = "active(attempts, by seccomp user notification)"
RECORD_PROBES: Final[dict[Profile, str]] = {"ns": "record", "nons": "record_alone", "none": "record_alone"}
"""What the machine must support for a recorder."""

_MACHINE_NET: Final = "absent(the network of this machine was asked for)"
_DIRECT: Final = "absent(it works on the files themselves)"
_ANY_HOST: Final = (
    "absent(git is told the address that was judged; the kernel holds it to TCP and, from Linux 6.7 on, to the port of its URL, "
    "and cannot hold it to the address)"
)
_NO_WALLS: Final = "absent(profile `none`)"
_GUARDED: Final = "active(nothing is made, renamed or removed in the directories that hold what Interlock reads)"
_UNGUARDED: Final = (
    "absent(without namespaces a file cannot be excepted from a directory that is written; an edit is found, at the end of a "
    "process in a layer, else before the next run; `isolation.require` can ask for more)"
)
_NO_HOSTS: Final = "active(no network at all: without namespaces one host cannot be told from another)"

FIXES: Final = {
    "syscalls": "a kernel with seccomp (CONFIG_SECCOMP_FILTER), on x86-64 or aarch64",
    "fs": "a kernel with Landlock: Linux 5.13 or newer, `landlock` among the `lsm=` of its command line",
    "signals": "Linux 6.12 or newer",
    "namespaces": "allow user namespaces: `sysctl user.max_user_namespaces=15000`; on Debian "
    "`kernel.unprivileged_userns_clone=1`; on Ubuntu 24.04 an AppArmor profile for Python that allows `userns`, or "
    "`kernel.apparmor_restrict_unprivileged_userns=0`; in Docker `--security-opt seccomp=unconfined --security-opt "
    "systempaths=unconfined`, or stay with the profile `nons`",
    "net": "a kernel with seccomp (CONFIG_SECCOMP_FILTER)",
    "layer": "user namespaces (as above), Linux 6.15 or newer for profile `ns`, and a state directory (INTERLOCK_STATE_DIR) on a "
    "file system of its own kind, such as ext4, xfs or btrfs, and not on a container's overlay",
    "record": "Linux 5.9 or newer with seccomp, and for the profile `nons` the right to trace one's own processes "
    "(`sysctl kernel.yama.ptrace_scope=0`)",
    "cgroup": "start Interlock in a separate control group: `systemd-run --user --scope -p Delegate=yes interlock ...`, or "
    "`Delegate=yes` in its service; without one the memory of a tree is measured",
}
"""How to enable an absent layer."""


class Chosen(NamedTuple):
    """The profile in use, and why it is not the configured one."""

    profile: Profile
    problem: str | None = None
    """What is missing; None if the configured profile is in use."""


def choose(wanted: Profile, offered: Mapping[str, str]) -> Chosen | None:
    """Returns the strongest profile from `wanted` downwards that this machine supports; None if that is only `none`."""
    ladder: tuple[Profile, ...] = ("ns", "nons") if wanted == "ns" else (wanted,)
    problem = None
    for profile in ladder:
        missing = [f"{name} {offered.get(name)}" for name in _NEEDED[profile] if offered.get(name) != ACTIVE]
        if not missing:
            return Chosen(profile, problem)
        problem = problem or "; ".join(missing)
    return None


def posture_of(
    profile: Profile,
    offered: Mapping[str, str],
    network: Network = "none",
    *,
    guarded: bool = False,
    recorder: Recorder = "none",
) -> dict[str, str]:
    """Returns the posture of a process with a profile. `guarded`: see `spec.WallSpec`."""
    found = dict.fromkeys(_L0, ACTIVE)
    found["configuration"] = {"ns": ACTIVE, "nons": _GUARDED if guarded else _UNGUARDED, "none": _NO_WALLS}[profile]
    if profile == "none":
        found |= dict.fromkeys(PROBED, _NO_WALLS)
    elif profile == "nons":
        found |= {name: offered[name] for name in ("syscalls", "fs", "signals")}
        net = {"none": ACTIVE, "proxied": _NO_HOSTS, "ports": _ANY_HOST, "machine": _MACHINE_NET}[network]
        found |= {"namespaces": "absent(profile `nons`)", "net": net}
    else:
        found |= dict.fromkeys(PROBED, ACTIVE)
        if network == "machine":
            found["net"] = _MACHINE_NET
        if offered["fs"] != ACTIVE:
            found["fs"] = "active(the root alone: no Landlock behind it)"
    record = offered.get(RECORD_PROBES[profile], "absent(it was not looked for)")
    if record == ACTIVE:
        record = _RECORDS
    if recorder == "none":
        record = _NO_RECORDER
    return {**found, "layer": _DIRECT, "record": record, **posture_of_group(offered.get("cgroup") == ACTIVE)}


def posture_of_group(grouped: bool) -> dict[str, str]:
    """Returns the posture entries for control groups: whether a cgroup limited the tree's memory.

    Each action reports them, because groups depend on how Interlock was started.
    """
    return {"cgroup": ACTIVE if grouped else _NO_GROUP, "memory_tree": MEMORY_BY[grouped]}


def lacking(require: Iterable[str], posture: Mapping[str, str]) -> list[str]:
    """Returns the required layers that are not active, each with its reason."""
    return [
        f"{name}: {posture.get(name, 'absent')}" for name in require if not posture.get(name, "").startswith(ACTIVE)
    ]
