"""Hosts and ports in the normal form that grants, the egress proxy and messages compare.

An *endpoint* is what an agent names: `example.org:443`, `[::1]:80`, or a URL. A *pattern* is what a grant allows:
`name:port`, `*.example.org:443` (any depth below, never `example.org` itself), `*:443`, `name:*`. Input that two
programs might read differently (user names that look like hosts, backslashes, percent signs, letters that IDNA 2003 and
2008 map differently) is refused. Names are only compared, never resolved.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from interlock.lazy import lazy_pattern
from interlock.model.errors import ConfigurationError

PORTS: Final = {
    "http": 80,
    "https": 443,
    "ws": 80,
    "wss": 443,
    "ftp": 21,
    "ftps": 990,
    "ssh": 22,
    "sftp": 22,
    "git": 9418,
    "ldap": 389,
    "ldaps": 636,
    "redis": 6379,
    "postgres": 5432,
    "postgresql": 5432,
    "mysql": 3306,
    "mongodb": 27017,
    "amqp": 5672,
    "amqps": 5671,
}
"""The default port by URL scheme (IANA's registry). An unknown scheme needs a port."""

_TEXT_CHARS_MAX: Final = 16_384
_URL = lazy_pattern(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
_UNSAFE = lazy_pattern(r"[\x00-\x20\x7f\\^`{|}<>\"]")
_LABEL = lazy_pattern(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = lazy_pattern(r"0[xX][0-9A-Fa-f]*|[0-9]+")


class Endpoint(msgspec.Struct, frozen=True):
    """A host in normal form (lower case, A-labels, canonical address without brackets) and a port.

    `port` is None if the text has none and no scheme implies one; then only a pattern for every port matches.
    """

    host: str
    port: int | None

    def __str__(self) -> str:
        """`host:port`, with brackets around an IPv6 address and `*` for no port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{'*' if self.port is None else self.port}"


def endpoint(value: Any) -> Endpoint:
    """The endpoint of a URL, `host:port` or `host`.

    Raises: ValueError, with a reason that does not repeat the value.
    """
    if not isinstance(value, str):
        raise ValueError("is not a string")  # noqa: TRY004 # one error for every unusable value
    url = _URL.match(value)
    if len(value) > _TEXT_CHARS_MAX or _UNSAFE.search(url[2] if url else value):
        raise ValueError("is too long or contains an invalid character")
    if url:
        scheme, authority = url[1].lower(), url[2]
        user, at, location = authority.rpartition("@")
        if "@" in user or "[" in user or "]" in user:
            raise ValueError("has a user name that could be taken for a host")
        if at and not user:
            raise ValueError("has an empty user name")
        host, port = _split(location)
        return Endpoint(host, PORTS.get(scheme) if port is None else port)
    if "/" in value or "@" in value or "?" in value or "#" in value:
        raise ValueError("is neither a URL nor `host:port`")
    return Endpoint(*_split(value))


def host_name(text: str) -> str:
    """The normal form of a host: an address as formatted by `ipaddress` (mapped IPv4 as IPv4), else A-labels.

    Raises: ValueError.
    """
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    text = text.removesuffix(".")
    if not text.isascii():
        text = _a_labels(text)
    text = text.lower()
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(labels)
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("is not a host name")
    return text


def endpoint_matcher(patterns: Iterable[str]) -> Callable[[Endpoint], bool]:
    """A test whether an endpoint matches one of the patterns. Raises: ConfigurationError."""
    exact: set[tuple[str, int | None]] = set()
    below: list[tuple[str, int | None]] = []
    for pattern in patterns:
        host, port = parse_pattern(pattern)
        if host.startswith("*"):
            below.append((host[1:], port))
        else:
            exact.add((host, port))

    def matches(subject: Endpoint) -> bool:
        host, port = subject.host, subject.port
        if (host, None) in exact or (port is not None and (host, port) in exact):
            return True
        return any(_is_below(host, suffix) and allowed in (None, port) for suffix, allowed in below)

    return matches


def pattern_covers(outer: str, inner: str) -> bool:
    """True only if every endpoint that the pattern `inner` matches is also matched by `outer`. Raises: ConfigurationError."""
    outer_host, outer_port = parse_pattern(outer)
    host, port = parse_pattern(inner)
    if outer_port is not None and outer_port != port:
        return False
    if outer_host in {host, "*"}:
        return True
    return outer_host.startswith("*.") and _is_below(host.removeprefix("*"), outer_host[1:])


def parse_pattern(pattern: str) -> tuple[str, int | None]:
    """A pattern's host (`*`, `*.` + suffix, or a normal host) and port (None: every port). Raises: ConfigurationError."""
    hint = "write `example.org:443`, `*.example.org:443`, `[::1]:80`, or `example.org:*` for every port"
    host, colon, port = pattern.rpartition(":")
    if not colon or not host or (":" in host and not host.startswith("[")):
        raise ConfigurationError(f"`{pattern}` is not `host:port`", hint=hint)
    try:
        number = None if port == "*" else _port(port)
        if host == "*":
            return host, number
        if host.startswith("*."):
            return "*." + _domain(host[2:]), number
        return host_name(host), number
    except ValueError as error:
        raise ConfigurationError(f"`{pattern}` {error}", hint=hint) from None


def _domain(text: str) -> str:
    name = host_name(text)
    if _is_address(name):
        raise ValueError("has a star before an address")
    return name


def _is_below(host: str, suffix: str) -> bool:
    if not suffix:
        return True  # the pattern `*`
    return host.endswith(suffix) and len(host) > len(suffix) and not _is_address(host)


def _split(location: str) -> tuple[str, int | None]:
    if location.startswith("["):
        end = location.find("]")
        host, rest = location[: end + 1], location[end + 1 :]
        if end < 0 or (rest and not rest.startswith(":")):
            raise ValueError("is not a host")
        return host_name(host), _port(rest[1:]) if len(rest) > 1 else None
    host, _, port = location.partition(":")
    if ":" in port:
        raise ValueError("has an IPv6 address without brackets")
    return host_name(host), _port(port) if port else None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise ValueError("has no valid port")
    return int(text)


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("is not an IPv6 address") from None
    if address.scope_id:
        raise ValueError("has a zone, which has a meaning on only one machine")
    return str(address.ipv4_mapped or address)


def _ipv4(labels: list[str]) -> str:
    """An address in any form that programs accept (inet_aton): one to four parts, each decimal, octal or hexadecimal."""
    if len(labels) > 4 or not all(_NUMBER.fullmatch(label) for label in labels):
        raise ValueError("is not an IPv4 address")
    values = [_integer(label) for label in labels]
    last_max = 256 ** (5 - len(values))
    if any(v > 255 for v in values[:-1]) or values[-1] >= last_max:
        raise ValueError("is not an IPv4 address")
    total = values[-1] + sum(v << 8 * (3 - i) for i, v in enumerate(values[:-1]))
    return str(ipaddress.IPv4Address(total))


def _integer(label: str) -> int:
    if len(label) > 16:
        raise ValueError("is not an IPv4 address")
    if label[:2] in {"0x", "0X"}:
        return int(label[2:] or "0", 16)
    if len(label) > 1 and label[0] == "0":
        if set(label) - set("01234567"):
            raise ValueError("is not an IPv4 address")
        return int(label, 8)
    return int(label)


def _is_address(host: str) -> bool:
    return ":" in host or bool(_NUMBER.fullmatch(host.rpartition(".")[2]))


def _a_labels(text: str) -> str:
    """IDNA, but only where all versions agree: names that do not survive a round trip are refused (`ß`, joiners, wide forms)."""
    try:
        encoded = text.encode("idna")
        back = encoded.decode("idna")
    except UnicodeError:
        raise ValueError("is not a host name") from None
    if back != text.lower():
        raise ValueError("has letters that programs map differently: write it in ASCII (`xn--...`)")
    return encoded.decode("ascii")
