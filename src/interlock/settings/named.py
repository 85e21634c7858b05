"""Which other files the settings name: policies, capsule manifests, the sources of tool modules. Looks, does not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from interlock.model.errors import ConfigurationError
from interlock.settings.decode import Locate, Place, dotted
from interlock.settings.sections import Settings


class Named(msgspec.Struct, frozen=True):
    """One file that a setting names."""

    place: Place
    path: Path
    module: str | None = None
    """For the source of a Python module: its dotted name."""


def named_files(settings: Settings, root: Path, locate: Locate) -> Iterator[Named]:
    """Every file that the settings name, whether or not it is there; patterns give those that are.

    Raises: ConfigurationError for a pattern that cannot be, and for a module that is not there or not clear.
    """
    for index, pattern in enumerate(settings.policy.files):
        place: Place = ("policy", "files", index)
        if "*" in pattern:
            _check_pattern(pattern, root, place, locate)
            yield from (Named(place, path) for path in _listed(_directory(pattern, root), pattern.rpartition("/")[2]))
        else:
            yield Named(place, root / pattern)
    for name, capsule in settings.capsules.items():
        yield Named(("capsules", name, "path"), root / capsule.path / "capsule.toml")
    for index, module in enumerate(settings.tools.modules):
        yield from _module(module, root, ("tools", "modules", index), locate)


def named_directories(settings: Settings, root: Path) -> Iterator[str]:
    """The directories in which a new file would be read too: those of patterns, relative to the root."""
    for pattern in settings.policy.files:
        directory = _directory(pattern, root)
        if "*" in pattern and directory.is_relative_to(root):
            yield directory.relative_to(root).as_posix()


def _directory(pattern: str, root: Path) -> Path:
    return Path(os.path.normpath(root / pattern.rpartition("/")[0]))


def _check_pattern(pattern: str, root: Path, place: Place, locate: Locate) -> None:
    above, _, last = pattern.rpartition("/")
    wrong = None
    if "*" in above or "**" in last:
        wrong = "`*` may stand only in the last part of a path"
    elif root.is_relative_to(_directory(pattern, root)):
        # No agent may write where a new file would be read, and the whole project cannot be forbidden.
        wrong = "a pattern needs a directory of its own"
    elif not _directory(pattern, root).is_dir():
        # It may be empty; but a misspelt one would leave out the policies that forbid.
        wrong = "there is no such directory"
    if wrong is not None:
        raise ConfigurationError(f"`{dotted(place)}`: {wrong}", path=locate(place), hint="for example `policy/*.cedar`")


def _listed(directory: Path, pattern: str) -> list[Path]:
    # As in a shell, `*` takes no hidden names: editors leave locks and copies under them.
    return sorted(path for path in directory.glob(pattern) if not path.name.startswith("."))


def _module(module: str, root: Path, place: Place, locate: Locate) -> Iterator[Named]:
    """The module's source and the `__init__.py` of the packages above it: all of these run when it is imported."""
    parts = module.split(".")
    for base in (root, root / "src"):
        found = _sources(base.joinpath(*parts))
        if len(found) > 1 or any(path.suffix != ".py" for path in found):
            # Python would take one of them; which one must not depend on who wrote a file last.
            raise ConfigurationError(
                f"`{dotted(place)}`: more than one file could be this module, or it is a binary",
                path=locate(place),
                hint=f"keep one of: {', '.join(sorted(path.relative_to(root).as_posix() for path in found))}",
            )
        if found:
            for length in range(1, len(parts)):
                package = base.joinpath(*parts[:length], "__init__.py")
                if os.path.lexists(package):
                    yield Named(place, package, ".".join(parts[:length]))
            yield Named(place, found[0], module)
            return
    raise ConfigurationError(
        f"`{dotted(place)}`: there is no such module beneath the project",
        path=locate(place),
        hint="a module is looked for beneath the project and its `src` directory",
    )


def _sources(target: Path) -> list[Path]:
    found = [path for path in (target / "__init__.py", target.with_name(target.name + ".py")) if os.path.lexists(path)]
    return found + [path for path in target.parent.glob(f"{target.name}.*so") if path.name.split(".")[0] == target.name]
