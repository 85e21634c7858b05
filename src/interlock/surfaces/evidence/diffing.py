"""`interlock evidence diff`: what one run touched and another did not, as a gate for CI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from interlock.model.errors import UsageError
from interlock.surfaces.evidence.reports import junit, sarif
from interlock.surfaces.evidence.speaking import Speaks
from interlock.surfaces.evidence.verifying import check_file, documents_of
from interlock.verification.difference import KINDS, Change, difference

FAILED: Final = 1
_SHOWN_MAX: Final = 20
"""Changes of one kind shown to people; `--json` has all."""
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.command("diff")
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option(
    "--fail-on",
    multiple=True,
    metavar="KIND,...",
    help="Exit with 1 if there is such a change, such as `new-host,new-program`.",
)
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Ignore matching values, such as '/var/cache/*'.")
@click.option(
    "--allow-unobserved",
    is_flag=True,
    help="Do not fail if B may have missed changes of a kind that `--fail-on` names as new.",
)
@click.option("--sarif", "sarif_file", type=_FILE, metavar="FILE", help="Also write the changes as SARIF 2.1.0.")
@click.option(
    "--junit", "junit_file", type=_FILE, metavar="FILE", help="Also write the results of `--fail-on` as JUnit XML."
)
@click.option("--key", "keys", multiple=True, metavar="PUBLIC_KEY", help="Who must have signed both, as for `verify`.")
@click.option("--require-signature", is_flag=True, help="Treat an unsigned archive as bad.")
@click.pass_obj
def diff_command(
    out: Speaks,
    first: Path,
    second: Path,
    fail_on: tuple[str, ...],
    ignore: tuple[str, ...],
    sarif_file: Path | None,
    junit_file: Path | None,
    keys: tuple[str, ...],
    *,
    allow_unobserved: bool,
    require_signature: bool,
) -> int:
    """Compare what two runs touched, used and decided. Both archives are verified first.

    A is the expected run, B the actual one. Exit code: 0, 1 if `--fail-on` found something, 4 if an archive is bad.
    """
    kinds = _kinds(fail_on)
    documents = [
        documents_of(path, check_file(path, keys, require_signature=require_signature)) for path in (first, second)
    ]
    changes = difference(*documents, fail_on=kinds, ignore=ignore, allow_unobserved=allow_unobserved)
    if sarif_file is not None:
        _write(sarif_file, sarif(changes, second.as_posix()))
    if junit_file is not None:
        _write(junit_file, junit(changes, kinds, second.as_posix()))
    failed = any(change.fails for change in changes)
    document = {
        "a": {"archive": str(first), "run_id": documents[0].health["run_id"]},
        "b": {"archive": str(second), "run_id": documents[1].health["run_id"]},
        "failed": failed,
        "changes": changes,
    }
    out.emit(document, lambda: _text(changes))
    return FAILED if failed else 0


def _kinds(fail_on: tuple[str, ...]) -> list[str]:
    """Raises: UsageError for an unknown kind."""
    kinds = [word for words in fail_on for word in words.replace(",", " ").split()]
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"there is no kind of change `{kind[:80]}`", hint=f"kinds: {', '.join(KINDS)}")
    return list(dict.fromkeys(kinds))


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)  # writes to the existing file instead of replacing it, because it may be /dev/stdout
    except OSError as error:
        raise UsageError(f"the file cannot be written: {error.strerror or error}", path=str(path)) from None


def _text(changes: Sequence[Change]) -> Iterator[str]:
    if not changes:
        yield "no change"
    for kind in dict.fromkeys(change.kind for change in changes):
        of_kind = [change for change in changes if change.kind == kind]
        fails = ", which fails" if any(change.fails for change in of_kind) else ""
        yield f"{kind}: {len(of_kind)}{fails}"
        for change in of_kind[:_SHOWN_MAX]:
            yield f"  {_shown(change.value)}"
        if len(of_kind) > _SHOWN_MAX:
            yield f"  and {len(of_kind) - _SHOWN_MAX} more (`--json` shows all)"


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
