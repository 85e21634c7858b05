"""The walls that this machine allows, remembered for one boot and user, and those that a configuration uses."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from interlock._version import __version__
from interlock.disk import Disk
from interlock.engine.local.machine import boot_id
from interlock.executors.enclosure import Enclose, Enclosure, enclosure
from interlock.executors.exceeded import ProcessLimits
from interlock.isolation.posture import FIXES, choose, lacking
from interlock.lazy import lazy
from interlock.model.errors import ConfigurationError
from interlock.settings import Settings
from interlock.settings.sections import Isolation

if TYPE_CHECKING:
    from interlock.isolation import probe as machine
else:
    machine = lazy("interlock.isolation.probe")

_FILE: Final = "walls.json"
_BYTES_MAX: Final = 64 * 1024


def offered_walls(state: Path | None, disk: Disk, *, anew: bool = False) -> dict[str, str]:
    """Each layer with `active` or `absent(reason)`. Probed once per boot, user, container, kernel, Python; `anew` probes again.

    Without a state directory only this process remembers the results. Raises: StoreError.
    """
    if state is None:
        return dict(_probe_once())
    key = [boot_id(), os.geteuid(), *_around(), platform.release(), sys.executable, __version__]
    path = state / _FILE
    if not anew:
        try:
            known = json.loads(path.read_bytes()[:_BYTES_MAX])
            if known["key"] == key:
                return dict(known["layers"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not probed yet, or for another boot: probe
    layers = machine.probe() if anew else dict(_probe_once())
    disk.write_atomic(path, json.dumps({"key": key, "layers": layers}).encode() + b"\n")
    return layers


def _around() -> list[str]:
    """What is around this process, as far as /proc shows it: containers with one state directory may allow different walls."""
    found = []
    with contextlib.suppress(OSError):
        found += [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt")]  # noqa: PTH115 - not a path
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        found += [line for line in status if line.startswith(("NoNewPrivs", "Seccomp", "CapEff", "CapBnd"))]
    with contextlib.suppress(OSError):
        found.append(Path("/proc/self/attr/current").read_text(encoding="utf-8", errors="replace"))
    return found


@functools.lru_cache(maxsize=1)
def _probe_once() -> tuple[tuple[str, str], ...]:
    return tuple(machine.probe().items())


def enclosure_for(
    isolation: Isolation,
    offered: Mapping[str, str],
    *,
    environment: Mapping[str, str],
    hidden: Sequence[Path],
    warn: Callable[[str], None],
) -> Enclosure:
    """The walls that the settings ask for, as far as the machine has them; `warn` is called for a weaker profile.

    Raises: ConfigurationError `isolation_unavailable` if no wall can be raised and `none` was not asked for, or if a layer of
    `isolation.require` is missing.
    """
    if isolation.profile == "none":
        made = Enclosure()
    else:
        chosen = choose(isolation.profile, offered)
        if chosen is None:
            missing = [name for name, found in offered.items() if found != "active"]
            raise ConfigurationError(
                f"this machine allows none of the walls of the profile `{isolation.profile}`: "
                + "; ".join(f"{name} {offered[name]}" for name in missing),
                code="isolation_unavailable",
                path="isolation.profile",
                hint=f'{_fix(missing)}; or write `profile = "none"` and run programs without walls',
            )
        if chosen.problem is not None:
            warn(
                f"isolation.profile: `{chosen.profile}` is used in place of `{isolation.profile}`: {chosen.problem}; "
                f'`interlock doctor` says what to do, and `profile = "{chosen.profile}"` that this is enough for you'
            )
        made = enclosure(
            chosen.profile,
            offered,
            environment=environment,
            hidden=hidden,
            tmp_bytes=isolation.tmp_bytes,
            read=isolation.read,
        )
    made = msgspec.structs.replace(
        made, require=tuple(isolation.require), recorder=isolation.recorder, offered=dict(offered)
    )
    record = made.posture()["record"]
    if isolation.recorder != "none" and not record.startswith("active"):
        warn(f"isolation.recorder: this machine allows no recorder, {record}; `interlock doctor` says what to do")
    absent = lacking(isolation.require, made.posture())
    if absent:
        raise ConfigurationError(
            f"a layer that `isolation.require` names is missing: {'; '.join(absent)}",
            code="isolation_unavailable",
            path="isolation.require",
            hint=_fix([one.partition(":")[0] for one in absent]),
        )
    return made


def process_limits(isolation: Isolation) -> ProcessLimits:
    """The limits of a process action in the settings."""
    return ProcessLimits(
        memory_bytes=isolation.memory_bytes,
        processes=isolation.processes,
        cpu_ms=isolation.cpu_ms,
        file_bytes=isolation.file_bytes,
        open_files=isolation.open_files,
        layer_bytes=isolation.disk_bytes,
        output_bytes=isolation.output_bytes,
    )


class Warned(Protocol):
    """Receives warnings about missing walls."""

    def warn_once(self, text: str) -> None:
        """Send a warning to people, unless that was done before."""
        ...


def open_walls(
    settings: Settings,
    env: Mapping[str, str],
    state: Path | None,
    disk: Disk,
    hooks: Warned,
    *,
    undo: bool = False,
) -> Enclose:
    """The walls of a runtime on this machine, probed when the first process starts; with `isolation.require` at once.

    Raises: ConfigurationError `isolation_unavailable`, StoreError; now, or when the result is called. With `undo` a machine
    without walls can still undo changes to files; programs do not start.
    """

    @functools.cache
    def enclose() -> Enclosure:
        isolation = settings.isolation
        probed = isolation.profile != "none" or isolation.recorder != "none"
        offered = offered_walls(state, disk) if probed else {}
        hidden = [] if state is None else [state]
        return enclosure_for(isolation, offered, environment=env, hidden=hidden, warn=hooks.warn_once)

    if settings.isolation.require and not undo:
        enclose()
    return enclose


def _fix(layers: Sequence[str]) -> str:
    known = [FIXES[name] for name in layers if name in FIXES]
    return known[0] if known else "`interlock doctor` shows each layer"
