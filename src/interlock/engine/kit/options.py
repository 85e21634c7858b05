"""The options of `Runtime.execute`, `call` and `execute_tool_calls` (and of their `_sync` forms), all of them optional."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from interlock.engine.people.questions import OnQuestion
from interlock.model.tool import ClientExecutor, ToolExecutor

if TYPE_CHECKING:
    from interlock.engine.kit.replan import Planner, Replan


class _Options(TypedDict, total=False):
    session: str | None
    """The run's session, which has its own grants and budgets."""
    wait: bool
    """False to not wait for answers: a held action stays open (the row `held`, or HeldError), for `runs.resume`."""
    on_question: OnQuestion | None
    """Called with held actions, instead of the function given to `Runtime.open`."""
    grant_token: str | None
    """The work is judged as that of the token's agent, which may do what the token allows and nothing else. The token is not
    stored; its id and digest are recorded in the journal."""


class ExecuteOptions(_Options, total=False):
    """Options of `Runtime.execute`."""

    dry_run: bool
    """Take only the gate's steps 1 to 7: nothing is asked or spent, and only tools that support a dry run are called."""
    executor: ToolExecutor | None
    """Performs the calls of this proposal, instead of the tools' own functions."""
    planner: Planner
    """Called with each failure (`interlock.PlanFailure`); gives the next proposal, judged like any other, or None.
    `"infer"` asks the model of that tool."""
    replan: Replan
    """`off`, `ask` (a person reads each new proposal before it is carried out) or `auto`."""
    replans_max: int
    """How many new proposals there may be; 2 unless given."""


class CallOptions(_Options, total=False):
    """Options of `Runtime.call`."""

    agent: str | None
    """The calling agent; omitted with a `grant_token`."""
    call_id: str | None
    """The id that the model's vendor gave the call, which is then made only once."""
    resume_held: bool
    """For a call without an id: continue an equal held call of the agent, if there is one. If the caller is cancelled, its
    run is stopped, because nothing would resume it."""
    client: ClientExecutor
    """A client that carries out the call with its own tool, once the gate allows it; with `resume_held`. Only its own calls
    continue a held one."""


class ToolCallsOptions(_Options, total=False):
    """Options of `Runtime.execute_tool_calls`."""

    agent: str | None
    """The calling agent; omitted with a `grant_token`."""
    once: bool
    """False for servers that reuse call ids in later messages: the same call is then made again."""
