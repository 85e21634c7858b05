"""The options of `Runtime.execute`, `call` and `execute_tool_calls` (and of their `_sync` forms), all of them optional."""

from __future__ import annotations

from typing import TypedDict

from interlock.engine.people.questions import OnQuestion
from interlock.model.tool import ClientExecutor, ToolExecutor


class _Options(TypedDict, total=False):
    session: str | None
    """The session that the run belongs to, with its own grants and budgets."""
    wait: bool
    """False: do not wait for an answer; a held action stays open (the row `held`, or HeldError), for `runs.resume`."""
    on_question: OnQuestion | None
    """Asked about held actions, instead of the one given to `Runtime.open`."""
    grant_token: str | None
    """The work is judged as that of the agent that the token names, which has what the token allows and nothing else. The
    token is not stored; its id and digest are journaled."""


class ExecuteOptions(_Options, total=False):
    """Of `Runtime.execute`."""

    dry_run: bool
    """Take the gate's steps 1 to 7 only: nothing is asked or spent, and only tools that support a dry run are called."""
    executor: ToolExecutor | None
    """Performs the calls of this proposal, instead of the tools' own functions."""


class CallOptions(_Options, total=False):
    """Of `Runtime.call`."""

    agent: str | None
    """Who calls; left out with a `grant_token`."""
    call_id: str | None
    """The id that the model's vendor gave the call: it is then made once."""
    resume_held: bool
    """For a call without an id: continue with an equal call of the agent that is held, if there is one. The run of a
    caller that is cancelled is stopped, because nothing else would resume it."""
    client: ClientExecutor
    """Carries the call out itself, with a tool of its own, once the gate allows it; with `resume_held`. Only its own calls
    continue with a held one."""


class ToolCallsOptions(_Options, total=False):
    """Of `Runtime.execute_tool_calls`."""

    agent: str | None
    """Who calls; left out with a `grant_token`."""
    once: bool
    """False for servers that use the same call ids again in later messages: the same call is then made again."""
