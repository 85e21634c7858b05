"""Measured runs from Python: runs a command, records it, and returns its archive."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from interlock.engine.inspect.history import History
from interlock.engine.local.machine import redaction_key
from interlock.engine.measured.run import Options, measure_command, problem_of
from interlock.engine.measured.spec import RunSpec
from interlock.evidence.export import Exported, Source
from interlock.evidence.redaction import Redaction
from interlock.signing import DEFAULT_NAME, Signer
from interlock.surfaces.evidence.archives import ENDING, check_target, export_run, write_file


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a measured run ended, and the location of its archive."""

    run_id: str
    exit_code: int | None
    """None, like `signal`, if the command was not started or its end is unknown; then `error` says why."""
    signal: int | None
    success: bool
    window_elapsed_ms: int
    timed_out: bool
    health: dict[str, str]
    """State of each layer: `complete`, `partial`, `absent`; the sdk layer is at best `self_reported`."""
    notes: tuple[str, ...]
    """Codes of what was not observed."""
    archive: Path
    error: dict[str, str] | None = None


def measure(
    spec: RunSpec,
    *,
    archive: str | Path | None = None,
    workspace: str | Path | None = None,
    profile: Literal["ns", "nons", "none"] = "ns",
    network: Literal["none", "machine"] = "none",
    env: Mapping[str, str] | None = None,
    timeout_ms: int | None = None,
    recorder: Literal["none", "notify"] = "none",
    key: str = DEFAULT_NAME,
    replace: bool = False,
) -> RunOutcome:
    """Run a command as a measured run, with this process's standard streams, and write its archive.

    Blocks until the command ends.

    `archive` is the file (default: `RUN_ID.tar.gz` in `workspace`), `workspace` the project and working directory
    (default: the current directory), `env` the environment (default: this process's), `recorder` what records the
    effects. A command that cannot be started is an outcome, with an archive.

    Raises: UsageError as `RunSpec.validate`, and `file_exists` (in both cases nothing was run); ConfigurationError
    `isolation_unavailable`; StoreError; IntegrityError.
    """
    directory = Path(workspace or ".").absolute()
    with History.open(directory, os.environ) as past:
        spec.validate(past.index.ids())
        target = directory / f"{spec.run_id}{ENDING}" if archive is None else Path(archive)
        signer = Signer.named(past.place.state / "keys", key, past.disk)
        check_target(target, replace=replace)
        options = Options(profile=profile, network=network, timeout_ms=timeout_ms, recorder=recorder)
        result = measure_command(past, spec, options, directory=directory, env=os.environ if env is None else env)
        done = export_run(past, spec.run_id, target, signers=[signer], replace=replace)
    problem = problem_of(result)
    return RunOutcome(
        run_id=result.run_id,
        exit_code=result.exit_code,
        signal=result.signal,
        success=result.success,
        window_elapsed_ms=result.window_elapsed_ms,
        timed_out=result.timed_out,
        health=layer_states(done),
        notes=done.documents.health.notes,
        archive=target,
        error=None if problem is None else problem.as_dict(),
    )


def skeleton_archive(
    spec: RunSpec,
    archive: str | Path,
    *,
    workspace: str | Path | None = None,
    key: str = DEFAULT_NAME,
    replace: bool = False,
) -> Path:
    """Write the archive that an unobserved run of `spec` would leave. Nothing is run, and no run is recorded.

    The archive has all members; its health says `not_run`. Raises: UsageError as `measure`; StoreError; IntegrityError.
    """
    with History.open(Path(workspace or "."), os.environ) as past:
        spec.validate(past.index.ids())
        target = Path(archive)
        source = Source(
            run_id=spec.run_id,
            batches=list,
            kernel=list,
            sdk=list,
            platform=spec.platform,
            agent_shim=spec.agent_shim,
        )
        redaction = Redaction(redaction_key(past.place.state, past.disk))
        signer = Signer.named(past.place.state / "keys", key, past.disk)
        write_file(source, redaction, target, signers=[signer], disk=past.disk, replace=replace)
    return target


def layer_states(done: Exported) -> dict[str, str]:
    """The state of each layer of an archive."""
    return {name: layer["state"] for name, layer in msgspec.to_builtins(done.documents.health.layers).items()}
