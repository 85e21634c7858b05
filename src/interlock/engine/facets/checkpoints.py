"""`runtime.checkpoints`: saves the state together with the head of a run's journal, and restores it.

A restore is a run: its changes are journaled, other processes see them, and it is refused if the state is written meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from interlock.engine.completion.commit import committing
from interlock.engine.runs.run import Run
from interlock.engine.services import Services
from interlock.journal import Head, decode_head, read, read_head, sign_head
from interlock.model.canonical import digest_bytes
from interlock.model.errors import ConflictError, IntegrityError, StoreError, UsageError
from interlock.model.events import StateChanged, Unknown
from interlock.model.grant import OPERATOR
from interlock.signing import verify
from interlock.state import checkpoint
from interlock.state.buffer import Buffer

BYTES_MAX = 256 * 1024 * 1024
PAYLOAD_TYPE = "application/vnd.interlock.checkpoint.digest.v1"


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that was written."""

    id: str
    """The id of the checkpoint; a restore names it."""
    run_id: str
    """Empty if it was made without a run."""
    file: str
    keys: int
    tools: int
    seq: int
    """The last event of the run's journal that the checkpoint includes; -1 without a run."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a restore."""

    run_id: str
    """The run that restored."""
    checkpoint_of: str
    """The run whose checkpoint it was."""
    checkpoint_id: str
    """Empty if an older version made the checkpoint without an id."""
    metadata: dict[str, Any]
    """The metadata that the caller saved with it."""
    written: int
    removed: int
    tools_missing: tuple[str, ...]
    """Tools in the checkpoint that are not registered."""
    tools_changed: tuple[str, ...]
    """Tools whose definition differs from the checkpoint's."""


class Checkpoints:
    """Saves the state into files, and restores it from them. Load the tool modules first (`Runtime.prepare`)."""

    def __init__(self, services: Services) -> None:
        """Use `runtime.checkpoints`."""
        self._services = services

    def save(
        self,
        file: str | Path,
        *,
        run: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        events: bool = False,
    ) -> Saved:
        """Write a checkpoint of the current state, with the tools' versions (mode 0600), replacing the file.

        With a `run` it refers to that run's journal so far, and signs its head if the last signed head is older; with `events`
        it includes the journal so far, redacted as usual. `metadata` is the caller's; `restore` returns it. Raises:
        UsageError `not_found`; CanonicalError if the metadata is not JSON; IntegrityError; StoreError.
        """
        return _save(self._services, run, Path(file), metadata=metadata, events=events)

    def restore(self, file: str | Path, *, merge: bool = False, accept_tools: bool = False) -> Restored:
        """Replace the state with the checkpoint's, in one transaction and a new run; with `merge`, keep keys that it lacks.

        Other tools may interpret the state differently: if tools of the checkpoint are missing or have another definition, this
        is refused unless `accept_tools` is set.

        Raises: ConflictError `tools_differ`, which names them; UsageError (`not_found`, no checkpoint, another workspace's);
        IntegrityError if it was damaged or edited; StateConflictError if the state was written meanwhile. In all of these
        cases nothing has changed.
        """
        return _restore(self._services, Path(file), merge=merge, accept_tools=accept_tools)


def _save(
    services: Services, run_id: str | None, file: Path, *, metadata: Mapping[str, Any] | None, events: bool
) -> Saved:
    head, directory = None, None
    about_run: dict[str, Any] = {}
    if run_id is not None:
        directory = _runs(services) / run_id
        head = services.index.check_not_behind(directory).head
        row = services.index.get(run_id)
        about_run = {"agent": row.agent, "session": row.session, "status": row.status}
    elif events:
        raise UsageError("a checkpoint has the events of a run: name the run")
    checkpoint_id = services.ids.new("checkpoint")
    data = checkpoint.save(
        services.store,
        checkpoint_id=checkpoint_id,
        run=run_id or "",
        created_at_us=services.clock.now_us(),
        journal=None if head is None else checkpoint.Head(seq=head.seq, seal=head.seal),
        tools=services.registry.versions(),
        about_run=about_run,
        metadata=dict(metadata or {}),
        events=None if not events or directory is None or head is None else _events(directory, head.seq),
    )
    services.disk.write_atomic(file.absolute(), data + _signature(services, data))
    if head is not None and directory is not None:
        _sign_head_if_newer(services, directory, head)
    saved = checkpoint.load(data)
    return Saved(
        id=checkpoint_id,
        run_id=run_id or "",
        file=str(file),
        keys=len(saved.state),
        tools=len(saved.tools),
        seq=-1 if head is None else head.seq,
    )


def _events(directory: Path, last: int) -> list[dict[str, Any]]:
    """The run's events up to the head in the checkpoint."""
    found = []
    for event in read(directory):
        if event.seq > last:
            break
        if isinstance(event, Unknown):
            found.append({"kind": event.kind, "seq": event.seq, **event.fields})
        else:
            found.append(msgspec.to_builtins(event))
    return found


def _restore(services: Services, file: Path, *, merge: bool, accept_tools: bool) -> Restored:
    data, _, signature = _read(file).partition(b"\n")
    loaded = checkpoint.load(data)
    _check_signature(services, data + b"\n", signature)
    if loaded.workspace != services.workspace_id:
        raise UsageError("that checkpoint is of another workspace", path=str(file))
    differences = checkpoint.compare_tools(loaded, services.registry.versions())
    if differences and not accept_tools:
        raise ConflictError(
            f"the tools are not those of the checkpoint: {differences.text}",
            code="tools_differ",
            path=str(file),
            hint="bring these tools back, or restore all the same: `--accept-tools`",
        )
    buffer = Buffer(services.store)
    checkpoint.restore(buffer, services.store, loaded, merge=merge)
    writes = buffer.writes
    run = Run.start(services, agent=OPERATOR, source="restore")
    try:
        if writes:
            _commit(run, buffer, loaded)
    except BaseException:
        run.tally.statuses.add("failed")
        raise
    finally:
        run.finish()
    return Restored(
        run_id=run.id,
        checkpoint_of=loaded.run,
        checkpoint_id=loaded.id,
        metadata=loaded.metadata if loaded.version > 1 else {},
        written=sum(write.text is not None for write in writes),
        removed=sum(write.text is None for write in writes),
        tools_missing=differences.missing,
        tools_changed=differences.changed,
    )


def _commit(run: Run, buffer: Buffer, loaded: checkpoint.Checkpoint) -> None:
    """Record each change in the journal, then commit like a proposal."""
    seal = loaded.journal.seal if loaded.journal else ""
    changes = None if run.recorder is None else lambda: _record_changes(run, buffer)
    with committing(run.services, run.recorder, buffer, run.id, seal=seal, before=changes):
        pass


def _record_changes(run: Run, buffer: Buffer) -> None:
    store, recorder = run.services.store, run.recorder
    assert recorder is not None
    for write in buffer.writes:
        before = store.get(write.key)
        recorder.record(
            StateChanged(
                key=write.key,
                old_version=0 if before is None else before.version,
                new_version=1 if before is None else before.version + 1,
                value=recorder.keep(None if write.text is None else msgspec.json.decode(write.text)),
                deleted=write.text is None,
            ),
            step=10,
        )


def _signature(services: Services, data: bytes) -> bytes:
    """The second line of the file: the digest of the first line, signed with the key of this state directory."""
    if services.signer is None:
        return b""
    return services.signer.sign(PAYLOAD_TYPE, digest_bytes("checkpoint_file", data).encode()) + b"\n"


def _check_signature(services: Services, data: bytes, signature: bytes) -> None:
    """Check the signature. The digest alone shows damage, not an edit: an agent that can write the file can recompute it.

    Raises: IntegrityError `bad_signature`.
    """
    if services.signer is None:
        return
    signed = verify(signature, PAYLOAD_TYPE, key=services.signer.keyid).payload
    if signed != digest_bytes("checkpoint_file", data).encode():
        raise IntegrityError(
            "the checkpoint was edited: it is not what was signed when it was saved", code="bad_signature"
        )


def _sign_head_if_newer(services: Services, directory: Path, head: Head) -> None:
    signed = -1
    with contextlib.suppress(UsageError):  # there is no key yet
        signed = decode_head(read_head(directory))[0].seq
    if services.signer is not None and signed < head.seq:
        sign_head(directory, head, services.signer, services.disk)


def _runs(services: Services) -> Path:
    if services.state_dir is None:
        raise UsageError("this runtime keeps no journals", code="not_found")
    return services.state_dir / "runs"


def _read(file: Path) -> bytes:
    try:
        # O_NONBLOCK: an agent that can write there can put a FIFO there, and opening one must not wait for a writer.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise UsageError("that is not a regular file", path=str(file))
            data = opened.read(BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError("there is no such file", code="not_found", path=str(file)) from None
    except OSError as error:
        raise StoreError(f"the checkpoint cannot be read: {os.strerror(error.errno or 0)}", path=str(file)) from None
    if len(data) > BYTES_MAX:
        raise UsageError(f"the file has more than {BYTES_MAX} bytes", code="limit_exceeded", path=str(file))
    return data
