"""Addresses that an agent must not reach unnoticed: private, loopback, link-local, metadata, carrier, mapped, reserved.

Reads every spelling that some resolver or parser accepts: `127.1`, `2130706433`, `0x7f.1`, `0177.0.0.1`, `[::ffff:7f00:1]`,
`127.0.0.1.`, `%3127.0.0.1`, full-width digits, zone ids. Where parsers disagree (some read a leading zero as octal, others as
decimal), an address is refused if any reading is. Sources: the IANA special-purpose address registries, RFC 6890, RFC 6598,
RFC 6052 (NAT64), RFC 3056 (6to4), RFC 5214 (ISATAP), and the cloud providers' documentation of their metadata services.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Final, Literal
from urllib.parse import unquote

from interlock.detect.finding import Finding
from interlock.lazy import lazy_pattern

Reason = Literal[
    "metadata", "loopback", "private", "link_local", "cgnat", "multicast", "unspecified", "mapped", "tunnel", "reserved"
]

_METADATA: Final = frozenset(
    int(IPv4Address(a))
    for a in (
        "169.254.169.254",  # AWS, GCP, Azure, OpenStack, DigitalOcean and most others
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.169.253",  # AWS resolver
        "169.254.169.123",  # AWS time
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle, older
        "168.63.129.16",  # Azure wire server
    )
)
_METADATA_6: Final = frozenset(
    int(IPv6Address(a))
    for a in (
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # GCP
        "fd00:c1::a9fe:a9fe",  # Oracle
        "fe80::a9fe:a9fe",  # OpenStack
    )
)


def _table(*rows: tuple[str, Reason]) -> tuple[tuple[int, int, Reason], ...]:
    nets = ((ip_network(net), reason) for net, reason in rows)
    return tuple((int(net.network_address), int(net.netmask), reason) for net, reason in nets)


_V4: Final = _table(
    ("127.0.0.0/8", "loopback"),
    ("10.0.0.0/8", "private"),
    ("172.16.0.0/12", "private"),
    ("192.168.0.0/16", "private"),
    ("169.254.0.0/16", "link_local"),
    ("100.64.0.0/10", "cgnat"),
    ("0.0.0.0/8", "unspecified"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("198.18.0.0/15", "reserved"),
    ("198.51.100.0/24", "reserved"),
    ("203.0.113.0/24", "reserved"),
)
_V6: Final = _table(
    ("::1/128", "loopback"),
    ("::/128", "unspecified"),
    ("fc00::/7", "private"),
    ("fec0::/10", "private"),
    ("64:ff9b:1::/48", "private"),
    ("fe80::/10", "link_local"),
    ("ff00::/8", "multicast"),
    ("2001::/32", "tunnel"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "reserved"),
    ("3fff::/20", "reserved"),
)
_GLOBAL_6: Final = IPv6Network("2000::/3")
# (network, bits below the embedded IPv4 address, reason if that address is harmless; None: the whole is harmless then)
_EMBEDDED: Final[tuple[tuple[IPv6Network, int, Reason | None], ...]] = (
    (IPv6Network("::ffff:0:0/96"), 0, "mapped"),
    (IPv6Network("::ffff:0:0:0/96"), 0, "mapped"),
    (IPv6Network("::/96"), 0, "mapped"),
    (IPv6Network("64:ff9b::/96"), 0, None),  # every IPv4-only host looks like this in a network with NAT64
    (IPv6Network("2002::/16"), 80, "tunnel"),
)
_ISATAP: Final = frozenset((0x00005EFE, 0x02005EFE))

_LOCAL_NAMES: Final = lazy_pattern(
    r"(?P<loopback>localhost|(?:.*\.)?localhost(?:\.localdomain)?|localhost[46]|ip6-localhost|ip6-loopback|localhost6?\.localdomain6?)"
    r"|(?P<metadata>metadata|metadata\.google\.internal|metadata\.goog|instance-data(?:\.ec2\.internal)?|metadata\.azure\.com"
    r"|metadata\.azure\.internal|metadata\.oraclecloud\.com|metadata\.tencentyun\.com)"
    r"|(?P<private>.*\.(?:internal|local|localdomain|lan|intranet|home\.arpa|cluster\.local|svc)|kubernetes(?:\.default)?)"
)
# Names that publicly map to private addresses (nip.io and similar services resolve 10.0.0.1.nip.io to 10.0.0.1).
_WILDCARD_DNS: Final = lazy_pattern(
    r"(?:.*[.-])?(?:(\d{1,3}(?:[.-]\d{1,3}){3})(?:[.-].*)?|([0-9a-f]{8}))\.(?:nip|sslip|xip)\.io"
)
_NAME_CHARS_MAX: Final = 253
_PART: Final = lazy_pattern(r"0[xX][0-9a-fA-F]{0,16}|[0-9]{1,24}")


def classify(ip: IPv4Address | IPv6Address) -> Reason | None:
    """Returns why an address is not an ordinary public one, or None if it is. Embedded IPv4 addresses are judged too."""
    number = int(ip)
    if isinstance(ip, IPv4Address):
        if number in _METADATA:
            return "metadata"
        return next((reason for net, mask, reason in _V4 if number & mask == net), None)
    if number in _METADATA_6:
        return "metadata"
    if number > 1:  # `::` and `::1` are not IPv4-compatible addresses
        for network, shift, harmless in _EMBEDDED:
            if ip in network:
                return classify(IPv4Address(number >> shift & 0xFFFFFFFF)) or harmless
    reason = next((reason for net, mask, reason in _V6 if number & mask == net), None)
    if reason is None and number >> 32 & 0xFFFFFFFF in _ISATAP:
        return classify(IPv4Address(number & 0xFFFFFFFF)) or "tunnel"
    if reason is None and ip not in _GLOBAL_6:
        return "reserved"
    return reason


def address_is_private(host: str) -> Reason | None:
    """Returns why a host must not be reached unnoticed, or None.

    `host` is a name or an address in any spelling, without a port.

    Judges a name only by its text: check what it resolves to with `classify` after resolving it.
    """
    name = _normal(host)
    for reading in _readings(name):
        reason = classify(reading)
        if reason is not None:
            return reason
    if len(name) > _NAME_CHARS_MAX:
        return None  # no resolver accepts it
    if (local := _LOCAL_NAMES.fullmatch(name)) is not None:
        return local.lastgroup  # type: ignore[return-value]
    if (wildcard := _WILDCARD_DNS.fullmatch(name)) is not None:
        dotted, packed = wildcard.groups()
        return address_is_private(dotted.replace("-", ".") if dotted else f"0x{packed}")
    return None


def parse_address(host: str) -> IPv4Address | IPv6Address | None:
    """Returns the address that a host spells, as `inet_aton` and `inet_pton` read it; None if it is a name."""
    return next(iter(_readings(_normal(host))), None)


def _normal(host: str) -> str:
    """Reduces to one spelling: no percent-encoding, full-width letters, brackets, zone or trailing dots; lower case."""
    for _ in range(3):  # double encoding is a known trick
        if "%" not in host or (decoded := unquote(host, errors="replace")) == host:
            break
        host = decoded
    if not host.isascii():
        host = unicodedata.normalize("NFKC", host).replace("\u3002", ".")
        host = "".join(c for c in host if unicodedata.category(c) not in ("Cf", "Mn"))
    host = host.strip().strip("[]").rstrip(".").lower()
    return host.split("%", 1)[0] if ":" in host else host


def _readings(name: str) -> Iterator[IPv4Address | IPv6Address]:
    if ":" in name:
        try:
            yield IPv6Address(name)
        except ValueError:
            return
        return
    parts = name.split(".")
    if not 1 <= len(parts) <= 4 or not all(_PART.fullmatch(p) for p in parts):
        return
    for octal in (True, False):
        numbers = [_number(p, octal) for p in parts]
        tail_max = 256 ** (5 - len(parts))
        if all(n is not None and n < 256 for n in numbers[:-1]) and numbers[-1] is not None and numbers[-1] < tail_max:
            value = numbers[-1]
            for i, n in enumerate(numbers[:-1]):
                value += (n or 0) << (24 - 8 * i)
            yield IPv4Address(value)
        if not any(p.startswith("0") and len(p) > 1 for p in parts):
            return


def _number(part: str, octal: bool) -> int | None:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    if octal and len(part) > 1 and part.startswith("0"):
        try:
            return int(part, 8)
        except ValueError:
            return None
    return int(part)


_CANDIDATE: Final = lazy_pattern(
    # The host part of a URL: anything without another meaning there.
    r"(?:(?<=//)|(?<=@))(?:[^\s/@:?#\[\]\"'<>\\,;]{1,253}|\[[0-9a-fA-F:.%\w]{2,64}\])"
    # Dotted quads, in decimal, octal or hex.
    r"|(?<![\w.])(?:0[xX][0-9a-fA-F]{1,8}|[0-9]{1,12})(?:\.(?:0[xX][0-9a-fA-F]{1,8}|[0-9]{1,12})){3}(?![\w]|\.[0-9])"
    # IPv6: at least two colons among hex digits.
    r"|(?P<bare6>(?<![\w:])(?<!\w\[)(?:[0-9a-fA-F]{0,4}:){2,8}[0-9a-fA-F.]{0,15}(?![\w:]))"
    # Names that mean this machine or its network.
    r"|(?<![\w.-])(?:[a-zA-Z0-9-]{1,63}\.){0,4}(?:localhost|internal|localdomain|nip\.io|sslip\.io|xip\.io)(?![\w-])"
    r"|(?<![\w.-])(?:ip6-loopback|instance-data)(?![\w-])"
)
_WHOLE: Final = lazy_pattern(
    r"0[xX][0-9a-fA-F]{6,16}|[0-9]{8,10}|(?:0[xX][0-9a-fA-F]{1,8}|0?127|0177|0+)(?:\.[0-9a-fA-FxX]{1,8}){1,2}"
)


def find_private(text: str) -> list[Finding]:
    """Returns the hosts in a text that `address_is_private` refuses, with the reason as `kind`.

    Short and single-number spellings (`127.1`, `2130706433`) count only as the host of a URL or as the whole text:
    elsewhere they are version numbers and counts. If a text has to be decoded first (percent-encoding, full-width
    letters), a finding covers the whole text.
    """
    found = list(_private_in(text))
    if not found and ("%" in text or not text.isascii()):
        plain = unicodedata.normalize("NFKC", unquote(text, errors="replace")).replace("\u3002", ".")
        if plain != text:
            found = [Finding(f.kind, 0, len(text)) for f in _private_in(plain)][:1]
    return found


def _private_in(text: str) -> Iterator[Finding]:
    whole = text.strip()
    if _WHOLE.fullmatch(whole):
        reason = address_is_private(whole)
        if reason is not None:
            yield Finding(reason, 0, len(text))
        return
    for match in _CANDIDATE.finditer(text):
        reason = address_is_private(match.group())
        # Outside a URL, `a::b` is a name in some programming language rather than a reserved address.
        if reason is not None and not (match.lastgroup == "bare6" and reason in ("reserved", "unspecified")):
            yield Finding(reason, match.start(), match.end())
