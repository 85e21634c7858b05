"""`interlock evidence verify`, and the same from Python. Needs the archive and nothing else of this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click
import msgspec

from interlock.engine.inspect.history import History
from interlock.model.errors import Fault, IntegrityError, UsageError
from interlock.surfaces.evidence.at_home import compare
from interlock.surfaces.evidence.speaking import Speaks
from interlock.verification.envelopes import PublicKeyError, keyid_of
from interlock.verification.findings import ArchiveVerdict, Documents
from interlock.verification.verify import Checked, verify

_KEY_BYTES_MAX: Final = 16 * 1024
_SCHEME: Final = "ed25519:"
_SHOWN_MAX: Final = 50
"""Maximum defects shown to people."""


def verify_archive(
    archive: str | Path, *, keys: Iterable[str | Path] = (), require_signature: bool = False
) -> ArchiveVerdict:
    """Verify an evidence archive. Nothing but the file is needed: no project, no state directory, no network.

    `keys` are the public keys of everyone who must have signed it: files (PEM), PEM text, or `ed25519:HEX`.
    `require_signature` makes an unsigned archive bad. A bad archive is a verdict, not an exception.

    Raises: UsageError (`not_found` if there is no such file, `usage` if a key is invalid).
    """
    return check_file(Path(archive), keys, require_signature=require_signature).verdict


def check_file(path: Path, keys: Iterable[str | Path] = (), *, require_signature: bool = False) -> Checked:
    """The verdict, and the documents of a valid archive. Raises: as `verify_archive`."""
    known = key_ids(keys)
    with opened(path, "archive") as file:
        return verify(file, known, require_signature=require_signature)


class _BadArchiveError(IntegrityError):
    """An error in the given archive, not in this machine."""

    fault: Fault = "user"


def documents_of(path: Path, checked: Checked) -> Documents:
    """The documents of a verified archive. Raises: IntegrityError `archive_bad`."""
    if checked.documents is None:
        first = checked.verdict.errors[0]
        raise _BadArchiveError(
            f"the archive is bad: {first.message} ({first.code})",
            code="archive_bad",
            path=f"{path}: {first.where}" if first.where else str(path),
            hint="`interlock evidence verify` shows all its defects",
        )
    return checked.documents


@click.command("verify")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="PUBLIC_KEY",
    help="A key that must have signed it: a public key file (PEM), or `ed25519:HEX`. May be repeated.",
)
@click.option("--require-signature", is_flag=True, help="Treat an unsigned archive as bad.")
@click.option(
    "--at-home", is_flag=True, help="Also compare it with the run in this project, including redacted events."
)
@click.pass_obj
def verify_command(out: Speaks, archive: Path, keys: tuple[str, ...], *, require_signature: bool, at_home: bool) -> int:
    """Verify an archive: that it is complete, that its contents follow from its events and records, and who signed it.

    Needs nothing but the file, unless --at-home is given. Exit code: 0 if it is valid, 4 if it is bad.
    """
    verdict = verify_archive(archive, keys=keys, require_signature=require_signature)
    if at_home and verdict.valid and verdict.run_id is not None:
        verdict = _at_home(archive, verdict, verdict.run_id)
    out.emit({"archive": str(archive), **_document(verdict)}, lambda: _text(archive, verdict))
    return 0 if verdict.valid else IntegrityError.exit_code


def _at_home(archive: Path, verdict: ArchiveVerdict, run_id: str) -> ArchiveVerdict:
    with History.open(Path(), os.environ) as past, opened(archive, "archive") as file:
        found = compare(past, run_id, file)
    return verdict if found is None else msgspec.structs.replace(verdict, valid=False, errors=(found,))


def _document(verdict: ArchiveVerdict) -> dict[str, object]:
    return {name: getattr(verdict, name) for name in verdict.__struct_fields__}


def _text(archive: Path, verdict: ArchiveVerdict) -> Iterator[str]:
    name = archive.name.encode("unicode_escape").decode()
    if not verdict.valid:
        yield f"{name}: BAD"
    else:
        yield f"{name}: valid; run {verdict.run_id}, {verdict.events} events"
    for signed in verdict.signatures:
        yield f"  signed by {signed.keyid}" + (", a key that you gave" if signed.vouched else "")
    if verdict.head_signed_by is not None:
        yield f"  head of the run signed by {verdict.head_signed_by}"
    if verdict.layers is not None:
        yield "  " + ", ".join(f"{layer} {state}" for layer, state in verdict.layers.items())
    if verdict.notes:
        yield f"  notes: {', '.join(verdict.notes)}"
    for found in (*verdict.errors[:_SHOWN_MAX], *verdict.warnings):
        where = f" {found.where}:" if found.where else ""
        yield f"  {found.code}:{where} {found.message}"
    if len(verdict.errors) > _SHOWN_MAX:
        yield f"  and {len(verdict.errors) - _SHOWN_MAX} more (`--json` shows all)"


# -- files


def key_ids(keys: Iterable[str | Path]) -> list[str]:
    """The ids of the given keys. Raises: UsageError."""
    return [_key(key) for key in keys]


@contextlib.contextmanager
def opened(path: Path, what: str) -> Iterator[BinaryIO]:
    """Open a file for reading. Raises: UsageError `not_found`."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UsageError(
            f"the {what} cannot be read: {error.strerror or error}", code="not_found", path=str(path)
        ) from None


def _key(key: str | Path) -> str:
    """The id of a given key. Raises: UsageError."""
    text = str(key)
    if isinstance(key, Path) or not text.startswith((_SCHEME, "-----BEGIN")):
        with opened(Path(key), "key") as file:
            text = file.read(_KEY_BYTES_MAX).decode("utf-8", "replace")
    try:
        return keyid_of(text)
    except PublicKeyError as error:
        raise UsageError(
            str(error), path=str(key), hint="`interlock keys export` writes it on the machine that signed"
        ) from None
