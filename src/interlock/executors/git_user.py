"""The user's own git configuration: the part that the git tools use.

It can make git run programs, so git does not read it. Only its harmless part is passed on: identity, ignored files, and
attributes. The names of the other settings are reported (`git.status`, `not_read`).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from interlock.executors.git_parse import records
from interlock.executors.process import ProcessResult

_IDENTITY: Final = ("user.name", "user.email")
_FILES: Final = {"core.excludesfile": "ignore", "core.attributesfile": "attributes"}
"""Settings that name a file, with the default file name in the configuration directory."""
_REPORTED_MAX: Final = 100

Run = Callable[..., Awaitable[ProcessResult]]


class UserSettings(msgspec.Struct, frozen=True):
    """The settings used from the user's configuration."""

    identity: dict[str, str] = {}
    """`user.name` and `user.email`, if it has both."""
    files: dict[str, str] = {}
    """`core.excludesfile` and `core.attributesfile`: files that exist."""
    hooks_path: str | None = None
    """`core.hooksPath`, absolute. Git would look for hooks there."""
    not_read: tuple[str, ...] = ()
    """The names of all other settings."""


def user_directories(environment: Mapping[str, str]) -> tuple[Path, Path] | None:
    """The user's home and configuration directory; None without a home."""
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        return None
    given = environment.get("XDG_CONFIG_HOME", "")
    return Path(home), (Path(given) if given.startswith("/") else Path(home, ".config")) / "git"


async def read_user_settings(run: Run, directories: tuple[Path, Path] | None) -> UserSettings:
    """Read the settings. `run` runs a git command in the repository, without the user's configuration."""
    if directories is None:
        return UserSettings()
    home, config = directories
    found: dict[str, str] = {}
    for file in (config / "config", home / ".gitconfig"):
        if file.is_file():
            listed = await run(
                "config",
                "--file",
                os.fspath(file),
                "--includes",
                "--list",
                "-z",
                read_only=True,
                expected=(0, 1, 128),
                shown=[os.fspath(home)],  # what it includes may be anywhere there; git reads nothing else
            )
            for record in records(listed.stdout):
                key, _, value = record.decode("utf-8", "surrogateescape").partition("\n")
                found[key] = value
    identity = {key: found[key] for key in _IDENTITY if found.get(key)}
    files = {}
    for key, name in _FILES.items():
        text = found.get(key, os.fspath(config / name))
        path = home / text[2:] if text.startswith("~/") else Path(text)
        if path.is_absolute() and path.is_file():
            files[key] = os.fspath(path)
    rest = sorted(key for key in found if key not in (*_IDENTITY, *_FILES) and not key.startswith("include"))
    names = [key.encode("utf-8", "replace").decode() for key in rest[:_REPORTED_MAX]]
    hooks = found.get("core.hookspath")
    if hooks is not None and hooks.startswith("~/"):
        hooks = os.fspath(home / hooks[2:])
    return UserSettings(identity if len(identity) == len(_IDENTITY) else {}, files, hooks, tuple(names))
