"""`interlock evidence report`: an archive as one HTML page, after verification."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import click

from interlock.disk import write_new
from interlock.surfaces.evidence.archives import ENDING
from interlock.surfaces.evidence.page import pieces
from interlock.surfaces.evidence.speaking import Speaks
from interlock.surfaces.evidence.story import read_story
from interlock.surfaces.evidence.verifying import documents_of, key_ids, opened
from interlock.verification.verify import verify


@click.command("report")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write. [default: the archive's name with .html]",
)
@click.option("--key", "keys", multiple=True, metavar="PUBLIC_KEY", help="Who must have signed it, as for `verify`.")
@click.option("--require-signature", is_flag=True, help="Treat an unsigned archive as bad.")
@click.pass_obj
def report_command(
    out: Speaks, archive: Path, output: Path | None, keys: tuple[str, ...], *, require_signature: bool
) -> None:
    """Write one HTML page about an archive, which is verified first. The page loads nothing, and prints well.

    It begins with what was observed and what was not. Then: time line, action graph, each action with its decision,
    approvals, processes and effects, the reports of the agent's SDK, everything touched, and the posture.

    An existing file is never overwritten. Exit code: 4 if the archive is bad; then nothing is written.
    """
    known = key_ids(keys)
    target = output or Path(archive.name.removesuffix(ENDING) + ".html")
    # Work on a copy, so that what is shown is what was verified, even if the file is replaced meanwhile.
    with tempfile.TemporaryFile() as copy:
        with opened(archive, "archive") as file:
            checked = verify(cast("BinaryIO", _Copying(file, copy)), known, require_signature=require_signature)
        documents = documents_of(archive, checked)
        copy.seek(0)
        write_new(target, pieces(read_story(copy), documents, checked.verdict))
    document = {"archive": str(archive), "run_id": checked.verdict.run_id, "file": str(target)}
    out.emit(document, lambda: [f"wrote {str(target).encode('unicode_escape').decode()}"])


class _Copying:
    """A file that copies what is read from it. The verifier stops reading if the file is not an archive."""

    def __init__(self, file: BinaryIO, copy: BinaryIO) -> None:
        self._file = file
        self._copy = copy

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._copy.write(data)
        return data
