"""Connects the runs of a project with archives: the engine does not know archives, and `evidence` does not know stored runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock import journal
from interlock.disk import Disk, open_regular, store_error
from interlock.engine.inspect.history import History
from interlock.engine.local.machine import redaction_key
from interlock.evidence.export import Batch, Exported, Source, export
from interlock.evidence.format import SDK
from interlock.evidence.layers import blocks_of
from interlock.evidence.redaction import Redaction
from interlock.journal.kernel_layer import layer_files
from interlock.journal.lock import held
from interlock.journal.private import Originals
from interlock.journal.sealing import seal_line
from interlock.model.errors import UsageError
from interlock.signing import Signer

ENDING: Final = ".tar.gz"


def export_run(
    past: History, run_id: str, target: Path, *, signers: Sequence[Signer], replace: bool = False
) -> Exported:
    """Write the archive of a run to a file, as a whole or not at all.

    Raises: UsageError (`not_found`; `file_exists` unless `replace`); StoreError (`run_locked` while it runs);
    IntegrityError.
    """
    directory = past.directory(run_id)
    with held(directory, past.disk):
        past.index.check_not_behind(directory)
        redaction = Redaction(redaction_key(past.place.state, past.disk))
        return write_file(source_of(directory), redaction, target, signers=signers, disk=past.disk, replace=replace)


def write_file(
    source: Source, redaction: Redaction, target: Path, *, signers: Sequence[Signer], disk: Disk, replace: bool
) -> Exported:
    """Write an archive to a file, as a whole or not at all. Raises as `export_run`."""
    target = Path(os.path.abspath(target))  # noqa: PTH100 - a link stays one
    check_target(target, replace=replace)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    fd = disk.open_append(temporary)
    try:
        try:
            done = export(source, redaction, signers, lambda data: disk.write(fd, data), target.parent)
            disk.sync_data(fd)
        except OSError as error:
            raise store_error(error, f"write {target}") from error
        finally:
            os.close(fd)
        disk.rename(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    disk.sync_directory(target.parent)
    return done


def check_target(target: Path, *, replace: bool) -> None:
    """Check that a file can be written here, or be replaced. Raises: UsageError (`file_exists`, `not_found`, `usage`)."""
    if not target.absolute().parent.is_dir():
        raise UsageError(
            f"there is no directory for `{target.name}`", code="not_found", path=str(target), hint="create it first"
        )
    if os.path.lexists(target) and not replace:
        raise UsageError(
            f"`{target.name}` exists already",
            code="file_exists",
            path=str(target),
            hint="use another name; `--force` (in Python `replace=True`) replaces it",
        )
    if target.exists() and not target.is_file():
        raise UsageError(
            f"`{target.name}` is not a regular file, so it is not replaced", path=str(target), hint="use another name"
        )


def source_of(directory: Path) -> Source:
    """The source for the archive of a run. Raises: IntegrityError if the signed head does not match its journal."""
    envelope: bytes | None = None
    with contextlib.suppress(UsageError):
        envelope = journal.read_head(directory)
    if envelope is not None:
        journal.verify_head(directory, envelope)
    originals = Originals(directory)

    def original(digest: str) -> Any:
        data = originals.get(digest)
        return None if data is None else msgspec.json.decode(data)

    return Source(
        run_id=directory.name,
        batches=lambda: _batches(directory),
        kernel=lambda: blocks_of(_lines(layer_files(directory))),
        sdk=lambda: _lines([path for path in (directory / SDK,) if path.exists()]),
        signed_head=envelope,
        original=original,
    )


def _batches(directory: Path) -> Iterator[Batch]:
    for batch in journal.read_batches(directory):
        yield Batch(batch.lines, seal_line(batch.seal))


def _lines(files: Iterable[Path]) -> Iterator[bytes]:
    """The complete lines of files. A partial line that a killed process left is skipped."""
    for path in files:
        try:
            with open_regular(path) as file:
                yield from (line for line in file if line.endswith(b"\n"))
        except OSError as error:
            raise store_error(error, f"read {path}") from error
