"""`runtime.state`: a program's access to the versioned keys and values that the runs of a workspace share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from interlock.engine.services import Services
from interlock.model.errors import UsageError
from interlock.model.globs import name_matcher
from interlock.state.store import Entry, Transition, Write, encode

WRITER = "program"
"""The run that `history` names for changes by the program itself."""


class State:
    """Reads the current state, separately in each method. Every method may block on the database."""

    def __init__(self, services: Services) -> None:
        """Use `runtime.state`."""
        self._services = services

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; `default` if it is absent. Raises: StoreError, like all methods here."""
        found = self._services.store.get(key)
        return default if found is None else found.value

    def entry(self, key: str) -> Entry | None:
        """The value with its version, which counts the key's writes and removals from 1; None if it is absent."""
        return self._services.store.get(key)

    def list(self, pattern: str = "*") -> Sequence[str]:
        """The keys that match a glob, in order; `*` matches any characters, as in grants."""
        matches = name_matcher([pattern])
        return [key for key in self._services.store.snapshot() if matches(key)]

    def snapshot(self) -> dict[str, Any]:
        """All keys with their values, at one moment."""
        return {key: entry.value for key, entry in self._services.store.snapshot().items()}

    def history(self, key: str) -> Sequence[Transition]:
        """The changes of a key, oldest first, with the run and the action that made each."""
        return self._services.store.history(key)

    def transitions_since(self, number: int = 0) -> Sequence[Transition]:
        """The changes of all keys after change `number` (0: all), oldest first. `latest` is the number of the newest."""
        return self._services.store.transitions_since(number)

    @property
    def latest(self) -> int:
        """The number of the newest change; 0 before the first."""
        return self._services.store.latest()

    def set(self, key: str, value: Any) -> Entry:
        """Set a key from the program itself, such as an initial value. Only in a runtime with `settings=`.

        In a project, every change of the state goes through the gate: propose a `state_write`. Raises: UsageError
        `not_available`; CanonicalError if the value is not JSON.
        """
        return self._write(key, encode(value))

    def delete(self, key: str) -> None:
        """Remove a key, if it exists; otherwise as `set`."""
        if self.entry(key) is not None:
            self._write(key, None)

    def _write(self, key: str, text: str | None) -> Entry:
        services = self._services
        if services.state_dir is not None:
            raise UsageError(
                "the state of a project is changed through the gate only, where it is judged and recorded",
                code="not_available",
                hint="propose a `state_write`",
            )
        if not key:
            raise UsageError("the key is empty")
        with services.db.transaction():
            number = services.store.latest() + 1
            services.store.apply([Write(key, text)], run=WRITER, seq=number, seal="")
            (made,) = services.store.changes_of(WRITER, number)
        return Entry(made.value, made.version)

    def __contains__(self, key: str) -> bool:
        """True if the key exists."""
        return self.entry(key) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys, in order."""
        yield from self._services.store.snapshot()
