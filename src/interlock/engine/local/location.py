"""Finds a project's state without trusting its configuration, even if the configuration is broken or missing.

Undo and recovery must not depend on files that an agent can write, or that an editor has half written. So if no configuration is
found, this module checks whether the directory is a workspace that the state directory knows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from interlock.disk import Database, Disk, open_regular, store_error
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.model.errors import ConfigurationError, IntegrityError
from interlock.settings.project_file import FILE, PYPROJECT, find, no_configuration
from interlock.workspace.registry import Registry, state_directory

MARK_NAME: Final = "database.id"


class Place(NamedTuple):
    """A project and its places. `home` is the workspace's own directory in the state directory `state`."""

    root: Path
    configuration: Path
    state: Path
    workspace_id: str

    @property
    def home(self) -> Path:
        """The workspace's directory in the state directory."""
        return self.state / self.workspace_id

    @property
    def runs(self) -> Path:
        """The directory of the runs."""
        return self.home / "runs"


def open_database(home: Path, disk: Disk) -> Database:
    """The workspace's database, made if this is its first use.

    Approvers, budgets, grants, questions and state are only there. A mark beside it holds its identity, so a database that is
    lost, empty or replaced is an error: with a new, empty database, nobody would have to be asked any more.
    Raises: IntegrityError `database_lost`; StoreError.
    """
    path, mark = home / "interlock.db", home / MARK_NAME
    expected = _read_mark(mark)
    used = expected is not None or any((home / "runs").glob("run_*"))
    if used and (not path.exists() or not path.stat().st_size):
        raise _lost(path, "is not there any more")
    db = Database(path)
    try:
        known = _identity(db, expected)
        if expected is None:
            disk.write_atomic(mark, known.encode() + b"\n")
    except BaseException:
        db.close()
        raise
    return db


def _identity(db: Database, expected: str | None) -> str:
    """The identity of the database, which it gets at its first use. Raises: IntegrityError `database_lost`; StoreError."""
    db.migrate("identity", ("create table identity (id text primary key)",))
    rows = db.execute("select id from identity")
    if not rows and expected is None:
        with db.transaction():  # if two processes are the first at once, one of them creates it
            rows = db.execute("select id from identity") or [(SystemIds().new("database"),)]
            db.execute("insert into identity values (?) on conflict (id) do nothing", rows[0])
    if not rows or expected not in (None, rows[0][0]):
        raise _lost(db.path, "is not the one that was used before")
    return str(rows[0][0])


def _read_mark(mark: Path) -> str | None:
    try:
        with open_regular(mark) as file:
            return file.read(200).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error(error, f"read {mark}") from error


def _lost(path: Path, how: str) -> IntegrityError:
    return IntegrityError(
        f"the database `{path}` {how}: approvers, grants, budgets, questions and state are lost with it",
        code="database_lost",
        path=str(path),
        hint=f"restore it from a backup; to continue without all that, move `{path.parent}` away, journals included",
    )


def locate(start: Path, env: Mapping[str, str], disk: Disk) -> Place:
    """The project that `start` belongs to.

    Raises: ConfigurationError if there is none, or if its configuration cannot be read and the directory is no known workspace;
    StoreError, IntegrityError.
    """
    state = state_directory(env, disk)
    registry = Registry(state, disk, SystemClock(), SystemIds())
    path = _configuration(start.resolve(), registry)
    root = path.parent
    workspace_id = registry.workspace_id(root)
    disk.make_directory(state / workspace_id)
    return Place(root, path, state, workspace_id)


def _configuration(start: Path, registry: Registry) -> Path:
    """The path of the configuration file, which need not exist in the nearest known workspace."""
    try:
        found = find(start)
        problem = no_configuration(start)
    except ConfigurationError as error:
        found, problem = None, error
    if found is not None:
        return found.path
    for directory in (start, *start.parents):
        if registry.knows(directory):
            own = directory / FILE
            return own if os.path.lexists(own) or not os.path.lexists(directory / PYPROJECT) else directory / PYPROJECT
    raise problem


def last_trusted_warning(error: ConfigurationError) -> str:
    """The warning of undo and recovery when they continue with the last trusted configuration."""
    where = f" ({error.path})" if error.path else ""
    return f"the configuration cannot be used{where}: {error.message}; what was last trusted counts here"
