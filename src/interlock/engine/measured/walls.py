"""The walls around a person's own command: only the project, HOME and /tmp are writable, and Interlock's state is hidden."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from interlock.disk import Disk
from interlock.engine.local.location import Place
from interlock.engine.local.walls import enclosure_for, offered_walls
from interlock.executors.environment import child_environment
from interlock.isolation.posture import FIXES, Recorder, posture_of
from interlock.isolation.wire import Bind, Launch, Profile, Walls
from interlock.model.errors import ConfigurationError, UsageError
from interlock.settings.load import gather
from interlock.settings.sections import Isolation
from interlock.workspace import Workspace

OwnNetwork = Literal["none", "machine"]
_NOT_HANDED_ON: Final = frozenset({"INTERLOCK_APPROVER_TOKEN"})
"""Variables that prove a person's identity. A program that may be an agent does not get them."""
_UNLIMITED: Final = "absent(a person's own command)"


class Enclosed(NamedTuple):
    """The walls of one command, its environment and its posture."""

    profile: Profile
    walls: Walls | None
    launch: Launch
    environment: dict[str, str]
    home: bool
    posture: dict[str, str]


@contextlib.contextmanager
def enclosed(
    place: Place,
    directory: Path,
    env: Mapping[str, str],
    given: Mapping[str, str],
    *,
    profile: Profile,
    network: OwnNetwork,
    clean: bool,
    recorder: Recorder,
    shown: Sequence[str] = (),
    warn: Callable[[str], None],
) -> Iterator[Enclosed]:
    """The walls for a command that starts in `directory` with the environment `env` and `given`, and can read `shown`.

    Raises: ConfigurationError `isolation_unavailable` if the machine supports none, or lacks a required recorder;
    UsageError if `directory` is not visible behind them; StoreError.
    """
    environment = {name: value for name, value in env.items() if name not in _NOT_HANDED_ON}
    if clean:
        environment = {**child_environment(env), "TERM": env.get("TERM", "dumb"), "HOME": env.get("HOME", "/")}
    disk = Disk()
    if profile == "none":
        offered = {} if recorder == "none" else offered_walls(place.state, disk)
        posture = _own(posture_of("none", offered, recorder=recorder))
        if recorder == "none":
            posture |= dict.fromkeys(("no_new_privs", "tree"), _UNLIMITED)
        _check_recorder(recorder, posture)
        yield Enclosed("none", None, {"namespaces": False, "shown": []}, {**environment, **given}, False, posture)
        return
    offered = offered_walls(place.state, disk)
    made = enclosure_for(Isolation(profile=profile), offered, environment=env, hidden=[place.state], warn=warn)
    made = msgspec.structs.replace(made, shown=(*made.shown, *shown))
    with contextlib.ExitStack() as stack:
        home = "" if clean else _home(environment, place)
        if made.profile == "nons" or clean:
            if made.profile == "nons":  # Landlock cannot hide the state directory in a visible home
                home = stack.enter_context(tempfile.TemporaryDirectory(prefix="interlock-home-"))
                if not clean:
                    warn(
                        "without namespaces the command gets an empty HOME, because nothing else can hide Interlock's state"
                    )
                environment["HOME"] = home
            binds: list[Bind] = []
        else:
            binds = [{"path": home, "writable": True}] if home else []
        workspace = stack.enter_context(Workspace(place.root, protected=_protected(place), disk=disk))
        spec = made.around(workspace, network=network, binds=binds)
        assert spec is not None
        _check_visible(directory, place.root, home, made.shown)
        launch: Launch = {**made.launch(), "groups": False, "machine_network": network == "machine"}
        posture = _own(posture_of(made.profile, offered, network, recorder=recorder))
        _check_recorder(recorder, posture)
        if made.profile == "ns" and clean:
            environment |= made.variables
        yield Enclosed(
            made.profile, spec.wire(), launch, {**environment, **given}, made.profile == "ns" and clean, posture
        )


def _check_recorder(recorder: Recorder, posture: Mapping[str, str]) -> None:
    if recorder != "none" and not posture["record"].startswith("active"):
        raise ConfigurationError(
            f"this machine does not support a recorder: {posture['record']}",
            code="isolation_unavailable",
            hint=f"{FIXES['record']}; without `--recorder` the command runs unrecorded",
        )


def _own(posture: dict[str, str]) -> dict[str, str]:
    """The posture of a person's command: their environment and session, without limits."""
    return posture | dict.fromkeys(("environment", "session", "limits", "cgroup", "memory_tree"), _UNLIMITED)


def _home(environment: Mapping[str, str], place: Place) -> str:
    """The caller's HOME as a visible directory; empty if it is missing, the root, or above the project."""
    home = os.path.realpath(environment.get("HOME", ""))
    shown = home.count("/") > 0 and home != "/" and os.path.isdir(home)  # noqa: PTH112 - also of what may not be examined
    return home if shown and environment.get("HOME") and not Path(home).is_relative_to(place.root) else ""


def _protected(place: Place) -> tuple[str, ...]:
    """The files that the loader reads in this project; if they cannot be read, only the always protected names."""
    try:
        return gather(place.root).protected
    except ConfigurationError:
        return ()


def _check_visible(directory: Path, root: Path, home: str, shown: tuple[str, ...]) -> None:
    tops = [str(root), *([home] if home else []), *shown, "/usr", "/etc"]
    if not any(directory.is_relative_to(top) for top in tops):
        raise UsageError(
            f"the current directory is not visible behind the walls: `{directory}`",
            code="not_visible",
            hint="change to a directory of the project or of your home, or use `--profile none`",
        )
