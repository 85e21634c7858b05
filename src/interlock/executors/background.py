"""Programs that live on after their action: `proc.start`, `proc.output`, `proc.wait` and `proc.stop`.

A program is known by a handle, and only to the agent that started it: in the run that it was started in, or, if the action's
`invocation_mode` is `session`, in every run of that session in this runtime. It has the walls of a process action, and ends with
its run or session, and with the runtime, however that ends. A `Listener` is told of starts and ends, and puts them on record.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

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
from interlock.isolation.background import Background
from interlock.isolation.client import Outcome
from interlock.isolation.posture import posture
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.tool import Binding, Context, Tool

KEPT_BYTES: Final = 256 * 1024
"""Of each output stream, the last ones."""
RUNNING_MAX: Final = 32
"""Programs that a runtime has running at once."""
ENDED_KEPT: Final = 64
"""Programs that have ended and can still be asked about."""
_LOOK_S: Final = (0.02, 0.25)
"""The pauses between two looks of `proc.wait`: the first, and the longest."""
_MARGIN_NS: Final = 100_000_000
"""`proc.wait` gives up so long before its deadline, to be able to say what it saw."""
_CHANGED: Final = "a program that lives on ran in the direct workspace"


class Program(msgspec.Struct, eq=False):
    """A program that was started."""

    handle: str
    agent: str
    run: str
    proposal: str
    session: str | None
    """The session that it lives as long as; None if it lives as long as its run."""
    process: Background
    told: bool = False
    """True once its end is on record."""


class End(msgspec.Struct, frozen=True):
    """How a program ended."""

    why: str
    """`exited`, `stopped`, `process_limit`, `proposal_aborted`, `run_ended`, `session_ended`, `lost`."""
    outcome: Outcome | None
    """None if its supervisor was killed, or could not say."""


class Listener(Protocol):
    """Is told what goes on record. Called on the thread of the event loop."""

    def started(self, program: Program, ctx: Context) -> None:
        """A program runs now."""
        ...

    def ended(self, program: Program, end: End, ctx: Context) -> None:
        """An action has stopped a program, or found that it had ended."""
        ...


class Programs:
    """Those of one runtime. Used from several event loops."""

    def __init__(self, runner: ProcessRunner, clock: Clock, listener: Listener) -> None:
        """`runner` starts them."""
        self._runner = runner
        self._clock = clock
        self._listener = listener
        self._lock = threading.Lock()
        self._programs: dict[str, Program] = {}

    # -- the tools

    async def start(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`proc.start`."""
        session = None
        if ctx.invocation_mode == "session":
            session = ctx.session
            if session is None:
                raise ToolError(
                    "this run belongs to no session that the program could live as long as",
                    code="session_missing",
                    retryable=False,
                    hint="name one (`--session NAME`), or leave `invocation_mode` out: as long as the run",
                )
        self._make_room()
        process = await self._runner.start(
            ["/bin/sh", "-c", parameters["command"]],
            ctx=ctx,
            cwd=parameters.get("cwd"),
            env=requested_environment(parameters.get("env", {})),
            output_bytes_max=KEPT_BYTES,
        )
        program = Program(_handle(ctx), ctx.agent, ctx.run_id, ctx.proposal_id, session, process)
        ctx.posture(**posture())
        ctx.not_exactly_undoable(_CHANGED)
        with self._lock:
            self._programs[program.handle] = program
        self._listener.started(program, ctx)
        return {"handle": program.handle, "until": "run" if session is None else "session"}

    async def output(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`proc.output`."""
        program = self._find(parameters["handle"], ctx)
        outcome = await self._look(program, ctx)
        return _shown(outcome, parameters)

    async def wait(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`proc.wait`: until the program ends, or has printed a text."""
        program = self._find(parameters["handle"], ctx)
        text = parameters.get("output")
        needle = None if text is None else text.encode()
        pause, longest = _LOOK_S
        while True:
            outcome = await self._look(program, ctx)
            found = needle is not None and (needle in outcome.stdout or needle in outcome.stderr)
            shown = {**_shown(outcome, parameters), "found": found}
            if found or (outcome.report["ended"] and needle is None):
                return shown
            if outcome.report["ended"]:
                raise ToolError(
                    "the program ended and had not printed the text",
                    code="process_ended",
                    retryable=False,
                    output=shown,
                )
            if ctx.deadline_ns - self._clock.mono_ns() < pause * 1e9 + _MARGIN_NS:
                what = "ended" if needle is None else "printed the text"
                raise ToolError(
                    f"the program has not {what} so far; it still runs", code="timeout", retryable=False, output=shown
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, longest)

    async def stop(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`proc.stop`."""
        program = self._find(parameters["handle"], ctx)
        ran = not program.told and not await asyncio.to_thread(program.process.has_ended)
        if ran:
            ctx.not_exactly_undoable("a program was stopped")
        outcome = await asyncio.to_thread(program.process.stop)
        self._tell(program, outcome, ctx, "stopped" if ran else "exited")
        account(outcome.report, ctx, changed=None)
        return {**_shown(outcome, parameters), "stopped": ran}

    # -- ends

    def end_proposal(self, run: str, proposal: str) -> list[tuple[Program, End]]:
        """End what an aborted proposal has started, and say how each ended that was not on record. Blocks shortly."""
        return self._end("proposal_aborted", lambda one: (one.run, one.proposal) == (run, proposal))

    def end_run(self, run: str) -> list[tuple[Program, End]]:
        """The same for a run that is over, but for what lives as long as its session."""
        return self._end("run_ended", lambda one: one.run == run and one.session is None)

    def close(self) -> list[tuple[Program, End]]:
        """The same for all that there is: the runtime ends, and with it every session in it."""
        return self._end("session_ended", lambda _: True)

    def _end(self, why: str, which: Callable[[Program], bool]) -> list[tuple[Program, End]]:
        with self._lock:
            chosen = [one for one in self._programs.values() if which(one)]
            for one in chosen:
                del self._programs[one.handle]
        for one in chosen:
            one.process.ask_to_end()  # all at once: each has its grace at the same time
        ends = []
        for one in chosen:
            end = End("lost", None)
            try:
                end = _end_of(one.process.stop(), why)
            except ToolError:
                pass  # the supervisor was killed, and the program with it
            finally:
                one.process.close()
            if not one.told:
                ends.append((one, end))
        return ends

    # -- what is known

    def _find(self, handle: str, ctx: Context) -> Program:
        """The program, if this agent may use it here. Raises: ToolError `process_unknown`."""
        with self._lock:
            program = self._programs.get(handle)
        if program is None or program.agent != ctx.agent or not _in_scope(program, ctx):
            raise ToolError(
                "there is no program of that handle here",
                code="process_unknown",
                path="$.parameters.handle",
                retryable=False,
                hint="a program ends with the run (or session) that started it, and is its agent's alone",
            )
        return program

    async def _look(self, program: Program, ctx: Context) -> Outcome:
        try:
            outcome = await asyncio.to_thread(program.process.look)
        except ToolError as error:
            if error.code == "process_lost" and not error.retryable and not program.told:
                program.told = True
                self._listener.ended(program, End("lost", None), ctx)
            raise
        if outcome.report["ended"]:
            self._tell(program, outcome, ctx, "exited")
        return outcome

    def _tell(self, program: Program, outcome: Outcome, ctx: Context, why: str) -> None:
        if not program.told:
            program.told = True
            self._listener.ended(program, _end_of(outcome, why), ctx)

    def _make_room(self) -> None:
        """Forget what ended long ago. Raises: ToolError `process_limit` if too many run."""
        with self._lock:
            ended = [one for one in self._programs.values() if one.told]
            for one in ended[: max(0, len(ended) - ENDED_KEPT + 1)]:
                del self._programs[one.handle]
                one.process.close()
            running = len(self._programs) - sum(one.told for one in self._programs.values())
        if running >= RUNNING_MAX:
            raise ToolError(
                f"{running} programs run already that were started by `proc.start`",
                code="process_limit",
                retryable=False,
                hint="stop one by `proc.stop`",
            )


def _in_scope(program: Program, ctx: Context) -> bool:
    if program.session is not None:
        return program.session == ctx.session
    return program.run == ctx.run_id


def _handle(ctx: Context) -> str:
    """Another one for each attempt of each action of each run, so that an old handle never names a new program."""
    parts = (ctx.run_id, ctx.proposal_id, ctx.action_id, str(ctx.attempt))
    return "proc-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _end_of(outcome: Outcome, why: str) -> End:
    stopped = outcome.report["stopped"]
    if stopped is None:
        why = "exited"
    elif stopped == "processes":
        why = "process_limit"
    return End(why, outcome)


def _shown(outcome: Outcome, parameters: dict[str, Any]) -> dict[str, Any]:
    """What the tools return: how the program is, and what it printed from the offsets on that the call names."""
    report = outcome.report
    shown: dict[str, Any] = {
        "running": not report["ended"],
        "exit_code": report["exit_code"],
        "signal": signal_name(report["signal"]),
        "strays_ended": report["strays_killed"],
        "duration_ms": report["duration_ms"],
    }
    for name, data, total in (
        ("stdout", outcome.stdout, report["stdout_bytes"]),
        ("stderr", outcome.stderr, report["stderr_bytes"]),
    ):
        first = total - len(data)
        begin = min(max(first, parameters.get(f"{name}_from", 0)), total)
        part = data[begin - first :]
        text, encoding = text_or_base64(part, cut=True)
        if encoding == "utf-8":
            part = text.encode()  # a character that is only half there comes with the next call
        shown |= {name: text, f"{name}_encoding": encoding, f"{name}_from": begin, f"{name}_next": begin + len(part)}
    return shown


def bindings(programs: Programs) -> list[Binding]:
    """The four tools."""
    return [
        Binding(
            tool=Tool(
                name="proc.start",
                description="Start a command line with /bin/sh that lives on after this action: a server, a watcher. It ends "
                "with the run; with `invocation_mode: session` it ends with the session.",
                parameters=_object({"command": COMMAND, **PLACE}, "command"),
                returns=_object(
                    {"handle": {"type": "string"}, "until": {"enum": ["run", "session"]}}, "handle", "until"
                ),
                invocation_modes=("one_shot", "run", "session"),
                isolation="process",
                tags=("process",),
            ),
            function=programs.start,
        ),
        Binding(
            tool=_asking(
                "proc.output",
                "What a program that `proc.start` started has printed, and whether it still runs. The last 256 KiB of each "
                "stream are kept; `stdout_next` and `stderr_next` say from where on to ask the next time.",
                {},
            ),
            function=programs.output,
        ),
        Binding(
            tool=_asking(
                "proc.wait",
                "Wait until a program that `proc.start` started has ended, or (`output`) has printed a text. Fails after its "
                "time-out, and leaves the program alone.",
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
        ),
        Binding(
            tool=Tool(
                name="proc.stop",
                description="End a program that `proc.start` started, with all its processes: SIGTERM, and SIGKILL after half "
                "a second. Says what it printed last. Not a failure if it has ended before.",
                parameters=_object({"handle": _HANDLE, **_OFFSETS}, "handle"),
                open_world=False,
                idempotent=False,
                tags=("process",),
            ),
            function=programs.stop,
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
_OFFSETS: Final[dict[str, Any]] = {
    f"{name}_from": {
        "type": "integer",
        "minimum": 0,
        "default": 0,
        "description": f"Leave out what {name} had before this byte.",
    }
    for name in ("stdout", "stderr")
}
