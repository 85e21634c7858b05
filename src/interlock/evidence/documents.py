"""Derives health, surface and correlation of a run from observations, by the rules in docs/reference/evidence-format.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from interlock.evidence.format import (
    SUBJECTS_MAX,
    Ambiguity,
    Binding,
    Claim,
    CommandBinding,
    Correlation,
    Health,
    LayerHealth,
    Layers,
    SdkHealth,
    State,
    Surface,
)
from interlock.evidence.observed import Observed, Pair, Values, bound_calls, command_is_closed, doubled_calls
from interlock.model import typed


class Documents(msgspec.Struct, frozen=True, kw_only=True):
    """The three documents of one run."""

    health: Health
    surface: Surface
    correlation: Correlation


def documents_of(observed: Observed) -> Documents:
    """Derive the three documents from all observations."""
    layers = _layers(observed)
    correlation = _correlation(observed, layers)
    health = Health(
        schema="interlock.evidence.health.v1",
        run_id=observed.run_id,
        platform=observed.platform,
        agent_shim=observed.agent_shim,
        layers=layers,
        cgroup_correlation=correlation.state,
        network_coverage=_network_coverage(observed, layers.kernel.state),
        refused_calls=observed.kernel_refused,
        postures=tuple(typed.decode(posture, dict[str, str]) for posture in sorted(observed.postures)),
        notes=tuple(sorted(_notes(observed, layers))),
    )
    return Documents(health=health, surface=_surface(observed, health), correlation=correlation)


# -- health


def _layers(observed: Observed) -> Layers:
    events = _events_state(observed)
    kernel: State = "absent"
    if observed.kernel_lines:
        kernel = "complete" if events == "complete" and _all_recorded(observed) else "partial"
    sdk: Literal["self_reported", "partial", "absent"] = "absent"
    closed = observed.sdk_closed or {}
    if observed.sdk_lines:
        whole = observed.sdk_closed is not None and not closed.get("dropped") and not closed.get("rejected")
        sdk = "self_reported" if whole else "partial"
    return Layers(
        events=LayerHealth(state=events, records=observed.events, dropped=0),
        kernel=LayerHealth(state=kernel, records=observed.kernel_lines, dropped=observed.kernel_dropped),
        policy=LayerHealth(
            state="absent" if observed.command is not None else events, records=observed.decisions, dropped=0
        ),
        sdk=SdkHealth(
            state=sdk,
            records=observed.sdk_lines,
            dropped=closed.get("dropped", 0),
            rejected=closed.get("rejected", 0),
        ),
    )


def _events_state(observed: Observed) -> State:
    if not observed.events:
        return "absent"
    known = observed.command is None or observed.command_ends in (["finished"], ["spawn_failed"])
    return "complete" if observed.finished and known else "partial"


def _all_recorded(observed: Observed) -> bool:
    if (
        observed.kernel_dropped
        or observed.rerooted
        or any(not one.ended or one.lost for one in observed.recorders.values())
    ):
        return False
    if not observed.recorders.keys() <= observed.recorder_ends.keys():
        return False
    if observed.command is not None and not observed.command_recorders and observed.command_ends != ["spawn_failed"]:
        return False
    return observed.attempts.keys() <= observed.recorded


def _network_coverage(observed: Observed, kernel: State) -> State:
    watched = kernel == "complete"
    covered = [closed or (watched and attempt in observed.recorded) for attempt, closed in observed.attempts.items()]
    if observed.command is not None:
        covered.append(command_is_closed(observed.command) or (watched and observed.command_recorders > 0))
    if covered and all(covered):
        return "complete"
    return "partial" if any(covered) else "absent"


def _notes(observed: Observed, layers: Layers) -> Iterator[str]:
    kernel = layers.kernel.state != "absent"
    closed = observed.sdk_closed
    found = {
        "actions_without_recorder": kernel and not observed.attempts.keys() <= observed.recorded,
        "calls_refused": observed.kernel_refused > 0,
        "command_lost": "lost" in observed.command_ends,
        "contract_only_mode": not kernel,
        "kernel_drops": observed.kernel_dropped > 0,
        "not_run": not observed.events,
        "paths_rerooted": observed.rerooted,
        "recorder_lost": any(not one.ended or one.lost for one in observed.recorders.values()),
        "recorder_unclosed": not observed.recorders.keys() <= observed.recorder_ends.keys(),
        "redacted_after_sealing": observed.redacted,
        "sdk_drops": layers.sdk.dropped > 0,
        "sdk_rejected": layers.sdk.rejected > 0,
        "sdk_unclosed": observed.sdk_lines > 0 and closed is None,
        "shim_not_hooked": observed.agent_shim != "none" and closed is not None and not closed.get("hooked"),
        "spawn_failed": "spawn_failed" in observed.command_ends,
        "unfinished_run": observed.events > 0 and not observed.finished,
        "unsupported_platform": observed.platform != "linux",
    }
    return (note for note, there in found.items() if there)


# -- surface


def _surface(observed: Observed, health: Health) -> Surface:
    kernel, policy = health.layers.kernel.state, health.layers.policy.state
    reported = observed.tools_reported
    sdk = health.layers.sdk.state
    return Surface(
        schema="interlock.evidence.surface.v1",
        run_id=observed.run_id,
        files_read=_claim(observed.read, kernel),
        files_written=_claim(observed.written, kernel),
        hosts=_claim(observed.hosts, health.network_coverage),
        programs=_claim(observed.programs, kernel),
        tools=_claim(observed.tools, policy),
        tools_reported=Claim(
            known="unknown" if sdk == "absent" else "reported",
            grade=None,
            complete=sdk == "self_reported" and not reported.cut,
            cut=reported.cut,
            values=tuple(sorted(reported.values)),
        ),
        decisions=_claim(observed.decided, policy),
    )


def _claim(values: Values, state: State) -> Claim:
    complete = state == "complete" and not values.cut
    known: Literal["measured", "bounded_negative", "unknown"] = "bounded_negative" if complete else "unknown"
    return Claim(
        known="measured" if values.values else known,
        grade=values.grade,
        complete=complete,
        cut=values.cut,
        values=tuple(sorted(values.values)),
    )


# -- correlation


def _correlation(observed: Observed, layers: Layers) -> Correlation:
    bound = bound_calls(observed)
    ambiguities = tuple(_ambiguities(observed, layers, bound))
    invented = any(facts.kernel_records and not facts.attempts for facts in observed.actions.values())
    state: Literal["clean", "partial", "failed"] = "partial"
    if invented or (observed.stray_records and observed.command is None):
        state = "failed"
    elif layers.kernel.state == "complete" and not ambiguities:
        state = "clean"
    command = None
    if observed.command is not None:
        command = CommandBinding(
            outcome=observed.command_ends[0] if observed.command_ends else None,  # type: ignore[arg-type]
            recorders=observed.command_recorders,
            kernel_records=observed.stray_records,
            sdk_calls=len(observed.calls),
        )
    return Correlation(
        schema="interlock.evidence.correlation.v1",
        run_id=observed.run_id,
        state=state,
        command=command,
        bindings=tuple(_bindings(observed, bound)),
        ambiguities=ambiguities,
    )


def _bindings(observed: Observed, bound: dict[Pair, str]) -> Iterator[Binding]:
    for pair, facts in observed.actions.items():
        if not facts.on_record:
            continue
        yield Binding(
            proposal=pair[0],
            action=pair[1],
            tool=facts.tool if facts.attempts else facts.decided_tool,
            decision=facts.decision,
            decision_seq=facts.decision_seq,
            attempts=facts.attempts,
            outcome=facts.outcome,
            recorders=facts.recorders,
            kernel_records=facts.kernel_records,
            connections=facts.connections,
            sdk_calls=(bound[pair],) if pair in bound else (),
        )


def _ambiguities(observed: Observed, layers: Layers, bound: dict[Pair, str]) -> Iterator[Ambiguity]:
    kernel, sdk = layers.kernel.state != "absent", layers.sdk.state != "absent"
    actions, calls = observed.actions, observed.calls
    decided = {call for pair, call in bound.items() if actions[pair].decision is not None}
    effects = [_subject(pair) for pair, facts in actions.items() if facts.kernel_records and not facts.attempts]
    if observed.stray_records and (observed.command is None or sdk):
        effects.append("command")
    found: dict[str, list[str]] = {
        "call_without_end": [f"call:{call}" for call, facts in calls.items() if facts.started and not facts.completed],
        "decision_without_sdk_call": [
            _subject(pair)
            for pair, facts in actions.items()
            if sdk and facts.decision is not None and pair not in bound
        ],
        "duplicate_call_id": [f"call:{call}" for call in doubled_calls(observed)],
        "effects_without_call": effects,
        "end_without_start": [f"call:{call}" for call, facts in calls.items() if facts.completed and not facts.started],
        "policy_without_effects": [
            _subject(pair)
            for pair, facts in actions.items()
            if kernel
            and facts.decision is not None
            and facts.attempts
            and facts.outcome in ("succeeded", "failed")
            and not facts.kernel_records
        ],
        "sdk_call_without_decision": [f"call:{call}" for call in calls if call not in decided],
        "shim_made_call_id": [f"call:{call}" for call, facts in calls.items() if facts.shim_made],
    }
    for code, subjects in found.items():
        if subjects:
            shown: Any = code
            yield Ambiguity(code=shown, count=len(subjects), subjects=tuple(sorted(subjects)[:SUBJECTS_MAX]))


def _subject(pair: Pair) -> str:
    return f"action:{pair[0]}/{pair[1]}"
