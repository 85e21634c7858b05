"""The checks of `interlock doctor`: what this machine offers, what is missing, and what Interlock does not protect.

The checks change nothing, except that they create the state directory if it is absent.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, Final, Literal

import msgspec

from interlock._version import __version__
from interlock.disk import Disk
from interlock.engine.assemble import FEATURES
from interlock.engine.inspect.history import History
from interlock.engine.local.clock import SystemClock
from interlock.engine.local.location import Place, locate
from interlock.engine.local.walls import enclosure_for, offered_walls
from interlock.engine.people.identity import open_desk
from interlock.engine.runs.recover import OPEN_STATUSES
from interlock.executors.git_repository import pins_addresses
from interlock.isolation.attack_report import Leg, Row, profile_of, table
from interlock.isolation.posture import FIXES, choose, posture_of
from interlock.isolation.probe import probe
from interlock.model.errors import ConfigurationError, InterlockError, StoreError, UsageError
from interlock.model.extras import how_to_install
from interlock.settings import TrustStore, find, gather
from interlock.settings.load import load
from interlock.settings.mcp_files import read_servers
from interlock.settings.sections import Isolation
from interlock.telemetry import Sampler
from interlock.workspace import LayerMounts, Workspace, why_no_overlay
from interlock.workspace.registry import state_directory

Status = Literal["ok", "warning", "problem", "absent"]

LAYERS: Final = (
    (
        "L0",
        "environment",
        "clean environment, closed descriptors, own session, limits, no new privileges, whole tree ended",
    ),
    ("L1", "syscalls", "a filter of system calls"),
    ("L2", "fs", "Landlock: which files a process may reach"),
    ("L2", "signals", "Landlock: signals and abstract sockets stay among the processes of an action"),
    ("L3", "namespaces", "a root, a process table and users of its own"),
    ("L4", "layer", "a copy-on-write layer over the workspace"),
    ("L5", "net", "no network"),
    ("R1", "record", "a record of what processes do, from the kernel"),
    ("C", "cgroup", "a control group for each action: memory limit and accounting of whole process trees"),
)
_LOW_DISK_BYTES: Final = 100 * 1024 * 1024


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check. A `problem` prevents runs from starting; a `warning` is for a person to judge."""

    section: str
    name: str
    status: Status
    detail: str
    hint: str | None = None
    standing: bool = False
    """True if it applies to every machine: a limit of this version."""


def examine(start: Path, env: Mapping[str, str], *, clients_tried: bool = False) -> list[Fact]:
    """All facts, by section. Errors become facts; nothing is raised. With `clients_tried`, nobody is told to try the clients."""
    offered = _offered(env)
    facts = [*_machine(), *_isolation(offered, _overlay(start, env)), *_state(env)]
    try:
        place = locate(start, env, Disk())
    except InterlockError as error:
        status: Status = "warning" if "no `interlock.toml`" in error.message else "problem"
        return [
            *facts,
            _fact("project", "configuration", status, error.message, error.hint),
            *_doors(None, clients_tried),
        ]
    return [
        *facts,
        *_project(place, env, offered),
        *_approvers(place, env),
        *_runs(place),
        *_doors(place, clients_tried),
    ]


def attacks(env: Mapping[str, str]) -> list[Row]:
    """Try the escape suite on this machine: without walls where it is harmless, and behind the walls of each available profile.

    Raises: UsageError `attack_failed` if there is no such profile, or the range could not be set up.
    """
    offered = _offered(env)
    wanted: tuple[Leg, ...] = ("ns", "nons")
    legs = [leg for leg in wanted if (chosen := choose(profile_of(leg), offered)) and chosen.profile == leg]
    if not legs:
        raise UsageError(
            "this machine allows no walls to attack", code="attack_failed", hint="`interlock doctor` says what to do"
        )
    try:
        return table(legs)
    except (OSError, TimeoutExpired) as error:
        raise UsageError(
            str(error), code="attack_failed", hint="`interlock doctor` shows which walls there are"
        ) from error


def settings(start: Path, env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each setting with its value and source: `{path, value, source}`. Raises: ConfigurationError, StoreError."""
    disk = Disk()
    loaded = load(start, env=env, flags={}, trust=TrustStore(state_directory(env, disk), disk))
    return loaded.explain()


def snapshot(path: Path) -> dict[str, Any]:
    """A full reading of the machine, taken now."""
    view = Sampler(SystemClock(), path.resolve()).snapshot_now().view
    assert isinstance(view, dict)
    return view


def _fact(
    section: str, name: str, status: Status, detail: str, hint: str | None = None, *, standing: bool = False
) -> Fact:
    return Fact(section=section, name=name, status=status, detail=detail, hint=hint, standing=standing)


def _machine() -> Iterator[Fact]:
    yield _fact(
        "machine", "interlock", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    if platform.system() != "Linux":
        yield _fact("machine", "system", "problem", f"{platform.system()} is not supported", "use Linux")
    git = shutil.which("git")
    if git is None:
        yield _fact("machine", "git", "warning", "not installed: the git tools cannot work", "install git")
    else:
        version = subprocess.run([git, "version"], capture_output=True, timeout=10, check=False).stdout
        shown = version.decode(errors="replace").strip() or git
        if pins_addresses(version):
            yield _fact("machine", "git", "ok", shown)
        else:
            detail = (
                f"{shown}: the git tools refuse http and https URLs, because it is too old to be held to an address"
            )
            yield _fact("machine", "git", "warning", detail, "install git 2.37 or a later one")
    if not hasattr(os, "pidfd_open"):
        yield _fact("machine", "pidfd", "warning", "processes cannot be named safely", "a kernel from 5.3 on has it")
    if find_spec("opentelemetry") is None:
        yield _fact(
            "machine",
            "OpenTelemetry",
            "absent",
            "spans cannot be exported",
            f"{how_to_install('otel')}, if you want them",
        )


def _offered(env: Mapping[str, str]) -> dict[str, str]:
    """The layers that this machine has, probed again by setting up each one."""
    disk = Disk()
    try:
        return offered_walls(state_directory(env, disk), disk, anew=True)
    except InterlockError:
        return probe()


def _isolation(offered: Mapping[str, str], overlay: str) -> Iterator[Fact]:
    best = choose("ns", offered)
    here = posture_of("none" if best is None else best.profile, offered, recorder="notify") | {"layer": overlay}
    for layer, key, about in LAYERS:
        if here.get(key, "absent").startswith("active"):
            yield _fact("isolation", layer, "ok", f"{key}: {about}")
        else:
            detail = offered.get(key, here.get(key, "absent(not part of this version)"))
            status: Status = "warning" if key in FIXES else "absent"  # a layer that no machine has needs no remedy
            yield _fact("isolation", layer, status, f"{key}: {about}: {detail}", FIXES.get(key))
    if best is None:
        yield _fact(
            "isolation", "profile", "problem", 'no wall can be raised: programs start only with `profile = "none"`'
        )
    else:
        what = f"`{best.profile}` is the strongest that this machine allows"
        yield _fact("isolation", "profile", "ok" if best.problem is None else "warning", what, best.problem)


def _overlay(start: Path, env: Mapping[str, str]) -> str:
    """The way in which a proposal's layer is made here, found by mounting one."""
    try:
        state, found = state_directory(env, Disk()), find(start)
        root = start if found is None else found.path.parent
        with tempfile.TemporaryDirectory(dir=state, prefix="doctor-") as place, Workspace(root) as workspace:
            mounts = LayerMounts()
            try:
                why = why_no_overlay(Path(place), workspace, mounts)
            finally:
                mounts.close()
            for inside in (Path(place) / "work").glob("*"):
                inside.chmod(0o700)
    except (InterlockError, OSError) as error:
        return f"absent({error})"
    return "active" if why is None else f"absent(the workspace is copied: {why})"


def _state(env: Mapping[str, str]) -> Iterator[Fact]:
    try:
        state = state_directory(env, Disk())
    except InterlockError as error:
        yield _fact("state", "directory", "problem", error.message, error.hint)
        return
    if not os.access(state, os.W_OK | os.X_OK):
        yield _fact(
            "state", "directory", "problem", f"{state} cannot be written", "make it yours, or set INTERLOCK_STATE_DIR"
        )
        return
    yield _fact("state", "directory", "ok", str(state))
    free = shutil.disk_usage(state).free
    if free < _LOW_DISK_BYTES:
        yield _fact(
            "state",
            "space",
            "warning",
            f"{free // 2**20} MiB left on its file system",
            "free some: a full disk stops runs",
        )
    for path in (state / "keys", state / "keys" / "ed25519.pem", state / "keys" / "redaction.key"):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield _fact("state", path.name, "problem", f"{path} can be read by others", f"chmod go-rwx {path}")


def _project(place: Place, env: Mapping[str, str], offered: Mapping[str, str]) -> Iterator[Fact]:
    try:
        gathered = gather(place.root)
    except InterlockError as error:
        where = f"{error.path}: " if error.path else ""
        yield _fact("project", "configuration", "problem", where + error.message, error.hint)
        return
    try:
        load(place.root, env=env, flags={}, trust=TrustStore(place.state, Disk()))
        yield _fact("project", "configuration", "ok", f"{place.configuration}, trusted")
    except InterlockError as error:
        yield _fact("project", "configuration", "problem", error.message, error.hint)
    for name in (place.configuration, place.root):
        mode = name.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield _fact("project", name.name, "warning", f"{name} can be written by every user", f"chmod o-w {name}")
    if not os.access(place.root, os.W_OK):
        yield _fact("project", "workspace", "warning", f"{place.root} cannot be written: file tools can only read")
    if gathered.settings.journal.durability == "off":
        yield _fact("project", "journal", "warning", "durability is `off`: nothing is remembered, undo is impossible")
    yield _walls(gathered.settings.isolation, offered)
    for missing in gathered.settings.unavailable(FEATURES):
        yield _fact("project", missing.path, "problem" if missing.refuse else "warning", missing.message)


def _walls(isolation: Isolation, offered: Mapping[str, str]) -> Fact:
    """The walls of this project's processes on this machine."""
    if isolation.profile == "none":
        return _fact(
            "project", "walls", "warning",
            "`isolation.profile` is `none`: processes that agents start can read and write what this user can, the state "
            "directory too, and reach every network that this user reaches",
            'take `profile = "none"` out, or run agents as another user or in a container',
        )  # fmt: skip
    try:
        warnings: list[str] = []
        made = enclosure_for(isolation, offered, environment={}, hidden=(), warn=warnings.append)
    except ConfigurationError as error:
        return _fact("project", "walls", "problem", error.message, error.hint)
    for warning in warnings:
        return _fact("project", "walls", "warning", warning)
    return _fact("project", "walls", "ok", f"processes start behind those of the profile `{made.profile}`")


def _approvers(place: Place, env: Mapping[str, str]) -> Iterator[Fact]:
    try:
        with open_desk(place.root, env, trusted=False) as desk:
            rows = desk.approvers.all()
            waiting = len(desk.store.list_holds("pending"))
    except (StoreError, UsageError) as error:
        yield _fact("approvals", "database", "problem", error.message, error.hint)
        return
    if not rows:
        yield _fact(
            "approvals", "approvers", "warning",
            "none: every process of this user may answer, an agent's own shell too", "interlock approvers add NAME --pin",
        )  # fmt: skip
    else:
        names = ", ".join(row.name for row in rows)
        without = [row.name for row in rows if not row.has_pin]
        yield _fact("approvals", "approvers", "ok", names + (f" (no PIN: {', '.join(without)})" if without else ""))
    if waiting:
        yield _fact("approvals", "holds", "warning", f"{waiting} wait for an answer", "interlock approvals list")


def _runs(place: Place) -> Iterator[Fact]:
    try:
        with History(place, Disk()) as past:
            count = {status: len(past.runs(status=status)) for status in OPEN_STATUSES}
    except StoreError as error:
        yield _fact("runs", "database", "problem", error.message, error.hint)
        return
    total = sum(count.values())
    if not total:
        yield _fact("runs", "unfinished", "ok", "none")
        return
    counts = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    yield _fact("runs", "unfinished", "warning", counts, "interlock recover")


def _is_ours(path: Path) -> bool:
    """True for a `.mcp.json` that names no server but the gateway: `interlock install` writes such a file."""
    try:
        return path.name == ".mcp.json" and not read_servers(path.read_bytes(), path.name)
    except (OSError, ConfigurationError):
        return False


def _doors(place: Place | None, clients_tried: bool) -> Iterator[Fact]:
    """The gaps that no configuration of this version closes, listed so that no one relies on such a protection."""
    section = "gaps around Interlock"
    yield _fact(
        section, "own tools", "warning",
        "an agent's client may have a shell and an editor of its own: Interlock sees their use only if it is set up so",
        "interlock install CLIENT" + ("" if clients_tried else "; `interlock doctor --clients` tries what is open"),
        standing=True,
    )  # fmt: skip
    yield _fact(
        section, "terminal", "warning",
        "a process of this user can start `interlock run` or `resume` on a terminal of its own making and answer there",
        "set approvals.separation, and have approvers answer by PIN or token", standing=True,
    )  # fmt: skip
    if place is not None:
        for name in (".mcp.json", ".claude", ".cursor", ".vscode"):
            if (place.root / name).exists() and not _is_ours(place.root / name):
                yield _fact(
                    section, name, "warning", f"configures a client that may start {_started(place.root / name)}",
                    None if clients_tried else "`interlock doctor --clients` tries which of its tools Interlock does not see",
                )  # fmt: skip


def _started(path: Path) -> str:
    """What the client of this file may start: the servers of a `.mcp.json` by name."""
    try:
        servers = ", ".join(f"`{name}`" for name in read_servers(path.read_bytes(), path.name))
    except (OSError, ConfigurationError):
        servers = ""
    return f"{servers} without Interlock" if servers else "tools of its own"
