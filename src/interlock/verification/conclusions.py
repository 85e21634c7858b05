"""Derives health, surface and correlation from events and layers: see "What is worked out" in the format's page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from interlock.verification.facts import Facts, Line, Pair, ValueList, is_network_closed

SUBJECTS_MAX: Final = 100


def conclude(facts: Facts, platform: str, agent_shim: str) -> dict[str, dict[str, Any]]:
    """Returns the documents `health`, `surface` and `correlation`.

    `platform` and `agent_shim` are used if no event names them.
    """
    if facts.command is not None:
        platform, agent_shim = facts.command["platform"], facts.agent_shim
    elif facts.events:
        platform, agent_shim = "linux", "none"
    layers = _layers(facts)
    correlation = _correlation(facts, layers)
    health = {
        "schema": "interlock.evidence.health.v1",
        "run_id": facts.run_id,
        "platform": platform,
        "agent_shim": agent_shim,
        "layers": layers,
        "cgroup_correlation": correlation["state"],
        "network_coverage": _network_coverage(facts, layers["kernel"]["state"]),
        "refused_calls": facts.kernel_refused,
        "postures": [facts.postures[key] for key in sorted(facts.postures)],
        "notes": sorted(_notes(facts, layers, platform, agent_shim)),
    }
    return {"health": health, "surface": _surface(facts, health), "correlation": correlation}


# -- health


def _layers(facts: Facts) -> Line:
    events = _events_state(facts)
    closed = facts.sdk_recorded or {}
    dropped, rejected = closed.get("dropped", 0), closed.get("rejected", 0)
    sdk = "absent"
    if facts.sdk_lines:
        sdk = "self_reported" if facts.sdk_recorded is not None and dropped == 0 and rejected == 0 else "partial"
    return {
        "events": {"state": events, "records": facts.events, "dropped": 0},
        "kernel": {
            "state": _kernel_state(facts, events),
            "records": facts.kernel_lines,
            "dropped": facts.kernel_dropped,
        },
        "policy": {"state": events if facts.command is None else "absent", "records": facts.decisions, "dropped": 0},
        "sdk": {"state": sdk, "records": facts.sdk_lines, "dropped": dropped, "rejected": rejected},
    }


def _events_state(facts: Facts) -> str:
    if facts.events == 0:
        return "absent"
    end_known = facts.command is None or facts.command_ends in (["finished"], ["spawn_failed"])
    return "complete" if facts.run_finished and end_known else "partial"


def _kernel_state(facts: Facts, events: str) -> str:
    if facts.kernel_lines == 0:
        return "absent"
    needs_recorder = facts.command is not None and facts.command_ends != ["spawn_failed"]
    complete = (
        events == "complete"
        and facts.kernel_dropped == 0
        and not facts.paths_rerooted
        and all(recorder.ended and not recorder.lost for recorder in facts.recorders.values())
        and not _unclosed(facts)
        and (facts.command_recorders > 0 or not needs_recorder)
        and all(attempt in facts.attempts_recorded for attempt in facts.attempts)
    )
    return "complete" if complete else "partial"


def _unclosed(facts: Facts) -> bool:
    """Returns True if a recorder is not in the journal, so that nothing ties its lines to the run."""
    return any(name not in facts.recorders_closed for name in facts.recorders)


def _network_coverage(facts: Facts, kernel: str) -> str:
    watched = kernel == "complete"
    covered = [closed or (watched and attempt in facts.attempts_recorded) for attempt, closed in facts.attempts.items()]
    if facts.command is not None:
        covered.append(is_network_closed(facts.command) or (watched and facts.command_recorders > 0))
    if not any(covered):
        return "absent"
    return "complete" if all(covered) else "partial"


def _notes(facts: Facts, layers: Line, platform: str, agent_shim: str) -> Iterator[str]:
    yield from _kernel_notes(facts, layers["kernel"]["state"])
    yield from _sdk_notes(facts, layers["sdk"], agent_shim)
    if "lost" in facts.command_ends:
        yield "command_lost"
    if "spawn_failed" in facts.command_ends:
        yield "spawn_failed"
    if not facts.events:
        yield "not_run"
    elif not facts.run_finished:
        yield "unfinished_run"
    if facts.redacted:
        yield "redacted_after_sealing"
    if platform != "linux":
        yield "unsupported_platform"


def _kernel_notes(facts: Facts, state: str) -> Iterator[str]:
    if state == "absent":
        yield "contract_only_mode"
    elif any(attempt not in facts.attempts_recorded for attempt in facts.attempts):
        yield "actions_without_recorder"
    if facts.kernel_refused:
        yield "calls_refused"
    if facts.kernel_dropped:
        yield "kernel_drops"
    if facts.paths_rerooted:
        yield "paths_rerooted"
    if any(recorder.lost or not recorder.ended for recorder in facts.recorders.values()):
        yield "recorder_lost"
    if _unclosed(facts):
        yield "recorder_unclosed"


def _sdk_notes(facts: Facts, layer: Line, agent_shim: str) -> Iterator[str]:
    if layer["dropped"]:
        yield "sdk_drops"
    if layer["rejected"]:
        yield "sdk_rejected"
    if facts.sdk_lines and facts.sdk_recorded is None:
        yield "sdk_unclosed"
    if agent_shim != "none" and facts.sdk_recorded is not None and not facts.sdk_recorded.get("hooked", 0):
        yield "shim_not_hooked"


# -- surface


def _surface(facts: Facts, health: Line) -> Line:
    layers, network = health["layers"], health["network_coverage"]
    kernel, policy, sdk = layers["kernel"]["state"], layers["policy"]["state"], layers["sdk"]["state"]
    reported = facts.tools_reported
    return {
        "schema": "interlock.evidence.surface.v1",
        "run_id": facts.run_id,
        "files_read": _claim(facts.files_read, kernel),
        "files_written": _claim(facts.files_written, kernel),
        "programs": _claim(facts.programs, kernel),
        "hosts": _claim(facts.hosts, network),
        "tools": _claim(facts.tools, policy),
        "tools_reported": {
            "known": "unknown" if sdk == "absent" else "reported",
            "grade": None,
            "complete": sdk == "self_reported" and not reported.cut,
            "cut": reported.cut,
            "values": sorted(reported.values),
        },
        "decisions": _claim(facts.decided, policy),
    }


def _claim(found: ValueList, state: str) -> Line:
    complete = state == "complete" and not found.cut
    known = "measured" if found.values else "bounded_negative" if complete else "unknown"
    grade = "attempt" if "attempt" in found.grades else "outcome" if "outcome" in found.grades else None
    return {"known": known, "grade": grade, "complete": complete, "cut": found.cut, "values": sorted(found.values)}


# -- correlation


def _correlation(facts: Facts, layers: Line) -> Line:
    bound = facts.bound()
    ambiguities = [
        {"code": code, "count": len(subjects), "subjects": sorted(subjects)[:SUBJECTS_MAX]}
        for code, subjects in _ambiguities(facts, layers, bound)
        if subjects
    ]
    without_intent = any(action.kernel_records and not action.intents for action in facts.actions.values())
    if without_intent or (facts.command is None and facts.command_records):
        state = "failed"
    else:
        state = "clean" if layers["kernel"]["state"] == "complete" and not ambiguities else "partial"
    command = None
    if facts.command is not None:
        command = {
            "outcome": facts.command_ends[0] if facts.command_ends else None,
            "recorders": facts.command_recorders,
            "kernel_records": facts.command_records,
            "sdk_calls": len(facts.calls),
        }
    return {
        "schema": "interlock.evidence.correlation.v1",
        "run_id": facts.run_id,
        "state": state,
        "command": command,
        "bindings": list(_bindings(facts, bound)),
        "ambiguities": ambiguities,
    }


def _bindings(facts: Facts, bound: dict[Pair, str]) -> Iterator[Line]:
    for pair, action in facts.actions.items():
        if action.in_events:
            yield {
                "proposal": pair[0],
                "action": pair[1],
                "tool": action.tool if action.intents else action.decided_tool,
                "decision": action.decision,
                "decision_seq": action.decision_seq,
                "attempts": len(action.intents),
                "outcome": action.outcome,
                "recorders": action.recorders,
                "kernel_records": action.kernel_records,
                "connections": action.connections,
                "sdk_calls": [bound[pair]] if pair in bound else [],
            }


def _ambiguities(facts: Facts, layers: Line, bound: dict[Pair, str]) -> Iterator[tuple[str, list[str]]]:
    has_kernel, has_sdk = layers["kernel"]["state"] != "absent", layers["sdk"]["state"] != "absent"
    actions, calls = facts.actions, facts.calls
    decided = {pair: action for pair, action in actions.items() if action.decision is not None}
    named: dict[str, int] = {}
    for pair, action in actions.items():
        named[pair[1]] = named.get(pair[1], 0) + action.in_events
    yield "call_without_end", [f"call:{name}" for name, call in calls.items() if call.starts and not call.ends]
    yield "decision_without_sdk_call", [_subject(pair) for pair in decided if has_sdk and pair not in bound]
    yield (
        "duplicate_call_id",
        [f"call:{name}" for name, call in calls.items() if call.starts > 1 or named.get(name, 0) > 1],
    )
    invented = [_subject(pair) for pair, action in actions.items() if action.kernel_records and not action.intents]
    if facts.command_records and (facts.command is None or has_sdk):
        invented.append("command")
    yield "effects_without_call", invented
    yield "end_without_start", [f"call:{name}" for name, call in calls.items() if call.ends and not call.starts]
    yield (
        "policy_without_effects",
        [
            _subject(pair)
            for pair, action in decided.items()
            if has_kernel and action.intents and action.outcome in ("succeeded", "failed") and not action.kernel_records
        ],
    )
    covered = {name for pair, name in bound.items() if pair in decided}
    yield "sdk_call_without_decision", [f"call:{name}" for name in calls if name not in covered]
    yield "shim_made_call_id", [f"call:{name}" for name, call in calls.items() if call.from_shim]


def _subject(pair: Pair) -> str:
    return f"action:{pair[0]}/{pair[1]}"
