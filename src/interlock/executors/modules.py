"""Python tool modules named in the configuration (`[tools] modules`): loaded in a host process, called by JSON messages.

The runtime's own process never imports them. `module_host` is the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.executors import enclosure as walls_of
from interlock.executors.enclosure import Enclose, Enclosure
from interlock.executors.environment import child_environment
from interlock.executors.exceeded import ProcessLimits, exceeded_error, layer_full, wire_limits
from interlock.executors.layer_watch import LayerFullError, run_in_layer
from interlock.executors.module_host import Report, Setup, Source
from interlock.executors.network import Line, ProcessNetwork, environment_of, proxy_lost
from interlock.executors.process import (
    GRACE_MS,
    account,
    open_cwd,
)
from interlock.executors.process_errors import spawn_error
from interlock.executors.process_watch import recorded_changes
from interlock.executors.recording import ProcessRecording, check_recorded
from interlock.isolation.client import ForkServer, Outcome, Stopped
from interlock.isolation.spec import WallSpec
from interlock.isolation.wire import CHANNEL, Launch, Request
from interlock.model import typed
from interlock.model.clock import Clock
from interlock.model.errors import ConfigurationError, ToolError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.tool import Binding, Context, Tool

_IMPORT_S: Final = 30
_PRINTED_BYTES: Final = 16 * 1024
_CHANNEL_BYTES: Final = DEFAULT_LIMITS.output_bytes + 1024 * 1024
"""A result of maximum size, plus space for the tool's other messages."""

_PACKAGE: Final = str(Path(__file__).resolve().parent.parent)
_BOOT: Final = f"""
import os, sys
sys.path.append(os.path.dirname({_PACKAGE!r}))
from interlock.executors.module_host import main
main()
"""


_decode: Final = typed.json_decoder(Report).decode


class ModuleTools:
    """The tool modules of one project and their host process. Must be closed."""

    def __init__(
        self,
        names: Sequence[str],
        project: Path,
        clock: Clock,
        *,
        trusted: Mapping[str, tuple[str, str]] | None = None,
        functions: Sequence[Source] = (),
        path: Sequence[str] | None = None,
        parent_environment: Mapping[str, str] | None = None,
        limits: ProcessLimits | None = None,
        enclose: Enclose = walls_of.none,
        network: ProcessNetwork | None = None,
        recording: ProcessRecording | None = None,
    ) -> None:
        """Does not start the host yet.

        Modules are looked up in installed packages first, then in `path` (by default `project` and its `src`).
        `functions` are loaded in addition to the modules, and called with `call`. `trusted` maps each module to its
        file and the SHA-256 (hex) of its trusted content: under that name, nothing else is imported, and no other file
        of the project is imported (None: any file may be imported).
        """
        self._clock = clock
        self._project = project
        self._limits = limits or ProcessLimits()
        self._enclose = enclose
        self._network = network or ProcessNetwork()
        self._recording = recording or ProcessRecording()
        parent = os.environ if parent_environment is None else parent_environment
        self._environment = child_environment(parent)
        setup: Setup = {
            "modules": list(names),
            "functions": list(functions),
            "project": str(project),
            "path": [str(project), f"{project}/src"] if path is None else list(path),
            "trusted": None if trusted is None else dict(trusted),
        }
        command = [sys.executable, "-I", "-c", _BOOT, json.dumps(setup)]
        self._server = ForkServer(command, self._environment, launch=self._launch)

    @property
    def _enclosure(self) -> Enclosure:
        return walls_of.of(self._enclose)

    def _launch(self) -> Launch:
        return self._enclosure.launch()

    @property
    def server(self) -> ForkServer:
        """The host's fork server."""
        return self._server

    async def load(self) -> list[Binding]:
        """Import the modules and return their tools.

        Raises: ConfigurationError, which names the module and its problem.
        """
        request = self._request({"tool": None}, None, timeout_ms=_IMPORT_S * 1000)
        channel = _Messages(None)
        cwd = os.open(self._project, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            async with asyncio.timeout(_IMPORT_S):
                await self._run(request, cwd, channel)
        except ToolError as error:
            raise _host_ended() from error
        except (TimeoutError, Stopped):
            raise ConfigurationError(
                f"importing the tool modules took longer than {_IMPORT_S} s",
                path="$.tools.modules",
                hint="importing a module must only define functions and classes",
            ) from None
        finally:
            os.close(cwd)
        answer = channel.result
        if answer is None:
            raise _host_ended()
        for problem in answer["problems"]:
            raise ConfigurationError(
                f"the tool module `{problem['module']}` cannot be loaded: {problem['message']}", path="$.tools.modules"
            )
        return [self._binding(typed.convert(tool, Tool)) for tool in answer["tools"]]

    def close(self) -> None:
        """End the host."""
        self._server.close()

    def _binding(self, tool: Tool) -> Binding:
        version = tool.version

        async def call(parameters: dict[str, Any], ctx: Context) -> Any:
            return await self.call(tool, version, parameters, ctx)

        return Binding(tool=tool, function=call, mode="async", walls=self.posture)

    def posture(self) -> dict[str, str]:
        """Returns the posture of a call's process."""
        return self._enclosure.posture("proxied")

    async def call(self, tool: Tool, version: str, parameters: dict[str, Any], ctx: Context) -> Any:
        """Call a function in a process that is killed at the time-out. Raises: ToolError."""
        call = {"tool": tool.name, "version": version, "parameters": parameters, "context": _fields(ctx)}
        remaining_ms = max(0, ctx.deadline_ns - self._clock.mono_ns()) // 1_000_000
        channel = _Messages(ctx)
        posture = self.posture()
        around = self._enclosure.around(ctx.workspace, network="proxied", in_scope=True)
        cwd = open_cwd(ctx)
        line: Line | None = None
        try:
            async with (
                self._network.open(ctx, around) as line,
                self._recording.open(ctx, posture, self._enclosure.require) as recorder,
                recorded_changes(ctx, read_only=tool.read_only),
            ):
                request = self._request(call, line.walls, timeout_ms=remaining_ms)
                work = self._run(request, cwd, channel, line.walls, recorder)
                outcome = await run_in_layer(ctx, self._limits.layer_bytes, work)
            timed_out, cancelled = outcome.report["stopped"] == "timeout", False
        except LayerFullError as full:
            raise layer_full(full.used, self._limits.layer_bytes, None) from None
        except Stopped as stopped:
            outcome = stopped.outcome
            timed_out = self._clock.mono_ns() >= ctx.deadline_ns
            cancelled = not timed_out
        finally:
            os.close(cwd)
        failure = outcome.report["failure"]
        if failure is not None:
            raise spawn_error(failure)
        changed = (
            None
            if tool.read_only
            else "a function ran in a separate process in the workspace itself, where not every change is recorded"
        )
        del posture["record"]  # already reported when the record ended
        account(outcome.report, ctx, posture, changed=changed)
        for printed in (outcome.stdout, outcome.stderr):
            if printed:
                ctx.log(printed.decode("utf-8", "replace"))
        check_recorded(outcome)
        if timed_out or cancelled:
            why = "stopped at its time-out" if timed_out else "stopped because the action was cancelled"
            raise ToolError(why, code="timeout" if timed_out else "cancelled")
        exceeded = exceeded_error(outcome.report, None)
        if exceeded is not None:
            raise exceeded
        try:
            return channel.answer(outcome)
        except ToolError as error:
            if line is not None and line.traffic.lost:
                raise proxy_lost(error) from error
            raise

    async def _run(
        self,
        request: Request,
        cwd: int,
        channel: _Messages,
        walls: WallSpec | None = None,
        recorder: Mapping[str, int] | None = None,
    ) -> Outcome:
        """Send one call to the host. Its messages arrive through `channel` while it runs."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        loop = asyncio.get_running_loop()

        def read() -> None:
            if not channel.read(reader):
                loop.remove_reader(reader)

        loop.add_reader(reader, read)
        try:
            try:
                given = {CHANNEL: writer, **(walls.descriptors() if walls is not None else {}), **(recorder or {})}
                return await self._server.run(request, cwd=cwd, descriptors=given)
            finally:
                os.close(writer)
        finally:
            loop.remove_reader(reader)
            while channel.read(reader):
                pass
            os.close(reader)

    def _request(self, call: dict[str, Any], walls: WallSpec | None, *, timeout_ms: int) -> Request:
        return {
            "argv": [],
            "search": "",
            "environment": {**self._enclosure.variables, **self._environment, **environment_of(walls)},
            "home": True,
            "home_files": {},
            "timeout_ms": timeout_ms,
            "grace_ms": GRACE_MS,
            "keep_bytes": _PRINTED_BYTES,
            "keep_last": False,
            "limits": wire_limits(self._limits, _PRINTED_BYTES),
            "call": call,
            "walls": None if walls is None else walls.wire(),
            "directory": "",
            "descriptors": [],
        }


class _Messages:
    """Reads the messages of a call. All but the result are passed to the context immediately."""

    def __init__(self, ctx: Context | None) -> None:
        self._ctx = ctx
        self._pending = bytearray()
        self._read_bytes = 0
        self._answer = Report()

    @property
    def result(self) -> Any:
        """The result, or None."""
        return None if self._answer.result is msgspec.UNSET else self._answer.result

    def read(self, fd: int) -> bool:
        """Read what is available. Returns False at the end, or if nothing is available."""
        try:
            data = os.read(fd, 256 * 1024)
        except BlockingIOError:
            return False
        self._read_bytes += len(data)
        if self._read_bytes > _CHANNEL_BYTES:
            self._pending.clear()  # keep reading but store nothing; the call fails as too large
            return bool(data)
        self._pending += data
        if b"\n" in data:
            *lines, rest = self._pending.split(b"\n")
            self._pending = bytearray(rest)
            for line in lines:
                self._take(bytes(line))
        return bool(data)

    def answer(self, outcome: Outcome) -> Any:
        """Returns the call's result. Raises: the ToolError that the call raised, or one for a missing result."""
        if self._read_bytes > _CHANNEL_BYTES:
            raise ToolError(
                f"the tool returned more than {DEFAULT_LIMITS.output_bytes} bytes",
                code="invalid_output",
                retryable=False,
            )
        error = self._answer.error
        if error is not None:
            raise ToolError(
                error["message"],
                code=error["code"],
                retryable=error.get("retryable", True),
                unknown_outcome=error.get("unknown_outcome", False),
                output=error.get("output"),
                path=error.get("path"),
                hint=error.get("hint"),
            )
        if self._answer.result is msgspec.UNSET:
            report = outcome.report
            number = report["signal"]
            how = f"signal {number}" if number is not None else f"exit code {report['exit_code']}"
            raise ToolError(f"the tool's process ended without an answer ({how})", code="tool_error")
        return self._answer.result

    def _take(self, line: bytes) -> None:
        try:
            report = _decode(line)
        except msgspec.DecodeError:  # the tool's code can write here too: ignore what is not a message
            return
        if report.error is not None or report.result is not msgspec.UNSET:
            self._answer = report
        elif self._ctx is not None:
            _tell(self._ctx, report)


def _tell(ctx: Context, report: Report) -> None:
    if report.log is not None:
        ctx.log(report.log)
    if report.progress is not None:
        ctx.progress(*report.progress)
    if report.cost:
        with contextlib.suppress(ValueError):  # an invalid cost that the tool wrote itself must not lose the result
            ctx.report_cost(report.cost)
    if report.posture:
        ctx.posture(**report.posture)
    if report.not_undoable is not None:
        ctx.not_exactly_undoable(report.not_undoable)
    if report.resources:
        ctx.resources(report.resources)


def _host_ended() -> ConfigurationError:
    return ConfigurationError(
        "the process that imports the tool modules ended",
        path="$.tools.modules",
        hint="its standard error, printed above, may explain why",
    )


def _fields(ctx: Context) -> dict[str, Any]:
    return {
        "run_id": ctx.run_id,
        "proposal_id": ctx.proposal_id,
        "action_id": ctx.action_id,
        "attempt": ctx.attempt,
        "agent": ctx.agent,
        "session": ctx.session,
        "invocation_mode": ctx.invocation_mode,
        "dry_run": ctx.dry_run,
        "deadline_ns": ctx.deadline_ns,
    }
