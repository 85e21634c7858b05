"""Connects the egress proxy with the gate: the hosts that an action's processes may reach, and their connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.record.connections import add_hosts, connection_event
from interlock.engine.record.recorder import Recorder
from interlock.isolation.egress.client import Policy, Traffic
from interlock.isolation.egress.rules import Rules
from interlock.isolation.egress.wire import Record
from interlock.model.errors import StoreError
from interlock.model.events import ActionConnection
from interlock.model.hosts import Endpoint
from interlock.model.tool import Context


def policy_of(ctx: Context, *, lasting: bool = False) -> Policy:
    """The network policy from the grants in force when the action starts; policies are evaluated for each connection.

    A `lasting` program may outlive a grant, so the grants are checked again too.
    """
    assert isinstance(ctx, ActionContext)
    tool = ctx.tool
    if tool is None:
        return Policy()
    judges = ctx.run.judges_in_force()

    grants = judges.hosts(ctx.agent, tool)

    def ask(there: Endpoint) -> str | None:
        if lasting:
            now = ctx.run.judges_in_force().hosts(ctx.agent, tool)
            if now != grants and not Rules(now, ()).allows(there):
                return "host_denied"
        refusal = ctx.refusal_of_connection(there)
        return None if refusal is None else refusal.reason

    asked = lasting or judges.policies.guards_connections
    return Policy(grants, judges.private_hosts, ask if asked else None)


def record_traffic(ctx: Context, traffic: Traffic) -> None:
    """Record each connection, and add it to the action's result, by host."""
    assert isinstance(ctx, ActionContext)
    events = record_connections(ctx.run.recorder, traffic.records, ctx.proposal_id, ctx.action_id)
    ctx.hosts = add_hosts(ctx.hosts, events)
    connected = {record["via"] for record in traffic.records if record["outcome"] == "connected"}
    if connected - {"program"}:
        ctx.not_exactly_undoable("a process connected to other hosts")
    if "program" in connected:
        ctx.not_exactly_undoable("a process connected to a background program")
    if traffic.dropped:
        ctx.log(f"{traffic.dropped} more attempts to connect are not recorded one by one")
    if traffic.lost:
        ctx.posture(
            net="active(the egress proxy ended early: programs lost their network, and the record may lack connections)"
        )


def record_connections(
    recorder: Recorder | None, records: Iterable[Record], proposal: str, action: str
) -> list[ActionConnection]:
    """Record connections of an action's processes; returns the events."""
    events = []
    for record in records:
        host = record["host"] if recorder is None else recorder.text(record["host"])
        event = connection_event(record, host)
        events.append(event)
        if recorder is not None:
            with contextlib.suppress(StoreError):  # the journal has failed: the run reports that itself
                recorder.record(event, proposal, action, 9)
    return events
