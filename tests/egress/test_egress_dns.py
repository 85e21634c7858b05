"""Names: those of the grant resolve, to addresses that mean nothing elsewhere; the rest do not exist."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.isolation.egress import dns
from interlock.isolation.egress.names import NAMES_MAX, Names
from interlock.isolation.egress.sniff import read_flight

LOOK_UP = """
import socket, sys
for name in sys.argv[1:]:
    try: print(name, sorted({row[4][0] for row in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}))
    except OSError as error: print(name, error)
"""


def test_a_granted_name_has_an_address_and_another_has_none(boxes):
    ran = boxes().run(sys.executable, "-c", LOOK_UP, "index.test", "INDEX.test.", "evil.test", hosts=["index.test:80"])
    one, again, evil = ran.out.splitlines()
    assert one == "index.test ['198.18.0.1']"
    assert again == "INDEX.test. ['198.18.0.1']"
    assert "not known" in evil
    assert ran.refused() == {("evil.test", "host_denied")}


def test_a_name_is_never_asked_about_outside_until_somebody_connects(boxes, tmp_path):
    """Otherwise names under a star would carry data out."""
    answers = tmp_path / "answers"
    answers.write_text("127.0.0.1\n127.0.0.2")
    ran = boxes({"secret.wide.test": str(answers)}).run(
        sys.executable, "-c", LOOK_UP, "secret.wide.test", hosts=["*.wide.test:80"]
    )
    assert "198.18.0.1" in ran.out
    assert answers.read_text() == "127.0.0.1\n127.0.0.2"


RAW = """
import socket, struct, sys
def ask(address, kind, name, tcp=False, family=socket.AF_INET):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    q = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack(">HH", kind, 1)
    s = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    s.settimeout(10); s.connect((address, 53))
    s.sendall((struct.pack(">H", len(q)) if tcp else b"") + q)
    data = s.recv(4096)
    return data[2:] if tcp else data
for where in ("127.0.0.1", "8.8.8.8"):
    for tcp in (False, True):
        d = ask(where, 1, "index.test", tcp); print(where, tcp, d[3] & 15, socket.inet_ntoa(d[-4:]))
d = ask("2001:4860:4860::8888", 1, "index.test", family=socket.AF_INET6); print("v6", socket.inet_ntoa(d[-4:]))
for kind in (28, 65, 16, 255): d = ask("127.0.0.1", kind, "index.test"); print(kind, d[3] & 15, struct.unpack_from(">H", d, 6)[0])
print("nx", ask("127.0.0.1", 16, "a.evil.test")[3] & 15)
"""


def test_every_name_server_is_ours_over_udp_and_tcp(boxes):
    ran = boxes().python(RAW, hosts=["index.test:80"])
    assert ran.out.splitlines() == [
        "127.0.0.1 False 0 198.18.0.1",
        "127.0.0.1 True 0 198.18.0.1",
        "8.8.8.8 False 0 198.18.0.1",
        "8.8.8.8 True 0 198.18.0.1",
        "v6 198.18.0.1",
        "28 0 0",
        "65 0 0",
        "16 0 0",
        "255 0 0",
        "nx 3",
    ], ran


def test_what_was_asked_and_not_waited_for_is_recorded(boxes):
    code = """
import socket, struct
q = struct.pack(">HHHHHH", 7, 256, 1, 0, 0, 0) + b"\\4evil\\4test\\0" + struct.pack(">HH", 1, 1)
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(q, ("9.9.9.9", 53))
"""
    assert boxes().python(code, hosts=["index.test:80"]).refused() == {("evil.test", "host_denied")}


def test_names_are_bounded():
    names = Names()
    for number in range(NAMES_MAX):
        assert names.address(f"n{number}.test") is not None
    assert names.address("one-more.test") is None
    first = names.address("n0.test")
    assert names.name(first) == "n0.test"


def query(name, kind=1, flags=0x0100):
    labels = b"".join(bytes((len(label),)) + label for label in name.split(b"."))
    return struct.pack(">HHHHHH", 7, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def test_answers_repeat_the_question_as_it_was_sent():
    found = dns.read_query(query(b"InDeX.tEsT"))
    assert found.name == "InDeX.tEsT"
    assert b"\x05InDeX\x04tEsT\x00" in dns.answer(found, dns.NAME_ERROR)


def test_what_is_not_a_query_gets_no_answer_and_an_unreadable_query_an_error():
    assert dns.read_query(b"short") is None
    assert dns.read_query(query(b"a.test", flags=0x8180)) is None
    assert dns.read_query(query(b"a.test", flags=0x2800)).problem == dns.NOT_IMPLEMENTED
    assert dns.read_query(query(b"a.test")[:-3]).problem == dns.FORMAT_ERROR
    assert dns.read_query(query(b"a.test")[:12] + b"\xc0\x0c\0\1\0\1").problem == dns.FORMAT_ERROR
    assert dns.read_query(query(b"a\0.test")).name == "a\0.test"
    assert dns.read_query(query(b"caf\xe9.test")).name == ""


@given(st.binary(max_size=600))
def test_no_bytes_break_the_reader(data):
    found = dns.read_query(data)
    if found is not None:
        dns.answer(found, dns.NAME_ERROR)


@given(
    st.binary(max_size=300),
    st.sampled_from(
        [b"", b"\x16\x03\x01", b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03", b"GET / HTTP/1.1\r\nHost: "]
    ),
)
def test_no_bytes_break_the_reader_of_first_bytes(data, start):
    read_flight(start + data)


def test_the_names_in_first_bytes():
    assert read_flight(b"GET / HTTP/1.1\r\nHost: A.test:81\r\n\r\n") == ("http", ("a.test",), False)
    assert read_flight(b"GET / HTTP/1.1\nHost: a.test\n\n").name == "a.test"
    assert read_flight(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n").name == "a.test"
    assert read_flight(b"get / HTTP/1.1\r\nHost: a.test\r\n\r\n").name == "a.test"
    assert read_flight(b"GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n").names == ("a.test", "b.test")
    assert read_flight(b"CONNECT b.test:443 HTTP/1.1\r\n\r\n").name == "b.test"
    for line in (
        b"GET /a b HTTP/1.1",
        b"GE(T / HTTP/1.1",
        b"GET /\x0bHTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/1.1 x",
    ):
        assert read_flight(line + b"\r\nHost: b.test\r\n\r\n").doubtful
    assert read_flight(b"SSH-2.0-x HTTP/\r\n").protocol == "other"
    assert read_flight(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") == ("http", (), False)
    assert read_flight(b"GET / HTTP/1.0\r\n\r\n") == ("http", (), False)
    assert read_flight(b"GET / HT") is None
    assert read_flight(b"GET / HTTP/1.1\r\nHost: a.te") is None
    assert read_flight(b"EHLO a.test\r\n").protocol == "other"
    assert read_flight(b"SSH-2.0-x\r\n").protocol == "other"
    assert read_flight(b"\x00\x00").protocol == "other"
    assert read_flight(b"hello").protocol == "unknown"
    assert read_flight(b"x" * 9000).protocol == "other"
    assert read_flight(b"\x16\x03") is None


HEADS = [
    b"Host: a.test\r\nhost: b.test",
    b"Host: a.test\r\nHost: a.test",
    b"Host : b.test",
    b"Host: a.test\r\n b.test",
    b"Host: a.test\0.b.test",
    b"Host: a.test, b.test",
    b"Host: b_\xff.test",
    b"X: y\rHost: b.test",
]


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_servers_could_read_differently_is_doubtful(head):
    assert read_flight(b"GET / HTTP/1.1\r\n" + head + b"\r\n\r\n").doubtful


def hello(*extensions, after=b""):
    """A TLS hello with these extensions (type, body)."""
    block = b"".join(struct.pack(">HH", kind, len(body)) + body for kind, body in extensions)
    body = b"\x03\x03" + bytes(33) + b"\0\x02\x13\x01" + b"\x01\0" + struct.pack(">H", len(block)) + block + after
    return b"\x01" + len(body).to_bytes(3, "big") + body


def record(data, kind=0x16):
    return bytes((kind, 3, 1)) + struct.pack(">H", len(data)) + data


def sni(*names, kind=0):
    entries = b"".join(bytes((kind,)) + struct.pack(">H", len(name)) + name for name in names)
    return 0, struct.pack(">H", len(entries)) + entries


def test_a_hello_with_one_name_or_none_is_plain():
    assert read_flight(record(hello(sni(b"A.test")))) == ("tls", ("a.test",), False)
    assert read_flight(record(hello((10, b"xx")))) == ("tls", (), False)
    whole = hello((10, b"xx"), sni(b"a.test"))
    assert read_flight(b"".join(record(whole[i : i + 7]) for i in range(0, len(whole), 7))).name == "a.test"


@pytest.mark.parametrize(
    "data",
    [
        record(hello(sni(b"a.test"), sni(b"b.test"))),
        record(hello(sni(b"a.test", b"b.test"))),
        record(hello(sni(b"b.test:443"))),
        record(hello(sni(b"b.test", kind=1))),
        record(hello(sni(b"-b.test"))),
        record(hello(sni(b"b.test\0"))),
        record(hello(sni(b""))),
        record(hello(sni(b"b.test"), after=b"x")),
        record(hello(sni(b"b.test"))[:20]) + record(b"\x01\0", kind=0x15) + record(hello(sni(b"b.test"))[20:]),
        record(b"") + record(hello(sni(b"b.test"))),
        record(b"\x02" + hello(sni(b"b.test"))[1:]),
        b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(70_000),
    ],
)
def test_a_hello_that_servers_could_read_differently_is_doubtful(data):
    assert read_flight(data) == ("tls", (), True)
