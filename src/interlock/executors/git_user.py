"""The user's own git configuration: the part that the git tools use.

That configuration can make git run programs, so git does not read it when the tools run it. Only its harmless part is passed
on: identity, ignored files, and attributes. The names of the other settings are reported (`git.status`, `not_read`). Git itself
lists the configuration, with the repository's own, so that conditions (`includeIf`) are evaluated by git.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from interlock.executors.process import ProcessResult
from interlock.model.errors import ToolError

_IDENTITY: Final = ("user.name", "user.email")
_FILES: Final = {"core.excludesfile": "ignore", "core.attributesfile": "attributes"}
"""Settings that name a file, with the default file name in the configuration directory."""
_REPORTED_MAX: Final = 100

Run = Callable[..., Awaitable[ProcessResult]]


class UserSettings(msgspec.Struct, frozen=True):
    """The settings used from the user's configuration."""

    identity: dict[str, str] = {}
    """`user.name` and `user.email`, if both are set."""
    files: dict[str, str] = {}
    """`core.excludesfile` and `core.attributesfile`, if the files exist."""
    hooks_path: str | None = None
    """`core.hooksPath` of the repository, else of the user, with the user's `~/` expanded; where git would look for hooks."""
    not_read: tuple[str, ...] = ()
    """The names of all other settings."""


def user_directories(environment: Mapping[str, str]) -> tuple[Path, Path] | None:
    """Returns the user's home and git configuration directory; None without a home."""
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        return None
    given = environment.get("XDG_CONFIG_HOME", "")
    return Path(home), (Path(given) if given.startswith("/") else Path(home, ".config")) / "git"


async def read_user_settings(
    run: Run, directories: tuple[Path, Path] | None, *, names_hooks: bool = False
) -> UserSettings:
    """Read the settings. `run` runs a git command in the repository, without the user's configuration.

    `names_hooks` is true if the repository's own configuration names hooks, or includes files that may. Raises:
    ToolError `git_config_refused`.
    """
    home, config = (None, None) if directories is None else directories
    files = [] if home is None or config is None else [config / "config", home / ".gitconfig"]
    found: dict[str, str] = {}
    own: str | None = None
    complete = not names_hooks
    for file in filter(Path.is_file, files):
        listed = await _list(run, home, file)
        complete = complete or listed is not None
        for scope, key, value in listed or ():
            if scope == "global":
                found[key] = value
            elif key == "core.hookspath":
                own = value
    if not complete:
        for _, key, value in await _list(run, home, None) or ():
            own = value if key == "core.hookspath" else own
    hooks = found.get("core.hookspath") if own is None else own
    if hooks is not None and hooks.startswith("~/") and home is not None:
        hooks = os.fspath(home / hooks[2:])
    if home is None or config is None:
        return UserSettings(hooks_path=hooks)
    identity = {key: found[key] for key in _IDENTITY if found.get(key)}
    named = {}
    for key, name in _FILES.items():
        text = found.get(key, os.fspath(config / name))
        path = home / text[2:] if text.startswith("~/") else Path(text)
        if path.is_absolute() and _is_file(path):
            named[key] = os.fspath(path)
    rest = sorted(key for key in found if key not in (*_IDENTITY, *_FILES) and not key.startswith("include"))
    names = [key.encode("utf-8", "replace").decode() for key in rest[:_REPORTED_MAX]]
    return UserSettings(identity if len(identity) == len(_IDENTITY) else {}, named, hooks, tuple(names))


def _is_file(path: Path) -> bool:
    """Like `path.is_file`; False if it cannot be examined."""
    return os.path.isfile(path)  # noqa: PTH113


async def _list(run: Run, home: Path | None, file: Path | None) -> list[tuple[str, str, str]] | None:
    """Scope, name and value of each setting that git finds if `file` is the user's; None if that cannot be read."""
    environment = {} if home is None else {"HOME": os.fspath(home)}
    listed = await run(
        "config",
        "--list",
        "--includes",
        "--show-scope",
        "-z",
        read_only=True,
        environment=environment if file is None else environment | {"GIT_CONFIG_GLOBAL": os.fspath(file)},
        expected=(0, 1, 128),
        shown=[]
        if home is None
        else [os.fspath(home)],  # what is included may be anywhere there; git reads nothing else
    )
    if listed.truncated:
        raise ToolError(
            "the user's and the repository's configuration are too large to check",
            code="git_config_refused",
            retryable=False,
        )
    if listed.exit_code != 0:
        return None
    fields = listed.stdout.decode("utf-8", "surrogateescape").split("\0")
    pairs = ((scope, *text.partition("\n")[::2]) for scope, text in zip(fields[::2], fields[1::2], strict=False))
    return [(scope, key, value) for scope, key, value in pairs if scope != "command"]
