"""Which hosts one action may reach, and which of them may have private addresses. Pure.

An address that is not public needs an exception that a person stated: a pattern of `private`, or a grant (and each
grant that it was derived from) that names exactly this host, which must be a local one: `localhost:5432`,
`10.0.0.7:443`, `db.internal:5432`. A wildcard is never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Final

from interlock.detect.addresses import address_is_private
from interlock.model.hosts import Endpoint, endpoint_matcher, parse_pattern

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class _Grant:
    """The hosts of one grant: its own patterns, and those of every grant that it was derived from."""

    def __init__(self, chain: Sequence[Sequence[str]]) -> None:
        self._allowed = [endpoint_matcher(patterns) for patterns in chain]
        self._names = [_name_matcher(patterns) for patterns in chain]
        self._named = [endpoint_matcher(p for p in patterns if not p.startswith("*")) for patterns in chain]

    def allows(self, there: Endpoint) -> bool:
        return bool(self._allowed) and all(matches(there) for matches in self._allowed)

    def knows(self, host: str) -> bool:
        return bool(self._names) and all(matches(host) for matches in self._names)

    def names(self, there: Endpoint) -> bool:
        return bool(self._named) and all(matches(there) for matches in self._named)


class Rules:
    """The hosts of one action."""

    def __init__(self, grants: Sequence[Sequence[Sequence[str]]], private: Sequence[str]) -> None:
        """`grants` and `private` as in `wire.Box`. Raises: ConfigurationError for an invalid pattern."""
        self._grants = [_Grant(chain) for chain in grants]
        self._private = endpoint_matcher(private)

    def allows(self, there: Endpoint) -> bool:
        """Returns True if the action may connect to this host and port. Without grants, never."""
        return any(grant.allows(there) for grant in self._grants)

    def knows(self, host: str) -> bool:
        """Returns True if the action may reach any port of this host, so that its name resolves."""
        return any(grant.knows(host) for grant in self._grants)

    def may_be_private(self, there: Endpoint) -> bool:
        """Returns True if this host may have a private address."""
        if self._private(there):
            return True
        return address_is_private(there.host) is not None and any(grant.names(there) for grant in self._grants)

    def reach_own_machine(self, there: Endpoint) -> bool:
        """Returns True if the action may reach this machine itself at this port, by any name of its loopback."""
        places = [Endpoint(host, there.port) for host in dict.fromkeys((there.host, *_LOOPBACK))]
        return any(self.allows(place) and self.may_be_private(place) for place in places)


def is_loopback(host: str) -> bool:
    """Returns True for names and addresses of the loopback of the machine (or of the network namespace)."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def transparent_ports(grants: Iterable[Iterable[Iterable[str]]], most: int) -> list[int]:
    """Returns the ports named in patterns, without duplicates, at most `most`. `name:*` names none.

    Raises: ConfigurationError.
    """
    patterns = (pattern for chain in grants for part in chain for pattern in part)
    found = {port: None for pattern in patterns if (port := parse_pattern(pattern)[1]) is not None}
    return list(found)[:most]


def _name_matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Like `endpoint_matcher`, but only for hosts: the same patterns with every port."""
    hosts = {parse_pattern(pattern)[0] for pattern in patterns}
    matches = endpoint_matcher(f"[{host}]:*" if ":" in host else f"{host}:*" for host in hosts)
    return lambda host: matches(Endpoint(host, None))
