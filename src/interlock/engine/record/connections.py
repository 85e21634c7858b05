"""What processes did on the network, as the journal has it and as results sum it up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import msgspec

from interlock.isolation.egress.wire import Outcome, Record
from interlock.model.events import ActionConnection
from interlock.model.result import HostUse

HOSTS_MAX: Final = 256
"""Hosts in one result; each attempt beyond is in the journal all the same."""


def connection_event(record: Record, host: str) -> ActionConnection:
    """A record of the proxy as an event. `host` is its host as it may be shown."""
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
    """The hosts of a result, with more connections, those of one host, port and outcome together; None if there are none."""
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
