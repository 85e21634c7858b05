"""Programs that keep running after their action: `proc.start`, `proc.output`, `proc.wait` and `proc.stop`.

A program is identified by a handle, which only the agent that started it can use: in the same run, or, if the action's
`invocation_mode` is `session`, in every run of that session in this runtime. It has the walls of a process action, and
ends with its run or session, and always with the runtime. A `Listener` records starts and ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from interlock.executors.environment import requested_environment
from interlock.executors.process import (
    COMMAND,
    PLACE,
    ProcessRunner,
    account,
    signal_name,
    text_or_base64,
)
from interlock.executors.recording import Record, Summary
from interlock.isolation.client import Outcome
from interlock.isolation.egress.client import Traffic
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.tool import Binding, Context, Tool

if TYPE_CHECKING:
    from interlock.executors.offered_ports import Offer
    from interlock.isolation.background import Background
    from interlock.isolation.egress.background import BackgroundWatch

KEPT_BYTES: Final = 256 * 1024
"""The last bytes of each output stream that are kept."""
RUNNING_MAX: Final = 32
"""Maximum number of concurrent programs per runtime."""
ENDED_KEPT: Final = 64
"""Number of ended programs that are remembered."""
PORTS_MAX: Final = 8
"""Maximum number of ports of one program."""
LOWEST_PORT: Final = 1024
"""The lowest port on which a program behind walls can listen."""
_LOOK_S: Final = (0.02, 0.25)
"""Poll interval of `proc.wait`: the first and the longest."""
_MARGIN_NS: Final = 100_000_000
"""How long before its deadline `proc.wait` returns, to leave time for its report."""
_CHANGED: Final = "a background program ran in the workspace itself, where not every change is recorded"


class Program(msgspec.Struct, eq=False):
    """A started program."""

    handle: str
    agent: str
    run: str
    proposal: str
    action: str
    """The action that started it."""
    session: str | None
    """The session whose end ends the program; None if it ends with its run."""
    process: Background
    network: BackgroundWatch | None = None
    """The watch on its network; None if it has no network."""
    offer: Offer | None = None
    """The ports on which later actions reach it; None without `ports`."""
    record: Record | None = None
    """The record of the program; None without a recorder."""
    reported: bool = False
    """True once its end has been recorded."""


class End(msgspec.Struct, frozen=True):
    """How a program ended."""

    why: str
    """One of `exited`, `stopped`, `process_limit`, `memory_limit`, `cpu_limit`, `proposal_aborted`, `run_stopped`,
    `run_ended`, `session_ended`, `recorder_lost`, `lost`.
    """
    outcome: Outcome | None
    """None if its supervisor was killed or did not know."""
    traffic: Traffic = Traffic()
    """Network traffic that no action has reported yet."""
    recorded: Summary | None = None
    """How the recorder ended; None without a recorder."""


class Listener(Protocol):
    """Records starts and ends. Called on the event loop's thread."""

    def started(self, program: Program, ctx: Context) -> None:
        """A program has started."""
        ...

    def ended(self, program: Program, end: End, ctx: Context) -> None:
        """An action stopped a program, or found that it had ended."""
        ...


class Programs:
    """The background programs of one runtime. Safe to use from several event loops."""

    def __init__(self, runner: ProcessRunner, clock: Clock, listener: Listener) -> None:
        """`runner` starts the programs."""
        self._runner = runner
        self._clock = clock
        self._listener = listener
        self._lock = threading.Lock()
        self._programs: dict[str, Program] = {}

    # -- the tools

    def walls(self) -> dict[str, str]:
        """Returns the posture of a program that ends with its run. Raises: ToolError `isolation_failed`."""
        return self._runner.enclosure.posture("proxied")

    async def start(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`proc.start`."""
        session = None
        if ctx.invocation_mode == "session":
            session = ctx.session
            if session is None:
                raise ToolError(
                    "the run has no session that could own the program",
                    code="session_missing",
                    retryable=False,
                    hint="name a session (`--session NAME`), or omit `invocation_mode`: the program then ends with the run",
                )
        self._make_room()
        handle, ports = _handle(ctx), parameters.get("ports", ())
        offer = self._runner.network.offered.offer(handle, ctx, session, ports) if ports else None
        try:
            process, network, record = await self._runner.start(
                ["/bin/sh", "-c", parameters["command"]],
                ctx=ctx,
                cwd=parameters.get("cwd"),
                env=requested_environment(parameters.get("env", {})),
                output_bytes_max=KEPT_BYTES,
                offer=offer,
                shared=session is not None,
            )
        except BaseException:
            self._runner.network.offered.withdraw(offer)
            raise
        if offer is not None:
            offer.started()
        program = Program(
            handle, ctx.agent, ctx.run_id, ctx.proposal_id, ctx.action_id, session, process, network, offer, record
        )
        ctx.not_exactly_undoable(_CHANGED)
        with self._lock:
            self._programs[program.handle] = program
        self._listener.started(program, ctx)
        return {"handle": program.handle, "until": "run" if session is None else "session"}

    async def output(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`proc.output`."""
        program = self._find(parameters["handle"], ctx)
        outcome = await self._look(program, ctx)
        return _shown(program, outcome, parameters)

    async def wait(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`proc.wait`: wait until the program ends or has printed a text."""
        program = self._find(parameters["handle"], ctx)
        text = parameters.get("output")
        needle = None if text is None else text.encode()
        pause, longest = _LOOK_S
        while True:
            outcome = await self._look(program, ctx)
            found = needle is not None and (needle in outcome.stdout or needle in outcome.stderr)
            shown = {**_shown(program, outcome, parameters), "found": found}
            if found or (outcome.report["ended"] and needle is None):
                return shown
            if outcome.report["ended"]:
                raise ToolError(
                    "the program ended without printing the text",
                    code="process_ended",
                    retryable=False,
                    output=shown,
                )
            if ctx.deadline_ns - self._clock.mono_ns() < pause * 1e9 + _MARGIN_NS:
                what = "ended" if needle is None else "printed the text"
                raise ToolError(
                    f"the program has not {what} yet; it is still running",
                    code="timeout",
                    retryable=False,
                    output=shown,
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, longest)

    async def stop(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`proc.stop`."""
        program = self._find(parameters["handle"], ctx)
        ran = not program.reported and not await asyncio.to_thread(program.process.has_ended)
        if ran:
            ctx.not_exactly_undoable("a program was stopped")
        outcome = await asyncio.to_thread(program.process.stop)
        await self._tell(program, _end_of(outcome, "stopped" if ran else "exited"), ctx)
        await self._report_traffic(program, ctx, ended=True)
        enclosure = self._runner.enclosure
        posture = enclosure.posture_unrecorded if program.record is None else enclosure.posture
        account(outcome.report, ctx, posture("proxied"), changed=None)
        return {**_shown(program, outcome, parameters), "stopped": ran}

    # -- ends

    def end_proposal(self, run: str, proposal: str) -> list[tuple[Program, End]]:
        """End the programs of an aborted proposal. Returns the ends that are not recorded yet. Blocks briefly."""
        return self._end("proposal_aborted", lambda one: (one.run, one.proposal) == (run, proposal))

    def end_run(self, run: str) -> list[tuple[Program, End]]:
        """End the programs of an ended run, except those that end with a session. Returns as `end_proposal`."""
        return self._end("run_ended", lambda one: one.run == run and one.session is None)

    def stop_run(self, run: str) -> list[tuple[Program, End]]:
        """End all programs that a run started, because a person stopped the run. Returns as `end_proposal`."""
        return self._end("run_stopped", lambda one: one.run == run)

    def close(self) -> list[tuple[Program, End]]:
        """End all programs, because the runtime ends. Returns as `end_proposal`."""
        return self._end("session_ended", lambda _: True)

    def _end(self, why: str, which: Callable[[Program], bool]) -> list[tuple[Program, End]]:
        with self._lock:
            chosen = [one for one in self._programs.values() if which(one)]
            for one in chosen:
                del self._programs[one.handle]
        for one in chosen:
            one.process.ask_to_end()  # ask all first, so that their grace periods overlap
        ends = []
        for one in chosen:
            end = End("lost", None)
            try:
                end = _end_of(one.process.stop(), why)
            except ToolError:
                pass  # the supervisor was killed, and with it the program
            finally:
                one.process.close()
                self._runner.network.offered.withdraw(one.offer)
            if one.network is not None:
                end = msgspec.structs.replace(end, traffic=one.network.finish())
            if not one.reported:
                end = msgspec.structs.replace(end, recorded=_recorded(one))
            if not one.reported or end.traffic != Traffic():
                ends.append((one, end))
        return ends

    # -- program records

    def _find(self, handle: str, ctx: Context) -> Program:
        """Returns the program with this handle, if the agent may use it here. Raises: ToolError `process_unknown`."""
        with self._lock:
            program = self._programs.get(handle)
        if program is None or program.agent != ctx.agent or not _in_scope(program, ctx):
            raise ToolError(
                "there is no program with that handle here",
                code="process_unknown",
                path="$.parameters.handle",
                retryable=False,
                hint="a program ends with the run (or session) that started it, and only its agent may use it",
            )
        return program

    async def _look(self, program: Program, ctx: Context) -> Outcome:
        try:
            outcome = await asyncio.to_thread(program.process.look)
        except ToolError as error:
            if error.code == "process_lost" and not error.retryable and not program.reported:
                await self._tell(program, End("lost", None), ctx)
                await self._report_traffic(program, ctx, ended=True)
            raise
        ended = outcome.report["ended"]
        if ended:
            await self._tell(program, _end_of(outcome, "exited"), ctx)
        await self._report_traffic(program, ctx, ended=ended)
        return outcome

    async def _report_traffic(self, program: Program, ctx: Context, *, ended: bool) -> None:
        """Record the program's network traffic since the last action that reported it."""
        watch = program.network
        if watch is not None:
            self._runner.network.tell(ctx, await asyncio.to_thread(watch.finish if ended else watch.take))

    async def _tell(self, program: Program, end: End, ctx: Context) -> None:
        if not program.reported:
            program.reported = True
            self._runner.network.offered.withdraw(program.offer)
            recorded = await asyncio.to_thread(_recorded, program)
            self._listener.ended(program, msgspec.structs.replace(end, recorded=recorded), ctx)

    def _make_room(self) -> None:
        """Forget the oldest ended programs. Raises: ToolError `process_limit` if too many run."""
        with self._lock:
            ended = [one for one in self._programs.values() if one.reported]
            for one in ended[: max(0, len(ended) - ENDED_KEPT + 1)]:
                del self._programs[one.handle]
                one.process.close()
                self._runner.network.offered.withdraw(one.offer)
                if one.network is not None:
                    one.network.drop()  # it was finished when the end was recorded
            running = len(self._programs) - sum(one.reported for one in self._programs.values())
        if running >= RUNNING_MAX:
            raise ToolError(
                f"{running} programs started by `proc.start` are already running",
                code="process_limit",
                retryable=False,
                hint="stop one with `proc.stop`",
            )


def _in_scope(program: Program, ctx: Context) -> bool:
    if program.session is not None:
        return program.session == ctx.session
    return program.run == ctx.run_id


def _handle(ctx: Context) -> str:
    """Returns a handle unique to the run, action and attempt, so that an old handle never names a new program."""
    parts = (ctx.run_id, ctx.proposal_id, ctx.action_id, str(ctx.attempt))
    return "proc-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _recorded(program: Program) -> Summary | None:
    """Returns how the recorder of an ended program ended. Waits for its last lines."""
    return None if program.record is None else program.record.finish()


def _end_of(outcome: Outcome, why: str) -> End:
    stopped = outcome.report["stopped"]
    if stopped is None:
        why = "exited"
    elif stopped == "recorder_lost":
        why = stopped
    elif stopped == "limit":
        why = f"{'process' if outcome.report['exceeded'] == 'processes' else outcome.report['exceeded']}_limit"
    return End(why, outcome)


def _shown(program: Program, outcome: Outcome, parameters: dict[str, Any]) -> dict[str, Any]:
    """Returns the tools' output: the program's status and `ports`, and its output streams from the call's offsets."""
    report = outcome.report
    shown: dict[str, Any] = {
        "running": not report["ended"],
        "exit_code": report["exit_code"],
        "signal": signal_name(report["signal"]),
        "strays_ended": report["strays_killed"],
        "duration_ms": report["duration_ms"],
    }
    if program.offer is not None:
        shown["ports"] = list(program.offer.ports)
    for name, data, total in (
        ("stdout", outcome.stdout, report["stdout_bytes"]),
        ("stderr", outcome.stderr, report["stderr_bytes"]),
    ):
        first = total - len(data)
        begin = min(max(first, parameters.get(f"{name}_from", 0)), total)
        part = data[begin - first :]
        text, encoding = text_or_base64(part, cut=True)
        if encoding == "utf-8":
            part = text.encode()  # leave an incomplete character for the next call
        shown |= {name: text, f"{name}_encoding": encoding, f"{name}_from": begin, f"{name}_next": begin + len(part)}
    return shown


def bindings(programs: Programs) -> list[Binding]:
    """Returns the tools `proc.start`, `proc.output`, `proc.wait` and `proc.stop`."""
    return [
        Binding(
            tool=Tool(
                name="proc.start",
                description="Start a background program with /bin/sh: a watcher, or a server whose `ports` later actions use. "
                "It keeps running after this action until the run ends, or the session with `invocation_mode: session`.",
                parameters=_object({"command": COMMAND, **PLACE, "ports": _PORTS}, "command"),
                returns=_object(
                    {"handle": {"type": "string"}, "until": {"enum": ["run", "session"]}}, "handle", "until"
                ),
                invocation_modes=("one_shot", "run", "session"),
                isolation="process",
                tags=("process",),
            ),
            function=programs.start,
            walls=programs.walls,
        ),
        Binding(
            tool=_asking(
                "proc.output",
                "What a program that `proc.start` started has printed, and whether it still runs. The last 256 KiB of each "
                "stream are kept; `stdout_next` and `stderr_next` are the offsets for the next call.",
                {},
            ),
            function=programs.output,
            writes="nothing",
        ),
        Binding(
            tool=_asking(
                "proc.wait",
                "Wait until a program that `proc.start` started has ended, or (`output`) has printed a text. Fails after its "
                "time-out, and leaves the program running.",
                {
                    "output": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": 4096,
                        "description": "The text to wait for.",
                    }
                },
            ),
            function=programs.wait,
            writes="nothing",
        ),
        Binding(
            tool=Tool(
                name="proc.stop",
                description="End a program that `proc.start` started, with all its processes: SIGTERM, and SIGKILL after half "
                "a second. Returns its last output. Not a failure if it had already ended.",
                parameters=_object({"handle": _HANDLE, **_OFFSETS}, "handle"),
                open_world=False,
                idempotent=False,
                tags=("process",),
            ),
            function=programs.stop,
            writes="nothing",
        ),
    ]


def _asking(name: str, description: str, more: dict[str, Any]) -> Tool:
    return Tool(
        name=name,
        description=description,
        parameters=_object({"handle": _HANDLE, **more, **_OFFSETS}, "handle"),
        read_only=True,
        destructive=False,
        open_world=False,
        reversibility="reversible",
        timeout_ms=120_000 if name == "proc.wait" else 30_000,
        tags=("process", "read_only"),
    )


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_HANDLE: Final = {"type": "string", "minLength": 1, "maxLength": 64, "description": "From the output of `proc.start`."}
_PORTS: Final = {
    "type": "array",
    "items": {"type": "integer", "minimum": LOWEST_PORT, "maximum": 65535},
    "minItems": 1,
    "maxItems": PORTS_MAX,
    "uniqueItems": True,
    "description": "The TCP ports it listens on: later actions of its run or session, and no others, reach them at `localhost`.",
}
_OFFSETS: Final[dict[str, Any]] = {
    f"{name}_from": {
        "type": "integer",
        "minimum": 0,
        "default": 0,
        "description": f"Skip the bytes of {name} before this offset.",
    }
    for name in ("stdout", "stderr")
}
