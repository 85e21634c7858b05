"""Messages between the runtime and a capsule worker: a JSON header and a body of bytes. Uses only the standard library."""

from __future__ import annotations

import json
import struct
from typing import Any, Final

PREFIX: Final = struct.Struct(">II")
HEADER_BYTES_MAX: Final = 4 * 1024 * 1024
BODY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Compiled code is the largest body: 33 MB for a component built from Python."""


class FrameError(Exception):
    """The other side sent a malformed message."""


def encode(header: dict[str, Any], body: bytes = b"") -> bytes:
    """Encode a message. Raises: FrameError if it is too long."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return PREFIX.pack(*checked_sizes(len(head), len(body))) + head + body


def checked_sizes(header: int, body: int) -> tuple[int, int]:
    """Check the two lengths of a message and return them. Raises: FrameError."""
    if header > HEADER_BYTES_MAX or body > BODY_BYTES_MAX:
        raise FrameError(f"a message of {header} and {body} bytes is too long")
    return header, body


def decode_header(data: bytes) -> dict[str, Any]:
    """Decode the header of a message. Raises: FrameError."""
    try:
        header = json.loads(data)
    except ValueError:
        raise FrameError("a header is not JSON") from None
    if not isinstance(header, dict):
        raise FrameError("a header is not an object")
    return header
