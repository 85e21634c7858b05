"""The projects that are open in the resident gate: each has a runtime, created on first use and kept until idle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from interlock.disk import Disk
from interlock.engine.assemble import open_project
from interlock.engine.local.location import locate
from interlock.engine.runtime import Runtime
from interlock.model.errors import UsageError
from interlock.surfaces.clients.client import STATE_VARIABLE
from interlock.surfaces.resident.native_calls import NativeCalls

PROJECTS_MAX: Final = 32
"""Maximum number of open projects. Beyond it, the least recently used project without a call in progress is closed."""

_Key = tuple[str, int, int, tuple[tuple[str, str], ...]]


class Project(NamedTuple):
    """An open project."""

    root: str
    """Its real path."""
    runtime: Runtime
    calls: NativeCalls


class Projects:
    """The projects of one gate, by directory and by the settings that the environment tightens."""

    def __init__(self, state: Path, warn: Callable[[str], None]) -> None:
        """`state` is the state directory; `warn` is called for errors that occur after the answer was given."""
        self._state = state
        self._warn = warn
        self._open: dict[_Key, Project] = {}

    def all(self) -> list[Project]:
        """The open projects, most recently used last."""
        return list(self._open.values())

    async def find(self, start: str, env: Mapping[str, str]) -> Project:
        """The project of a directory. `env` has the caller's environment variables for Interlock.

        Raises: UsageError `not_found` for a directory that does not exist; ConfigurationError, StoreError,
        IntegrityError.
        """
        try:
            found = os.stat(start)  # noqa: PTH116 - a call that takes microseconds
        except OSError as error:
            raise UsageError(
                f"the project `{start}` does not exist: {error.strerror}",
                code="not_found",
                hint="if it was moved, set the client up again with `interlock install`",
            ) from None
        settings = tuple(sorted((name, value) for name, value in env.items() if name.startswith("INTERLOCK_")))
        key = (start, found.st_dev, found.st_ino, settings)
        project = self._open.pop(key, None)
        if project is None:
            project = self._opened(start, dict(settings))
            try:
                await project.runtime.prepare()
            except BaseException:
                project.runtime.close()
                raise
            self._make_room()
        self._open[key] = project  # now the most recently used
        return project

    async def close(self) -> None:
        """Close all projects."""
        for project in self._open.values():
            under_way = project.calls.open_count
            await project.calls.close()
            if not under_way:  # otherwise its runs stay unfinished, as if the process were killed
                project.runtime.close()
        self._open.clear()

    def _opened(self, start: str, settings: Mapping[str, str]) -> Project:
        own = {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")}
        env = {**own, **settings, STATE_VARIABLE: str(self._state)}
        root = str(locate(Path(start), env, Disk()).root)
        runtime = Runtime(*open_project(Path(start), env=env))
        for warning in runtime.warnings:
            self._warn(warning)
        runtime.subscribe(notices=self._warn)
        return Project(root, runtime, NativeCalls(runtime, self._warn))

    def _make_room(self) -> None:
        for key, project in list(self._open.items()):
            if len(self._open) < PROJECTS_MAX:
                return
            if not project.calls.open_count and not project.calls.waiting:
                del self._open[key]
                project.runtime.close()
