"""What a tool sees of the runtime while it runs: `interlock.Context`."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from interlock.engine.scope import Access, ScopedWorkspace
from interlock.model.errors import StoreError, ToolError
from interlock.model.events import ActionLog
from interlock.model.tool import checked_cost
from interlock.workspace.names import Rel, to_json

if TYPE_CHECKING:
    from interlock.engine.execution import Execution
    from interlock.engine.recorder import Recorder
    from interlock.engine.registry import Registered


class ActionContext:
    """The `Context` of one attempt. Cheap to make: everything that is rarely asked for is worked out when asked."""

    cancelled = False
    cost = 0.0
    layers: dict[str, str] | None = None
    not_undoable: list[str] | None = None
    usage: dict[str, int | float] | None = None

    def __init__(
        self,
        execution: Execution,
        index: int,
        attempt: int,
        deadline_ns: int,
        call: tuple[Registered, str] | None = None,
    ) -> None:
        """A context for attempt number `attempt` (from 1) of the action at `index`.

        `call` are the tool and the agent of a compensation, which need not be those of the action.
        """
        self.execution = execution
        self.tool, self.agent = (execution.tools[index], execution.who.agent) if call is None else call
        self.index = index
        self.attempt = attempt
        self.deadline_ns = deadline_ns

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.execution.run.id

    @property
    def proposal_id(self) -> str:
        """The proposal's id."""
        return self.execution.proposal.id

    @property
    def action_id(self) -> str:
        """The action's id."""
        return self.execution.proposal.actions[self.index].id

    @property
    def session(self) -> str | None:
        """The session of the run, if it has one."""
        return self.execution.who.session

    @property
    def dry_run(self) -> bool:
        """True in a dry run, in which tools are not called: only a `ToolExecutor`'s preview could see it."""
        return self.execution.dry_run

    @property
    def workspace(self) -> Any:
        """The workspace of the run, in which links lead no further than the agent's grant."""
        workspace = self.execution.services.workspace
        return None if workspace is None else ScopedWorkspace(workspace, self._check_path)

    def _check_path(self, place: Rel, field: str, access: Access | None, what: str) -> None:
        x, tool = self.execution, self.tool
        if tool is None:
            return
        if access is None:
            written = any(mark == "path.write" and pointer.split("/")[1] == field for pointer, mark in tool.marks)
            access = "write" if written else "read"
        refusal = x.gate.capability.path(self.agent, tool.tool, to_json(place), access, x.clock.now_us())
        if refusal is not None:
            message = f"{field}: {what} no grant of the agent allows it"
            raise ToolError(message, code=refusal.reason, retryable=False, path=f"$.parameters.{field}")

    @property
    def backups(self) -> Any:
        """The run's backups (`interlock.workspace.Backups`); None with durability `off`."""
        return self.execution.run.backups

    def log(self, message: str) -> None:
        """Write a line for people into the journal."""
        x = self.execution
        if x.recorder is None:
            return
        event = ActionLog(message=x.recorder.text(str(message)), **x.recorder.stamp(x, self.index, 9))
        if threading.get_ident() == x.thread:
            x.recorder.append(event)
        else:  # the journal belongs to the loop; what comes after the loop was closed is nobody's any more
            with contextlib.suppress(RuntimeError):
                x.loop.call_soon_threadsafe(_append, x.recorder, event)

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far the work is, to whoever watches; not journaled."""
        for listener in self.execution.services.watchers:
            listener(self.action_id, done, total)

    def report_cost(self, cost: float) -> None:
        """Add to the action's cost. Raises ValueError unless it is a finite number, 0 or more."""
        self.cost = checked_cost(self.cost + checked_cost(cost))

    def posture(self, **layers: str) -> None:
        """Add to the action's posture."""
        self.layers = {**(self.layers or {}), **{name: str(layer) for name, layer in layers.items()}}

    def not_exactly_undoable(self, what: str) -> None:
        """Remember that undo cannot exactly take this back."""
        self.not_undoable = [*(self.not_undoable or ()), str(what)]

    def resources(self, usage: dict[str, int | float]) -> None:
        """Attach the action's own measured use; several processes of one action add up, but for the peak of memory."""
        total = self.usage = dict(self.usage or {})
        for name, value in usage.items():
            total[name] = max(total.get(name, 0), value) if name == "memory_bytes" else total.get(name, 0) + value


def _append(recorder: Recorder, event: ActionLog) -> None:
    with contextlib.suppress(StoreError):  # the journal is closed, or has failed, which whoever needs it is told
        recorder.append(event)
