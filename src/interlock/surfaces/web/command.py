"""`interlock serve`. The command tree refers to this module by name, and passes the output functions in click's context."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import click

from interlock.engine.runtime import Runtime
from interlock.surfaces.web import server


class Speaks(Protocol):
    """The output functions that the command line passes in."""

    quiet: bool

    def emit(self, document: Any, text: Callable[[], Iterable[str]] | None = None) -> None:
        """Print the answer: one document with `--json`, else lines."""

    def warn(self, text: str) -> None:
        """Print a warning, which is not part of the answer."""


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=server.PORT, show_default=True, help="Port; 0 for a free one."
)
@click.option("--allow-remote", is_flag=True, help="Accept connections from other machines. There is no TLS.")
@click.option(
    "--continue/--no-continue",
    "continue_runs",
    default=True,
    show_default=True,
    help="Resume runs whose process has exited, once their held call is answered.",
)
@click.pass_obj
def serve(out: Speaks, host: str, port: int, *, allow_remote: bool, continue_runs: bool) -> None:
    """Serve held calls and approvals over HTTP, for approvers with a token. Stop with Ctrl-C."""
    with Runtime.open() as runtime:
        for warning in runtime.warnings:
            out.warn(warning)
        gc.freeze()  # what is loaded stays, and need not be searched again; garbage of requests is found early from here on
        gc.set_threshold(10_000, 20, 10)
        server.run(
            runtime,
            host=host,
            port=port,
            allow_remote=allow_remote,
            continue_runs=continue_runs,
            quiet=out.quiet,
            ready=lambda url: out.emit({"url": url}, lambda: [f"Serving on {url}"]),
            warn=out.warn,
        )
