"""Between the egress proxy and the gate: what the processes of an action may reach on the network, and what they did there."""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec

from interlock.engine.proposals.tool_context import ActionContext
from interlock.isolation.egress.client import Policy, Traffic
from interlock.isolation.egress.wire import Record
from interlock.model.errors import StoreError
from interlock.model.events import ActionConnection
from interlock.model.hosts import Endpoint
from interlock.model.result import HostUse
from interlock.model.tool import Context

HOSTS_MAX: Final = 256
"""Hosts in one result; each attempt beyond is in the journal all the same."""


def policy_of(ctx: Context) -> Policy:
    """What the grants in force when the action starts let its processes reach; policies are asked for each connection."""
    assert isinstance(ctx, ActionContext)
    tool = ctx.tool
    if tool is None:
        return Policy()
    judges = ctx.run.judges_in_force()

    def ask(there: Endpoint) -> str | None:
        refusal = ctx.refusal_of_connection(there)
        return None if refusal is None else refusal.reason

    grants = judges.hosts(ctx.agent, tool)
    return Policy(grants, judges.private_hosts, ask if judges.policies.guards_connections else None)


def record_traffic(ctx: Context, traffic: Traffic) -> None:
    """Write each connection down and add it to the action's result, by host."""
    assert isinstance(ctx, ActionContext)
    recorder = ctx.run.recorder
    uses = {_key(use): use for use in ctx.hosts or ()}
    for record in traffic.records:
        host = record["host"] if recorder is None else recorder.text(record["host"])
        if recorder is not None:
            with contextlib.suppress(StoreError):  # the journal has failed: the run reports that itself
                recorder.record(_event(record, host), ctx.proposal_id, ctx.action_id, 9)
        _add(uses, record, host)
    ctx.hosts = tuple(uses.values()) or None
    if any(record["outcome"] == "connected" for record in traffic.records):
        ctx.not_exactly_undoable("a process connected to other hosts")
    if traffic.dropped:
        ctx.log(f"{traffic.dropped} more attempts to connect are not recorded one by one")
    if traffic.lost:
        ctx.posture(
            net="active(the egress proxy ended early: programs lost their network, and the record may lack connections)"
        )


def _event(record: Record, host: str) -> ActionConnection:
    return ActionConnection(
        host=host,
        port=record["port"],
        via=record["via"],
        outcome=record["outcome"],
        reason=record["reason"],
        address=record["address"],
        server_name=record["sni"],
        sent_bytes=record["sent"],
        received_bytes=record["received"],
        duration_ms=record["duration_ms"],
        count=record["count"],
    )


def _add(uses: dict[tuple[object, ...], HostUse], record: Record, host: str) -> None:
    use = HostUse(
        host=host,
        port=record["port"],
        outcome=record["outcome"],
        reason=record["reason"],
        count=record["count"],
        sent_bytes=record["sent"],
        received_bytes=record["received"],
    )
    known = uses.get(_key(use))
    if known is not None:
        uses[_key(use)] = msgspec.structs.replace(
            known,
            count=known.count + use.count,
            sent_bytes=known.sent_bytes + use.sent_bytes,
            received_bytes=known.received_bytes + use.received_bytes,
        )
    elif len(uses) < HOSTS_MAX:
        uses[_key(use)] = use


def _key(use: HostUse) -> tuple[object, ...]:
    return use.host, use.port, use.outcome, use.reason
