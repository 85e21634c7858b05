"""Decodes JSON-RPC 2.0 messages strictly, and encodes them, for the gateway's clients and for the servers behind it.

A frame is one line of UTF-8 JSON (MCP, "stdio"). An invalid message becomes a `Fault`, so that the sender gets an error
and its other messages continue. Only the decoded message is passed on to the gate or to a server, never the original
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from interlock.model.errors import ProposalError
from interlock.model.values import parse_json

FRAME_BYTES_MAX: Final = 50 * 1024 * 1024
"""A longer line is refused, and skipped to its end without being stored."""
BATCH_MAX: Final = 100

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
UNSUPPORTED_REVISION: Final = -32022
"""Defined by MCP since 2026-07-28: the server does not speak the request's revision."""
MISSING_CAPABILITY: Final = -32021
"""Defined by MCP since 2026-07-28: the client did not declare a capability that the call needs."""

Id = int | str


class Request(NamedTuple):
    """A message that expects an answer."""

    id: Id
    method: str
    params: dict[str, Any]


class Notification(NamedTuple):
    """A message without an answer."""

    method: str
    params: dict[str, Any]


class Response(NamedTuple):
    """An answer to our request: a result, or an error with `code` and `message`."""

    id: Id
    result: dict[str, Any] | None
    error: dict[str, Any] | None


class Fault(NamedTuple):
    """The defect of a message, as a JSON-RPC error. `id` is None if the message has no trustworthy id."""

    id: Id | None
    code: int
    message: str
    data: Any = None


class Batch(NamedTuple):
    """Messages in one frame. Only revision 2025-03-26 has batches."""

    members: list[Message]


Message = Request | Notification | Response | Fault
Frame = Message | Batch


def read_frame(line: bytes) -> Frame:
    """Decode the message in one line, without its line end."""
    try:
        value = parse_json(line)
    except ProposalError as error:
        where = f" ({error.path})" if error.path else ""
        return Fault(None, PARSE_ERROR, f"{error.message}{where}")
    if not isinstance(value, list):
        return _message(value)
    if not value:
        return Fault(None, INVALID_REQUEST, "the batch is empty")
    if len(value) > BATCH_MAX:
        return Fault(None, INVALID_REQUEST, f"the batch has {len(value)} messages, more than {BATCH_MAX}")
    return Batch([_message(each) for each in value])


def _message(value: Any) -> Message:
    if not isinstance(value, dict):
        return Fault(None, INVALID_REQUEST, "a message must be a JSON object")
    own = value.get("id")
    # In Python a boolean is an integer, and some readers distinguish 1.0 from 1. Neither is accepted as an id.
    message_id = own if isinstance(own, str) or (isinstance(own, int) and not isinstance(own, bool)) else None
    if value.get("jsonrpc") != "2.0":
        return Fault(message_id, INVALID_REQUEST, '`jsonrpc` must be "2.0"')
    if "id" in value and message_id is None:
        return Fault(None, INVALID_REQUEST, "`id` must be a string or an integer")
    if "method" not in value:
        return _response(message_id, value)
    method, params = value["method"], value.get("params", {})
    if not isinstance(method, str):
        return Fault(message_id, INVALID_REQUEST, "`method` must be a string")
    if not isinstance(params, dict):
        return Fault(message_id, INVALID_PARAMS, "`params` must be an object")
    return Notification(method, params) if message_id is None else Request(message_id, method, params)


def _response(message_id: Id | None, value: dict[str, Any]) -> Response | Fault:
    if message_id is None or ("result" in value) == ("error" in value):
        return Fault(message_id, INVALID_REQUEST, "the message has no `method`")
    result, failure = value.get("result"), value.get("error")
    if not isinstance(result if "result" in value else failure, dict):
        return Fault(message_id, INVALID_REQUEST, "the result, or the error, must be an object")
    return Response(message_id, result, failure)


def result(message_id: Id, value: dict[str, Any]) -> bytes:
    """Encode a result."""
    return _line({"jsonrpc": "2.0", "id": message_id, "result": value})


def error(fault: Fault) -> bytes:
    """Encode an error."""
    body: dict[str, Any] = {"code": fault.code, "message": fault.message}
    if fault.data is not None:
        body["data"] = fault.data
    return _line({"jsonrpc": "2.0", "id": fault.id, "error": body})


def request(message_id: Id, method: str, params: dict[str, Any]) -> bytes:
    """Encode a request."""
    return _line({"jsonrpc": "2.0", "id": message_id, "method": method, "params": params})


def notification(method: str, params: dict[str, Any]) -> bytes:
    """Encode a notification."""
    return _line({"jsonrpc": "2.0", "method": method, "params": params})


def join_batch(answers: list[bytes]) -> bytes:
    """Join the answers to a batch in one frame."""
    return b"[" + b",".join(answer.rstrip(b"\n") for answer in answers) + b"]\n"


def _line(value: dict[str, Any]) -> bytes:
    # JSON escapes line ends in strings, so a frame is always one line.
    return msgspec.json.encode(value) + b"\n"


class LineSplitter:
    """Splits a stream of bytes into lines; a line that is too long becomes None. Stores at most one line."""

    def __init__(self, most: int = FRAME_BYTES_MAX) -> None:
        """`most` is the maximum number of bytes in a line, without its end."""
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The lines that end in these bytes. Empty lines are skipped."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._keep(data[start:end])
            start = end + 1
            if self._skipping:
                self._skipping = False
                yield None
            elif line := b"".join(self._parts).strip(b" \t\r"):
                yield line
            self._parts, self._size = [], 0
        if start < len(data):
            self._keep(data[start:] if start else data)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._most:
            self._parts, self._skipping = [], True
        if not self._skipping:
            self._parts.append(part)
