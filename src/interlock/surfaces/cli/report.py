"""`interlock runs report`: a run as one HTML page."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from interlock.disk import store_error
from interlock.model.errors import IntegrityError, UsageError
from interlock.surfaces.cli.app import Command
from interlock.surfaces.cli.ids import RUN
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output, clean


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN", type=RUN)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Where to write it; else RUN.html, here."
)
@click.pass_obj
def report(out: Output, run_id: str, output: Path | None) -> int:
    """Write one HTML page about a run: time line, actions, questions and answers, differences of files. It loads nothing.

    Values are redacted. A file that exists is never overwritten. Exit code: 4 if the record is damaged; the page says so too.
    """
    from interlock.engine.inspect.report import read_report  # noqa: PLC0415 - start-up
    from interlock.surfaces.cli.report_html import page  # noqa: PLC0415 - start-up

    target = Path(f"{run_id}.html") if output is None else output
    with history() as past:
        found = read_report(past, run_id)
    try:
        with target.open("x", encoding="utf-8", errors="backslashreplace") as file:
            try:
                file.writelines(page(found))
            except OSError:
                with contextlib.suppress(OSError):
                    target.unlink()
                raise
    except FileExistsError:
        raise UsageError(
            "the file exists", code="already_exists", path=str(target), hint="name another one with `--output`"
        ) from None
    except OSError as error:
        raise store_error(error, f"write {target}") from error
    out.emit({"run_id": run_id, "file": str(target)}, lambda: [f"wrote {clean(str(target))}"])
    if found.problem is not None:
        out.warn(found.problem)
        return IntegrityError.exit_code
    return 0
