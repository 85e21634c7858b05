"""The history of a workspace: its runs, their actions, and whether their journals are intact.

Reads only, and needs no trusted configuration, so past runs can be inspected regardless of the current rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from interlock import journal
from interlock.disk import Disk
from interlock.engine.local.clock import SystemClock
from interlock.engine.local.location import Place, locate, open_database
from interlock.journal.index import RunIndex, RunRow, SessionRow, require_reached
from interlock.lazy import lazy
from interlock.model.errors import IntegrityError, InterlockError, StoreError, UsageError
from interlock.model.events import Event, RunFinished, Unknown

if TYPE_CHECKING:
    from interlock import signing
    from interlock.engine.inspect import shown_run, undone
    from interlock.engine.inspect.touched import Touched
    from interlock.state import store
else:
    shown_run = lazy("interlock.engine.inspect.shown_run")
    undone = lazy("interlock.engine.inspect.undone")
    signing = lazy("interlock.signing")
    store = lazy("interlock.state.store")

__all__ = ["Check", "History", "RunRow", "SessionRow"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of checking a run. `problems` are errors in the form of every surface; with none, the run is intact."""

    run_id: str
    ok: bool
    events: int
    seals: int
    bytes: int
    """Length of the journal up to its last valid seal."""
    torn_bytes: int
    """Bytes that a dead writer left after the last seal; `interlock recover` moves them aside. This is not damage."""
    offset: int | None
    """The start of the damage, if there is any."""
    signed_up_to: int | None
    """The last event that a signed head covers; null before the first head."""
    signed_by: str | None
    """`ed25519:HEX` of the key that signed the head; null if no head could be read."""
    problems: list[dict[str, str]]


class History:
    """The runs of one workspace. Close it, or use it as a context manager."""

    def __init__(self, place: Place, disk: Disk) -> None:
        """Open the workspace's database. Raises StoreError."""
        self.place = place
        self.disk = disk
        self.db = open_database(place.home, disk)
        try:
            self.index = RunIndex(self.db)
        except BaseException:
            self.db.close()
            raise

    @classmethod
    def open(cls, start: Path, env: Mapping[str, str]) -> Self:
        """The history of the project that `start` belongs to. Raises: ConfigurationError, StoreError, IntegrityError."""
        disk = Disk()
        return cls(locate(start, env, disk), disk)

    def __enter__(self) -> Self:
        """The history itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.db.close()

    # -- runs and sessions

    def runs(
        self,
        *,
        session: str | None = None,
        status: str | None = None,
        agent: str | None = None,
        since_us: int | None = None,
        limit: int | None = None,
    ) -> list[RunRow]:
        """Runs, newest first; all of them without a `limit`. `since_us` excludes those that had ended before it."""
        return self.index.list_runs(session=session, status=status, agent=agent, since_us=since_us, limit=limit)

    def run(self, run_id: str) -> RunRow:
        """One run. Raises: UsageError `not_found`."""
        return self.index.get(run_id)

    def sessions(self) -> list[SessionRow]:
        """Sessions, starting with the one that has the newest run."""
        return self.index.sessions()

    def session(self, name: str) -> list[RunRow]:
        """The runs of a session, newest first. Raises: UsageError `not_found`."""
        return self.index.session(name)

    def find(self, text: str) -> str:
        """The id of a run from a unique prefix, or `last`. Raises: UsageError `not_found`, `ambiguous_id`."""
        return self.index.find(text)

    def directory(self, run_id: str) -> Path:
        """The directory of a run. Raises: UsageError `not_found`."""
        self.index.get(run_id)
        return self.place.runs / run_id

    def proposals(
        self, run_id: str, *, action: str | None = None, limit: int | None = None
    ) -> shown_run.ShownProposals:
        """The proposals of a run, one at a time, with later undos. Raises: UsageError `not_found`."""
        row = self.index.get(run_id)
        undos = undone.find_undos(self.place.runs, self.runs(since_us=row.started_us))
        return shown_run.ShownProposals(self.place.runs / run_id, row, undos, action=action, limit=limit)

    def touched(self, run_id: str, action: str | None = None) -> dict[tuple[str, str], Touched]:
        """The paths, programs and hosts that its actions touched, by proposal and action; empty without kernel records.

        Raises: UsageError `not_found`, IntegrityError `kernel_layer_damaged`.
        """
        from interlock.engine.inspect.touched import touched  # noqa: PLC0415 - start-up

        return touched(self.directory(run_id), action)

    # -- journals

    def events(self, run_id: str, start: int = 0) -> Iterator[Event | Unknown]:
        """The events of a run, in order. Raises: UsageError `not_found`; IntegrityError after the last intact event."""
        return journal.read(self.directory(run_id), start=start)

    def head(self, run_id: str) -> bytes:
        """The signed head of a run's journal: a DSSE envelope. Raises: UsageError `not_found` before the first one."""
        return journal.read_head(self.directory(run_id))

    def check(self, run_id: str) -> Check:
        """Check every seal and event of a run's journal, and compare it with the database, its layers and its signed head.

        Raises: UsageError `not_found`; StoreError.
        """
        from interlock.engine.inspect.layer_check import LayerCheck  # noqa: PLC0415 - start-up

        row = self.index.get(run_id)
        directory = self.place.runs / run_id
        problems: list[dict[str, str]] = []
        signed: int | None = None
        signed_by: str | None = None

        def collect(error: InterlockError) -> None:
            if error.as_dict() not in problems:
                problems.append(error.as_dict())

        try:
            status = journal.scan(directory)
        except (UsageError, StoreError) as error:
            return _unreadable(run_id, _missing(run_id, directory) if isinstance(error, UsageError) else error)
        try:
            self.index.check_not_behind(directory)
            self._check_state(row.run_id, directory)
        except IntegrityError as error:
            collect(error)
        finished, layers = -1, LayerCheck(directory)
        try:
            for event in journal.read(directory):
                finished = event.seq if isinstance(event, RunFinished) else finished
                layers.take(event)
        except IntegrityError as error:
            collect(error)
        for problem in layers.problems():
            collect(problem)
        try:
            signed, signed_by = self._check_head(row, directory)
            if row.finished_us is not None and signed is not None and signed < finished:
                raise _unsigned(run_id, directory, f"vouches only up to event {signed}")
            self._check_signer(run_id, signed_by)
        except (IntegrityError, StoreError, UsageError) as error:
            collect(error)
        return Check(
            run_id=run_id,
            ok=not problems,
            events=status.events,
            seals=status.seals,
            bytes=status.bytes,
            torn_bytes=0 if status.torn is None else status.torn.bytes,
            offset=None if status.corruption is None else status.corruption.offset,
            signed_up_to=signed,
            signed_by=signed_by,
            problems=problems,
        )

    def _check_head(self, row: RunRow, directory: Path) -> tuple[int | None, str | None]:
        """The last event that the signed head covers, and the key that signed it; None for a run without a head."""
        try:
            envelope = journal.read_head(directory)
        except UsageError:
            if row.finished_us is None:
                return None, None
            raise _unsigned(row.run_id, directory, "is not there") from None
        head, verified = journal.verify_head(directory, envelope)
        return head.seq, verified.keyid

    def _check_signer(self, run_id: str, keyid: str | None) -> None:
        """Check that a key of this state directory signed the head. Raises: IntegrityError `bad_signature`; StoreError."""
        keys = self.place.state / "keys"
        ours = signing.Signer.open(keys, self.disk).keyid if (keys / signing.PRIVATE_NAME).exists() else None
        if keyid is not None and keyid != ours:
            than = "which has no key of its own" if ours is None else f"whose key is `{ours}`"
            raise IntegrityError(
                f"the head of run `{run_id}` was signed by `{keyid}`, not by this state directory, {than}",
                code="bad_signature",
                path=str(self.place.runs / run_id),
                hint="if the key was replaced, compare with a head that was kept elsewhere; else it may be another history",
            )

    def _check_state(self, run_id: str, directory: Path) -> None:
        """Check that every commit of state is in the journal under the seal that the database has."""
        commit = store.StateStore(self.db, self.place.workspace_id, SystemClock()).last_commit(run_id)
        if commit is not None:
            require_reached(journal.scan(directory, at=commit.seq), commit.seq, commit.seal, "the state")

    def prune(self, run_ids: list[str]) -> None:
        """Remove runs entirely. Raises: UsageError `not_found`; StoreError `run_locked` for a live run."""
        journal.prune(self.place.runs, self.index, self.disk, run_ids)

    def finished_before(self, before_us: int) -> list[str]:
        """Ids of the runs that ended before a time, oldest first, without those that could still be resumed."""
        rows = self.index.list_runs()
        return [
            row.run_id
            for row in reversed(rows)
            if row.finished_us is not None
            and row.finished_us < before_us
            and row.status not in ("running", "interrupted", "held")
        ]


def _missing(run_id: str, directory: Path) -> IntegrityError:
    return IntegrityError(
        f"the journal of run `{run_id}` is not there, but the database knows the run",
        code="journal_truncated",
        path=str(directory),
        hint="restore it from a backup, or forget the run: `interlock runs prune`",
    )


def _unreadable(run_id: str, problem: InterlockError) -> Check:
    """The result for a journal that cannot be read at all."""
    return Check(
        run_id=run_id, ok=False, events=0, seals=0, bytes=0, torn_bytes=0, offset=0, signed_up_to=None, signed_by=None,
        problems=[problem.as_dict()],
    )  # fmt: skip


def _unsigned(run_id: str, directory: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"run `{run_id}` is finished, so its head was signed, and the signed head {what}",
        code="head_missing",
        path=str(directory),
        hint="compare with a head that was kept elsewhere: without one the end of this journal is not proven",
    )
