"""The configuration as last trusted, from the copies in the trust record. No file of the project is read.

Used by undo, approvals and inspection, which must work while the files are broken, edited or missing, even through an
agent. Agents' proposals never run under it.
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
from interlock.settings.load import Loaded
from interlock.settings.named import protected_names
from interlock.settings.overlay import overlay
from interlock.settings.project_file import FILE, PYPROJECT
from interlock.settings.sections import DEFAULTS, Settings
from interlock.settings.source import parse_toml
from interlock.settings.trust import SourceFile, TrustStore

_SOURCE: Final = "as last trusted"


def load_last_trusted(root: Path, *, env: Mapping[str, str], trust: TrustStore) -> Loaded:
    """The project's last trusted configuration, overridden by the environment; the defaults if it is unusable.

    Raises: ConfigurationError for bad environment variables (`override_loosens` and others); StoreError and
    IntegrityError from the trust record.
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
    """The settings in the trusted copies; None if this version cannot read them."""
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
    """Each tool module and its parent packages, with their trusted files."""
    for module in wanted:
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            path = "/".join(parts[:length])
            for name in (f"{path}/__init__.py", f"src/{path}/__init__.py", f"{path}.py", f"src/{path}.py"):
                if name in names:
                    yield ".".join(parts[:length]), name
                    break
