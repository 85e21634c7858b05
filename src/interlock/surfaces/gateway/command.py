"""`interlock gateway`. The command tree refers to this module by name, and passes the output functions in click's context."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final, Protocol

import click

from interlock.engine.runtime import Runtime
from interlock.model.units import duration_ms
from interlock.surfaces.gateway import stdio
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.session import Session

WAIT: Final = "45s"
"""How long a held call waits for its answer: less than what clients give a call."""


class Speaks(Protocol):
    """What the command line passes in: how to print warnings."""

    def warn(self, text: str) -> None:
        """Print a warning to standard error."""


@click.command("gateway")
@click.option("--agent", metavar="NAME", help="The agent that calls. [default: the configuration's]")
@click.option("--session", metavar="NAME", help="The session of its calls. [default: one of its own]")
@click.option(
    "--wait", metavar="DURATION", default=WAIT, show_default=True, help="How long a held call waits for its answer."
)
@click.pass_obj
def gateway(out: Speaks, agent: str | None, session: str | None, wait: str) -> None:
    """Serve the tools of this project over MCP, on standard input and output. An MCP client starts it."""
    try:
        wait_s = duration_ms(wait) / 1000
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--wait") from None
    with Runtime.open() as runtime:
        for warning in runtime.warnings:
            out.warn(warning)
        runtime.subscribe(notices=out.warn)
        own = session or f"mcp-{runtime.clock.now_us() // 1000:x}-{os.getpid()}"
        asyncio.run(_serve(runtime, Agent(agent, own), wait_s))


async def _serve(runtime: Runtime, agent: Agent, wait_s: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def start(send: Callable[[bytes], None]) -> Session:
        return Session(runtime, agent, send, wait_s=wait_s)

    await stdio.serve(start, stop)
