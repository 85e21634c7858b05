"""`interlock evidence`. The command tree refers to this module by name, and passes the output functions in click's context."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from interlock.engine.inspect.history import History
from interlock.evidence.export import Exported
from interlock.evidence.sigstore import sigstore_bundle
from interlock.model.errors import UsageError
from interlock.signing import DEFAULT_NAME, Signer
from interlock.surfaces.evidence.archives import ENDING, check_target, export_run
from interlock.surfaces.evidence.diffing import diff_command
from interlock.surfaces.evidence.reporting import report_command
from interlock.surfaces.evidence.speaking import Speaks
from interlock.surfaces.evidence.verifying import verify_command


@click.group()
def evidence() -> None:
    """Export archives of runs that anyone can verify; verify and compare archives."""


evidence.add_command(verify_command)
evidence.add_command(diff_command)
evidence.add_command(report_command)


@evidence.command("export")
@click.argument("run_id", metavar="RUN")
@click.option(
    "--to",
    "-o",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file to write. [default: RUN.tar.gz]",
)
@click.option(
    "--key",
    "keys",
    metavar="NAME",
    multiple=True,
    default=[DEFAULT_NAME],
    show_default=True,
    help="Sign with this key (repeatable: all of them sign).",
)
@click.option("--unsigned", is_flag=True, help="Do not sign.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the attestation as a Sigstore bundle.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.pass_obj
def export(
    out: Speaks,
    run_id: str,
    target: Path | None,
    keys: tuple[str, ...],
    bundle: Path | None,
    *,
    unsigned: bool,
    force: bool,
) -> None:
    """Write the archive of a run: its events, what was observed, and what was not. Secrets are replaced.

    RUN is an id, any unambiguous prefix of one, or `last`.
    """
    if bundle is not None and unsigned:
        raise UsageError("`--bundle` needs a signature, so it cannot be combined with `--unsigned`")
    if bundle is not None:
        check_target(bundle, replace=force)
    with History.open(Path(), os.environ) as past:
        found = past.find(run_id)
        path = target or Path(found + ENDING)
        check_target(path, replace=force)
        signers = [] if unsigned else signers_of(past, keys)
        if bundle is not None and len(signers) != 1:
            raise UsageError("a Sigstore bundle has exactly one signature", hint="name one `--key`")
        done = export_run(past, found, path, signers=signers, replace=force)
        if bundle is not None:
            past.disk.write_atomic(bundle, sigstore_bundle(done.attestation), 0o644)
    layers = msgspec.to_builtins(done.documents.health.layers)
    document = {
        "run_id": found,
        "path": str(path),
        "manifest_sha256": done.manifest_sha256,
        "events": done.events,
        "signed_by": list(done.signed_by),
        "layers": {name: layer["state"] for name, layer in layers.items()},
        "notes": list(done.documents.health.notes),
    }
    out.emit(document, lambda: _text(path, done))


def signers_of(past: History, names: Iterable[str]) -> list[Signer]:
    """The keys with these names. Raises: UsageError for a key that is named twice; StoreError."""
    found: dict[str, Signer] = {}
    for name in names:
        signer = Signer.named(past.place.state / "keys", name, past.disk)
        if signer.keyid in found:
            raise UsageError(f"`--key {name}` names a key twice", hint="name each key once")
        found[signer.keyid] = signer
    return list(found.values())


def _text(path: Path, done: Exported) -> Iterable[str]:
    yield f"wrote {path}: {done.events} events, signed by {', '.join(done.signed_by) or 'nobody'}"
    layers = msgspec.to_builtins(done.documents.health.layers)
    yield "  " + ", ".join(f"{name} {layer['state']}" for name, layer in layers.items())
    if done.documents.health.notes:
        yield f"  notes: {', '.join(done.documents.health.notes)}"
