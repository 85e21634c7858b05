"""The configuration as it was last trusted, from the copies that the record of trust keeps: no file of the project is read.

For the ways back (undo, answering, looking): they must work while the files are broken, edited or gone, whoever did that. No
agent's proposal is carried out under it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from interlock.model.canonical import digest
from interlock.model.errors import ConfigurationError
from interlock.settings.decode import decode, dotted
from interlock.settings.load import FILE, PYPROJECT, Loaded
from interlock.settings.named import protected_names
from interlock.settings.overlay import overlay
from interlock.settings.sections import DEFAULTS, Settings
from interlock.settings.source import parse_toml
from interlock.settings.trust import SourceFile, TrustStore

_SOURCE: Final = "as last trusted"


def load_last_trusted(root: Path, *, env: Mapping[str, str], trust: TrustStore) -> Loaded:
    """What was last trusted for the project at `root`, overridden by the environment; the defaults if that is nothing usable.

    Raises: ConfigurationError `override_loosens` and others from the environment; StoreError and IntegrityError from the record
    of trust.
    """
    files = trust.last_trusted(root)
    settings = _decode(files)
    if settings is None:
        settings, files = DEFAULTS, ()
    settings, overrides = overlay(settings, env, {})
    names = [file.name for file in files]
    return Loaded(
        settings=settings,
        root=root,
        path=root / (PYPROJECT if names[:1] == [PYPROJECT] else FILE),
        files=files,
        modules=dict(_modules(settings.tools.modules, names)),
        policies=tuple(_policies(settings, names)),
        protected=protected_names(names, settings, root),
        digest=digest("configuration", {"settings": settings.as_dict(), "files": {f.name: f.digest for f in files}}),
        sources=overrides,
        overrides=frozenset(overrides),
    )


def _decode(files: Iterable[SourceFile]) -> Settings | None:
    """The settings in the trusted copies; None if there are none that this version can read."""
    for file in files:
        if file.name in (FILE, PYPROJECT):
            try:
                table = parse_toml(file.data, file.name) if file.name == FILE else json.loads(file.data)
                return decode(table, locate=dotted)
            except (ConfigurationError, ValueError):
                return None
    return None


def _policies(settings: Settings, names: list[str]) -> Iterator[str]:
    wanted = [pattern.removeprefix("./") for pattern in settings.policy.files]
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in wanted):
            yield name


def _modules(wanted: Iterable[str], names: list[str]) -> Iterator[tuple[str, str]]:
    """Each tool module and the packages above it, with the trusted file that it was."""
    for module in wanted:
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            path = "/".join(parts[:length])
            for name in (f"{path}/__init__.py", f"src/{path}/__init__.py", f"{path}.py", f"src/{path}.py"):
                if name in names:
                    yield ".".join(parts[:length]), name
                    break
