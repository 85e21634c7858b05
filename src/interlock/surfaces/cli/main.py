"""The entry point of `interlock`. Kept small: `interlock --version` must not wait for imports that it does not need."""

from __future__ import annotations

import sys

from interlock._version import __version__


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code (see `interlock.surfaces.cli.app`)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        sys.stdout.write(f"interlock {__version__}\n")
        return
    from interlock.surfaces.cli.app import run  # noqa: PLC0415 - start-up: click alone takes longer than this command may

    sys.exit(run(argv))
