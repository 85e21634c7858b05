"""Runs programs: `ProcessRunner`, shared by `shell`, `exec` and the git tools, and the tools `shell` and `exec`.

A program starts from the fork server behind the walls of an `Enclosure`. Its whole process tree has ended when the call
returns, whatever the outcome. The posture lists the layers of isolation that are absent.
"""

from __future__ import annotations

import base64
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.executors import enclosure as walls_of
from interlock.executors import recording
from interlock.executors.enclosure import Enclose, Enclosure
from interlock.executors.environment import child_environment, requested_environment
from interlock.executors.exceeded import ProcessLimits, exceeded_error, layer_full, wire_limits
from interlock.executors.layer_watch import LayerFullError, run_in_layer
from interlock.executors.network import ProcessNetwork, environment_of, proxy_lost
from interlock.executors.process_errors import checked_argv, spawn_error, stopped_error
from interlock.executors.process_watch import recorded_changes
from interlock.executors.recording import NO_LAYER, ProcessRecording, check_recorded
from interlock.isolation.client import ForkServer, NotStarted, Outcome, Stopped
from interlock.isolation.egress.wire import Record
from interlock.isolation.posture import posture_of_group
from interlock.isolation.spec import WallSpec
from interlock.isolation.wire import (
    STDOUT,
    VIEW_MOUNTS,
    VIEW_USER,
    Bind,
    Network,
    Report,
    Request,
)
from interlock.lazy import lazy
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.tool import LAYERED_PROCESS_RAN, PROCESS_RAN, Binding, Context, Tool

if TYPE_CHECKING:
    from interlock.executors.offered_ports import Offer
    from interlock.isolation import background
    from interlock.isolation.egress.background import BackgroundWatch
else:
    background = lazy("interlock.isolation.background")

_VIEW: Final = (VIEW_USER, VIEW_MOUNTS)
GRACE_MS: Final = 500
"""Time between SIGTERM and SIGKILL."""


class ProcessResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a program ended. Exactly one of `exit_code` and `signal` is set."""

    exit_code: int | None
    signal: str | None
    """For example `SIGKILL`."""
    stdout: bytes
    """The first `output_bytes_max` bytes; the rest is discarded."""
    stderr: bytes
    truncated: bool
    timed_out: bool
    duration_ms: float
    strays_killed: int
    """Number of processes that were still running when the program ended, and were killed."""
    limit: ToolError | None
    """The error for an exceeded limit, if the limit made the program fail or end."""
    resources: dict[str, int | float]
    """`cpu_user_ms`, `cpu_system_ms`, `cpu_ms`, `memory_bytes`, `read_bytes`, `written_bytes` of the whole tree."""
    connections: tuple[Record, ...] = ()
    """Network connections of the program, as recorded by the proxy."""
    proxy_lost: bool = False
    """True if the proxy ended while the program ran."""


class ProcessRunner:
    """Starts programs for tools. One per runtime; safe to use from several event loops."""

    def __init__(
        self,
        clock: Clock,
        *,
        server: ForkServer | None = None,
        parent_environment: Mapping[str, str] | None = None,
        limits: ProcessLimits | None = None,
        passed: Sequence[str] = (),
        home_files: Sequence[str] = (),
        enclose: Enclose = walls_of.none,
        network: ProcessNetwork | None = None,
        recording: ProcessRecording | None = None,
    ) -> None:
        """The fork server starts with the first program. `parent_environment` defaults to `os.environ`.

        `enclose` returns the walls, and is called when the first program starts. Without a `network`, programs behind walls reach
        no host. `passed` names variables that every program inherits from the parent; `home_files` names files in the parent's
        HOME that are copied into the program's HOME.
        """
        self._clock, self._enclose = clock, enclose
        self._network = network or ProcessNetwork()
        self._recording = recording or ProcessRecording()
        self._server = server or ForkServer(launch=lambda: self.enclosure.launch())  # noqa: PLW0108 - the enclosure is looked up when the server starts
        parent = os.environ if parent_environment is None else parent_environment
        given = {name: parent[name] for name in passed if name in parent}
        agent = given.get("SSH_AUTH_SOCK", "")
        self._binds: list[Bind] = [{"path": agent, "writable": False}] if agent.startswith("/") else []
        """The socket of the SSH agent, if `passed` names its variable: behind walls, programs need the socket as well."""
        self._environment = child_environment(parent) | given
        home = parent.get("HOME", "")
        self._home_files = {name: os.path.join(home, name) for name in home_files} if home.startswith("/") else {}  # noqa: PTH118 - requests hold strings, not paths
        self._limits = limits or ProcessLimits()

    @property
    def enclosure(self) -> Enclosure:
        """The walls around programs. Raises: ToolError `isolation_failed`."""
        return walls_of.of(self._enclose)

    @property
    def network(self) -> ProcessNetwork:
        """The network of programs, which also serves background programs."""
        return self._network

    @property
    def server(self) -> ForkServer:
        """The fork server; `proc.kill` refuses to signal it."""
        return self._server

    async def run(
        self,
        argv: Sequence[str],
        *,
        ctx: Context,
        cwd: int | str | dict[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_ms: int | None = None,
        output_bytes_max: int | None = None,
        limits: ProcessLimits | None = None,
        read_only: bool = False,
        in_scope: bool = False,
        network: Network = "none",
        hosts: Sequence[str] | None = None,
        ports: Sequence[int] = (),
        binds: Sequence[Bind] = (),
    ) -> ProcessResult:
        """Run a program to its end and return how it ended, even if it failed.

        `cwd` is a directory descriptor, or a path beneath the workspace (None: its root). `env` is added to the allow-listed
        base environment. The program is looked up in the base PATH, and ended at the context's deadline, or after `timeout_ms`
        if that is sooner; then `timed_out` is set. With `read_only`, the caller guarantees that nothing changes. With `in_scope`,
        the program reads only what the grant's `paths.read` allows; in a layer, it may change only what `paths.write` allows, and
        no file that Interlock itself loads. `network` and `binds` widen the walls: `proxied` allows the grant's hosts, or those
        that also match `hosts`; `ports` (git without namespaces, after a check of its address) allows the given `ports`.

        Raises: ToolError `spawn_failed`, `isolation_failed`, `process_lost`; `process_limit`, `memory_limit`, `cpu_limit` or
        `disk_limit` if the tree was ended because of it; with `in_scope`, `path_denied` or `path_protected`. If the awaiting task
        is cancelled: `timeout` (past the deadline) or `cancelled`, with the partial output, after the tree has ended.
        """
        around = self.enclosure.around(
            ctx.workspace, network=network, ports=ports, binds=[*self._binds, *binds], in_scope=in_scope
        )
        posture = self.enclosure.posture_for(network)
        directory = cwd if isinstance(cwd, int) else open_cwd(ctx, cwd)
        try:
            async with (
                self._network.open(ctx, around, only=hosts) as line,
                self._recording.open(ctx, posture, self.enclosure.require) as recorder,
            ):
                limits = limits or self._limits
                kept = limits.output_bytes if output_bytes_max is None else output_bytes_max
                request = self._request(argv, env, limits, line.walls, kept)
                remaining_ms = max(0, ctx.deadline_ns - self._clock.mono_ns()) // 1_000_000
                request["timeout_ms"] = remaining_ms if timeout_ms is None else min(timeout_ms, remaining_ms)
                given = {**descriptors_for(ctx, line.walls), **recorder}
                result = await self._perform(
                    request, directory, stdin, ctx, given, posture, limits, read_only=read_only, in_scope=in_scope
                )
            return msgspec.structs.replace(result, connections=line.traffic.records, proxy_lost=line.traffic.lost)
        finally:
            if directory is not cwd:
                os.close(directory)

    async def start(
        self,
        argv: Sequence[str],
        *,
        ctx: Context,
        cwd: str | dict[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        output_bytes_max: int,
        offer: Offer | None = None,
        shared: bool = False,
    ) -> tuple[background.Background, BackgroundWatch | None, recording.Record | None]:
        """Start a program that outlives this action; like `run`, but without a time-out.

        Returns the program, its network watch and its record (each may be None), which the caller closes at its end. Later
        actions reach it on the ports of the `offer`. Keeps the last `output_bytes_max` bytes of each stream. Does not record a
        `shared` program. Raises: ToolError, as `run`, and `ports_unavailable`.
        """
        enclosure = self.enclosure
        posture = enclosure.posture_unrecorded("proxied") if shared else enclosure.posture("proxied")
        around = self.enclosure.around(ctx.workspace, network="proxied", binds=self._binds, in_scope=True)
        directory = open_cwd(ctx, cwd)
        watch = record = None
        try:
            record = self._recording.start(ctx, posture, enclosure.require)
            walls, watch = await self._network.open_lasting(ctx, around, offer)
            request = self._request(argv, env, self._limits, walls, output_bytes_max)
            request["keep_last"] = True
            given = {**({} if walls is None else walls.descriptors()), **({} if record is None else record.descriptors)}
            started = await background.start(self._server, request, cwd=directory, stdin=stdin, descriptors=given)
        except BaseException as error:
            if watch is not None:
                watch.drop()
            if record is not None:
                await self._recording.close(ctx, record)
            if isinstance(error, NotStarted):
                raise spawn_error(error.failure) from None
            raise
        finally:
            os.close(directory)
        if record is not None:
            record.begun()
        elif posture["record"].startswith("active"):
            posture["record"] = NO_LAYER
        ctx.posture(**posture)
        return started, watch, record

    async def serve(
        self,
        argv: Sequence[str],
        *,
        workspace: Any,
        walls: WallSpec | None,
        env: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr_bytes_max: int,
        memory_bytes_max: int = sys.maxsize,
    ) -> background.Background:
        """Start a server that belongs to no action. It communicates over `stdin` and `stdout`, which the caller owns.

        The server runs in the workspace's root until it is closed or the runtime ends. The last `stderr_bytes_max`
        bytes of its standard error are kept. `env` is added to the base environment unchecked. Its memory limit is that
        of an action, or `memory_bytes_max` if that is less.

        Raises: ToolError `spawn_failed`, `process_lost`.
        """
        limits = self._limits.of_server(memory_bytes_max)
        request: Request = {**self._request(argv, env, limits, walls, stderr_bytes_max), "keep_last": True}
        given = {STDOUT: stdout} if walls is None else {**walls.descriptors(), STDOUT: stdout}
        directory = int(workspace.open_directory((), "cwd"))
        try:
            return await background.start(self._server, request, cwd=directory, stdin=stdin, descriptors=given)
        except NotStarted as refused:
            raise spawn_error(refused.failure) from None
        finally:
            os.close(directory)

    def close(self) -> None:
        """End the fork server."""
        self._server.close()

    def _request(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        limits: ProcessLimits,
        walls: WallSpec | None,
        keep_bytes: int,
    ) -> Request:
        """Build the request that `run`, `start` and `serve` share. Raises: ToolError `invalid_parameters`."""
        return {
            "argv": checked_argv(argv),
            "search": self._environment["PATH"],
            "environment": {**self.enclosure.variables, **self._environment, **environment_of(walls), **(env or {})},
            "home": "HOME" not in {**self._environment, **(env or {})},
            "home_files": self._home_files,
            "timeout_ms": None,
            "grace_ms": GRACE_MS,
            "keep_bytes": keep_bytes,
            "keep_last": False,
            "limits": wire_limits(limits, keep_bytes),
            "call": None,
            "walls": None if walls is None else walls.wire(),
            "directory": "",
            "descriptors": [],
        }

    async def _perform(
        self,
        request: Request,
        directory: int,
        stdin: bytes | None,
        ctx: Context,
        given: Mapping[str, int],
        posture: Mapping[str, str],
        limits: ProcessLimits,
        *,
        read_only: bool,
        in_scope: bool,
    ) -> ProcessResult:
        """Send the request, with the descriptors `given`, and turn its outcome into a result."""
        changed = None if read_only else process_note(ctx, posture)
        if VIEW_USER in given:
            request["directory"] = os.fspath(ctx.workspace.root)
        try:
            async with recorded_changes(ctx, read_only=read_only, in_scope=in_scope, posture=posture):
                work = self._server.run(request, cwd=directory, stdin=stdin, descriptors=given)
                outcome = await run_in_layer(ctx, limits.layer_bytes, work)
        except LayerFullError as full:
            partial = _partial(full.outcome, ctx, posture, changed)
            raise layer_full(full.used, limits.layer_bytes, partial) from None
        except Stopped as stopped:
            partial = _partial(stopped.outcome, ctx, posture, changed)
            raise stopped_error(partial, late=self._clock.mono_ns() >= ctx.deadline_ns) from None
        failure = outcome.report["failure"]
        if failure is not None:
            raise spawn_error(failure)
        account(outcome.report, ctx, posture, changed=changed)
        check_recorded(outcome)
        result = _result(outcome)
        if result.limit is not None and outcome.report["stopped"] == "limit":
            raise result.limit
        return result


def _partial(outcome: Outcome | None, ctx: Context, posture: Mapping[str, str], changed: str | None) -> Any:
    """Account for a stopped program. Returns its output so far, or None if it was never started."""
    if outcome is None or outcome.report["failure"] is not None:
        return None
    account(outcome.report, ctx, posture, changed=changed)
    return result_as_json(_result(outcome))


def open_cwd(ctx: Context, path: str | dict[str, str] | None = None) -> int:
    """Open a directory beneath the workspace (by default its root). Raises: ToolError of the workspace."""
    workspace = ctx.workspace
    where = () if path is None else workspace.locate(path, "cwd")
    return int(workspace.open_directory(where, "cwd"))


def descriptors_for(ctx: Context, walls: WallSpec | None) -> dict[str, int]:
    """Returns the descriptors for a request: those of the walls, or without walls those of the layer that the process joins."""
    layer = None if ctx.workspace is None else ctx.workspace.layer
    if walls is None or walls.profile == "nons":
        view = {} if layer is None or layer.namespaces is None else dict(zip(_VIEW, layer.namespaces, strict=True))
        return view if walls is None else {**view, **walls.descriptors()}
    return walls.descriptors()


def process_note(ctx: Context, posture: Mapping[str, str]) -> str | None:
    """Returns the note for undo about a process that may write; None if walls keep its changes in the layer."""
    if ctx.workspace is None or ctx.workspace.layer is None:
        return PROCESS_RAN
    confined = all(posture.get(wall, "").startswith("active") for wall in ("fs", "net"))
    return None if confined else LAYERED_PROCESS_RAN


def account(report: Report, ctx: Context, posture: Mapping[str, str], *, changed: str | None) -> None:
    """Report an action's posture and resource use to the context, and `changed`: what undo cannot reverse."""
    walls = {**posture, **posture_of_group(report["grouped"])}
    layered = ctx.workspace is not None and ctx.workspace.layer is not None
    walls["disk"] = "active(the layer is measured)" if layered else "absent(the workspace itself has no limit)"
    if layered:
        walls.pop("layer", None)  # the engine has already reported this entry
    ctx.posture(**walls)
    ctx.resources(_resources(report))
    if report["pid"]:
        ctx.resources({"pids": [report["pid"]]})
    if changed is not None:
        ctx.not_exactly_undoable(changed)
    if report["strays_left"]:
        ctx.not_exactly_undoable("a process that could not be killed is still running")
        ctx.posture(tree="absent(a process of the tree could not be killed)")


def _result(outcome: Outcome) -> ProcessResult:
    report = outcome.report
    result = ProcessResult(
        exit_code=report["exit_code"],
        signal=signal_name(report["signal"]),
        stdout=outcome.stdout,
        stderr=outcome.stderr,
        truncated=report["stdout_bytes"] > report["stdout_kept"] or report["stderr_bytes"] > report["stderr_kept"],
        timed_out=report["stopped"] == "timeout",
        duration_ms=report["duration_ms"],
        strays_killed=report["strays_killed"],
        limit=None,
        resources=_resources(report),
    )
    limit = exceeded_error(report, result_as_json(result))
    return result if limit is None else msgspec.structs.replace(result, limit=limit)


def _resources(report: Report) -> dict[str, int | float]:
    return {
        "cpu_ms": round(report["cpu_user_ms"] + report["cpu_system_ms"], 3),
        "cpu_user_ms": report["cpu_user_ms"],
        "cpu_system_ms": report["cpu_system_ms"],
        "memory_bytes": report["memory_bytes"],
        "read_bytes": report["read_bytes"],
        "written_bytes": report["written_bytes"],
    }


def signal_name(number: int | None) -> str | None:
    """Returns the name of a signal, such as `SIGTERM`; None for None."""
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # a real-time signal


def result_as_json(result: ProcessResult) -> dict[str, Any]:
    """Returns the output of `shell` and `exec`.

    `stdout` and `stderr` are text where the bytes are UTF-8 (`*_encoding` is `utf-8`), else standard base64 (`base64`).
    `strays_ended` counts the processes that the program left behind and that were killed.
    """
    stdout, stdout_encoding = text_or_base64(result.stdout, cut=result.truncated)
    stderr, stderr_encoding = text_or_base64(result.stderr, cut=result.truncated)
    return {
        "exit_code": result.exit_code,
        "signal": result.signal,
        "stdout": stdout,
        "stdout_encoding": stdout_encoding,
        "stderr": stderr,
        "stderr_encoding": stderr_encoding,
        "truncated": result.truncated,
        "strays_ended": result.strays_killed,
        "duration_ms": result.duration_ms,
    }


def text_or_base64(data: bytes, *, cut: bool) -> tuple[str, str]:
    """Convert bytes to JSON text. Returns the text and its encoding. `cut`: the last character may be incomplete."""
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError as error:
        # A limit may cut a multi-byte character; that alone does not make the text binary.
        if cut and error.reason == "unexpected end of data" and error.end == len(data):
            return data[: error.start].decode(), "utf-8"
    return base64.b64encode(data).decode(), "base64"


def bindings(runner: ProcessRunner) -> list[Binding]:
    """Returns the tools `shell` and `exec`."""

    async def shell(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return await _run_tool(runner, ["/bin/sh", "-c", parameters["command"]], parameters, ctx)

    async def exec_(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return await _run_tool(runner, parameters["argv"], parameters, ctx)

    line = _tool("shell", "Run a command line with /bin/sh.", {"command": COMMAND})
    program = _tool("exec", "Run a program with arguments, without a shell.", {"argv": _ARGV})

    def walls() -> dict[str, str]:
        return runner.enclosure.posture("proxied")

    return [Binding(tool=line, function=shell, walls=walls), Binding(tool=program, function=exec_, walls=walls)]


async def _run_tool(runner: ProcessRunner, argv: list[str], parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    stdin = parameters.get("stdin")
    result = await runner.run(
        argv,
        ctx=ctx,
        cwd=parameters.get("cwd"),
        env=requested_environment(parameters.get("env", {})),
        stdin=None if stdin is None else stdin.encode(),
        in_scope=True,
        network="proxied",
    )
    output = result_as_json(result)
    if result.timed_out:
        raise ToolError("stopped at its time-out", code="timeout", output=output)
    if parameters.get("check", True):
        if result.limit is not None:
            raise result.limit
        failure = None
        if result.signal is not None:
            failure = ToolError(f"the process was ended by {result.signal}", code="signalled", output=output)
        elif result.exit_code != 0:
            failure = ToolError(f"the process ended with exit code {result.exit_code}", code="exit_code", output=output)
        if failure is not None:
            raise proxy_lost(failure) if result.proxy_lost else failure
    return output


COMMAND: Final = {
    "type": "string",
    "minLength": 1,
    "x-interlock": "command",
    "description": "The argument of `/bin/sh -c`.",
}
_ARGV: Final = {
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
    "x-interlock": "command",
    "description": "The program, as a path or a name in PATH, and its arguments.",
}
PLACE: Final[dict[str, Any]] = {
    "cwd": {
        "type": ["string", "object"],
        "x-interlock": "path.read",
        "description": "Directory beneath the workspace; its root unless given.",
    },
    "env": {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "x-interlock": "environment",
        "description": "Variables added to the clean environment; need approval unless known to be harmless.",
    },
}
"""Parameters of every tool that starts a program."""
_SHARED: Final[dict[str, Any]] = {
    **PLACE,
    "stdin": {"type": "string", "description": "Standard input of the process, as UTF-8."},
    "check": {"type": "boolean", "default": True, "description": "A non-zero exit fails the action (the default)."},
}


def _tool(name: str, description: str, first: dict[str, Any]) -> Tool:
    return Tool(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": {**first, **_SHARED},
            "required": list(first),
            "additionalProperties": False,
        },
        timeout_ms=120_000,
        isolation="process",
        tags=("process",),
    )
