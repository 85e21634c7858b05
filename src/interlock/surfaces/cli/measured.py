"""`interlock exec`: runs a command as a measured run at the terminal, recorded and (unless `--profile none`) behind walls."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from interlock.model.errors import HeldError, InterlockError, UsageError
from interlock.surfaces.cli.app import Command
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output, clean

if TYPE_CHECKING:
    from interlock.engine.measured.run import CommandResult
    from interlock.engine.measured.spec import RunSpec

OWN_FAILURE: Final = 125
"""Exit code of Interlock's own failures, to tell them from the command's."""
_DEFAULT: Final = click.core.ParameterSource.DEFAULT
_SPEC_BYTES_MAX: Final = 4 * 1024 * 1024


class _ExecCommand(Command):
    """A command whose errors before the start have exit code 125."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = [*args]  # click empties the list
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            hint = _HELP
            if isinstance(error, click.NoSuchOption) and not given[0].startswith("-"):
                hint = f"options of the command itself come after `--`: `interlock exec -- {clean(shlex.join(given))}`"
            raise _own(UsageError(" ".join(error.format_message().split()).rstrip("."), hint=hint)) from None


_HELP: Final = "`interlock exec --help` shows the usage"


@click.command("exec", cls=_ExecCommand, context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--run-id", metavar="ID", help="The run's id. [default: a new one]")
@click.option(
    "--spec", "spec_file", type=click.Path(path_type=Path), help="A run spec in JSON; options take precedence."
)
@click.option("--platform", metavar="NAME", help="The platform to record. [default: this one]")
@click.option(
    "--agent-shim",
    "shim",
    metavar="NAME",
    help="Report the tool calls of an agent's SDK: openai-agents, gemini-google-genai, claude-agent-sdk. [default: none]",
)
@click.option("--env", "env", multiple=True, metavar="KEY=VALUE", help="Set a variable; only its name is recorded.")
@click.option("--env-clean", "clean", is_flag=True, help="Do not pass on your environment; use an empty HOME.")
@click.option(
    "--profile",
    type=click.Choice(["ns", "nons", "none"]),
    default="ns",
    show_default=True,
    help="The walls; `none` only records.",
)
@click.option(
    "--network",
    type=click.Choice(["none", "machine"]),
    default="none",
    show_default=True,
    help="Behind walls: no network, or that of this machine.",
)
@click.option(
    "--recorder",
    type=click.Choice(["none", "notify"]),
    default="none",
    show_default=True,
    help="Record the files, programs and hosts that it touches, in the kernel; `interlock runs show` lists them.",
)
@click.option(
    "--agent", metavar="NAME", help="Run it as an action of this agent: through the gate, as the tool `exec`."
)
@click.option("--timeout", metavar="DURATION", help="Kill the command after this time, such as 10m. [default: never]")
@click.option("--json-to", "json_to", type=click.Path(path_type=Path), help="Write the result, or the error, here.")
@click.pass_obj
def exec_command(
    out: Output,
    command: tuple[str, ...],
    run_id: str | None,
    spec_file: Path | None,
    platform: str | None,
    shim: str | None,
    env: tuple[str, ...],
    clean: bool,
    profile: str,
    network: str,
    recorder: str,
    agent: str | None,
    timeout: str | None,
    json_to: Path | None,
) -> int:
    """Run COMMAND as a measured run: recorded, and behind walls unless `--profile none`. Write `--` before it.

    The command has your terminal, directory, environment and HOME. Behind walls it can change only the project, HOME
    and its own /tmp; it sees neither other processes nor Interlock's state, and reaches the network only with
    `--network machine`.

    With --agent, rules and grants decide, it may be held for approval, and walls and layer are those of the agent's
    actions. The output is printed at the end.

    Exit code: the command's own; 128 + n if signal n ended it; 127 if it was not found, 126 if it cannot be executed,
    125 for Interlock's own failures.
    """
    from interlock.engine.measured.run import Options, exit_status, measure_command, problem_of  # noqa: PLC0415 - start-up

    _require_writable(json_to)
    try:
        if out.json:
            raise UsageError("standard output belongs to the command", hint="use `--json-to FILE` instead of `--json`")
        if agent is not None:
            return _as_agent(out, agent, command, env, json_to)
        spec = _spec(command, spec_file, {"run_id": run_id, "platform": platform, "agent_shim": shim}, env)
        options = Options(
            profile=profile,  # type: ignore[arg-type] # one of the choices
            network=network,  # type: ignore[arg-type]
            recorder=recorder,  # type: ignore[arg-type]
            clean=clean,
            timeout_ms=_timeout(timeout),
        )
        with history() as past:
            result = measure_command(
                past, spec, options, directory=Path.cwd(), env=os.environ, take_signals=True, warn=out.warn
            )
        problem = problem_of(result)
        if problem is not None:
            problem.path = problem.path or spec.command[0]
        _write(json_to, msgspec.to_builtins(result) | ({} if problem is None else {"error": problem.as_dict()}))
    except InterlockError as error:
        _write(json_to, {"error": error.as_dict()})
        raise _own(error) from None
    if problem is not None:
        out.error(problem)
    out.note(_end_line(result))
    return exit_status(result)


def _as_agent(out: Output, agent: str, command: tuple[str, ...], env: tuple[str, ...], json_to: Path | None) -> int:
    from interlock.surfaces.cli import exec_agent  # noqa: PLC0415 - start-up

    context = click.get_current_context()
    exec_agent.refuse_own([name for name in exec_agent.OWN_ONLY if context.get_parameter_source(name) != _DEFAULT])
    spec = _spec(command, None, {}, env)
    try:
        result = exec_agent.exec_as_agent(out, agent, spec.command, spec.env)
    except HeldError as error:
        exec_agent.held_hint(error)
        raise
    problem = exec_agent.problem_of(result)
    _write(json_to, msgspec.to_builtins(result) | ({} if problem is None else {"error": problem.as_dict()}))
    if problem is not None:
        out.error(problem)
    out.note(f"run {clean(result.run_id)}")
    status = exec_agent.status_of(result)
    return OWN_FAILURE if status is None else status


exec = exec_command  # noqa: A001 - the tree of commands finds a command by its name


def _own(error: InterlockError) -> InterlockError:
    error.exit_code = OWN_FAILURE
    return error


def _spec(
    command: tuple[str, ...], spec_file: Path | None, given: dict[str, str | None], env: tuple[str, ...]
) -> RunSpec:
    """The run spec from a file and options. Raises: UsageError."""
    from interlock.engine.measured.spec import RunSpec  # noqa: PLC0415 - start-up

    spec = RunSpec(command=()) if spec_file is None else RunSpec.from_json(_read(spec_file))
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if command:
        changes["command"] = command
    variables = dict(spec.env)
    for one in env:
        name, separator, value = one.partition("=")
        if not separator:
            raise UsageError("`--env` needs KEY=VALUE", code="bad_environment")
        variables[name] = value
    spec = msgspec.structs.replace(spec, env=variables, **changes)
    spec.validate()
    return spec


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_SPEC_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            f"the run spec cannot be read: {os.strerror(error.errno or 0)}", code="malformed_spec", path=str(path)
        ) from None
    if len(data) > _SPEC_BYTES_MAX:
        raise UsageError(f"the run spec has more than {_SPEC_BYTES_MAX} bytes", code="malformed_spec", path=str(path))
    return data


def _timeout(text: str | None) -> int | None:
    from interlock.model.units import duration_ms  # noqa: PLC0415 - start-up

    if text is None:
        return None
    try:
        return duration_ms(text)
    except ValueError as error:
        raise UsageError(f"`--timeout` is not a duration: {error}", hint="such as `10m`") from None


def _require_writable(path: Path | None) -> None:
    """Create the file for the result, if one is wanted, before anything runs. Raises: UsageError."""
    if path is None:
        return
    try:
        path.open("ab").close()
    except OSError as error:
        raise _own(_unwritable(path, error)) from None


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"the result cannot be written: {os.strerror(error.errno or 0)}", path=str(path))


def _write(path: Path | None, document: Any) -> None:
    """Write the result, if a file is wanted. Raises: UsageError if it cannot be written."""
    if path is None:
        return
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    except OSError as error:
        raise _own(_unwritable(path, error)) from None


def _end_line(result: CommandResult) -> str:
    from interlock.engine.measured.run import signal_name  # noqa: PLC0415 - start-up

    if result.exit_code is not None:
        how = f"exit code {result.exit_code}"
    elif result.signal is not None:
        how = f"ended by {signal_name(result.signal)}"
    else:
        how = "its end is unknown" if result.lost else "not started"
    late = ", at its time-out" if result.timed_out else ""
    recorded = "its effects were not recorded"
    if result.recorded_calls is not None:
        part = "" if result.record_whole else "; the record is incomplete"
        calls = f"{result.recorded_calls} call{'' if result.recorded_calls == 1 else 's'}"
        recorded = f"{calls} recorded{part}: `interlock runs show {clean(result.run_id)}`"
    if result.shim_hooked is not None:
        hooked = (
            f"{result.reported_lines} line{'' if result.reported_lines == 1 else 's'} from the agent's SDK"
            if result.shim_hooked
            else "no SDK reported any calls"
        )
        recorded = f"{recorded}; {hooked}"
        if result.unreported_lines:
            recorded += f" ({result.unreported_lines} more were rejected or dropped)"
    return f"run {clean(result.run_id)}: {how}{late}, {result.window_elapsed_ms} ms; {recorded}"
