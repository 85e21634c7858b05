"""A tool's interface to the runtime while it runs: `interlock.Context`."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from interlock.engine.judges.judges import Call
from interlock.engine.judges.reach import Reach
from interlock.engine.judges.steps import refusal_within
from interlock.engine.proposals.budget import Use
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.scoped_workspace import ScopedWorkspace
from interlock.engine.tools.registry import Registered
from interlock.lazy import lazy
from interlock.model.decision import Refusal
from interlock.model.errors import StoreError, ToolError
from interlock.model.events import ActionLog
from interlock.model.hold_answer import AskOptions, HoldAnswer
from interlock.model.hosts import Endpoint
from interlock.model.proposal import Action
from interlock.model.result import HostUse
from interlock.model.tool import Estimate, checked_cost
from interlock.telemetry import Snapshot
from interlock.workspace.names import Rel, to_json
from interlock.workspace.tree import Access

if TYPE_CHECKING:
    from interlock.workspace import runs_later
else:
    runs_later = lazy("interlock.workspace.runs_later")


class ActionContext(msgspec.Struct, eq=False):
    """The `Context` of attempt number `attempt` (from 1) of the action at `index`.

    Cheap to make: rarely used values are computed on demand.
    """

    run: ProposalRun
    index: int
    attempt: int
    deadline_ns: int = 0
    call: tuple[Registered, str] | None = None
    """The tool and the agent of a compensation, which need not be those of the action."""
    cancelled: bool = False
    paused_ns: int = 0
    """Time spent on questions, which does not count as execution time."""
    cost: float = 0.0
    tokens: int = 0
    cost_unknown: bool = False
    reserved: Estimate | None = None
    """The reservation of step 7 for this attempt."""
    reported: tuple[int, float | None, bool] | None = None
    """The use that the tool reported: tokens, cost, and whether it is known."""
    layers: dict[str, str] | None = None
    not_undoable: list[str] | None = None
    usage: dict[str, Any] | None = None
    hosts: tuple[HostUse, ...] | None = None
    """The network connections of the action's processes, by host."""
    before: Snapshot | None = None
    """The reading of the machine before the tool was called; None if it cannot have an effect."""

    @property
    def tool(self) -> Registered | None:
        """The tool that is called; None for an action on state."""
        return self.run.tools[self.index] if self.call is None else self.call[0]

    @property
    def agent(self) -> str:
        """The acting agent."""
        return self.run.principal.agent if self.call is None else self.call[1]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.files.id

    @property
    def proposal_id(self) -> str:
        """The proposal's id."""
        return self.run.proposal.id

    @property
    def action_id(self) -> str:
        """The action's id."""
        return self.run.proposal.actions[self.index].id

    @property
    def session(self) -> str | None:
        """The session of the run, if it has one."""
        return self.run.principal.session

    @property
    def invocation_mode(self) -> str:
        """The action's."""
        return self.run.proposal.actions[self.index].invocation_mode

    @property
    def dry_run(self) -> bool:
        """True in a dry run: nothing may be changed. Only tools with `supports_dry_run` are called in one."""
        return self.run.dry_run

    @property
    def workspace(self) -> Any:
        """The workspace of the run, limited to the agent's grant, also through links."""
        workspace = self.run.workspace
        if workspace is None:
            return None
        also = self._check_without_layer if self.run.without_layer and self.run.layer is None else None
        return ScopedWorkspace(workspace, self._check_path, self._globs, also=also)

    @property
    def reach(self) -> Reach:
        """Checks paths, hosts and keys that the tool encounters against the agent's grants."""
        return Reach(self.run.judges_in_force, self.agent, self.tool)

    def refusal_of(self, tool: str, parameters: dict[str, Any]) -> Refusal | None:
        """Why this agent may not make another call as a part of this one; None if the rules allow it without a question.

        This takes steps 2 to 5. A grant that counts its uses does not cover such a call, because it would not be counted.
        """
        run, found = self.run, self.run.services.registry.find(tool)
        if found is None:
            return Refusal("unknown_tool", f"there is no tool `{tool}` here")
        judges = run.judges_in_force()
        action = Action(type="tool_call", id=self.action_id, tool=tool, parameters=parameters)
        principal = judges.principal(self.agent, self.session)
        return refusal_within(judges, Call(principal, run.proposal, action, found, parameters, run.buffer))

    def refusal_of_connection(self, there: Endpoint) -> Refusal | None:
        """Why the policies refuse a connection of this call's process; its host was already compared with the grant."""
        run, judges = self.run, self.run.judges_in_force()
        if self.tool is None:
            return Refusal("host_denied", "a state action reaches no host")
        action = Action(type="tool_call", id=self.action_id, tool=self.tool.name)
        call = Call(judges.principal(self.agent, self.session), run.proposal, action, self.tool, {}, run.buffer)
        return judges.connection(call, there)

    def _globs(self, access: Access) -> tuple[str, ...]:
        return self.reach.globs(access)

    def _check_path(self, place: Rel, field: str, access: Access | None, what: str) -> None:
        refusal = self.reach.path(to_json(place), field, access)
        if refusal is not None:
            message = f"{field}: {what} no grant of the agent allows it"
            raise ToolError(message, code=refusal.reason, retryable=False, path=f"$.parameters.{field}")

    def _check_without_layer(self, place: Rel, field: str) -> None:
        """Refuse a path that belongs into a layer; an approver's edit, or a changed link, may lead there."""
        workspace = self.run.workspace
        if workspace is not None and runs_later.may_run_later(workspace, place):
            raise ToolError(
                f"{field}: another program may execute this file later, so it changes in a layer only, and the action has none",
                code="layer_unavailable",
                retryable=False,
                path=f"$.parameters.{field}",
                hint="propose the change again, with this path",
            )

    @property
    def backups(self) -> Any:
        """The run's backups (`interlock.workspace.Backups`); None with durability `off`."""
        return self.run.files.backups

    def log(self, message: str) -> None:
        """Write a line for people into the journal."""
        run = self.run
        recorder = run.recorder
        if recorder is None:
            return
        line = recorder.text(str(message))
        if threading.get_ident() == run.thread:
            run.record(9, self.index, lambda _: ActionLog(message=line))
        else:  # the journal belongs to the loop; messages of a thread after the loop was closed are dropped
            with contextlib.suppress(RuntimeError):
                run.loop.call_soon_threadsafe(_log, run, self.index, line)

    async def ask(
        self,
        summary: str,  # noqa: ARG002
        reason: str = "",  # noqa: ARG002
        context: Any = None,  # noqa: ARG002
        **_options: Unpack[AskOptions],
    ) -> HoldAnswer:
        """Refuse: a call outside the plan (a compensation, a probe) has no action that could wait."""
        raise ToolError("a compensation or a probe cannot ask a question", code="approval_required", retryable=False)

    def ask_sync(
        self,
        summary: str,  # noqa: ARG002
        reason: str = "",  # noqa: ARG002
        context: Any = None,  # noqa: ARG002
        **_options: Unpack[AskOptions],
    ) -> HoldAnswer:
        """Refuse, as `ask`."""
        raise ToolError("a compensation or a probe cannot ask a question", code="approval_required", retryable=False)

    def withdraw(self) -> None:
        """Withdraw the questions of a stopped call: a thread that waits for an answer continues without one."""

    def progress(self, done: float, total: float | None = None) -> None:
        """Report progress to the listeners; it is not journaled."""
        for listener in self.run.services.hooks.progress:
            listener(self.action_id, done, total)

    def report_cost(self, cost: float) -> None:
        """Add to the action's cost. Raises ValueError unless it is a finite number, 0 or more."""
        self.cost = checked_cost(self.cost + checked_cost(cost))

    def report_usage(self, tokens: int, cost: float | None, *, known: bool = True) -> None:
        """Report the call's use, which replaces the reservation. Raises ValueError for an invalid amount."""
        if tokens < 0:
            raise ValueError("a number of tokens is 0 or more")
        self.reported = tokens, None if cost is None else checked_cost(cost), known

    def count_use(self) -> None:
        """Count the use of an ended attempt: the reported use, or otherwise the whole reservation."""
        if self.reserved is None:
            return
        tokens, cost, known = self.reported or (*self.reserved, False)
        self.tokens, self.cost_unknown = tokens, not known or cost is None
        self.cost = checked_cost(self.cost + (cost or 0.0))

    @property
    def use(self) -> Use:
        """The use of the attempt, for the budgets."""
        return Use(self.cost, self.tokens, self.cost_unknown, self.reserved)

    def posture(self, **layers: str) -> None:
        """Add to the action's posture; if several processes report a layer, the weakest value counts."""
        known = self.layers
        if known is None:
            self.layers = {name: str(layer) for name, layer in layers.items()}
        else:
            self.layers = {**known, **{name: _weaker(known.get(name), str(layer)) for name, layer in layers.items()}}

    def not_exactly_undoable(self, what: str) -> None:
        """Remember an effect that cannot be undone exactly."""
        self.not_undoable = [*(self.not_undoable or ()), str(what)]

    def resources(self, usage: dict[str, Any]) -> None:
        """Add to the action's own measured use; several processes add up, except for peak memory."""
        total = self.usage = dict(self.usage or {})
        for name, value in usage.items():
            if name == "pids":
                total[name] = [*total.get(name, ()), *value]
                continue
            total[name] = max(total.get(name, 0), value) if name == "memory_bytes" else total.get(name, 0) + value


def _log(run: ProposalRun, index: int, line: str) -> None:
    with contextlib.suppress(StoreError):  # the journal is closed, or has failed: the run reports that itself
        run.record(9, index, lambda _: ActionLog(message=line))


def _weaker(known: str | None, new: str) -> str:
    """The weaker of two values (`absent(...)`, `active(...)`, `active`); the new one if they are equally strong."""
    if known is None or (known.startswith("absent"), known != "active") <= (new.startswith("absent"), new != "active"):
        return new
    return known
