"""The files that `interlock init` makes in a project, and their removal.

A record in the state directory says what was made, so that nothing else is removed: a file that was edited since is a person's.

Format version history of init.json:
1 (2026-11): first.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from interlock.disk import Disk, store_error
from interlock.engine.inspect.history import History
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.engine.local.location import Place, locate
from interlock.engine.people.identity import Proof, desk_at, identify
from interlock.journal import lock
from interlock.model import typed
from interlock.model.canonical import digest_bytes
from interlock.model.errors import IntegrityError, StoreError, UsageError
from interlock.settings import TrustStore, gather, schema, template
from interlock.settings.project_file import FILE
from interlock.workspace.registry import Registry, check_apart, state_directory

RECORD: Final = "init.json"
_VERSION: Final = 1
_CHANGED: Final = "it was changed since `interlock init` wrote it; if it is not needed, delete it and run this again"


class Removed(NamedTuple):
    """The result of a removal. Paths are absolute; `left` gives for each remaining path the reason."""

    removed: tuple[Path, ...]
    left: dict[Path, str]
    state: Path
    """The directory of Interlock's data about the project."""
    kept: bool
    """True if that directory still exists."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    configuration: str
    """Digest of `interlock.toml` as it was written."""
    schema: str | None
    """Digest of the schema next to it; null if none was written."""
    directory: bool
    """True if `init` created the schema's directory."""


def init(root: Path, env: Mapping[str, str], *, agent: str = "agent", proof: Proof | None = None) -> Path:
    """Write `interlock.toml` for the project at `root`, trust it, and return its path.

    Raises: ConfigurationError if there is one already, or the state directory is inside the project; AccessError if an
    approver of the project has a PIN, and the proof is not valid; StoreError.
    """
    disk = Disk()
    state = state_directory(env, disk)
    check_apart(state, root.resolve())
    known = _known(root.resolve(), state, disk)
    if known is not None and _has_pin(known):  # trusting needs a proof there, and `init` trusts
        _require_proof(known, proof or Proof())
    beside = root / schema.PLACE
    new = not os.path.lexists(beside.parent)
    path = template.write(root, agent=agent)
    place = locate(root, env, disk)
    record = _Record(_VERSION, _digest(path) or "", _digest(beside), new)
    disk.write_atomic(place.home / RECORD, msgspec.json.encode(record))
    gathered = gather(root)
    TrustStore(state, disk).record(gathered.root, gathered.files)
    return path


class Removal:
    """Removes the files that `init` made in one project."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        """Read the project at `root`; changes nothing. Raises: UsageError `not_found` if `init` made nothing here."""
        self._disk = Disk()
        root = root.resolve()
        state = state_directory(env, self._disk)
        place = _known(root, state, self._disk)
        if place is None:
            raise _nothing(root)
        self._place = place
        self._record = self._read()
        self.pin = _has_pin(place)
        """True if an approver has a PIN, so that a proof is needed."""

    @property
    def state(self) -> Path:
        """What Interlock keeps of the project."""
        return self._place.home

    def remove(self, proof: Proof, *, state: bool = False) -> Removed:
        """Remove the files that are unchanged since `init` wrote them, and with `state` Interlock's data about the project.

        Raises: UsageError `not_found`, or if a client is set up here; AccessError; StoreError `run_locked` for a live run.
        """
        if self.pin:
            _require_proof(self._place, proof)
        self._require_no_client()
        for run in self._place.runs.glob("run_*"):
            with lock.held(run, self._disk):
                pass
        left: dict[Path, str] = {}
        removed: list[Path] = []
        if self._record is not None:
            removed, left = self._remove_files(self._record)
        elif not state:
            raise _nothing(self._place.root)
        elif os.path.lexists(self._place.configuration):
            left[self._place.configuration] = "`interlock init` did not write it"
        going = state and (
            self._record is None or not left
        )  # with what is left a second call has to know what was made
        if going or not left:
            TrustStore(self._place.state, self._disk).forget(self._place.root)
            (self._place.home / RECORD).unlink(missing_ok=True)
        if going:
            self._remove_state()
        return Removed(tuple(removed), left, self._place.home, not going)

    def _read(self) -> _Record | None:
        path = self._place.home / RECORD
        try:
            found = typed.decode(path.read_bytes(), _Record)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_error(error, f"read {path}") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = None
        if found is None or found.version != _VERSION:
            raise IntegrityError(
                "the record of what `interlock init` made is damaged or of another version",
                path=str(path),
                hint=f"delete `{FILE}` and `{schema.PLACE}` yourself if they are not needed any more",
            )
        return found

    def _require_no_client(self) -> None:
        """Refuse if a client is set up here: it would refuse all of its calls, or lose its tools."""
        for path in sorted((self._place.home / "clients").glob("*.json")):
            raise UsageError(
                f"`{path.stem}` is set up to work through Interlock in this project",
                path=str(self._place.root),
                hint=f"run `interlock install {path.stem} --remove` first",
            )

    def _remove_files(self, record: _Record) -> tuple[list[Path], dict[Path, str]]:
        configuration, beside = self._place.configuration, Path(os.path.normpath(self._place.root / schema.PLACE))
        removed: list[Path] = []
        if os.path.lexists(configuration):
            if _digest(configuration) != record.configuration:
                why = {configuration: _CHANGED}
                return removed, why | ({beside: f"`{FILE}` names it"} if os.path.lexists(beside) else {})
            removed.append(self._unlink(configuration))
        left = {}
        if os.path.lexists(beside):
            if _digest(beside) in (record.schema, digest_bytes("configuration_file", schema.FILE.read_bytes())):
                removed.append(self._unlink(beside))
            else:
                left[beside] = _CHANGED
        if record.directory and beside.parent.is_dir() and not beside.parent.is_symlink():
            with contextlib.suppress(OSError):  # it contains other people's files
                beside.parent.rmdir()
                removed.append(beside.parent)
            if beside.parent not in removed and not left:
                left[beside.parent] = "other files are in it"
        return removed, left

    def _unlink(self, path: Path) -> Path:
        try:
            path.unlink()
        except OSError as error:
            raise store_error(error, f"remove {path}") from error
        return path

    def _remove_state(self) -> None:
        with History(self._place, self._disk) as past:
            past.prune([row.run_id for row in past.runs()])
        self._disk.remove_tree(self._place.home)
        Registry(self._place.state, self._disk, SystemClock(), SystemIds()).forget(self._place.workspace_id)


def needs_proof(root: Path, env: Mapping[str, str]) -> bool:
    """True if `init` at `root` needs a proof, because an approver of the project has a PIN. Raises: StoreError."""
    disk = Disk()
    known = _known(root.resolve(), state_directory(env, disk), disk)
    return known is not None and _has_pin(known)


def _known(root: Path, state: Path, disk: Disk) -> Place | None:
    """The place of a project that Interlock already knows, with or without a configuration."""
    registry = Registry(state, disk, SystemClock(), SystemIds())
    if not registry.knows(root):
        return None
    place = Place(root, root / FILE, state, registry.workspace_id(root))
    return place if place.home.is_dir() else None


def _has_pin(place: Place) -> bool:
    with desk_at(place) as desk:
        return any(row.has_pin for row in desk.approvers.all())


def _require_proof(place: Place, proof: Proof) -> None:
    with desk_at(place) as desk:
        identify(desk, proof)


def _digest(path: Path) -> str | None:
    """The digest of a file's bytes; None if it is not a regular file."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        return digest_bytes("configuration_file", path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"`{path.name}` cannot be read: {os.strerror(error.errno or 0)}", path=str(path)) from None


def _nothing(root: Path) -> UsageError:
    return UsageError(
        "`interlock init` made nothing here that could be removed",
        code="not_found",
        path=str(root),
        hint="use the state directory (INTERLOCK_STATE_DIR) and the directory that `interlock init` was run with",
    )
