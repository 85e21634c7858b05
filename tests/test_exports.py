"""The names that `import interlock` offers: adding one is a decision, taking one away breaks somebody."""

import importlib
import subprocess
import sys

import interlock

NAMES = [
    "Action", "ActionResult", "Approvals", "ArchiveFinding", "ArchiveVerdict", "AuditRecord", "AuditSink", "Binding",
    "Budget", "CallResult", "Checkpoints", "ConfigurationError", "ConflictError", "Context", "Cost", "DeniedError", "Grant",
    "Grants", "HeldError", "Hold", "HoldAnswer", "Host", "IntegrityError", "InterlockError", "Limits", "MetricPoint", "Metrics",
    "NotUndone", "Notifier", "NotifyError", "PathRead", "PathWrite", "PlanFailure", "Proposal", "ProposalError", "ProposalResult",
    "Refusal", "Request", "Restriction", "Run", "RunOutcome", "RunSpec", "Runs", "Runtime", "Secret", "SpanRecord",
    "Spans", "State", "StoreError", "Tool", "ToolError", "ToolExecutor", "Unfinished", "UsageError", "Waiting",
    "__version__", "attenuate_token", "format_result", "govern", "measure", "skeleton_archive", "tool",
    "verify_archive",
]  # fmt: skip


def test_the_names_are_these():
    assert sorted(interlock.__all__) == sorted(NAMES)
    assert dir(interlock) == interlock.__all__


def test_each_name_is_there_and_is_what_its_room_has():
    for name in set(interlock.__all__) - {"__version__"}:
        value = getattr(interlock, name)
        assert value is getattr(importlib.import_module(f"interlock.{interlock._HOMES[name]}"), name)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(interlock, "nope")


def test_importing_loads_nothing_heavy():
    code = "import sys, interlock; print([m for m in ('asyncio', 'apsw', 'cedarpy', 'msgspec') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
