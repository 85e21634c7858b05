"""Tries a real client: does one of its own tools work although Interlock should stop it?

The client runs in a temporary directory and home, with copies of its settings, with a scripted model on loopback. Each
call in a trial must not be allowed, because it works outside of the project. So a file that it leaves is an open door.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from interlock.model.errors import UsageError

SECONDS: Final = 120
_PASSED_ON: Final = ("PATH", "LANG", "TERM", "USER", "LOGNAME", "INTERLOCK_STATE_DIR", "XDG_STATE_HOME")


class Tried(NamedTuple):
    """The result for one door."""

    door: str
    is_open: bool | None
    """None if it could not be tried."""
    detail: str


class Place(NamedTuple):
    """The place in which a client is tried."""

    program: Path
    work: Path
    """An empty project, except for the client's files."""
    home: Path
    env: dict[str, str]
    root: Path
    """The project that `work` represents."""
    own_home: Path
    """The user's home, which `home` represents."""

    def run(self, arguments: Sequence[str], **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run the client to its end. Raises: OSError, subprocess.TimeoutExpired."""
        return subprocess.run(
            [self.program, *arguments],
            cwd=self.work,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )


def try_client(
    trial: Callable[[Place], list[Tried]],
    program: str,
    root: Path,
    env: Mapping[str, str],
    files: Sequence[str],
    home_files: Sequence[str],
) -> list[Tried]:
    """Try a client with copies of its existing files: `files` of the project, `home_files` of the user."""
    found = shutil.which(program, path=env.get("PATH"))
    if found is None:
        return [Tried("native tools", None, f"`{program}` is not installed")]
    with tempfile.TemporaryDirectory(prefix="interlock-doctor-") as name:
        base = Path(name).resolve()
        passed = {key: env[key] for key in _PASSED_ON if key in env}
        own_home = Path(env.get("HOME") or "~").expanduser()
        variables = {**passed, "HOME": str(base / "home")}
        place = Place(Path(found), base / "work", base / "home", variables, root, own_home)
        _copy(root, place.work, files)
        _copy(own_home, place.home, home_files)
        if "INTERLOCK_STATE_DIR" not in passed and "XDG_STATE_HOME" not in passed:
            place.env["XDG_STATE_HOME"] = str(own_home / ".local" / "state")  # use the user's own gate
        try:
            return trial(place)
        except UsageError as error:  # unreadable settings
            return [Tried("native tools", None, error.message)]
        except (OSError, subprocess.TimeoutExpired) as error:
            return [Tried("native tools", None, f"`{program}` could not be tried: {type(error).__name__}")]


def tried(marks: Mapping[str, Path], results: int, done: subprocess.CompletedProcess[bytes]) -> list[Tried]:
    """The results of calls of own tools that each leave a file; `results` is how many of them were answered."""
    if results < len(marks):
        return [Tried("native tools", None, f"it exited with code {done.returncode} before its tools were tried")]
    opened = "it ran a call that Interlock does not allow"
    return [Tried(f"own {name}", mark.exists(), opened if mark.exists() else "refused") for name, mark in marks.items()]


def _copy(source: Path, target: Path, names: Sequence[str]) -> None:
    target.mkdir(parents=True)
    for name in names:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
