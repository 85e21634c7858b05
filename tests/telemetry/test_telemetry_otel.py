"""Spans from events, through the SDK's own in-memory exporter."""

import sys
import time
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from interlock.model import events as e
from interlock.model.errors import ConfigurationError
from interlock.telemetry import Export
from interlock.telemetry.metrics import DURATION_BOUNDS_S

SECRET = "not for export"


class Journal:
    """Makes events as the engine would, a second apart, and gives them to `Export`."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.spans = Export(provider, MeterProvider([self.reader]))
        self.ts = 1_700_000_000_000_000

    def __call__(self, kind: type, **fields: Any) -> None:
        self.ts += 1_000_000
        self.spans("run_1", kind(ts=self.ts, mono=0, **fields))

    def start(self, proposal: str = "p1", actions: tuple[tuple[str, str], ...] = (("a1", "tool_call"),)) -> None:
        view = {"actions": [{"id": i, "type": t, "parameters": {"x": SECRET}} for i, t in actions]}
        document = e.Kept(digest="sha256:0", bytes=1, view=view)
        self(
            e.ProposalReceived,
            proposal=proposal,
            source="test",
            agent="coder",
            action_count=len(actions),
            digest="d",
            document=document,
        )

    def intent(self, action: str = "a1", tool: str | None = "fs.read", attempt: int = 1) -> None:
        self(e.ActionIntent, proposal="p1", action=action, step=8, attempt=attempt, tool=tool)

    def finish(self, status: str = "succeeded") -> None:
        self(e.ProposalFinished, proposal="p1", status=status, cost={})

    def by_name(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def journal() -> Journal:
    return Journal()


KEPT = e.Kept(digest="sha256:0", bytes=1, view=SECRET)


def test_a_run_becomes_a_tree_of_spans(journal: Journal) -> None:
    journal(e.RunStarted, run="run_1", interlock="0", workspace="w", agent="coder", session="s1", configuration="c")
    journal.start()
    journal.intent()
    journal(e.ActionSucceeded, proposal="p1", action="a1", attempt=1, duration_ms=1.0, output=KEPT)
    journal.finish()
    spans = journal.by_name()
    assert set(spans) == {"proposal.execute", "action.tool_call", "execute_tool fs.read"}
    root, action, attempt = spans["proposal.execute"], spans["action.tool_call"], spans["execute_tool fs.read"]
    assert root.parent is None
    assert action.parent.span_id == root.context.span_id
    assert attempt.parent.span_id == action.context.span_id
    assert {s.status.status_code for s in spans.values()} == {StatusCode.OK}
    assert attempt.attributes["gen_ai.operation.name"] == "execute_tool"
    assert attempt.attributes["gen_ai.tool.name"] == "fs.read"
    assert attempt.attributes["gen_ai.tool.call.id"] == "a1"
    assert root.attributes["gen_ai.agent.name"] == "coder"
    assert root.attributes["gen_ai.conversation.id"] == "s1"
    assert root.attributes["interlock.run.id"] == "run_1"
    assert attempt.end_time - attempt.start_time == 1_000_000_000, "the events' own times"
    assert root.start_time < action.start_time <= attempt.start_time < root.end_time


def test_parameters_and_outputs_are_never_exported(journal: Journal) -> None:
    journal.start()
    journal.intent()
    journal(e.ActionFailed, proposal="p1", action="a1", attempt=1, reason="tool_failed", error=SECRET, output=KEPT)
    journal.finish("failed")
    assert not any(SECRET in span.to_json() for span in journal.exporter.get_finished_spans())


def test_a_failed_action_is_an_error_with_its_code(journal: Journal) -> None:
    journal.start()
    journal.intent()
    journal(e.ActionFailed, proposal="p1", action="a1", attempt=1, reason="exit_code", error="x")
    journal.finish("failed")
    spans = journal.by_name()
    assert {s.status.status_code for s in spans.values()} == {StatusCode.ERROR}
    assert spans["execute_tool fs.read"].attributes["error.type"] == "exit_code"


def test_each_attempt_has_a_span(journal: Journal) -> None:
    journal.start()
    journal.intent()
    journal(e.ActionFailed, proposal="p1", action="a1", attempt=1, reason="timeout", error="x", final=False)
    journal(e.ActionRetrying, proposal="p1", action="a1", attempt=2, delay_ms=100)
    journal.intent(attempt=2)
    journal(e.ActionSucceeded, proposal="p1", action="a1", attempt=2, duration_ms=1.0, output=KEPT)
    journal.finish()
    attempts = [s for s in journal.exporter.get_finished_spans() if s.name == "execute_tool fs.read"]
    assert [(s.attributes["interlock.attempt"], s.status.status_code) for s in attempts] == [
        (1, StatusCode.ERROR),
        (2, StatusCode.OK),
    ]
    action = journal.by_name()["action.tool_call"]
    assert action.status.status_code == StatusCode.OK
    assert [event.name for event in action.events] == ["action_retrying"]


@pytest.mark.parametrize(
    ("kind", "fields", "status", "code"),
    [
        (e.ActionRejected, {"reason": "policy_denied"}, "rejected", StatusCode.ERROR),
        (e.ActionSkipped, {"reason": "dependency_failed"}, "skipped", StatusCode.UNSET),
        (e.ActionCancelled, {"reason": "aborted", "attempt": 1}, "cancelled", StatusCode.UNSET),
        (e.ActionUnknown, {"reason": "timeout", "attempt": 1}, "unknown_outcome", StatusCode.UNSET),
        (e.ActionDeduplicated, {"source": "r/p/a", "output": KEPT}, "succeeded", StatusCode.OK),
    ],
)
def test_other_ends_of_an_action(
    kind: type, fields: dict[str, Any], status: str, code: StatusCode, journal: Journal
) -> None:
    journal.start()
    journal(kind, proposal="p1", action="a1", **fields)
    journal.finish("failed")
    action = journal.by_name()["action.tool_call"]
    assert (action.attributes["interlock.status"], action.status.status_code) == (status, code)


def test_actions_that_call_no_tool_are_named_by_their_type(journal: Journal) -> None:
    journal.start(actions=(("a1", "state_write"), ("a2", "assertion")))
    for action in ("a1", "a2"):
        journal.intent(action, tool=None)
        journal(e.ActionSucceeded, proposal="p1", action=action, attempt=1, duration_ms=0.0, output=KEPT)
    journal.finish()
    assert set(journal.by_name()) == {"proposal.execute", "action.state_write", "action.assertion"}


def test_a_rejected_proposal_is_one_span(journal: Journal) -> None:
    journal(e.ProposalRejected, proposal="p1", code="duplicate_id", message=f"two actions are called `{SECRET}`")
    (span,) = journal.exporter.get_finished_spans()
    assert (span.name, span.status.status_code) == ("proposal.execute", StatusCode.ERROR)
    assert SECRET not in span.to_json()


@pytest.mark.parametrize("status", ["held", "cancelled", "interrupted"])
def test_a_proposal_that_neither_succeeded_nor_failed_is_unset(status: str, journal: Journal) -> None:
    journal.start()
    journal.finish(status)
    assert journal.by_name()["proposal.execute"].status.status_code == StatusCode.UNSET


def test_proposals_side_by_side_are_kept_apart(journal: Journal) -> None:
    journal.start("p1")
    journal.start("p2")
    journal.intent()
    journal(e.ActionRejected, proposal="p2", action="a1", reason="policy_denied")
    journal(e.ActionSucceeded, proposal="p1", action="a1", attempt=1, duration_ms=0.0, output=KEPT)
    journal(e.ProposalFinished, proposal="p2", status="rejected", cost={})
    journal.finish()
    roots = [s for s in journal.exporter.get_finished_spans() if s.name == "proposal.execute"]
    assert len({s.context.trace_id for s in roots}) == 2
    assert not journal.spans._spans._actions
    assert not journal.spans._spans._types


def test_what_is_open_at_the_end_is_ended_as_unknown(journal: Journal) -> None:
    journal.start()
    journal.intent()
    journal(e.RunFinished, status="interrupted")
    assert {s.name: s.status.status_code for s in journal.exporter.get_finished_spans()} == dict.fromkeys(
        ("proposal.execute", "action.tool_call", "execute_tool fs.read"), StatusCode.UNSET
    )


def test_metrics_go_to_the_sdk_too(journal: Journal) -> None:
    journal.start()
    journal.intent()
    journal(e.ActionSucceeded, proposal="p1", action="a1", attempt=1, duration_ms=250.0, output=KEPT)
    journal.finish()
    found = {
        metric.name: metric
        for resource in journal.reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert set(found) == {
        "gen_ai.execute_tool.duration", "gen_ai.invoke_agent.duration", "interlock.actions", "interlock.proposals",
    }  # fmt: skip
    (point,) = found["gen_ai.execute_tool.duration"].data.data_points
    assert (found["gen_ai.execute_tool.duration"].unit, point.count, point.sum) == ("s", 1, 0.25)
    assert point.explicit_bounds == DURATION_BOUNDS_S
    assert dict(point.attributes) == {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "fs.read"}


def test_closing_ends_what_is_open(journal: Journal) -> None:
    journal.start()
    journal.spans.close()
    assert [s.name for s in journal.exporter.get_finished_spans()] == ["proposal.execute"]


def test_a_collector_that_is_not_there_does_not_hold_up_the_run() -> None:
    spans = Export.to("http://127.0.0.1:9")
    spans("run_1", e.ProposalRejected(ts=1, mono=0, proposal="p", code="duplicate_id", message="x"))
    spans("run_1", e.RunFinished(ts=2, mono=0, status="failed"))
    began = time.monotonic()
    spans.close()
    assert time.monotonic() - began < 15


def test_a_missing_extra_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError) as caught:
        Export.to("http://127.0.0.1:4318")
    assert (caught.value.code, caught.value.path) == ("extra_missing", "telemetry.otel")
    assert "pip install '.[otel]'" in caught.value.hint
