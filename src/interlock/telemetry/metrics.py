"""Metrics, made from the events of runs: counters and histograms with OpenTelemetry's names.

| name | unit | attributes |
|---|---|---|
| `gen_ai.execute_tool.duration` | s | `gen_ai.tool.name`, `error.type` |
| `gen_ai.invoke_agent.duration` | s | `gen_ai.agent.name`, `error.type`; one per proposal |
| `interlock.actions` | {action} | `interlock.status`, `interlock.reason` |
| `interlock.proposals` | {proposal} | `interlock.status` |
| `interlock.retries` | {retry} | |
| `interlock.holds` | {hold} | `interlock.decision` |
| `interlock.hold.duration` | s | `interlock.decision` |

`Totals` sums them up as plain numbers; `otel` hands them to the OpenTelemetry SDK.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, Protocol

import msgspec

from interlock.model import events as e

DURATION_BOUNDS_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Upper bounds of the buckets, from the semantic conventions; the last bucket has no bound."""
UNITS: Final = {
    "gen_ai.execute_tool.duration": "s",
    "gen_ai.invoke_agent.duration": "s",
    "interlock.actions": "{action}",
    "interlock.proposals": "{proposal}",
    "interlock.retries": "{retry}",
    "interlock.holds": "{hold}",
    "interlock.hold.duration": "s",
}
Attributes = dict[str, str]


class Meters(Protocol):
    """Receives measurements."""

    def count(self, name: str, attributes: Attributes) -> None:
        """Add one to a counter."""
        ...

    def record(self, name: str, seconds: float, attributes: Attributes) -> None:
        """Add a duration to a histogram."""
        ...


class MetricPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A metric for one set of attributes, summed up since the runtime was opened."""

    name: str
    unit: str
    attributes: dict[str, str]
    count: int
    """Number of events counted or durations measured."""
    sum: float | None = None
    """The sum of the durations in seconds; only for a histogram."""
    buckets: tuple[int, ...] = ()
    """Only for a histogram: the number in each bucket of `DURATION_BOUNDS_S`, and in one more above the last bound."""


class Metrics:
    """Takes the events of any number of runs, each run's in order, and derives the measurements."""

    def __init__(self, meters: Meters | None = None) -> None:
        """Starts empty. Measurements go to `meters`, or are summed up here (`points`)."""
        self._totals = Totals()
        self._meters = self._totals if meters is None else meters
        self._proposals: dict[tuple[str, str], tuple[int, str]] = {}
        self._tools: dict[tuple[str, str, str], str] = {}
        self._holds: dict[str, int] = {}

    def __call__(self, run_id: str, event: e.Event) -> None:
        """Take the next event of a run."""
        match event:
            case e.ProposalReceived():
                self._proposals[run_id, event.proposal or ""] = event.ts, event.agent
            case e.ProposalRejected():
                self._meters.count("interlock.proposals", {"interlock.status": "rejected"})
            case e.ProposalFinished():
                self._end_proposal((run_id, event.proposal or ""), event)
            case e.ActionHeld() | e.ToolAsked():
                self._holds[event.approval] = event.ts
            case e.HoldResolved() | e.ToolAnswered():
                self._end_hold(event)
            case e.ActionRetrying():
                self._meters.count("interlock.retries", {})
            case _ if event.action is not None:
                self._action((run_id, event.proposal or "", event.action), event)
            case _:
                pass

    def points(self) -> list[MetricPoint]:
        """Returns the sums so far, by name and attributes."""
        return self._totals.points()

    def _action(self, key: tuple[str, str, str], event: e.Event) -> None:
        match event:
            case e.ActionIntent():
                if event.tool is not None:
                    self._tools[key] = event.tool
            case e.ActionSucceeded():
                self._call(key, event.duration_ms, None)
                self._end("succeeded", None)
            case e.ActionFailed():
                self._call(key, event.duration_ms, event.reason)
                if event.final:
                    self._end("failed", event.reason)
            case e.ActionDeduplicated():
                self._end("succeeded", "deduplicated")
            case e.ActionRejected() | e.ActionSkipped() | e.ActionCancelled() | e.ActionUnknown():
                self._tools.pop(key, None)
                name = str(event.__struct_config__.tag).removeprefix("action_")
                self._end(name, event.reason)
            case _:
                pass

    def _call(self, key: tuple[str, str, str], duration_ms: float, error: str | None) -> None:
        tool = self._tools.pop(key, None)
        if tool is not None:
            attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool} | _error(error)
            self._meters.record("gen_ai.execute_tool.duration", duration_ms / 1000, attributes)

    def _end(self, status: str, reason: str | None) -> None:
        attributes = {"interlock.status": status} | ({} if reason is None else {"interlock.reason": reason})
        self._meters.count("interlock.actions", attributes)

    def _end_proposal(self, key: tuple[str, str], event: e.ProposalFinished) -> None:
        self._meters.count("interlock.proposals", {"interlock.status": event.status})
        began = self._proposals.pop(key, None)
        for action in [one for one in self._tools if one[:2] == key]:
            del self._tools[action]
        if began is not None:
            attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": began[1]}
            attributes |= _error(None if event.status == "succeeded" else event.status)
            self._meters.record("gen_ai.invoke_agent.duration", max(0, event.ts - began[0]) / 1e6, attributes)

    def _end_hold(self, event: e.HoldResolved | e.ToolAnswered) -> None:
        attributes = {"interlock.decision": event.decision}
        self._meters.count("interlock.holds", attributes)
        began = self._holds.pop(event.approval, None)
        if began is not None:
            self._meters.record("interlock.hold.duration", max(0, event.ts - began) / 1e6, attributes)


def _error(code: str | None) -> Attributes:
    return {} if code is None else {"error.type": code}


class Totals:
    """Meters that sum up in memory; need only the base install."""

    def __init__(self) -> None:
        """Starts at zero."""
        self._counts: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self._histograms: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[float, list[int]]] = {}

    def count(self, name: str, attributes: Attributes) -> None:
        """Add one to a counter."""
        key = name, tuple(sorted(attributes.items()))
        self._counts[key] = self._counts.get(key, 0) + 1

    def record(self, name: str, seconds: float, attributes: Attributes) -> None:
        """Add a duration to a histogram."""
        key = name, tuple(sorted(attributes.items()))
        total, buckets = self._histograms.get(key, (0.0, [0] * (len(DURATION_BOUNDS_S) + 1)))
        buckets[bisect_left(DURATION_BOUNDS_S, seconds)] += 1
        self._histograms[key] = total + seconds, buckets

    def points(self) -> list[MetricPoint]:
        """Returns the measurements so far, by name and attributes."""
        found = [
            MetricPoint(name=name, unit=UNITS[name], attributes=dict(attributes), count=count)
            for (name, attributes), count in self._counts.items()
        ]
        found += [
            MetricPoint(
                name=name,
                unit=UNITS[name],
                attributes=dict(attributes),
                count=sum(buckets),
                sum=total,
                buckets=tuple(buckets),
            )
            for (name, attributes), (total, buckets) in self._histograms.items()
        ]
        return sorted(found, key=lambda point: (point.name, sorted(point.attributes.items())))
