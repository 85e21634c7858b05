"""Finds the configuration file of a project without decoding it, which suffices for commands that only inspect past runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from interlock.lazy import lazy
from interlock.model.errors import ConfigurationError
from interlock.settings.file_bytes import read_bytes

if TYPE_CHECKING:
    from interlock.settings import source
else:
    source = lazy("interlock.settings.source")

FILE: Final = "interlock.toml"
PYPROJECT: Final = "pyproject.toml"
TABLE: Final = ("tool", "interlock")


class Found(msgspec.Struct, frozen=True):
    """A configuration file that was found: `interlock.toml`, or a `pyproject.toml` with a `[tool.interlock]` table."""

    path: Path
    data: bytes


def find(start: Path) -> Found | None:
    """The nearest configuration, from `start` upwards; None if there is none.

    Raises: ConfigurationError if a directory has both kinds, or the file cannot be read. An unreadable `pyproject.toml`
    beside an `interlock.toml` is ignored.
    """
    start = start.resolve()
    for directory in (start, *start.parents):
        own = read_bytes(directory / FILE)
        try:
            project = _pyproject(directory / PYPROJECT)
        except ConfigurationError:
            if own is None:
                raise
            project = None  # temporarily broken, for example while it is edited, which must not affect interlock.toml
        if own is not None and project is not None:
            raise ConfigurationError(
                f"both `{FILE}` and `[tool.interlock]` in `{PYPROJECT}` exist in this directory",
                path=str(directory),
                hint="keep one of them",
            )
        if own is not None:
            return Found(directory / FILE, own)
        if project is not None:
            return Found(directory / PYPROJECT, project)
    return None


def no_configuration(start: Path) -> ConfigurationError:
    """The error for a command that needs a configuration if none is found from `start` on."""
    return ConfigurationError(
        f"no `{FILE}` in this directory or any parent", path=str(start), hint="`interlock init` creates one"
    )


def has_table(data: bytes, path: Path) -> bool:
    """True if a pyproject.toml has our table. Raises: ConfigurationError."""
    tool = source.parse_toml(data, str(path)).get("tool")
    if not isinstance(tool, dict) or "interlock" not in tool:
        return False
    if not isinstance(tool["interlock"], dict):
        raise ConfigurationError("`tool.interlock` is not a table", path=str(path))
    return True


def _pyproject(path: Path) -> bytes | None:
    """The bytes of a pyproject.toml with our table; None for others, including links."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises in a directory that cannot be searched
        return None
    data = read_bytes(path, follow=True)
    if data is None or b"interlock" not in data or not has_table(data, path):
        return None
    return read_bytes(path)
