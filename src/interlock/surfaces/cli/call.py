"""`interlock call`: one tool, by its name, through the whole gate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from interlock.model.errors import HeldError, ProposalError, UsageError
from interlock.surfaces.cli.app import FAILED, Command
from interlock.surfaces.cli.ids import TOOL
from interlock.surfaces.cli.open_project import runtime
from interlock.surfaces.cli.outcome_words import described
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.results import EXIT_CODES, host_lines, with_path
from interlock.surfaces.cli.running import run_at_terminal
from interlock.surfaces.cli.token_files import read_grant_token

if TYPE_CHECKING:
    from interlock.model.result import CallResult

_HINT: Final = """such as `interlock call fs.read '{"path": "README.md"}'`"""


@click.command(cls=Command)
@click.argument("tool", type=TOOL)
@click.argument("parameters", default="{}")
@click.option("--agent", metavar="NAME", help="The calling agent.  [default: the configuration's `agent`]")
@click.option("--session", metavar="NAME", help="The session that the run belongs to.")
@click.option(
    "--grant-token",
    "token_file",
    type=click.Path(path_type=Path),
    help="A file with a grant token, which limits the call to what it allows.",
)
@click.option(
    "--call-id", metavar="ID", help="Make the call only once for this id; a repetition returns the same result."
)
@click.option("--no-wait", is_flag=True, help="Do not wait for an approval; exit with code 3.")
@click.pass_obj
def call(
    out: Output,
    tool: str,
    parameters: str,
    agent: str | None,
    session: str | None,
    token_file: Path | None,
    call_id: str | None,
    no_wait: bool,
) -> int:
    """Call one tool through the gate, as its own run, and print the output.

    PARAMETERS is a JSON object, or - for standard input. Text is printed as it is, other output as JSON; with --json
    the whole result.

    Exit code: 0 if the call succeeded, 1 if it failed or was refused, 2 if PARAMETERS is not a JSON object, 3 if it
    waits for an approval.
    """
    given = _parse(sys.stdin.read() if parameters == "-" else parameters)
    token = None if token_file is None else read_grant_token(token_file)
    options: dict[str, Any] = {"agent": agent, "session": session, "call_id": call_id, "grant_token": token}
    with runtime(out, offer_trust=parameters != "-") as opened:
        try:
            result = run_at_terminal(
                out, opened, lambda: opened.call(tool, given, wait=not no_wait, **options), no_wait=no_wait
            )
        except HeldError as held:
            held.hint = _how_to_continue(held)
            raise
    _print(out, result, described(tool, given).about)
    return EXIT_CODES.get(result.status, FAILED)


def _how_to_continue(held: HeldError) -> str:
    """How to continue, as commands. The error's own hint is for programs."""
    if held.code == "unknown_outcome":
        return f"`interlock recover {held.run_id} --action call --as again` (or succeeded, failed, undo)"
    return f"`interlock approvals approve {held.approval}`, then `interlock resume {held.run_id}`"


def _parse(text: str) -> dict[str, Any]:
    from interlock.model.decode import decode_value  # noqa: PLC0415 - start-up

    try:
        value = decode_value(text.encode())
    except (ProposalError, UnicodeEncodeError) as error:
        raise UsageError(f"the parameters are not a JSON object: {error}", hint=_HINT) from None
    if not isinstance(value, dict):
        raise UsageError("the parameters are not a JSON object", hint=_HINT)
    return value


def _print(out: Output, result: CallResult, about: str) -> None:
    if out.json:
        out.emit(result)
        return
    if not result.ok:
        word = out.paint(f"{result.status}: ", "red", sys.stderr)
        out.write(sys.stderr, word + clean(f"{with_path(result.error or '', about)} ({result.reason})"))
    if result.output is not None:
        out.raw(result.output if isinstance(result.output, str) else out.as_json(result.output))
    for line in host_lines(out, result):
        out.note(line.strip())
    if result.ok and result.tool == "proc.start":
        out.note("the program ended with this call: start it in a proposal, whose other actions can use it")
    out.note(f"run {clean(result.run_id)}")
