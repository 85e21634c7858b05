"""The entry point of `interlock`. Kept small: `interlock --version` must not wait for imports that it does not need."""

from __future__ import annotations

import os
import sys

from interlock._version import __version__


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code (see `interlock.surfaces.cli.app`)."""
    _fill_closed()
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        sys.stdout.write(f"interlock {__version__}\n")
        return
    from interlock.surfaces.cli.app import run  # noqa: PLC0415 - start-up: click alone takes longer than this command may

    sys.exit(run(argv))


def _fill_closed() -> None:
    """Whoever starts us may have closed 0, 1 or 2: what is opened next (a journal!) must not become our output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
