"""Interlock: the runtime between an AI agent and the machine it works on.

    import interlock

    @interlock.tool(read_only=True)
    async def lookup(city: str) -> dict: ...

    async with interlock.Runtime.open() as rt:
        rt.register(lookup)
        result = await rt.execute({"actions": [{"type": "tool_call", "tool": "lookup", "parameters": {"city": "Bern"}}]})

Names are loaded when they are first used, so that `import interlock` and the command line start quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock._version import __version__
from interlock.lazy import lazy_exports

if TYPE_CHECKING:
    from interlock.approvals.audit import AuditRecord
    from interlock.approvals.audit_sinks import AuditSink
    from interlock.approvals.hold import Hold
    from interlock.approvals.notify import Notifier, NotifyError
    from interlock.engine.facets.checkpoints import Checkpoints
    from interlock.engine.facets.grants import Grants
    from interlock.engine.facets.runs import Runs
    from interlock.engine.facets.state import State
    from interlock.engine.govern import DeniedError, govern
    from interlock.engine.kit.replan import PlanFailure
    from interlock.engine.measured.spec import RunSpec
    from interlock.engine.people.approvals import Approvals
    from interlock.engine.people.grant_tokens import attenuate_token
    from interlock.engine.runs.recover import Unfinished
    from interlock.engine.runs.run import Run
    from interlock.engine.runtime import Runtime
    from interlock.executors.python import tool
    from interlock.executors.signature import Host, PathRead, PathWrite, Secret
    from interlock.model.decision import Refusal, Request
    from interlock.model.errors import (
        ConfigurationError,
        ConflictError,
        HeldError,
        IntegrityError,
        InterlockError,
        ProposalError,
        StoreError,
        ToolError,
        UsageError,
    )
    from interlock.model.grant import Grant, Restriction
    from interlock.model.hold_answer import HoldAnswer
    from interlock.model.limits import Limits
    from interlock.model.proposal import Action, Budget, Proposal
    from interlock.model.result import ActionResult, CallResult, Cost, NotUndone, ProposalResult, format_result
    from interlock.model.tool import Binding, Context, Tool, ToolExecutor
    from interlock.model.waiting import Waiting
    from interlock.surfaces.evidence.measure import RunOutcome, measure, skeleton_archive
    from interlock.surfaces.evidence.verifying import verify_archive
    from interlock.telemetry.metrics import MetricPoint, Metrics
    from interlock.telemetry.spans import SpanRecord, Spans
    from interlock.verification.findings import ArchiveFinding, ArchiveVerdict

_HOMES = {
    "Action": "model.proposal",
    "ActionResult": "model.result",
    "Approvals": "engine.people.approvals",
    "ArchiveFinding": "verification.findings",
    "ArchiveVerdict": "verification.findings",
    "AuditRecord": "approvals.audit",
    "AuditSink": "approvals.audit_sinks",
    "Binding": "model.tool",
    "Budget": "model.proposal",
    "CallResult": "model.result",
    "Checkpoints": "engine.facets.checkpoints",
    "ConfigurationError": "model.errors",
    "ConflictError": "model.errors",
    "Context": "model.tool",
    "Cost": "model.result",
    "DeniedError": "engine.govern",
    "Grant": "model.grant",
    "Grants": "engine.facets.grants",
    "HeldError": "model.errors",
    "Hold": "approvals.hold",
    "HoldAnswer": "model.hold_answer",
    "Host": "executors.signature",
    "IntegrityError": "model.errors",
    "InterlockError": "model.errors",
    "Limits": "model.limits",
    "MetricPoint": "telemetry.metrics",
    "Metrics": "telemetry.metrics",
    "NotUndone": "model.result",
    "Notifier": "approvals.notify",
    "NotifyError": "approvals.notify",
    "PathRead": "executors.signature",
    "PathWrite": "executors.signature",
    "PlanFailure": "engine.kit.replan",
    "Proposal": "model.proposal",
    "ProposalError": "model.errors",
    "ProposalResult": "model.result",
    "Refusal": "model.decision",
    "Request": "model.decision",
    "Restriction": "model.grant",
    "Run": "engine.runs.run",
    "RunOutcome": "surfaces.evidence.measure",
    "RunSpec": "engine.measured.spec",
    "Runs": "engine.facets.runs",
    "Runtime": "engine.runtime",
    "Secret": "executors.signature",
    "SpanRecord": "telemetry.spans",
    "Spans": "telemetry.spans",
    "State": "engine.facets.state",
    "StoreError": "model.errors",
    "Tool": "model.tool",
    "ToolError": "model.errors",
    "ToolExecutor": "model.tool",
    "Unfinished": "engine.runs.recover",
    "UsageError": "model.errors",
    "Waiting": "model.waiting",
    "attenuate_token": "engine.people.grant_tokens",
    "format_result": "model.result",
    "govern": "engine.govern",
    "measure": "surfaces.evidence.measure",
    "skeleton_archive": "surfaces.evidence.measure",
    "tool": "executors.python",
    "verify_archive": "surfaces.evidence.verifying",
}

__all__ = [
    "Action",
    "ActionResult",
    "Approvals",
    "ArchiveFinding",
    "ArchiveVerdict",
    "AuditRecord",
    "AuditSink",
    "Binding",
    "Budget",
    "CallResult",
    "Checkpoints",
    "ConfigurationError",
    "ConflictError",
    "Context",
    "Cost",
    "DeniedError",
    "Grant",
    "Grants",
    "HeldError",
    "Hold",
    "HoldAnswer",
    "Host",
    "IntegrityError",
    "InterlockError",
    "Limits",
    "MetricPoint",
    "Metrics",
    "NotUndone",
    "Notifier",
    "NotifyError",
    "PathRead",
    "PathWrite",
    "PlanFailure",
    "Proposal",
    "ProposalError",
    "ProposalResult",
    "Refusal",
    "Request",
    "Restriction",
    "Run",
    "RunOutcome",
    "RunSpec",
    "Runs",
    "Runtime",
    "Secret",
    "SpanRecord",
    "Spans",
    "State",
    "StoreError",
    "Tool",
    "ToolError",
    "ToolExecutor",
    "Unfinished",
    "UsageError",
    "Waiting",
    "__version__",
    "attenuate_token",
    "format_result",
    "govern",
    "measure",
    "skeleton_archive",
    "tool",
    "verify_archive",
]

__getattr__ = lazy_exports(__name__, _HOMES)


def __dir__() -> list[str]:
    """The exported names."""
    return __all__
