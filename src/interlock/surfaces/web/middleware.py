"""Applies to every request: the Host header check, limits, response headers, errors as JSON, the access log.

The Host header must name this server. Otherwise a page could point its own host name at the loopback address and read
answers as its own origin (DNS rebinding). The log records who, what and how long, but never a header, a query or a
body.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from interlock.engine.people.answers import RETRY_AFTER_S
from interlock.model import typed
from interlock.model.clock import Clock
from interlock.model.codes import ERROR_CODES, REASONS
from interlock.model.errors import InterlockError, StoreError, UsageError
from interlock.surfaces.web.bodies import ErrorBody, ErrorDetail

log = logging.getLogger("interlock.web")

APPROVER: Final = "interlock.approver"
"""Key in the scope: the approver's id, once the token has been checked."""
BODY_BYTES_MAX: Final = 2 * 1024 * 1024
BODY_SECONDS: Final = 10.0

STATUS: Final[Mapping[str, int]] = {
    "malformed_request": 400,
    "limit_exceeded": 400,
    "unauthenticated": 401,
    "not_in_group": 403,
    "separation": 403,
    "agent_may_not_approve": 403,
    "not_found": 404,
    "original_missing": 404,
    "method_not_allowed": 405,
    "body_late": 408,
    "already_resolved": 409,
    "changed": 409,
    "body_too_large": 413,
    "media_type": 415,
    "host_refused": 421,
    "usage": 422,
    "invalid_parameters": 422,
    "too_many_failures": 429,
}
"""HTTP status by error code. A `StoreError` is 503, everything else 500."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?\Z", re.IGNORECASE)


def reply(
    body: msgspec.Struct | dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with a JSON body."""
    content = msgspec.json.encode(body)
    return Response(content, status, {**_HEADERS, **(headers or {})}, media_type="application/json")


def error_reply(error: InterlockError, headers: Mapping[str, str] | None = None) -> Response:
    """An error as a response."""
    status = STATUS.get(error.code, 503 if isinstance(error, StoreError) else 500)
    more = dict(headers or {})
    if status == 401:
        more["WWW-Authenticate"] = 'Bearer realm="interlock"'
    elif status == 429:
        more["Retry-After"] = str(RETRY_AFTER_S)
    elif status == 503:
        more["Retry-After"] = "5"
    return reply(ErrorBody(error=typed.convert(error.as_dict(), ErrorDetail)), status, more)


def handlers() -> dict[Any, ExceptionHandler]:
    """The handlers that turn exceptions of routes into responses."""
    return {InterlockError: _interlock, HTTPException: _http, ClientDisconnect: _client_gone, Exception: _defect}


def source_of(request: Request) -> str:
    """The source of a request, for counting failures: an IPv4 address, or the /64 of an IPv6 address.

    A client with one IPv6 address usually has its whole /64. Proxy headers are not trusted.
    """
    host = request.client.host if request.client is not None else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


async def read_body(request: Request) -> bytes:
    """The body of a request. Raises: UsageError if it is not JSON, too large, or late."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UsageError("the body must be `application/json`", code="media_type")
    codings = ",".join(request.headers.getlist("content-encoding")).split(",")
    if {coding.strip().lower() for coding in codings} - {"", "identity"}:
        raise UsageError("the body must be sent without `Content-Encoding`", code="media_type")
    if _announced(request) > BODY_BYTES_MAX:
        raise UsageError(f"the body exceeds {BODY_BYTES_MAX} bytes", code="body_too_large")
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_BYTES_MAX:
                    raise UsageError(f"the body exceeds {BODY_BYTES_MAX} bytes", code="body_too_large")
    except TimeoutError:
        raise UsageError(f"the body did not arrive within {BODY_SECONDS:g} s", code="body_late") from None
    return bytes(data)


def _announced(request: Request) -> int:
    """The `Content-Length`; 0 without one. The HTTP parser has already refused values that are not numbers."""
    length = request.headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else BODY_BYTES_MAX + 1


class Middleware:
    """The application with its middleware, as the server calls it."""

    def __init__(self, app: ASGIApp, clock: Clock, hosts: Callable[[str], bool]) -> None:
        """`hosts` tells whether a Host header, without its port and in lower case, names this server."""
        self._app = app
        self._clock = clock
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        assert scope["type"] == "http", scope["type"]  # lifespan and web sockets are disabled
        started, status = self._clock.mono_ns(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if self._is_host_of_server(scope):
                await self._app(scope, receive, sending)
            else:
                refused = UsageError("the Host header does not name this server", code="host_refused")
                await error_reply(refused)(scope, receive, sending)
        except Exception:
            # Starlette has responded through `_defect`, and raises the error again for logging.
            log.exception("a bug in Interlock: %s %s", scope["method"], _path(scope))
        finally:
            took_ms = (self._clock.mono_ns() - started) / 1e6
            client = scope.get("client") or ("-", 0)
            log.info(
                "%s %s %s %s %s %.1f ms",
                client[0], scope.get(APPROVER, "-"), scope["method"], _path(scope), status, took_ms,
            )  # fmt: skip

    def _is_host_of_server(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1:
            return False
        found = _HOST.match(given[0].decode("latin-1"))
        port = scope["server"][1]
        return (
            found is not None
            and (found[2] is None or int(found[2]) == port)
            and self._hosts(found[1].strip("[]").lower())
        )


def _path(scope: Scope) -> str:
    """The path as it was sent, percent-encoded, so that a client cannot forge log lines."""
    raw: bytes = scope.get("raw_path") or b"?"
    return raw[:256].decode("latin-1").encode("unicode_escape").decode("ascii")


async def _interlock(_request: Request, error: Exception) -> Response:
    assert isinstance(error, InterlockError)
    if error.code in STATUS:
        return error_reply(error)
    # The message may name files of this machine, so it goes only to the log.
    log.error("%s: %s", error.code, error.message)
    return error_reply(type(error)((ERROR_CODES | REASONS)[error.code], code=error.code))


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return error_reply(
            UsageError("this path does not support the method", code="method_not_allowed"), error.headers
        )
    return error_reply(UsageError("there is no such path", code="not_found"), error.headers)


async def _client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # the client is gone


async def _defect(_request: Request, _error: Exception) -> Response:
    return error_reply(InterlockError("a bug in Interlock; see the server's log"))
