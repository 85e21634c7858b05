"""A call outside the scheduler: a compensation, a probe. It goes through steps 2 to 5 and has its own time-out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

from interlock.engine.context import ActionContext
from interlock.model.errors import StoreError, ToolError
from interlock.model.proposal import Action

if TYPE_CHECKING:
    from interlock.engine.execution import Execution


class Answer:
    """What a call gave: an output, or a problem."""

    __slots__ = ("output", "problem")

    def __init__(self, output: Any = None, problem: str | None = None) -> None:
        """One of the two."""
        self.output = output
        self.problem = problem


async def ask_tool(
    x: Execution, index: int, name: str, parameters: dict[str, Any], as_agent: str | None = None
) -> Answer:
    """Call a tool for the action at `index`, as the proposal's agent or as another one.

    Raises StoreError only: everything else is the answer's problem.
    """
    tool = x.services.registry.find(name)
    if tool is None:
        return Answer(problem=f"there is no tool `{name}`")
    action = Action(type="tool_call", id=x.proposal.actions[index].id, tool=name, parameters=parameters)
    who = x.who if as_agent is None else x.services.gate.principal(as_agent, x.who.session)
    _, refusal, decision = x.services.gate.judge(who, x.proposal, action, tool, parameters, x.buffer)
    if refusal is not None:
        return Answer(problem=f"`{name}` was refused: {refusal.reason}: {refusal.detail}")
    if decision is not None and decision.decision == "hold":
        return Answer(problem=f"`{name}` needs an approval of its own")
    ctx = ActionContext(x, index, 1, x.clock.mono_ns() + tool.timeout_ns, (tool, who.agent))
    try:
        async with asyncio.timeout(tool.timeout_ns / 1e9):
            if tool.mode == "thread":
                output = await x.services.threads.run(asyncio.get_running_loop(), tool.function, parameters, ctx)
            elif tool.mode == "inline":
                output = tool.function(parameters, ctx)
            else:
                output = await cast("Awaitable[Any]", tool.function(parameters, ctx))
    except StoreError:
        raise
    except ToolError as error:
        return Answer(problem=f"`{name}` failed: {error.message}")
    except TimeoutError:
        return Answer(problem=f"`{name}` ran longer than its time-out")
    except Exception as error:  # noqa: BLE001 - whatever a tool raises is its failure
        return Answer(problem=f"`{name}` failed: {type(error).__name__}")
    if isinstance(output, ToolError):
        return Answer(problem=f"`{name}` failed: {output.message}")
    return Answer(output=output)
