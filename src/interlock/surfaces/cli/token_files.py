"""Grant tokens at the command line: the options that narrow a token, and the files for reading and writing one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from interlock.model.errors import UsageError
from interlock.model.grant import Restriction
from interlock.model.units import duration_ms
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.results import when

_FILE_BYTES_MAX: Final = 128 * 1024
_WHOLE: Final = ("tools", "read", "write", "hosts", "state-keys", "unscoped")
"""Parts of a token that `--no` can remove entirely."""


def restricting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that narrow a grant token. Omitted options narrow nothing."""
    options = [
        click.option("--tool", "tools", multiple=True, metavar="GLOB", help="Only these tools."),
        click.option("--deny-tool", "deny_tools", multiple=True, metavar="GLOB", help="Not these tools."),
        click.option("--read", multiple=True, metavar="GLOB", help="Only these paths may be read."),
        click.option("--write", multiple=True, metavar="GLOB", help="Only these paths may be written."),
        click.option("--host", "hosts", multiple=True, metavar="NAME:PORT", help="Only these hosts."),
        click.option("--state-key", "state_keys", multiple=True, metavar="GLOB", help="Only these state keys."),
        click.option(
            "--unscoped",
            multiple=True,
            metavar="GLOB",
            help="Of the tools whose schemas mark no paths or hosts, only these.",
        ),
        click.option("--no", "nothing", multiple=True, type=click.Choice(_WHOLE), help="Nothing of this kind."),
        click.option(
            "--actions-max", type=click.IntRange(1, 1_000_000_000), help="Maximum number of actions in one proposal."
        ),
        click.option("--uses", "uses_max", type=click.IntRange(1, 1_000_000_000), help="Maximum number of uses."),
        click.option(
            "--ttl", metavar="DURATION", help="How long it is valid, such as `10m`.  [default: 1h, or as before]"
        ),
        click.option(
            "--out",
            "file",
            type=click.Path(path_type=Path),
            help="Write it to this new file (0600) instead of the screen.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_grant_token(source: Path) -> str:
    """The token in a file. Raises: UsageError if it cannot be read."""
    try:
        with source.open("rb") as file:
            return file.read(_FILE_BYTES_MAX).decode("utf-8-sig").strip()
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not UTF-8"
        raise UsageError(f"the grant token cannot be read: {why}", path=str(source)) from None


def ttl_ms_of(ttl: str | None) -> int | None:
    """`--ttl` in milliseconds. Raises: UsageError."""
    try:
        return None if ttl is None else duration_ms(ttl)
    except ValueError as error:
        raise UsageError(f"`--ttl`: {error}") from None


def restriction_of(limits: dict[str, Any], expires_at_us: int | None = None) -> Restriction:
    """The options as a block: an omitted option narrows nothing, `--no` removes everything of a kind."""
    nothing = {name.replace("-", "_") for name in limits.pop("nothing")}
    for name in (name.replace("-", "_") for name in _WHOLE):
        if name in nothing and limits[name]:
            raise UsageError(f"`--no {name.replace('_', '-')}` leaves none of them", hint="remove one of the options")
        limits[name] = limits[name] or (() if name in nothing else None)
    if not all(glob for globs in limits.values() if isinstance(globs, tuple) for glob in globs):
        raise UsageError("an empty glob matches nothing", hint="omit the option, or give a glob")
    return Restriction(**limits, expires_at_us=expires_at_us)


def description(text: str) -> dict[str, Any]:
    """The claims of a token, without its secret. Raises: UsageError `bad_grant_token` if it is incomplete."""
    from interlock.capability.tokens import read_token  # noqa: PLC0415 - start-up: imports cryptography

    found = read_token(text)
    root = found.root
    return {
        "id": found.id,
        "digest": found.digest,
        "agent": root.agent,
        "grant": root.grant,
        "workspace": root.audience,
        "expires_at_us": found.expires_at_us,
        "blocks": [msgspec.to_builtins(grant) for grant in found.grants],
    }


def hand_over(out: Output, text: str, file: Path | None) -> None:
    """Write the token to a new file and print its description; without a file, print the token."""
    about = description(text)
    if file is None:
        out.emit({**about, "token": text}, lambda: [text])
        return
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as opened:
            opened.write(text + "\n")
    except OSError as error:
        raise UsageError(
            f"the grant token cannot be written: {error.strerror}", path=str(file), hint="name a new file"
        ) from None
    out.emit(about, lambda: [f"{about['id']} until {when(about['expires_at_us'])}, in {clean(str(file))}"])
