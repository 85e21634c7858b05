"""Runs one measured run: its journal, its window, its command."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock import agent_shims
from interlock._version import __version__
from interlock.detect import Redactor
from interlock.detect.credentials import is_secret_flag, is_secret_name
from interlock.detect.redact import find_secrets
from interlock.engine.inspect.history import History, RunRow
from interlock.engine.local.clock import SystemClock
from interlock.engine.local.machine import boot_id, redaction_key
from interlock.engine.measured.command import run_in_foreground
from interlock.engine.measured.sdk import SdkCollector
from interlock.engine.measured.spec import RunSpec
from interlock.engine.measured.walls import Enclosed, OwnNetwork, enclosed
from interlock.engine.proposals.kernel_records import event_of
from interlock.engine.record.recorder import Recorder
from interlock.executors.recording import Record, Summary
from interlock.isolation.posture import Recorder as Kind
from interlock.isolation.wire import RECORD, Command, CommandEnd, Failure, Profile
from interlock.journal import JournalWriter, sign_head
from interlock.journal.kernel_layer import KernelLayer
from interlock.model.canonical import digest
from interlock.model.clock import Clock
from interlock.model.errors import InterlockError, StoreError, UsageError
from interlock.model.events import (
    FORMAT_VERSION,
    CommandFinished,
    CommandLost,
    CommandStarted,
    Event,
    RunFinished,
    RunStarted,
    SpawnFailed,
)
from interlock.model.grant import OPERATOR
from interlock.signing import Signer

COMMAND: Final = "command"
"""The name of the command where records name an action. It belongs to no proposal."""
SOURCE: Final = "exec"
"""The source of measured runs in the list of runs."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a command."""

    profile: Profile = "ns"
    network: OwnNetwork = "none"
    clean: bool = False
    """Use only the base environment, and behind walls an empty HOME."""
    timeout_ms: int | None = None
    recorder: Kind = "none"
    """The recorder of its processes' system calls."""


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a measured run ended. `exit_code` and `signal` are both None if it was not started, or its end is unknown."""

    run_id: str
    exit_code: int | None = None
    signal: int | None = None
    success: bool = False
    window_elapsed_ms: int = 0
    timed_out: bool = False
    failed_step: str | None = None
    """Set if the command was not started: `exec`, or an earlier step."""
    error: str | None = None
    """With `failed_step`: the name of the errno."""
    lost: bool = False
    """True if it is unknown how the command ended."""
    profile: str = "none"
    posture: dict[str, str] = {}
    recorded_calls: int | None = None
    """Calls that the recorder saw; None without a recorder."""
    shim_hooked: int | None = None
    """Processes in which the agent's shim hooked into the SDK; None without a shim."""
    reported_lines: int | None = None
    """The number of lines that the shim reported."""
    unreported_lines: int | None = None
    """The number of messages to the shim's socket that are in no layer: rejected, or beyond the layer's size limit."""
    record_whole: bool = True
    """False if calls are missing in the record, or its recorder was killed."""


def measure_command(
    past: History,
    spec: RunSpec,
    options: Options,
    *,
    directory: Path,
    env: Mapping[str, str],
    take_signals: bool = False,
    warn: Callable[[str], None] = lambda _text: None,
    clock: Clock | None = None,
) -> CommandResult:
    """Run a command as a separate run, with this process's terminal and standard streams.

    Raises: UsageError as `RunSpec.validate`, and `not_visible`; ConfigurationError `isolation_unavailable`; StoreError.
    In these cases nothing was run. After the start, a command that cannot be executed is a recorded result.
    """
    spec.validate(past.index.ids())
    clock = clock or SystemClock()
    place = past.place
    with enclosed(
        place,
        directory,
        env,
        spec.env,
        profile=options.profile,
        network=options.network,
        clean=options.clean,
        recorder=options.recorder,
        shown=() if spec.agent_shim == "none" else (str(agent_shims.DIRECTORY),),
        warn=warn,
    ) as around:
        run = _MeasuredRun(past, spec, clock)
        try:
            return run.measure(
                around, _command_of(spec, options, around, directory), options, take_signals=take_signals
            )
        finally:
            run.close()


def _command_of(spec: RunSpec, options: Options, around: Enclosed, directory: Path) -> Command:
    return {
        "argv": list(spec.command),
        "environment": around.environment,
        "search": around.environment.get("PATH", os.defpath),
        "walls": around.walls,
        "launch": around.launch,
        "directory": os.fspath(directory),
        "home": around.home,
        "mask": [],
        "timeout_ms": options.timeout_ms,
        "recorder": None,
        "sdk": None,
    }


class _MeasuredRun:
    """Writes the record of one measured run."""

    def __init__(self, past: History, spec: RunSpec, clock: Clock) -> None:
        """Start its journal. Raises: UsageError `run_exists`, StoreError."""
        self._past, self._spec, self._clock = past, spec, clock
        self._layer: KernelLayer | None = None
        place, disk = past.place, past.disk
        self._directory = place.runs / spec.run_id
        self._redactor = Redactor(redaction_key(place.state, disk), _secrets_of(spec))
        self._writer = JournalWriter.open(
            self._directory, run_id=spec.run_id, disk=disk, clock=clock, durability="full", create=True
        )
        try:
            self._recorder = Recorder(spec.run_id, self._writer, self._redactor, ())
            self._signer = Signer.open(place.state / "keys", disk)
            self._record(
                RunStarted(
                    version=FORMAT_VERSION, run=spec.run_id, interlock=__version__, workspace=place.workspace_id,
                    agent=OPERATOR, configuration=digest("configuration", None), pid=os.getpid(), boot=boot_id(),
                )
            )  # fmt: skip
            past.index.add(
                RunRow(
                    run_id=spec.run_id, workspace=place.workspace_id, agent=OPERATOR, source=SOURCE,
                    started_us=clock.now_us(),
                )
            )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def measure(self, around: Enclosed, command: Command, options: Options, *, take_signals: bool) -> CommandResult:
        """Open the window, run the command, close the window. Raises: StoreError."""
        shown = self._shown()
        started = CommandStarted(
            profile=around.profile, network=options.network if around.profile != "none" else "machine",
            posture=around.posture, agent_shim=shown["agent_shim"], platform=shown["platform"],
            command=tuple(shown["command"]), env_keys=tuple(shown["env_keys"]), recorder=options.recorder,
        )  # fmt: skip
        self._record(started)
        start = self._clock.mono_ns()
        record = None if options.recorder == "none" else self._open_record()
        reports: SdkCollector | None = None
        end: CommandEnd | None
        try:
            reports = None if self._spec.agent_shim == "none" else self._open_reports()
            if record is not None:
                command = {**command, "recorder": record.descriptors[RECORD]}
            if reports is not None:
                environment = reports.environment(command["environment"])
                command = {**command, "sdk": reports.descriptor, "environment": environment}
                reports.start()
            end = run_in_foreground(command, take_signals=take_signals)
        except OSError as error:
            failure: Failure = {"step": "fork", "errno": error.errno or errno.EAGAIN}
            end = {"failure": failure, "status": 0, "strays": 0, "timed_out": False}
        finally:
            summary = None if record is None else record.finish()
            reported = None if reports is None else reports.finish()
        elapsed_ms = (self._clock.mono_ns() - start) // 1_000_000
        result = _result(self._spec.run_id, end, elapsed_ms, around)
        if record is not None:
            result = self._close_record(record, summary, result)
        if reported is not None:
            self._record(reported)
            result = msgspec.structs.replace(
                result,
                shim_hooked=reported.hooked,
                reported_lines=reported.records,
                unreported_lines=reported.rejected + reported.dropped,
            )
        self._record(_event_of(result, 0 if end is None else end["strays"]))
        self._finish("succeeded" if result.success else "failed")
        return result

    def _open_reports(self) -> SdkCollector:
        return SdkCollector(self._directory, self._spec.agent_shim, self._redactor, self._past.disk, self._clock)

    def _open_record(self) -> Record:
        self._layer = KernelLayer(self._directory, self._past.disk, self._redactor)
        return Record(self._layer.writer("rec_" + secrets.token_hex(8), "", COMMAND, 1))

    def _close_record(self, record: Record, summary: Summary | None, result: CommandResult) -> CommandResult:
        """Write the record's digest to the journal. Raises: StoreError."""
        assert self._layer is not None
        record.check()
        self._layer.sync()
        self._layer.close()
        if summary is None:  # no recorder was started, and so no command
            return result
        event = event_of(summary)
        self._record(event)
        whole = not (event.dropped or event.lost)
        return msgspec.structs.replace(result, recorded_calls=event.calls, record_whole=whole)

    def close(self) -> None:
        """Close the files, without replacing an error that is being raised."""
        if self._layer is not None:
            self._layer.close()
        with contextlib.suppress(StoreError):
            self._writer.close()

    def _finish(self, status: str) -> None:
        self._record(RunFinished(status=status))
        head, past = self._writer.head(), self._past
        sign_head(self._directory, head, self._signer, past.disk, locked=True)
        counts = {"actions": 1, ("succeeded" if status == "succeeded" else "failed"): 1}
        with past.db.transaction(lasting=False):
            past.index.update(self._spec.run_id, status=status, finished_us=self._clock.now_us(), **counts)
            past.index.commit_point(head)

    def _record(self, event: Event) -> None:
        self._recorder.record(event)
        self._writer.flush()

    def _shown(self) -> dict[str, Any]:
        """The spec in its recorded form: without secrets."""
        shown: dict[str, Any] = dict(self._spec.recorded())
        return {**shown, "command": list(self._recorder.shown(shown["command"]))}


def _secrets_of(spec: RunSpec) -> list[str]:
    """Returns the secrets that a spec gives away: they are replaced wherever the run's record repeats them."""
    found = [value for name, value in spec.env.items() if is_secret_name(name)]
    for before, word in zip(("", *spec.command), spec.command, strict=False):
        if is_secret_flag(before):
            found.append(word)
        found += [word[secret.start : secret.end] for secret in find_secrets(word)]
    return found


def _result(run_id: str, end: CommandEnd | None, elapsed_ms: int, around: Enclosed) -> CommandResult:
    made = CommandResult(
        run_id=run_id, window_elapsed_ms=elapsed_ms, profile=around.profile, posture=around.posture, lost=end is None
    )
    if end is None:
        return made
    if end["failure"] is not None:
        step, number = end["failure"]["step"], end["failure"]["errno"]
        return msgspec.structs.replace(made, failed_step=step, error=errno.errorcode.get(number, str(number)))
    code = os.waitstatus_to_exitcode(end["status"])
    return msgspec.structs.replace(
        made,
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        success=code == 0,
        timed_out=end["timed_out"],
    )


def _event_of(result: CommandResult, strays: int) -> Event:
    elapsed_ms = result.window_elapsed_ms
    if result.lost:
        return CommandLost(detail="the process that started it was killed", window_elapsed_ms=elapsed_ms)
    if result.failed_step is not None:
        return SpawnFailed(failed_step=result.failed_step, error=result.error or "", window_elapsed_ms=elapsed_ms)
    return CommandFinished(
        exit_code=result.exit_code, signal=result.signal, success=result.success, window_elapsed_ms=elapsed_ms,
        timed_out=result.timed_out, strays_ended=strays,
    )  # fmt: skip


def exit_status(result: CommandResult) -> int:
    """The shell's exit status for this end: the command's own, 128 + signal, 126 or 127; 125 for Interlock's own failures."""
    if result.exit_code is not None:
        return result.exit_code
    if result.signal is not None:
        return 128 + result.signal
    if result.failed_step == "exec":
        return 127 if result.error in ("ENOENT", "ENOTDIR") else 126
    return 125


def problem_of(result: CommandResult) -> InterlockError | None:
    """The error to show, if the command was not started or its end is unknown; None otherwise."""
    if result.lost:
        return InterlockError(
            f"it is unknown how the command of run `{result.run_id}` ended: the process that watched it was killed",
            code="command_lost",
            hint="check whether it is still running; its record has what is known",
        )
    if result.failed_step == "exec":
        return UsageError(
            f"the program could not be executed: {os.strerror(getattr(errno, result.error or '', 0))}",
            code="spawn_failed",
            hint="is it installed, executable, and (behind walls) in a visible place? `--profile none` has no walls",
        )
    if result.failed_step is not None:
        return StoreError(
            f"the walls could not be set up ({result.failed_step}: {result.error}); nothing was run",
            code="isolation_failed",
            hint="`interlock doctor` shows what this machine allows",
        )
    return None


def signal_name(number: int) -> str:
    """The name of a signal, such as `SIGTERM` for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
