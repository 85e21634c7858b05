"""Spans and metrics as plain records, made from the events of real runs."""

import asyncio

import pytest

import interlock
from interlock.model import events as e
from interlock.telemetry.metrics import DURATION_BOUNDS_S, Metrics, Totals
from interlock.telemetry.spans import Spans, spans_of

SECRET = "not for export"
SETTINGS = {
    "agent": "coder",
    "rules": {"allow": ["*", "state_write", "assert"], "ask": ["asked"], "deny": ["denied"]},
    "grants": {"coder": {"tools": ["*"], "unscoped": ["*"], "state_keys": ["**"]}},
    "journal": {"durability": "memory"},
}


async def work(parameters: dict) -> str:
    if parameters.get("fail"):
        raise interlock.ToolError(SECRET)
    return SECRET


@pytest.fixture
def rt():
    with interlock.Runtime.open(settings=SETTINGS, on_question=lambda _hold: True) as opened:
        for name in ("work", "asked", "denied"):
            opened.register_name(name, work)
        yield opened


def call(tool: str, action: str, **fields):
    return {"type": "tool_call", "tool": tool, "id": action, "parameters": {"x": SECRET}, **fields}


def run(rt, *actions, **fields):
    return asyncio.run(rt.execute({"actions": list(actions), **fields}, session="s1"))


def by_name(spans):
    return {
        (span.name, span.attributes.get("interlock.action.id") or span.attributes.get("gen_ai.tool.call.id")): span
        for span in spans
    }


def test_a_run_is_a_tree_of_spans(rt):
    result = run(rt, call("work", "a"), {"type": "state_write", "id": "w", "parameters": {"key": "k", "value": 1}})
    spans = rt.runs.spans(result.run_id)
    named = by_name(spans)
    root, action = named["proposal.execute", None], named["action.tool_call", "a"]
    attempt, state = named["execute_tool work", "a"], named["action.state_write", "w"]
    assert len(spans) == 4
    assert (root.parent_id, action.parent_id, attempt.parent_id, state.parent_id) == (
        None, root.span_id, action.span_id, root.span_id,
    )  # fmt: skip
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert len({span.span_id for span in spans}) == 4
    assert {span.status for span in spans} == {"ok"}
    assert root.start_us <= action.start_us <= attempt.start_us <= attempt.end_us <= action.end_us <= root.end_us
    assert attempt.attributes["gen_ai.operation.name"] == "execute_tool"
    assert attempt.attributes["gen_ai.tool.name"] == "work"
    assert root.attributes["gen_ai.agent.name"] == "coder"
    assert root.attributes["gen_ai.conversation.id"] == "s1"
    assert SECRET not in repr(spans)


def test_failures_and_what_never_ran(rt):
    result = run(
        rt,
        call("work", "a", parameters={"fail": 1}, failure_behavior="skip"),
        call("work", "b", dependencies=["a"]),
        call("denied", "c", failure_behavior="skip"),
    )
    named = by_name(rt.runs.spans(result.run_id))
    assert [(named["action.tool_call", i].status, named["action.tool_call", i].reason) for i in "abc"] == [
        ("error", "tool_failed"), ("unset", "dependency_failed"), ("error", "policy_denied"),
    ]  # fmt: skip
    assert named["execute_tool work", "a"].status == "error"
    assert named["proposal.execute", None].status == "error"


def test_each_attempt_has_a_span(rt):
    result = run(rt, call("work", "a", parameters={"fail": 1}, failure_behavior="retry", max_retries=2))
    attempts = [span for span in rt.runs.spans(result.run_id) if span.name == "execute_tool work"]
    assert [span.attributes["interlock.attempt"] for span in attempts] == [1, 2, 3]
    assert len({span.span_id for span in attempts}) == 3


def test_questions_are_events_of_their_action(rt):
    result = run(rt, call("asked", "a"))
    action = by_name(rt.runs.spans(result.run_id))["action.tool_call", "a"]
    names = [name for name, _ in action.events]
    assert names.index("action_held") < names.index("hold_resolved")


def test_spans_come_as_they_end(rt):
    ended = []
    rt.subscribe(events=interlock.Spans.to(ended.append))
    result = run(rt, call("work", "a"))
    assert ended == rt.runs.spans(result.run_id)
    assert [span.name for span in ended] == ["execute_tool work", "action.tool_call", "proposal.execute"]


def test_runs_side_by_side_keep_their_spans_apart(rt):
    ended = []
    rt.subscribe(events=interlock.Spans.to(ended.append))

    async def scene():
        await asyncio.gather(*(rt.execute({"id": "same", "actions": [call("work", "a")]}) for _ in range(4)))

    asyncio.run(scene())
    assert len({span.trace_id for span in ended}) == 4
    assert len({span.span_id for span in ended}) == len(ended) == 12
    for span in ended:
        runs = {other.attributes["interlock.run.id"] for other in ended if other.trace_id == span.trace_id}
        assert runs == {span.attributes["interlock.run.id"]}


def test_the_same_journal_gives_the_same_spans(rt):
    result = run(rt, call("work", "a"))
    assert rt.runs.spans(result.run_id) == rt.runs.spans(result.run_id)


def test_what_a_dead_run_left_open_ends_unset():
    kept = e.Kept(digest="d", bytes=1, view={"actions": [{"id": "a", "type": "tool_call"}]})
    events = [
        e.ProposalReceived(
            ts=1, mono=0, proposal="p", source="s", agent="a", action_count=1, digest="d", document=kept
        ),
        e.ActionIntent(ts=2, mono=0, proposal="p", action="a", attempt=1, tool="work"),
    ]
    assert [(span.status, span.end_us) for span in spans_of("run_1", events)] == [("unset", None)] * 3


def test_ids_tell_their_parts_apart():
    ended = []
    spans = Spans.to(ended.append)
    for run_id, proposal in (("a", "b/c"), ("a/b", "c")):
        spans(run_id, e.ProposalRejected(ts=1, mono=0, proposal=proposal, code="duplicate_id", message="x"))
    assert len({span.trace_id for span in ended}) == 2


def test_metrics_are_summed_up(rt):
    metrics = interlock.Metrics()
    rt.subscribe(events=metrics)
    run(rt, call("work", "a"), call("asked", "b"))
    run(rt, call("work", "a", parameters={"fail": 1}, failure_behavior="retry", max_retries=1))
    points = {(point.name, *sorted(point.attributes.items())): point for point in metrics.points()}

    def point(name, **attributes):
        return points[name, *sorted((key.replace("__", "."), value) for key, value in attributes.items())]

    assert point("interlock.actions", interlock__status="succeeded").count == 2
    assert point("interlock.actions", interlock__status="failed", interlock__reason="tool_failed").count == 1
    assert point("interlock.proposals", interlock__status="succeeded").count == 1
    assert point("interlock.proposals", interlock__status="failed").count == 1
    assert point("interlock.retries").count == 1
    assert point("interlock.holds", interlock__decision="approved").count == 1
    assert point("interlock.hold.duration", interlock__decision="approved").unit == "s"
    failed = point(
        "gen_ai.execute_tool.duration",
        gen_ai__operation__name="execute_tool",
        gen_ai__tool__name="work",
        error__type="tool_failed",
    )
    assert (failed.count, sum(failed.buckets), len(failed.buckets)) == (2, 2, len(DURATION_BOUNDS_S) + 1)
    assert failed.sum >= 0


def test_a_duration_falls_into_its_bucket():
    totals = Totals()
    for seconds in (0.005, 0.01, 0.011, 1000.0):
        totals.record("gen_ai.execute_tool.duration", seconds, {})
    (point,) = totals.points()
    assert (point.buckets[0], point.buckets[1], point.buckets[-1], point.count) == (2, 1, 1, 4)


def test_metrics_remember_nothing_of_what_is_over():
    """A runtime may live for months: what is kept for open actions goes with them."""
    metrics = Metrics()
    kept = e.Kept(digest="d", bytes=1)
    for number in range(50):
        proposal = f"p{number}"
        metrics(
            "r",
            e.ProposalReceived(
                ts=1, mono=0, proposal=proposal, source="s", agent="a", action_count=1, digest="d", document=kept
            ),
        )
        metrics("r", e.ActionIntent(ts=2, mono=0, proposal=proposal, action="a", attempt=1, tool="work"))
        metrics("r", e.ProposalFinished(ts=3, mono=0, proposal=proposal, status="failed", cost={}))
    assert (metrics._proposals, metrics._tools, metrics._holds) == ({}, {}, {})
