"""The tree of commands, imported when they are used, and the one place where errors become output and exit codes.

Exit codes: 0 every action succeeded; 1 an action did not; 2 usage, configuration, malformed proposal; 3 held and
waiting; 4 evidence or journal invalid; 5 internal.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from interlock._version import __version__
from interlock.lazy import lazy, lazy_pattern
from interlock.model.errors import InterlockError, UsageError
from interlock.model.values import nearest_name, quoted
from interlock.surfaces.cli.output import Output

if TYPE_CHECKING:
    import traceback
else:
    traceback = lazy("traceback")

FAILED: Final = 1
INTERNAL: Final = 5
_QUOTED: Final = lazy_pattern(r"(?<![\w`])'([^'`]+)'(?![\w`])")
"""A value as click quotes it. Interlock's own messages have backticks."""
COMPLETE: Final = "_INTERLOCK_COMPLETE"
"""If this variable is set, `interlock` only answers the shell's completion request."""

GROUPS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Set up": {
        "init": ("project", "Write a commented interlock.toml for this project, and trust it."),
        "trust": ("project", "Show what changed in the configuration, and trust it."),
        "doctor": ("machine", "Show what is wrong or open to attack here, and what this machine offers."),
        "completion": ("completion", "Print the completion script of a shell."),
    },
    "Run": {
        "run": ("running", "Run a proposal through the gate."),
        "call": ("call", "Call one tool through the gate."),
        "exec": ("measured", "Run a command of your own, recorded and behind walls."),
        "resume": ("running", "Finish a run that was interrupted, or that waited for an approval."),
        "stop": ("stop", "Stop running actions, in any process."),
        "recover": ("recovering", "Recover unfinished runs, and settle unknown outcomes."),
        "undo": ("running", "Undo the effects of a run."),
        "diff": ("layers", "Show what the kept layer of a run would change."),
        "commit": ("layers", "Commit the kept layer of a run."),
        "discard": ("layers", "Discard the kept layer of a run."),
    },
    "Look ahead": {
        "verify": ("plans", "Check a proposal without running anything."),
        "simulate": ("plans", "Predict the state after a proposal."),
        "explain": ("plans", "Show how the gate would decide each action, and why."),
    },
    "Look back": {
        "log": ("log", "Show the actions of all runs, one line each."),
        "runs": ("runs", "List, show, check and prune runs."),
        "sessions": ("sessions", "List and show sessions."),
        "state": ("state", "Show the state that runs share, and its history."),
        "memory": ("memory", "Show, correct and forget agents' notes."),
        "learn": ("learn", "Propose the smallest rules and grants that recent calls needed."),
        "skills": ("skills", "Read, test, approve and use skills learnt from successful proposals."),
    },
    "Prove": {
        "evidence": (
            "interlock.surfaces.evidence.command",
            "Export archives of runs as evidence, and verify those of others.",
        ),
        "keys": ("keys", "Create, list and export signing keys."),
    },
    "Agents": {
        "install": (
            "interlock.surfaces.clients.command",
            "Set up a coding agent to work through Interlock in this project.",
        ),
        "gateway": ("interlock.surfaces.gateway.command", "Serve the tools of this project to an MCP client."),
        "gate": ("interlock.surfaces.resident.command", "Start, inspect and stop the resident gate, which hooks use."),
    },
    "Answer": {
        "approvals": ("approvals", "Show and answer held calls."),
        "approvers": ("approvers", "Manage who may approve."),
        "serve": ("interlock.surfaces.web.command", "Serve held calls and approvals over HTTP."),
    },
    "Rules": {
        "policy": ("policy", "Show, check, test and explain the policies."),
        "grants": ("grants", "Manage the grants of agents."),
        "tools": ("tools", "List the available tools."),
        "capsule": ("capsule", "Create, install and run capsules: tools as sandboxed WebAssembly."),
    },
    "Machine": {
        "telemetry": ("machine", "Take a snapshot of this machine."),
    },
}
"""The commands, under the headings of the help. Each has the module that defines it as a `click` command of that name
(in this package or in another surface), and a one-line help.
"""
COMMANDS: Final = {name: found for group in GROUPS.values() for name, found in group.items()}


def _set(field: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            setattr(ctx.ensure_object(Output), field, True)

    return callback


def _common() -> list[click.Parameter]:
    """The options that every command and group accepts, so that they may be anywhere on the line."""
    return [
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=_set("json"), help="Print exactly one JSON document."
        ),
        click.Option(
            ["--quiet", "-q"],
            is_flag=True,
            expose_value=False,
            callback=_set("quiet"),
            help="Print only errors and failures.",
        ),
        click.Option(
            ["--no-color"], is_flag=True, expose_value=False, callback=_set("no_color"), help="Never use colours."
        ),
    ]


class Command(click.Command):
    """A command with the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the command with the common options."""
        super().__init__(*args, **kwargs)
        self.params += _common()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, but refuse arguments that are not UTF-8, except file names: the rest is stored or sent as text."""
        try:
            rest = super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # for an option without its value, click does not name the command
            raise
        for parameter in self.params:
            given = ctx.params.get(parameter.name or "")
            if parameter.type is click.STRING and given is not None and not _is_text(given):
                raise click.BadParameter("the argument is not UTF-8", ctx, parameter)
        return rest


def _is_text(given: Any) -> bool:
    try:
        "".join(given).encode()
    except UnicodeEncodeError:
        return False
    return True


class Group(click.Group):
    """A group with the common options, which its commands have too."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the group with the common options."""
        super().__init__(*args, **kwargs)
        self.params += _common()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does, and suggest the nearest command for a misspelt one."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = nearest_name(name[:80], self.list_commands(ctx))
            ctx.fail(f"there is no command {quoted(name)}" + (f"; did you mean `{near}`?" if near else ""))
        return super().resolve_command(ctx, args)


class _Root(Group):
    """The root group: imports a command's module when the command is used."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        found = COMMANDS.get(name)
        if found is None:
            return None
        foreign = found[0].startswith("interlock.")
        module = import_module(found[0] if foreign else f"interlock.surfaces.cli.{found[0]}")
        command = getattr(module, name)
        assert isinstance(command, click.Command)
        command = _with_common(command) if foreign else command
        if COMPLETE in os.environ:
            import_module("interlock.surfaces.cli.names").complete_names(command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for heading, group in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in group.items()])


def _with_common(command: click.Command) -> click.Command:
    """Add the common options to a command from another surface, and to its subcommands."""
    command = copy.copy(command)
    command.params = [*command.params, *_common()]
    if isinstance(command, click.Group):
        command.commands = {name: _with_common(one) for name, one in command.commands.items()}
    return command


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        out = ctx.ensure_object(Output)
        out.json = out.json or "--json" in sys.argv
        out.emit({"version": __version__}, lambda: [f"interlock {__version__}"])
        ctx.exit(0)


root = _Root(
    "interlock",
    help="The runtime between an AI agent and the machine it works on: check, ask, run, record, undo.",
    params=[
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
        )
    ],
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
)


def run(argv: list[str]) -> int:
    """Run the command line. Returns the exit code. Every error is printed; none is raised."""
    if COMPLETE in os.environ:
        return _complete(argv)
    out = Output()
    before = argv[: argv.index("--")] if "--" in argv else argv
    out.json = "--json" in before  # parse errors must also be JSON documents
    try:
        _need_directory(before)
        code = root.main(argv, prog_name="interlock", standalone_mode=False, obj=out)
        if isinstance(code, int) and code:
            out.explain_failure()
    except click.exceptions.NoArgsIsHelpError as error:
        code = _help(out, error)
    except click.ClickException as error:
        code = _fail(out, _usage(error))
    except (click.Abort, KeyboardInterrupt):
        code = _fail(out, UsageError("interrupted before anything was done", code="interrupted"), FAILED)
    except InterlockError as error:
        code = _fail(out, error)
    except BrokenPipeError:
        code = 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: report a bug in one line, without a traceback
        code = _internal(out, error)
    return code if isinstance(code, int) else 0


def _complete(argv: list[str]) -> int:
    """Answer a shell's completion request. Errors are not printed, because they would appear in the line being typed."""
    try:
        root.main(argv, prog_name="interlock", standalone_mode=False, obj=Output())
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except Exception:  # noqa: BLE001 - for example a command that does not exist, for which there is nothing to offer
        return FAILED
    return 0


def _need_directory(argv: list[str]) -> None:
    """Raises: UsageError if the current directory has been removed. Only `--help` works without one."""
    try:
        os.getcwd()  # noqa: PTH109 - only to test whether there is one
    except FileNotFoundError:
        if argv and not {"--help", "-h", "--version"} & set(argv):
            raise UsageError(
                "the current directory was removed",
                code="not_found",
                hint="change to a directory that exists, such as the project's: `cd /path/to/project`",
            ) from None


def _fail(out: Output, error: InterlockError, code: int | None = None) -> int:
    out.error(error)
    _trace()
    return error.exit_code if code is None else code


def _usage(error: click.ClickException) -> UsageError:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "interlock"
    message = " ".join(error.format_message().split()).rstrip(".")  # click puts each choice on its own line
    return UsageError(_QUOTED.sub(r"`\1`", message), hint=f"`{path} --help` shows the usage")


def _help(out: Output, error: click.exceptions.NoArgsIsHelpError) -> int:
    if out.json:
        return _fail(out, _usage_missing(error))
    out.write(sys.stderr, error.format_message())
    return UsageError.exit_code


def _usage_missing(error: click.exceptions.NoArgsIsHelpError) -> UsageError:
    path = getattr(error.ctx, "command_path", "interlock")
    return UsageError("a command is missing", hint=f"`{path} --help` lists them")


def _internal(out: Output, error: Exception) -> int:
    where = traceback.extract_tb(error.__traceback__)[-1]
    # Never the error's own text, which may contain agent input.
    text = f"an unexpected {type(error).__name__} at {os.path.basename(where.filename)}:{where.lineno}"  # noqa: PTH119 - a name
    out.error(InterlockError(text, hint="report this; INTERLOCK_DEBUG=1 prints a traceback"))
    _trace()
    return INTERNAL


def _trace() -> None:
    if os.environ.get("INTERLOCK_DEBUG") == "1":
        traceback.print_exc()
