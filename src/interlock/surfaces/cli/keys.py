"""`interlock keys`: the keys that sign journal heads and archives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from interlock.disk import Disk
from interlock.engine.inspect.signing_keys import ShownKey, find_key, list_keys, make_key
from interlock.model.errors import StoreError, UsageError
from interlock.signing import DEFAULT_NAME
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.output import Output, clean

_FORMATS: Final[dict[str, Callable[[ShownKey], str]]] = {
    "pem": lambda key: key.public_key,
    "keyid": lambda key: key.keyid + "\n",
    "securesystemslib": lambda key: _as_json(_securesystemslib(key)),
}


@click.group(cls=Group)
def keys() -> None:
    """Create, list and export the signing keys of this state directory. Private keys never leave their files."""


@keys.command("show")
@click.pass_obj
def show(out: Output) -> None:
    """Print the public half of the first key. Keep it where agents cannot write."""
    key = find_key(Path(), os.environ)
    out.emit(
        {"keyid": key.keyid, "public_key": key.public_key, "path": key.path},
        lambda: [key.keyid, key.public_key.rstrip("\n")],
    )


@keys.command("make")
@click.argument("name")
@click.pass_obj
def make(out: Output, name: str) -> None:
    """Create a key, for `evidence export --key NAME`. An existing key is never replaced."""
    key = make_key(Path(), os.environ, name)
    out.emit(key, lambda: [f"made {clean(key.name)}: {key.keyid}"])


@keys.command("list")
@click.pass_obj
def list_command(out: Output) -> None:
    """List the keys; `default` signs the heads of runs."""
    found = list_keys(Path(), os.environ)
    out.emit(found, lambda: out.table(("NAME", "KEY"), [(key.name, key.keyid) for key in found]))


@keys.command("export")
@click.argument("name", default=DEFAULT_NAME)
@click.option(
    "--format", "form", type=click.Choice(list(_FORMATS)), default="pem", show_default=True, help="The format."
)
@click.option("--to", "-o", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write it to a new file.")
@click.pass_obj
def export(out: Output, name: str, form: str, target: Path | None) -> None:
    """Print the public half of a key for verifiers, or write it to a file."""
    key = find_key(Path(), os.environ, name)
    text = _FORMATS[form](key)
    if target is None:
        if out.json:
            out.emit(key)
        else:
            out.raw(text)
        return
    if os.path.lexists(target):
        raise UsageError(
            f"`{target.name}` exists already", code="file_exists", path=str(target), hint="use another name"
        )
    try:
        Disk().write_atomic(target, text.encode(), 0o644)
    except StoreError as error:
        raise UsageError(error.message, path=str(target)) from None
    out.emit({"keyid": key.keyid, "path": str(target)}, lambda: [f"wrote {clean(str(target))}: {key.keyid}"])


def _securesystemslib(key: ShownKey) -> dict[str, Any]:
    """The input of `securesystemslib.signer.SSlibKey.from_dict`, which takes `keyid` separately."""
    public = key.keyid.partition(":")[2]
    return {"keyid": key.keyid, "keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}}


def _as_json(document: dict[str, Any]) -> str:
    import json  # noqa: PLC0415 - start-up

    return json.dumps(document, indent=2) + "\n"
