"""Reads which server a client wants from the first bytes that it sends: the SNI of a TLS hello, or an HTTP `Host`. Pure.

Nothing is decrypted and nothing is changed; the bytes go on as they came.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from interlock.model.hosts import endpoint

FLIGHT_BYTES_MAX: Final = 64 * 1024
_HANDSHAKE, _CLIENT_HELLO = 0x16, 0x01
_SERVER_NAME: Final = 0
_REQUEST_LINE: Final = re.compile(rb"[A-Z]{3,16} [!-~]+ HTTP/[12]\.[0-9]\r?\n")
_LINE_START: Final = re.compile(rb"[A-Z]{1,16}(?: [!-~]*(?: [!-~]*\r?)?)?")
_HOST: Final = re.compile(rb"(?im)^host:[ \t]*([^\r\n]*?)[ \t]*\r?$")


class Flight(NamedTuple):
    """What a client's first bytes are, and the server that they name (None: none, or none that is a host)."""

    protocol: Literal["tls", "http", "other"]
    name: str | None = None


OTHER: Final = Flight("other")


def read_flight(data: bytes) -> Flight | None:
    """What the first bytes of a client are; None while more of them are needed to tell."""
    if not data:
        return None
    if begins_tls(data):
        return _tls(data)
    if len(data) >= FLIGHT_BYTES_MAX:
        return OTHER
    if b"\n" not in data:
        return None if _LINE_START.fullmatch(data) else OTHER
    if not _REQUEST_LINE.match(data):
        return OTHER
    return Flight("http", _http_host(data)) if b"\r\n\r\n" in data else None


def begins_tls(data: bytes) -> bool:
    """True if a client has begun a TLS handshake."""
    return data[:1] == b"\x16"


def _http_host(data: bytes) -> str | None:
    head = data.split(b"\r\n\r\n", 1)[0]
    found = _HOST.findall(head)
    if len(found) != 1:
        return None  # several hosts are a known way to mean two servers at once
    return _name(found[0], with_port=True)


def _tls(data: bytes) -> Flight | None:
    """The hello may be spread over several records, and over several segments."""
    hello = bytearray()
    at = 0
    while at + 5 <= len(data):
        kind, length = data[at], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind != _HANDSHAKE or length == 0:
            return OTHER
        hello += data[at + 5 : at + 5 + length]
        at += 5 + length
        if len(hello) >= 4:
            if hello[0] != _CLIENT_HELLO:
                return OTHER
            wanted = 4 + int.from_bytes(hello[1:4], "big")
            if wanted > FLIGHT_BYTES_MAX:
                return OTHER
            if len(hello) >= wanted:
                return Flight("tls", _server_name(bytes(hello[4:wanted])))
    return None if len(data) < FLIGHT_BYTES_MAX else OTHER


def _server_name(hello: bytes) -> str | None:
    try:
        at = 34  # version and random
        at += 1 + hello[at]  # session id
        at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher suites
        at += 1 + hello[at]  # compression methods
        end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 2
        while at + 4 <= end:
            kind, length = int.from_bytes(hello[at : at + 2], "big"), int.from_bytes(hello[at + 2 : at + 4], "big")
            if kind == _SERVER_NAME:
                # list length, type (0: host name), name length, name
                size = int.from_bytes(hello[at + 7 : at + 9], "big")
                return _name(hello[at + 9 : at + 9 + size], with_port=False)
            at += 4 + length
    except IndexError:
        pass
    return None


def _name(text: bytes, *, with_port: bool) -> str | None:
    """A host in normal form."""
    try:
        there = endpoint(text.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        return None
    return there.host if with_port or there.port is None else None
