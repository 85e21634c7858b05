"""Addresses that must not be reached unseen, in every spelling that some program accepts."""

# Look-alike letters are what is tested, and tables read better in one line a case.
# ruff: noqa: RUF001, E501

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.detect import address_is_private, classify, find_private, parse_address

SPELLINGS_OF_LOOPBACK = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0X7F000001", "0x7f.0.0.1", "0x7f.1",
    "0177.0.0.1", "0177.1", "017700000001", "0177.0x0.0.1", "00000177.0.0.1", "127.0.0.1.", "127.0.0.1..", " 127.0.0.1 ",
    "%31%32%37.0.0.1", "%2531%2532%2537.0.0.1", "127%2e0%2e0%2e1", "１２７.０.０.１", "127。0。0。1", "127．0．0．1", "①②⑦.⓪.⓪.①",
    "127.0.0\u200b.1", "127.0.\u00ad0.1",
    "::1", "[::1]", "0:0:0:0:0:0:0:1", "[0000::0001]", "::1%lo", "[::1%25lo]",
    "::ffff:127.0.0.1", "[::ffff:7f00:1]", "::ffff:0:127.0.0.1", "::127.0.0.1", "::7f00:1",
    "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:7f00:0001::1", "2606:4700::5efe:127.0.0.1",
    "localhost", "LOCALHOST", "localhost.", "a.localhost", "localhost.localdomain", "ip6-localhost", "localhost6",
    "127.0.0.1.nip.io", "7f000001.nip.io", "app-7f000001.sslip.io", "app-127-0-0-1.sslip.io", "x.127.0.0.1.nip.io",
]  # fmt: skip

OTHERS = [
    ("metadata", ["169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "::ffff:a9fe:a9fe",
                  "fd00:ec2::254", "[fd00:0ec2::0254]", "fd20:ce::254", "metadata.google.internal", "Metadata.Google.Internal.",
                  "metadata", "instance-data", "100.100.100.200", "192.0.0.192", "168.63.129.16", "169.254.170.2"]),
    ("private", ["10.0.0.1", "10.1", "167772161", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.168.257", "0300.0250.1.1",
                 "010.0.0.1", "fd12:3456::1", "fc00::1", "fec0::1", "64:ff9b:1::1", "::ffff:10.0.0.1", "2002:c0a8:0101::",
                 "db.internal", "printer.local", "router.lan", "kubernetes.default.svc", "10.0.0.1.nip.io"]),
    ("link_local", ["169.254.1.1", "fe80::1", "fe80::1%eth0", "[fe80::1%25eth0]", "febf::1"]),
    ("cgnat", ["100.64.0.1", "100.127.255.255", "::ffff:100.64.0.1"]),
    ("multicast", ["224.0.0.1", "239.255.255.250", "ff02::1"]),
    ("unspecified", ["0.0.0.0", "0", "0x0", "::", "[::]", "0.1.2.3"]),
    ("reserved", ["240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "203.0.113.9", "2001:db8::1", "3fff::1", "4000::1",
                  "100::1", "5f00::1"]),
    ("mapped", ["::ffff:8.8.8.8", "::8.8.8.8", "::ffff:0:8.8.8.8"]),
    ("tunnel", ["2002:808:808::", "2001:0:1::1", "2606:4700::5efe:8.8.8.8"]),
]  # fmt: skip

PUBLIC = [
    "8.8.8.8", "1.1", "134744072", "0x08080808", "010.0.0.1.example.org", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1",
    "11.0.0.1", "169.253.1.1", "192.167.1.1", "223.255.255.255", "2606:4700::1111", "64:ff9b::8.8.8.8", "example.org", "localhost.example.org",
    "mylocalhost", "internal.example.org", "metadata.example.org", "1.2.3.4.5", "256.1.1.1", "0xg", "10.0.0.1x", "8.8.8.8.nip.io", "08080808.nip.io", "a7f000001.nip.io", "",
]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS_OF_LOOPBACK)
def test_loopback_in_every_spelling(host: str) -> None:
    assert address_is_private(host) == "loopback"


@pytest.mark.parametrize(("reason", "host"), [(reason, host) for reason, hosts in OTHERS for host in hosts])
def test_other_special_addresses(reason: str, host: str) -> None:
    assert address_is_private(host) == reason


@pytest.mark.parametrize("host", PUBLIC)
def test_public_hosts_are_left_alone(host: str) -> None:
    assert address_is_private(host) is None


def test_where_readers_disagree_either_reading_counts() -> None:
    assert address_is_private("0177.0.0.1") == "loopback"  # octal: 127.0.0.1, decimal: 177.0.0.1
    assert address_is_private("010.8.8.8") == "private"  # octal: 8.8.8.8, decimal: 10.8.8.8
    assert address_is_private("0192.168.0.1") == "private"  # no octal number at all, but decimal to some


@given(st.integers(0, 2**32 - 1))
def test_every_spelling_of_an_ipv4_address_is_judged_alike(number: int) -> None:
    ip = ipaddress.IPv4Address(number)
    a, b, c, d = ip.packed
    expected = classify(ip)
    spellings = (
        str(ip),
        str(number),
        hex(number),
        f"0x{a:x}.{b}.{c * 256 + d}",
        f"{a}.{b * 65536 + c * 256 + d}",
        f"{ip}.",
    )
    assert {parse_address(s) for s in spellings} == {ip}
    assert {address_is_private(s) for s in spellings} == {expected}
    for inside in (f"::ffff:{ip}", f"2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1"):
        assert address_is_private(inside) in ({expected} if expected else {"mapped", "tunnel"})


@given(st.integers(0, 2**32 - 1))
def test_nothing_that_the_standard_library_calls_not_global_is_public_here(number: int) -> None:
    ip = ipaddress.IPv4Address(number)
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        assert classify(ip) is not None


@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**120).map(lambda n: (0x20 << 120) | n))
def test_the_same_for_ipv6(number: int) -> None:
    ip = ipaddress.IPv6Address(number)
    if not ip.is_global or ip.is_multicast:
        assert classify(ip) is not None


@given(st.text(max_size=60))
def test_any_text_is_a_host_that_can_be_judged(text: str) -> None:
    address_is_private(text)
    find_private(text)


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("curl http://127.0.0.1:8080/x", ["loopback"]),
        ("http://2130706433/", ["loopback"]),
        ("http://0x7f.1/", ["loopback"]),
        ("http://[::1]/ and http://[fe80::1%25eth0]:80/", ["loopback", "link_local"]),
        ("https://user:pw@169.254.169.254/latest", ["metadata"]),
        ("http://%31%32%37.0.0.1/", ["loopback"]),
        ("http://１２７.０.０.１/", ["loopback"]),
        ("ssh git@localhost", ["loopback"]),
        ("ping 10.1.2.3 and 8.8.8.8", ["private"]),
        ("bind to fe80::1 please", ["link_local"]),
        ("http://metadata.google.internal/computeMetadata/v1/", ["metadata"]),
        ("db.internal:5432", ["private"]),
        ("127.1", ["loopback"]),
        ("2130706433", ["loopback"]),
        ("10.0.0.1.nip.io", ["private"]),
        ("see 0a000001.nip.io", ["private"]),
    ],
)
def test_private_hosts_are_found_in_text(text: str, reasons: list[str]) -> None:
    assert [f.kind for f in find_private(text)] == reasons


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3", "v10.2", "10.5", "at 12:30:45", "std::vector<int> a::b", "x[::2]", "x[::1]", "page 127", "https://example.org/10/127.1/x",
        "1700000000", "8.8.8.8", "the internal state", "localhost-like", "https://example.org:8080", "a@b.example.org", "0 errors", "192.168",
        "user@example.org", "1.10.0.0.1.2",
    ],
)  # fmt: skip
def test_numbers_and_names_that_are_not_private_hosts(text: str) -> None:
    assert find_private(text) == []


def test_a_finding_says_where() -> None:
    text = "see http://10.0.0.1/x"
    (found,) = find_private(text)
    assert text[found.start : found.end] == "10.0.0.1"


def test_hostile_text_costs_no_powers() -> None:
    for text in (
        "1." * 100_000,
        "::" * 100_000,
        "0:" * 100_000,
        "a." * 100_000 + "internal",
        "%25" * 60_000,
        "//" * 100_000,
        "1" * 200_000,
    ):
        find_private(text)
        address_is_private(text)
