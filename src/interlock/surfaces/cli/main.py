"""The entry point of `interlock`. Kept small, so that `interlock --version` does not wait for needless imports."""

from __future__ import annotations

import gc
import os
import sys

from interlock._version import __version__


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code (see `interlock.surfaces.cli.app`)."""
    _open_closed_streams()
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        sys.stdout.write(f"interlock {__version__}\n")
        return
    # Looking back at a run of 100,000 actions creates millions of live objects without cycles. With Python's default
    # thresholds (700, 10, 10) the garbage collector takes a third of the time. Modules, which live as long as the
    # process, are some 100,000 objects.
    gc.set_threshold(200_000, 20, 50)
    from interlock.surfaces.cli.app import run  # noqa: PLC0415 - start-up: importing click alone takes too long

    code = run(argv)
    gc.freeze()  # Python would search every object for cycles before it ends
    sys.exit(code)


def _open_closed_streams() -> None:
    """Open /dev/null for each closed standard stream. Otherwise the next opened file (a journal!) would become our output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
