"""`interlock keys`: the key that signs the heads of journals."""

from __future__ import annotations

import os
from pathlib import Path

import click

from interlock.engine.inspect.doctor import public_key
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.output import Output


@click.group(cls=Group)
def keys() -> None:
    """Show the signing key of this state directory."""


@keys.command("show")
@click.pass_obj
def show(out: Output) -> None:
    """Print the public key. Keep it where agents cannot write. The private key never leaves its file."""
    keyid, pem, path = public_key(Path(), os.environ)
    out.emit({"keyid": keyid, "public_key": pem, "path": path}, lambda: [keyid, pem.rstrip("\n")])
