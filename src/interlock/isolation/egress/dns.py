"""Reads DNS queries and writes answers: just enough of RFC 1035 for a stub resolver. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final, NamedTuple

A: Final = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED = 0, 1, 2, 3, 4
_HEADER: Final = struct.Struct(">HHHHHH")
_TTL_S: Final = 60
_LABEL_MAX: Final = 63
_RESPONSE, _RECURSION_DESIRED, _AUTHORITATIVE, _RECURSION_AVAILABLE = 0x8000, 0x0100, 0x0400, 0x0080
_OPCODE: Final = 0x7800


class Query(NamedTuple):
    """One question. `problem` is the answer code for a malformed or unsupported query; None if the name decides."""

    id: int
    flags: int
    question: bytes
    """The bytes as sent; an answer repeats them, including capitals."""
    name: str
    """The name as sent, without the final dot; empty if it cannot be read."""
    kind: int
    problem: int | None = None


def read_query(data: bytes) -> Query | None:
    """Read the query in a message; None if it must not be answered (too short, or itself an answer)."""
    if len(data) < _HEADER.size:
        return None
    number, flags, questions, *_ = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        return None
    if flags & _OPCODE:
        return Query(number, flags, b"", "", 0, NOT_IMPLEMENTED)
    if questions != 1:
        return Query(number, flags, b"", "", 0, FORMAT_ERROR)
    labels: list[bytes] = []
    at = _HEADER.size
    while at < len(data) and (length := data[at]):
        if length > _LABEL_MAX:  # a compression pointer, which a question never needs
            break
        labels.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    if at + 5 > len(data) or data[at]:
        return Query(number, flags, b"", "", 0, FORMAT_ERROR)
    (kind,) = struct.unpack_from(">H", data, at + 1)
    question = data[_HEADER.size : at + 5]
    # Refuse labels with a dot or a non-ASCII byte, which could become a different host name.
    plain = all(label.isascii() and b"." not in label for label in labels)
    return Query(number, flags, question, b".".join(labels).decode("ascii") if plain else "", kind)


def answer(query: Query, code: int, address: IPv4Address | None = None) -> bytes:
    """Encode the answer to a query: an A record or none, and the answer code."""
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | (query.flags & _RECURSION_DESIRED) | code
    head = _HEADER.pack(query.id, flags, 1 if query.question else 0, 0 if address is None else 1, 0, 0)
    if address is None:
        return head + query.question
    return head + query.question + struct.pack(">HHHIH", 0xC00C, A, 1, _TTL_S, 4) + address.packed
