"""Ends an action whose layer exceeds its disk limit."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from interlock.isolation.client import Outcome, Stopped
from interlock.model.tool import Context

_FIRST_S: Final = 0.1
_PAUSE_S: Final = 0.25


class LayerFullError(Exception):
    """The layer exceeds its disk limit. The action's processes have ended."""

    def __init__(self, used: int, outcome: Outcome | None) -> None:
        """`used` in bytes; `outcome` is None if the program was never started."""
        super().__init__(used)
        self.used = used
        self.outcome = outcome


async def run_in_layer(ctx: Context, allowed_bytes: int, work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Await a `ForkServer.run` while watching the size of the action's layer.

    Raises: LayerFullError, and what the work raises. A cancellation is passed to the work, which decides how it ends.
    """
    layer = None if ctx.workspace is None else ctx.workspace.layer
    if layer is None:
        return await work
    task = asyncio.ensure_future(work)
    pause = _FIRST_S
    while True:
        try:
            await asyncio.wait([task], timeout=pause)
            used = await asyncio.to_thread(layer.size.exceeds, allowed_bytes, at_end=task.done())
        except asyncio.CancelledError:
            task.cancel()
            return await task
        outcome: Outcome | None = None
        if task.done():
            outcome = task.result()
            if used is None or outcome.report["failure"] is not None:
                return outcome
        elif used is None:
            pause = _PAUSE_S
            continue
        else:
            task.cancel()
            try:
                outcome = await task
            except Stopped as stopped:
                outcome = stopped.outcome
            except asyncio.CancelledError:
                if not task.cancelled():
                    raise
        raise LayerFullError(used, outcome)
