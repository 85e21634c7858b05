"""`interlock gateway`. The command tree refers to this module by name, and passes the output functions in click's context."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import click

from interlock.disk import Disk
from interlock.engine.assemble import open_project
from interlock.engine.runtime import Runtime, learn_as_configured
from interlock.lazy import lazy
from interlock.model.units import duration_ms
from interlock.surfaces.gateway import stdio
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.session import Session

if TYPE_CHECKING:
    from interlock.surfaces.gateway import http as http_door
    from interlock.surfaces.gateway import http_app
else:
    http_door = lazy("interlock.surfaces.gateway.http")
    http_app = lazy("interlock.surfaces.gateway.http_app")

WAIT: Final = "45s"
"""How long a held call waits for its approval: less than the time that clients give a call."""


class Speaks(Protocol):
    """The output functions that the command line passes in."""

    def note(self, text: str) -> None:
        """Print a line to standard error."""

    def warn(self, text: str) -> None:
        """Print a warning to standard error."""


@click.command("gateway")
@click.option("--agent", metavar="NAME", help="The calling agent. [default: the configuration's]")
@click.option("--session", metavar="NAME", help="The session of its calls. [default: a new one]")
@click.option(
    "--wait", metavar="DURATION", default=WAIT, show_default=True, help="How long a held call waits for its approval."
)
@click.option(
    "--http", metavar="[HOST:]PORT", help="Serve streamable HTTP on this loopback port instead; 0 for any port."
)
@click.option(
    "--token-file",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file with the bearer token of HTTP clients; created if it is missing.",
)
@click.pass_obj
def gateway(
    out: Speaks, agent: str | None, session: str | None, wait: str, http: str | None, token_file: Path | None
) -> None:
    """Serve the tools of this project over MCP, on standard input and output. An MCP client starts it."""
    if (http is None) != (token_file is None):
        raise click.UsageError("`--http` and `--token-file` must be given together")
    try:
        wait_s = duration_ms(wait) / 1000
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--wait") from None
    # Without a mode in the file, work directly, so that the editor sees what a long call does while it runs.
    with Runtime(*open_project(Path(), direct=True)) as runtime:
        for warning in runtime.warnings:
            out.warn(warning)
        learn_as_configured(runtime)
        runtime.subscribe(notices=out.warn)
        own = session or f"mcp-{runtime.clock.now_us() // 1000:x}-{os.getpid()}"
        if not runtime.tools_for("mcp", agent=agent, session=own):  # with the judges that the client's first list needs
            who = f"agent `{agent}`" if agent else "the agent of the configuration"
            out.warn(f"{who} has no tools: no grant and rule allow any; see `[grants.NAME]` in interlock.toml")
        gc.freeze()  # what is loaded stays, and need not be searched again; garbage of calls is found early from here on
        gc.set_threshold(10_000, 20, 10)
        if http is None or token_file is None:
            asyncio.run(_serve(runtime, Agent(agent, own), wait_s))
            return
        token = http_door.token_in(token_file, Disk())
        with http_door.listen(http) as listening:
            asyncio.run(_serve_http(runtime, Agent(agent, own), wait_s, token, listening, out))


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _serve_http(
    runtime: Runtime, agent: Agent, wait_s: float, token: str, listening: socket.socket, out: Speaks
) -> None:
    app = http_app.HttpApp(runtime, agent, token, listening.getsockname()[1], wait_s=wait_s)
    runtime.servers.on_change(app.tell_tools_changed)
    url = http_door.url_of(listening)
    await http_door.serve(app, listening, _stop_on_signals(), lambda: out.note(f"serving MCP at {url}"))


async def _serve(runtime: Runtime, agent: Agent, wait_s: float) -> None:
    stop = _stop_on_signals()

    def start(send: Callable[[bytes], None]) -> Session:
        session = Session(runtime, agent, send, wait_s=wait_s)
        runtime.servers.on_change(session.tell_tools_changed)
        return session

    await stdio.serve(start, stop)
