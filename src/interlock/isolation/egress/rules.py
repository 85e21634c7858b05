"""Which hosts one action may reach, and which of them may have an address that is not public. Pure.

An address that is not public needs an exception that a person stated: a pattern of `private`, or a grant (and each grant that it
was made from) that names this very host, which then is itself a local one: `localhost:5432`, `10.0.0.7:443`, `db.internal:5432`.
A wildcard never makes an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from interlock.detect.addresses import address_is_private
from interlock.model.hosts import Endpoint, endpoint_matcher, parse_pattern


class Rules:
    """The hosts of one action."""

    def __init__(self, hosts: Sequence[Sequence[str]], private: Sequence[str]) -> None:
        """`hosts` and `private` as in `wire.Box`. Raises: ConfigurationError for an invalid pattern."""
        self._allowed = [endpoint_matcher(patterns) for patterns in hosts]
        self._names = [_name_matcher(patterns) for patterns in hosts]
        self._named = [endpoint_matcher(p for p in patterns if not p.startswith("*")) for patterns in hosts]
        self._private = endpoint_matcher(private)

    def allows(self, there: Endpoint) -> bool:
        """True if the action may connect to this host and port. Without any grant: never."""
        return bool(self._allowed) and all(matches(there) for matches in self._allowed)

    def knows(self, host: str) -> bool:
        """True if the action may reach some port of this host, so that its name resolves."""
        return bool(self._names) and all(matches(host) for matches in self._names)

    def may_be_private(self, there: Endpoint) -> bool:
        """True if the address of this host need not be public."""
        if self._private(there):
            return True
        return address_is_private(there.host) is not None and all(matches(there) for matches in self._named)


def transparent_ports(hosts: Iterable[Iterable[str]], most: int) -> list[int]:
    """The ports that patterns name, each once, `most` at most; `name:*` names none. Raises: ConfigurationError."""
    found = {
        port: None for patterns in hosts for pattern in patterns if (port := parse_pattern(pattern)[1]) is not None
    }
    return list(found)[:most]


def _name_matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Like `endpoint_matcher`, for the host alone: the same patterns with every port."""
    hosts = {parse_pattern(pattern)[0] for pattern in patterns}
    matches = endpoint_matcher(f"[{host}]:*" if ":" in host else f"{host}:*" for host in hosts)
    return lambda host: matches(Endpoint(host, None))
