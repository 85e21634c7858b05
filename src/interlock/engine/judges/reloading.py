"""Puts an edited and trusted configuration into force in a running process, before its next action.

This applies to rules, policies and grants. The settings with which processes and tools were set up (isolation, tools, journal,
telemetry) do not change. An edit that is broken or not trusted has no effect, neither looser nor stricter, and is announced: the
last trusted version stays in force (ADR 46).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from interlock.engine.judges.in_force import JudgeMaker, JudgesInForce
from interlock.engine.tools.registry import Registry
from interlock.model.clock import Clock
from interlock.model.errors import InterlockError, StoreError
from interlock.settings import Loaded

Fingerprint = tuple[tuple[str, int, int, int], ...]
Prepare = Callable[[Loaded], Callable[[], None]]
"""Checks its part of an edit, and returns a function that applies it, which cannot fail. Raises: InterlockError."""
LOOK_NS: Final = 100_000_000
"""Before an action, the files are checked if the last check is at least this long ago."""
_SAME_TICK_NS: Final = 50_000_000
"""A file that changed less than this ago could change again with the same time stamp (the kernel's clock has ticks)."""


class Reloadable(Protocol):
    """The parts of a runtime's services that a reload uses."""

    @property
    def judges(self) -> JudgesInForce:
        """The judges, which get the new rules and the digest of the configuration."""
        ...

    @property
    def registry(self) -> Registry:
        """The tools to which the rules apply."""
        ...

    @property
    def tools_loaded(self) -> bool:
        """False while the tool modules are not loaded."""
        ...

    def announce_configuration(self, problem: str | None) -> None:
        """Tell the open runs and people about the edit."""
        ...


class Reloader:
    """Watches the files of one configuration, by their modification times, sizes and inodes."""

    def __init__(
        self,
        loaded: Loaded,
        trust_file: Path,
        load: Callable[[], Loaded],
        make_judges: Callable[[Loaded], JudgeMaker],
        prepare: Prepare,
        clock: Clock,
    ) -> None:
        """`trust_file` is watched too, because trusting an edit puts it into force. `prepare` handles the rest of an edit."""
        self._clock = clock
        self._load = load
        self._make_judges = make_judges
        self.preparing = [prepare]
        self._trust_file = trust_file
        self._watched = self._files_of(loaded)
        self._digest = loaded.digest
        self._maker: JudgeMaker | None = None
        self._problem: str | None = None
        """The last announced problem of an edit that is not in force."""
        self._due_ns = 0
        self._seen: Fingerprint = ()
        self._note(self._look())

    def if_due(self, services: Reloadable) -> None:
        """Check the files unless the last check was less than `LOOK_NS` ago. The gate calls this before each action."""
        if self._clock.mono_ns() >= self._due_ns or services.judges.make is not self._maker is not None:
            self(services)

    def __call__(self, services: Reloadable) -> None:
        """Check the files, and apply an edit if there is one. Never raises because of their content."""
        now = self._look()
        if now != self._seen:
            self._note(now)
            self._take(services)
        if (
            self._maker is not None and services.judges.make is not self._maker
        ):  # another fork may have applied the edit first
            services.judges.replace_rules(self._maker, self._digest)
            services.announce_configuration(None)

    def _take(self, services: Reloadable) -> None:
        try:
            loaded = self._load()
            if loaded.digest == self._digest:
                self._problem = None
                return
            maker = self._make_judges(loaded)
            if services.tools_loaded:  # before that, not all tools are known, and nothing is judged
                # Built once here, so that a mistake is found before the old rules are replaced.
                maker(services.registry, None, services.judges.own_grants, None)
            prepared = [prepare(loaded) for prepare in self.preparing]
        except InterlockError as error:
            if isinstance(error, StoreError):  # this machine failed, not the edit: the next check tries again, at once
                self._seen, self._due_ns = (), 0
            where = f" ({error.path})" if error.path else ""
            problem = f"the edited configuration is not in force{where}: {error.message}; what was last trusted stays in force"
            if problem != self._problem:
                self._problem = problem
                services.announce_configuration(problem)
            return
        for adopt in prepared:
            adopt()
        self._maker, self._digest, self._problem = maker, loaded.digest, None
        self._watched = self._files_of(loaded)
        self._note(self._look())

    def _note(self, seen: Fingerprint) -> None:
        """Remember the fingerprint, unless it is so recent that another edit could have the same one."""
        now_ns = self._clock.now_us() * 1000
        self._seen = () if any(0 <= now_ns - changed < _SAME_TICK_NS for _, changed, _, _ in seen) else seen

    def _look(self) -> Fingerprint:
        self._due_ns = self._clock.mono_ns() + LOOK_NS
        return tuple([_fingerprint(path) for path in self._watched])

    def _files_of(self, loaded: Loaded) -> list[str]:
        """The files that were read, the directories in which further files could appear, and the trust file."""
        files = [loaded.path, *(loaded.root / file.name for file in loaded.files if file.name != loaded.path.name)]
        return [str(path) for path in (*files, *dict.fromkeys(path.parent for path in files[1:]), self._trust_file)]


def _fingerprint(path: str) -> tuple[str, int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - before each proposal, and half the time of `Path.stat`
    except OSError:
        return path, 0, 0, 0
    return path, found.st_ctime_ns, found.st_size, found.st_ino
