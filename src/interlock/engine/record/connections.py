"""Network connections of processes, as journal events and as summaries in results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import msgspec

from interlock.isolation.egress.wire import Outcome, Record
from interlock.model.events import ActionConnection
from interlock.model.result import HostUse

HOSTS_MAX: Final = 256
"""Maximum number of hosts in one result; the journal has all connections."""


def connection_event(record: Record, host: str) -> ActionConnection:
    """A record of the proxy as an event. `host` is the host in a form that may be shown."""
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


def add_hosts(known: Iterable[HostUse] | None, events: Iterable[ActionConnection]) -> tuple[HostUse, ...] | None:
    """The hosts of a result with further connections added, grouped by host, port and outcome; None if there are none."""
    uses = {_key(use): use for use in known or ()}
    for event in events:
        use = HostUse(
            host=event.host,
            port=event.port,
            outcome=cast("Outcome", event.outcome),
            reason=event.reason,
            count=event.count,
            sent_bytes=event.sent_bytes,
            received_bytes=event.received_bytes,
        )
        before = uses.get(_key(use))
        if before is not None:
            uses[_key(use)] = msgspec.structs.replace(
                before,
                count=before.count + use.count,
                sent_bytes=before.sent_bytes + use.sent_bytes,
                received_bytes=before.received_bytes + use.received_bytes,
            )
        elif len(uses) < HOSTS_MAX:
            uses[_key(use)] = use
    return tuple(uses.values()) or None


def _key(use: HostUse) -> tuple[object, ...]:
    return use.host, use.port, use.outcome, use.reason
