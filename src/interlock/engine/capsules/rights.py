"""What the host functions of a capsule's call may reach: the caller's rights, as far as the manifest declares them.

A capsule's tool has no parameter that is marked as a path or a host, so nothing of this was judged in step 3. The
caller's grant for that tool gives the paths and hosts. Policies need not permit a file separately, but one that forbids
`fs.read`, `fs.list`, `fs.write` or `fs.delete` of it applies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from interlock.engine.capsules.inner_call import call_within
from interlock.engine.judges.judges import Call
from interlock.engine.judges.steps import objection_to
from interlock.engine.kit import calls
from interlock.engine.proposals.scoped_workspace import ScopedWorkspace
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.proposals.traffic import policy_of, record_traffic
from interlock.engine.services import Services
from interlock.executors.capsules.rights import FILE_TOOLS, Denied, FileTool
from interlock.isolation.egress.client import Policy, Traffic
from interlock.isolation.egress.wire import Record
from interlock.model.capsule_events import CapsuleDenied, CapsuleLoaded, CapsuleRefused, CapsuleReset
from interlock.model.decision import Refusal
from interlock.model.errors import HeldError, ToolError
from interlock.model.hosts import Endpoint
from interlock.model.proposal import Action
from interlock.model.tool import Context
from interlock.workspace import Workspace
from interlock.workspace.names import Rel, to_json


async def handle_message(
    services: Services, tool: str, message: dict[str, Any], agent: str, session: str | None = None
) -> str | None:
    """Deliver a message to a capsule, through the gate and as a separate run.

    Returns the problem; None if there was none. Raises: StoreError.
    """
    try:
        result = await calls.call(services, tool, {"message": message}, calls.Caller(agent, session), call_id=None)
    except HeldError as held:
        return held.message
    return None if result.ok else f"{result.reason}: {result.error}"


class CallerRights:
    """`interlock.executors.capsules.rights.Rights`, decided by the judges in force."""

    def for_files(
        self, ctx: Context, tool: FileTool, declared: Callable[[str], bool], stopped: Callable[[], bool]
    ) -> Context:
        """See `Rights`."""
        return cast("Context", _FileContext(_own(ctx), tool, declared, stopped))

    def network(self, ctx: Context) -> Policy:
        """See `Rights`."""
        return policy_of(ctx)

    def refuse_connection(self, ctx: Context, there: Endpoint) -> str | None:
        """See `Rights`."""
        refusal = _own(ctx).refusal_of_connection(there)
        return None if refusal is None else refusal.reason

    def record_connections(self, ctx: Context, records: Sequence[Record]) -> None:
        """See `Rights`."""
        record_traffic(ctx, Traffic(tuple(records)))

    async def call_tool(self, ctx: Context, name: str, parameters: dict[str, Any], left_ms: int) -> Any:
        """See `Rights`."""
        return await call_within(_own(ctx), name, parameters, left_ms)

    async def have_handled(self, ctx: Context, tool: str, message: dict[str, Any]) -> str | None:
        """See `Rights`."""
        own = _own(ctx)
        if own.run.token is not None:  # the handler would have the agent's own grants, which may be wider
            return "the call was made under a grant token"
        return await handle_message(own.run.services, tool, message, own.agent, own.session)

    def record_loaded(self, ctx: Context, capsule: str, version: str, instance: str, component: str) -> None:
        """See `Rights`."""
        own = _own(ctx)
        event = CapsuleLoaded(capsule=capsule, version=version, instance=instance, component=component, agent=own.agent)
        own.run.record(9, own.index, lambda _: event)

    def record_denied(self, ctx: Context, about: Denied) -> None:
        """See `Rights`."""
        own = _own(ctx)
        own.run.record(
            9,
            own.index,
            lambda recorder: CapsuleDenied(
                capsule=about.capsule,
                instance=about.instance,
                function=about.function,
                reason=about.reason,
                detail=recorder.text(about.detail),
                agent=own.agent,
            ),
        )

    def record_reset(self, ctx: Context, capsule: str, instance: str, reason: str) -> None:
        """See `Rights`."""
        own = _own(ctx)
        event = CapsuleReset(capsule=capsule, instance=instance, reason=reason, agent=own.agent)
        own.run.record(9, own.index, lambda _: event)

    def record_refused(self, ctx: Context, capsule: str, detail: str) -> None:
        """See `Rights`."""
        own = _own(ctx)
        own.run.record(
            9,
            own.index,
            lambda recorder: CapsuleRefused(capsule=capsule, detail=recorder.text(detail), agent=own.agent),
        )


class _FileContext:
    """The context of an attempt for one kind of file access."""

    def __init__(
        self, ctx: ActionContext, tool: FileTool, declared: Callable[[str], bool], stopped: Callable[[], bool]
    ) -> None:
        self._ctx = ctx
        self._tool = tool
        self._access = FILE_TOOLS[tool]
        self._declared = declared
        self._stopped = stopped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    @property
    def cancelled(self) -> bool:
        """True once the call was stopped."""
        return self._stopped()

    @property
    def workspace(self) -> Workspace | None:
        """The proposal's workspace, in which every path is judged, not only the targets of links."""
        workspace = self._ctx.run.workspace
        return None if workspace is None else _JudgedWorkspace(workspace, self._check, lambda _access: ())

    def _check(self, place: Rel, field: str, access: object, what: str) -> None:  # noqa: ARG002
        path = to_json(place)
        if not isinstance(path, str) or not self._declared(path):
            raise _denied("path_denied", f"the manifest does not declare the path in `capabilities.fs_{self._access}`")
        ctx = self._ctx
        refusal = ctx.reach.path(path, field, self._access)
        if refusal is not None:
            raise _denied("path_denied", "no grant of the agent allows this path to the capsule's tool")
        refusal = _objection(ctx, self._tool, path)
        if refusal is not None:
            raise _denied(refusal.reason, refusal.detail)


class _JudgedWorkspace(ScopedWorkspace):
    """A workspace in which every path is judged after it is resolved, even without links."""

    def resolve(self, path: Rel, field: str = "path", *, follow: bool = True) -> Rel:
        """As `Workspace.resolve`. Also raises: ToolError `path_denied`."""
        real = Workspace.resolve(self, path, field, follow=follow)
        self._check(real, field, None, "")
        return real


def _objection(ctx: ActionContext, name: str, path: str) -> Refusal | None:
    """The objection of policies to a file tool's call with this path as part of this one; None if there is none."""
    run, tool = ctx.run, ctx.run.services.registry.find(name)
    if tool is None:
        return None
    parameters: dict[str, Any] = {"path": path}
    judges = run.judges_in_force()
    action = Action(type="tool_call", id=ctx.action_id, tool=name, parameters=parameters)
    principal = judges.principal(ctx.agent, ctx.session)
    return objection_to(judges, Call(principal, run.proposal, action, tool, parameters, run.buffer, partial=True))


def _own(ctx: Context) -> ActionContext:
    assert isinstance(ctx, ActionContext)
    return ctx


def _denied(code: str, why: str) -> ToolError:
    return ToolError(f"path: {why}", code=code, retryable=False)
