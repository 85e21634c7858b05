"""How callers prove their identity: a token from a file or the environment, or a PIN typed at a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from interlock.engine.people.identity import Proof
from interlock.model.errors import UsageError

TOKEN_VARIABLE = "INTERLOCK_APPROVER_TOKEN"  # noqa: S105 - the name of a variable


def proving(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options `--token-file` and `--approver`, for commands that an approver must authorize."""
    command = click.option(
        "--approver",
        metavar="NAME",
        help="Your approver name, if you are not the user of this shell; asks for the PIN.",
    )(command)
    return click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        help=f"A file with an approver's token; or set {TOKEN_VARIABLE}.",
    )(command)


def proof(token_file: Path | None, approver: str | None, *, needed: bool) -> Proof:
    """The caller's proof of identity. Asks for a PIN at a terminal if a proof is `needed`. Raises: UsageError."""
    if token_file is not None:
        try:
            return Proof(token=token_file.read_text(encoding="utf-8-sig").strip())
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UsageError(f"the token file cannot be read: {why}", path=str(token_file)) from None
    token = os.environ.get(TOKEN_VARIABLE)
    if token:
        return Proof(token=token.strip())
    if needed and sys.stdin.isatty():
        import getpass  # noqa: PLC0415 - start-up: only where a PIN is required

        return Proof(name=approver, pin=getpass.getpass(f"PIN{f' of {approver}' if approver else ''}: "))
    return Proof()
