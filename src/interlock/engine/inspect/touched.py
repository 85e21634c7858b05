"""The files, programs and hosts that the actions of a run touched, from its kernel layer.

These are attempts unless the record says otherwise: the recorder does not see whether a call succeeded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from interlock.journal.kernel_layer import layer_files
from interlock.model.errors import IntegrityError
from interlock.model.kernel_layer import (
    EXECS,
    LINKS,
    OPENS,
    RENAMES,
    REROOTS,
    KernelCall,
    KernelRecord,
    RecorderEnded,
    RecorderStarted,
    decode_record,
)

LISTED_MAX: Final = 10_000
"""Maximum entries in one list of one action, to limit memory; further entries are counted."""
_WRITING: Final = frozenset(("write", "append", "create", "truncate", "temporary"))
_REMOVES: Final = frozenset(("unlink", "unlinkat", "rmdir"))
_MEMORY: Final = "memfd_create"


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program whose execution was attempted."""

    path: str
    argv: tuple[str, ...] = ()


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one action touched in all of its attempts; each list is sorted, without repetitions."""

    read: tuple[str, ...] = ()
    """Files and directories that were opened for reading, with links resolved."""
    written: tuple[str, ...] = ()
    """Paths that were opened for writing, created, linked, moved to, or given another mode, owner, size or attribute."""
    removed: tuple[str, ...] = ()
    """Paths that were removed or moved away."""
    programs: tuple[Program, ...] = ()
    """Programs, in the order in which each was first executed."""
    hosts: tuple[str, ...] = ()
    """The `address:port` to which the action connected or sent."""
    listens: tuple[str, ...] = ()
    """The addresses to which sockets were bound."""
    sockets: tuple[str, ...] = ()
    """Names of local sockets to which the action connected or sent."""
    calls: int = 0
    dropped: int = 0
    """Calls that are not in the record, because its size is limited."""
    refused: int = 0
    """Calls that were refused because their arguments could not be read."""
    lost: bool = False
    """True if a recorder was killed: the last calls of the program may be missing."""
    unfinished: bool = False
    """True if a recorder has not ended: the action still runs, or the process that wrote the record was killed."""
    unlisted: int = 0
    """Entries beyond the limit of a list, including repetitions."""


class _Collected:
    """Collects the lists of one action."""

    def __init__(self) -> None:
        self.lists: dict[str, dict[str | Program, None]] = {}
        self.running: dict[str, int] = {}
        """The recorders that have not ended, each with the calls that its lines show."""
        self.calls = self.dropped = self.refused = self.unlisted = 0
        self.lost = False

    def take(self, record: KernelRecord) -> None:
        match record:
            case RecorderStarted():
                self.running[record.recorder] = 0
            case RecorderEnded():
                self.running.pop(record.recorder, None)
                self.calls += record.calls
                self.dropped += record.dropped
                self.refused += record.refused
                self.lost = self.lost or record.lost
            case KernelCall():
                if record.recorder in self.running:
                    self.running[record.recorder] += record.count
                if not record.unreadable:
                    self._take_call(record)

    def _take_call(self, call: KernelCall) -> None:
        place = call.real or call.path
        if call.family is not None:
            self._take_address(call)
        elif call.call in EXECS:
            self._add("programs", Program(path=place or "", argv=call.argv or ()))
        elif place is None or call.call == _MEMORY:
            return
        elif call.call in OPENS:
            if call.access in ("write", "read_write") or not _WRITING.isdisjoint(call.flags):
                self._add("written", place)
            elif call.access == "read":
                self._add("read", place)
        elif call.call in _REMOVES:
            self._add("removed", place)
        elif call.call in RENAMES:
            self._add("removed", place)
            self._add("written", call.to or "")
        elif call.call in LINKS:
            self._add("written", call.to or "")
        elif call.call not in REROOTS:
            self._add("written", place)

    def _take_address(self, call: KernelCall) -> None:
        if call.port is None:
            if call.host:
                self._add("listens" if call.call == "bind" else "sockets", call.host)
            return
        host = f"[{call.host}]" if call.family == "inet6" else call.host
        self._add("listens" if call.call == "bind" else "hosts", f"{host}:{call.port}")

    def _add(self, name: str, entry: str | Program) -> None:
        found = self.lists.setdefault(name, {})
        if entry in found:
            return
        if len(found) < LISTED_MAX:
            found[entry] = None
        else:
            self.unlisted += 1

    def result(self) -> Touched:
        lists = {
            name: tuple(found) if name == "programs" else tuple(sorted(map(str, found)))
            for name, found in self.lists.items()
        }
        return Touched(
            **lists,  # type: ignore[arg-type] # names of fields, each with its kind of entry
            calls=self.calls + sum(self.running.values()),
            dropped=self.dropped,
            refused=self.refused,
            lost=self.lost,
            unfinished=bool(self.running),
            unlisted=self.unlisted,
        )


def touched(directory: Path, action: str | None = None) -> dict[tuple[str, str], Touched]:
    """Everything that the actions of the run in `directory` touched, by proposal and action; of one action, if it is given.

    Empty if nothing was recorded. Raises: IntegrityError if a line cannot be read.
    """
    found: dict[tuple[str, str], _Collected] = {}
    for record in _records(directory):
        if action in (None, record.action):
            found.setdefault((record.proposal, record.action), _Collected()).take(record)
    return {key: one.result() for key, one in found.items()}


def _records(directory: Path) -> Iterator[KernelRecord]:
    for path in layer_files(directory):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):  # the last line of a process that was killed while it wrote
                    return
                try:
                    yield decode_record(line)
                except msgspec.DecodeError as error:
                    raise IntegrityError(
                        f"line {number} of `{path.name}` is not a kernel record: {error}",
                        code="kernel_layer_damaged",
                        path=str(path),
                        hint="what the actions touched cannot be shown; the journal is another file",
                    ) from error
