"""Assigns addresses to names that are meaningless elsewhere, so that a connection to one identifies the name. Pure.

The addresses are from 198.18.0.0/15, which RFC 2544 reserves for benchmarks, so none is ever public.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

_FIRST: Final = int(IPv4Address("198.18.0.1"))
NAMES_MAX: Final = 4096
"""Maximum number of names per action, because a wildcard allows any number."""


class Names:
    """The names that one action has looked up."""

    def __init__(self) -> None:
        self._by_name: dict[str, IPv4Address] = {}
        self._by_address: dict[IPv4Address, str] = {}

    def address(self, name: str) -> IPv4Address | None:
        """Returns the address of a name, always the same; None if there are too many names."""
        found = self._by_name.get(name)
        if found is None and len(self._by_name) < NAMES_MAX:
            found = self._by_name[name] = IPv4Address(_FIRST + len(self._by_name))
            self._by_address[found] = name
        return found

    def name(self, address: IPv4Address | IPv6Address) -> str | None:
        """Returns the name with this address; None if there is none."""
        return self._by_address.get(address) if isinstance(address, IPv4Address) else None
