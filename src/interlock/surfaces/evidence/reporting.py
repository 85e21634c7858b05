"""`interlock evidence report`: an archive as one HTML page, after it was verified."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import click

from interlock.model.errors import IntegrityError, StoreError, UsageError
from interlock.surfaces.evidence.archives import ENDING
from interlock.surfaces.evidence.page import pieces
from interlock.surfaces.evidence.speaking import Speaks
from interlock.surfaces.evidence.story import read_story
from interlock.surfaces.evidence.verifying import key_ids, opened
from interlock.verification.verify import verify


@click.command("report")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it. [default: the archive's name with .html, here]",
)
@click.option("--key", "keys", multiple=True, metavar="PUBLIC_KEY", help="Who must have signed it, as for `verify`.")
@click.option("--require-signature", is_flag=True, help="An archive that no one signed is bad.")
@click.pass_obj
def report_command(
    out: Speaks, archive: Path, output: Path | None, keys: tuple[str, ...], *, require_signature: bool
) -> None:
    """Write one HTML page about an archive, which is verified first. The page loads nothing, and prints well.

    It begins with what was observed and what was not. Then: time line, action graph, each action with its decision, answers,
    processes and effects, what an agent's SDK reported, everything that was touched, and the posture.

    A file that exists is never overwritten. Exit code: 4 if the archive is bad; then nothing is written.
    """
    known = key_ids(keys)
    target = output or Path(archive.name.removesuffix(ENDING) + ".html")
    # A copy of our own: what is verified is what is shown, even if the file is replaced meanwhile.
    with tempfile.TemporaryFile() as copy:
        with opened(archive, "archive") as file:
            shutil.copyfileobj(file, copy)
        copy.seek(0)
        checked = verify(copy, known, require_signature=require_signature)
        if checked.documents is None:
            first = checked.verdict.errors[0]
            raise IntegrityError(
                f"the archive is bad: {first.message} ({first.code})",
                code="archive_bad",
                path=f"{archive}: {first.where}" if first.where else str(archive),
                hint="`interlock evidence verify` shows all that is wrong with it",
            )
        copy.seek(0)
        _write_new(target, pieces(read_story(copy), checked.documents, checked.verdict))
    document = {"archive": str(archive), "run_id": checked.verdict.run_id, "file": str(target)}
    out.emit(document, lambda: [f"wrote {str(target).encode('unicode_escape').decode()}"])


def _write_new(target: Path, parts: Iterable[bytes]) -> None:
    """Write a file that must not exist, whole or not at all. Raises: UsageError `already_exists`; StoreError."""
    try:
        with target.open("xb") as file:
            try:
                file.writelines(parts)
            except BaseException:
                with contextlib.suppress(OSError):
                    target.unlink()
                raise
    except FileExistsError:
        raise UsageError(
            "the file exists", code="already_exists", path=str(target), hint="name another one with `--output`"
        ) from None
    except OSError as error:
        raise StoreError(f"the report cannot be written: {error.strerror or error}", path=str(target)) from error
