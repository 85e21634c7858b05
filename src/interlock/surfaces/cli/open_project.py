"""Opens the project of the current directory: with its tools, or only its history or its approval desk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from interlock.engine.inspect.history import History
from interlock.model.errors import ConfigurationError
from interlock.surfaces.cli.output import Output

if TYPE_CHECKING:
    from interlock.engine.runtime import Runtime


def history() -> History:
    """The runs of this project. Needs no trusted configuration."""
    return History.open(Path(), os.environ)


@contextmanager
def runtime(out: Output, flags: Mapping[str, str] | None = None, *, offer_trust: bool = False) -> Iterator[Runtime]:
    """The runtime of this project. Warns about configured features that are missing.

    With `offer_trust`, an untrusted configuration is shown at a terminal, and trusted if the person agrees.
    """
    from interlock.engine.runtime import Runtime  # noqa: PLC0415 - start-up: imports every tool

    try:
        opened = Runtime.open(flags=flags)
    except ConfigurationError as error:
        if error.code != "untrusted_configuration" or not offer_trust or not at_terminal():
            raise
        from interlock.surfaces.cli.project import ask_to_trust  # noqa: PLC0415 - needed only here

        if not ask_to_trust(out):
            raise
        opened = Runtime.open(flags=flags)
    with opened:
        _warn(out, opened)
        yield opened


@contextmanager
def undoing_runtime(out: Output) -> Iterator[Runtime]:
    """The runtime of this project for undo. Works without a usable configuration, and warns about its problems."""
    from interlock.engine.runtime import Runtime  # noqa: PLC0415 - as above

    with Runtime.open_for_undo() as opened:
        _warn(out, opened)
        yield opened


def prepare(out: Output, opened: Runtime) -> None:
    """Load the tool modules. If that fails, undo and similar commands continue without them and print a warning."""
    try:
        opened.prepare_sync()
    except ConfigurationError as error:
        out.warn(f"the tool modules are not loaded: {error.message}")


def _warn(out: Output, opened: Runtime) -> None:
    for warning in opened.warnings:
        out.warn(warning)
    opened.subscribe(notices=out.warn)


def at_terminal() -> bool:
    """True if a person can be asked: prompts go to standard error, answers come from standard input."""
    return sys.stdin.isatty() and sys.stderr.isatty()
