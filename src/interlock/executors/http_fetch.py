"""The function of `http.fetch`: one HTTP request by the runtime itself, which refuses addresses that are not public.

The name is resolved once, every address is checked, and the connection goes to a checked address, so DNS rebinding
gains nothing. Proxies from the environment are not used. No content encoding is requested; gzip and deflate are decoded
if the server sends them anyway. Reading and decompression stop at a limit.

At most five redirects are followed, each as a new request with the same checks, never from https to http. The gate
allowed only the host and port of `url`: a redirect to another host is followed if `may_redirect` agrees, and otherwise
returned as the result, so that the agent can propose it. Credentials are never sent to another origin.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import re
import ssl
import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urljoin

from interlock._version import __version__
from interlock.detect import address_is_private, classify
from interlock.detect.credentials import is_secret_name
from interlock.executors.encodings import marked, whole_characters
from interlock.executors.http_wire import Address, Channel, Patience, Resolver, describe, system_resolver
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.hosts import Endpoint, endpoint, endpoint_matcher
from interlock.model.tool import Context

BODY_BYTES_MAX: Final = 1024 * 1024
REDIRECTS_MAX: Final = 5
_CHUNK_BYTES: Final = 64 * 1024
_URL_CHARS_MAX: Final = 16_384
_HEADERS_MAX: Final = 100
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8192}")
_URL_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f\\]")
_CHARSET: Final = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9._:-]{1,40})""", re.IGNORECASE)
_META: Final = re.compile(r"""<meta[^>]{0,200}charset\s*=\s*["']?([A-Za-z0-9._:-]{1,40})""", re.IGNORECASE)
_META_BYTES: Final = 4096
_PROVISIONAL_MAX: Final = 20
_ASCII: Final = "".join(chr(c) for c in range(0x21, 0x7F))
# Headers that frame the message or control the connection; callers cannot set them.
_OUR_HEADERS: Final = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect")
)
_CREDENTIAL_HEADERS: Final = frozenset(("authorization", "cookie", "cookie2"))

MayRedirect = Callable[[Context, Endpoint], bool]
"""Decides whether an action may be redirected to a host that the gate has not checked."""


class _Target(NamedTuple):
    """A parsed URL."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class _Request(NamedTuple):
    method: str
    target: _Target
    headers: dict[str, str]
    body: bytes | None


class Fetcher:
    """Makes requests. One per runtime; stateless between calls."""

    def __init__(
        self,
        clock: Clock,
        *,
        allow_private: tuple[str, ...] = (),
        may_redirect: MayRedirect | None = None,
        body_bytes_max: int = BODY_BYTES_MAX,
        resolver: Resolver = system_resolver,
    ) -> None:
        """`allow_private` holds `host:port` patterns (as in grants) that may resolve to private addresses.

        Raises: ConfigurationError for an invalid pattern.
        """
        self._clock = clock
        self._private_allowed = endpoint_matcher(allow_private)
        self._may_redirect = may_redirect
        self._body_bytes_max = body_bytes_max
        self._resolver = resolver
        self._tls: ssl.SSLContext | None = None

    def fetch(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """Returns the function of `http.fetch`. Blocks at most until shortly before the context's deadline.

        Raises: ToolError `invalid_parameters`, `private_address`, `redirect_refused`, `connection_failed`, `timeout`,
        `cancelled`.
        """
        patience = Patience(ctx, self._clock)
        request = _request(parameters)
        passed: list[str] = []
        while True:
            answer, location = self._exchange(request, ctx, patience)
            answer["redirects"] = passed
            following = None if location is None else self._redirected(request, answer["status"], location, ctx)
            if following is None:
                return answer
            if len(passed) >= REDIRECTS_MAX:
                raise ToolError(f"more than {REDIRECTS_MAX} redirects", code="redirect_refused", retryable=False)
            request = following
            passed.append(request.target.url)

    def send(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """Like `fetch`, but a single exchange that returns redirects like other responses.

        For hosts that the operator configured.
        """
        answer, _ = self._exchange(_request(parameters), ctx, Patience(ctx, self._clock))
        return answer

    def _exchange(self, request: _Request, ctx: Context, patience: Patience) -> tuple[dict[str, Any], str | None]:
        """Make one request. Returns its response, and the next URL if that is a redirect."""
        target = request.target
        channel = Channel.connect(self._judged(target, patience), target.port, patience)
        try:
            if target.scheme == "https":
                channel.start_tls(self._tls_context(), target.host)
            return self._ask(request, channel)
        except ToolError as error:
            error.retryable = error.retryable and (request.method in _SAFE_METHODS or channel.sent_bytes == 0)
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a chunk with a negative length
            safe = request.method in _SAFE_METHODS or channel.sent_bytes == 0
            note = "" if safe else "; whether the server acted on the request is unknown"
            raise ToolError(
                f"the exchange with `{target.host}` failed: {describe(error)}{note}",
                code="connection_failed",
                retryable=safe,
                unknown_outcome=not safe,
            ) from None
        finally:
            channel.disconnect()
            ctx.resources({"sent_bytes": channel.sent_bytes, "received_bytes": channel.received_bytes})

    def _judged(self, target: _Target, patience: Patience) -> list[Address]:
        """Resolve and check the addresses to connect to. Raises: ToolError `private_address` if any is not public."""
        if self._private_allowed(Endpoint(target.host, target.port)):
            return patience.resolve(self._resolver, target.host, target.port)
        reason = address_is_private(target.host)
        addresses = [] if reason else patience.resolve(self._resolver, target.host, target.port)
        # One private address is enough to refuse: mixing addresses is a known way around such checks.
        for address in addresses:
            reason = reason or classify(address)
        if reason:
            raise ToolError(
                f"`{target.host}` is or resolves to an address that is not public ({reason})",
                code="private_address",
                retryable=False,
                hint="this tool reaches only public addresses; a program that the rules allow `exec` to run may reach others",
            )
        return addresses

    def _ask(self, request: _Request, channel: Channel) -> tuple[dict[str, Any], str | None]:
        target = request.target
        wire = http.client.HTTPConnection(target.host, target.port)
        wire.response_class = _Response
        wire.sock = channel  # http.client only calls sendall, makefile and close
        wire.putrequest(request.method, target.path, skip_host=True, skip_accept_encoding=True)
        wire.putheader("Host", target.authority)
        for name, value in request.headers.items():
            wire.putheader(name, value.encode("latin-1"))
        given = {name.lower() for name in request.headers}
        for name, value in (
            ("User-Agent", f"interlock/{__version__}"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        ):
            if name.lower() not in given:
                wire.putheader(name, value)
        if request.body is not None or request.method not in _SAFE_METHODS | {"DELETE"}:
            wire.putheader("Content-Length", str(len(request.body or b"")))
        wire.putheader("Connection", "close")
        wire.endheaders(request.body)
        response = wire.getresponse()
        location = response.getheader("Location") if response.status in _REDIRECTS else None
        data, truncated = self._body(response)
        data, truncated = _expanded(data, response.getheader("Content-Encoding"), self._body_bytes_max, cut=truncated)
        text, encoding, charset = _text(data, response.getheader("Content-Type") or "", cut=truncated)
        answer = {
            "status": response.status,
            "url": target.url,
            "headers": _headers(response),
            "body": text,
            "body_encoding": encoding,
            "charset": charset,
            "truncated": truncated,
        }
        return answer, location

    def _body(self, response: http.client.HTTPResponse) -> tuple[bytes, bool]:
        """Read the body up to the limit. The rest is not read, and the connection is closed."""
        parts: list[bytes] = []
        size = 0
        while size <= self._body_bytes_max:
            part = response.read(min(_CHUNK_BYTES, self._body_bytes_max + 1 - size))
            if not part:
                if response.length:
                    raise http.client.IncompleteRead(b"", response.length)
                return b"".join(parts), False
            parts.append(part)
            size += len(part)
        return b"".join(parts)[: self._body_bytes_max], True

    def _redirected(self, request: _Request, status: int, location: str, ctx: Context) -> _Request | None:
        """Returns the request for a redirect; None if the agent has to propose it."""
        here = request.target
        # http.client reads headers as Latin-1; in a URL, non-ASCII bytes are percent-encoded UTF-8.
        path = quote(location.encode("latin-1", "replace"), safe=_ASCII)
        try:
            joined = urljoin(here.url, path)
        except ValueError:
            raise ToolError("redirected to an invalid URL", code="redirect_refused", retryable=False) from None
        try:
            there = _target(joined)
        except ValueError as error:
            raise ToolError(f"redirected to a URL that {error}", code="redirect_refused", retryable=False) from None
        if here.scheme == "https" and there.scheme == "http":
            raise ToolError("redirected from https to http", code="redirect_refused", retryable=False)
        if (there.host, there.port) != (here.host, here.port):
            # Refuse literal private addresses immediately; resolved addresses are checked when connecting.
            if address_is_private(there.host) and not self._private_allowed(Endpoint(there.host, there.port)):
                raise ToolError("redirected to an address that is not public", code="private_address", retryable=False)
            if self._may_redirect is None or not self._may_redirect(ctx, Endpoint(there.host, there.port)):
                return None
        headers = request.headers
        if there.origin != here.origin:
            headers = {k: v for k, v in headers.items() if not _is_credential(k)}
        if status == 303 or (status in (301, 302) and request.method == "POST"):
            method = "HEAD" if request.method == "HEAD" else "GET"
            bodiless = {k: v for k, v in headers.items() if not k.lower().startswith("content-")}
            return _Request(method, there, bodiless, None)
        return request._replace(target=there, headers=headers)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


def _is_credential(header: str) -> bool:
    return header.lower() in _CREDENTIAL_HEADERS or is_secret_name(header)


def _target(url: str) -> _Target:
    """Parse and check a URL. Raises: ValueError with a reason that does not repeat the URL."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        raise ValueError("is not an http or https URL")
    if len(url) > _URL_CHARS_MAX or _URL_UNSAFE.search(url):
        raise ValueError("is too long or contains an invalid character")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise ValueError("contains a user name or password: put credentials in a header")
    where = endpoint(url)
    path = rest[len(authority) :].partition("#")[0]
    path = quote(path if path.startswith("/") else "/" + path, safe=_ASCII)
    port = where.port or _DEFAULT_PORTS[scheme]
    plain = url.partition("#")[0]
    return _Target(plain, scheme, where.host, port, path)


def _request(parameters: dict[str, Any]) -> _Request:
    """Build the request of a call. Raises: ToolError `invalid_parameters`."""
    try:
        target = _target(parameters["url"])
    except ValueError as error:
        raise _invalid(f"`url` {error}") from None
    headers = parameters.get("headers", {})
    if len(headers) > _HEADERS_MAX:
        raise _invalid(f"more than {_HEADERS_MAX} headers")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise _invalid("`headers` has an invalid header name")
        if not _HEADER_VALUE.fullmatch(value):
            raise _invalid(f"the header `{name}` contains an invalid character, or is too long")
        if name.lower() in _OUR_HEADERS or name.lower().startswith("proxy-"):
            raise _invalid(f"the header `{name}` cannot be set by the caller")
    method = parameters.get("method", "GET")
    body = parameters.get("body")
    if body is None:
        return _Request(method, target, headers, None)
    if method in ("GET", "HEAD"):
        raise _invalid(f"a {method} request has no body")
    try:
        data = body.encode() if isinstance(body, str) else base64.b64decode(body["b64"], validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _invalid("`body` is neither text nor base64") from None
    return _Request(method, target, headers, data)


def _invalid(message: str) -> ToolError:
    return ToolError(message, code="invalid_parameters", retryable=False)


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    """Header names in lower case. Repeated values are joined by `, `, or for cookies, which contain commas, by line breaks."""
    out: dict[str, str] = {}
    for name, value in response.getheaders():
        key = name.lower()
        glue = "\n" if key == "set-cookie" else ", "
        out[key] = f"{out[key]}{glue}{value}" if key in out else value
    return out


def _expanded(data: bytes, coding: str | None, most: int, *, cut: bool) -> tuple[bytes, bool]:
    """Decode gzip or deflate up to a limit. Returns the body unchanged for other codings and for invalid data."""
    windows = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}.get((coding or "").strip().lower(), ())
    for window in windows:  # `deflate` means the zlib format, but some servers send raw deflate
        stream = zlib.decompressobj(window)
        try:
            out = stream.decompress(data, most)
        except zlib.error:
            continue
        return out, cut or bool(stream.unconsumed_tail) or not stream.eof
    return data, cut


def _text(data: bytes, media: str, *, cut: bool) -> tuple[str, str, str | None]:
    """Returns the body, its encoding (`utf-8` for text, else `base64`), and its original charset (None if it is not text).

    The charset comes from the byte order mark, else the header, else an HTML page's `<meta>`, else it is UTF-8.
    """
    mark, charset = marked(data)
    if charset is None:
        named = _CHARSET.search(media) or (
            "html" in media.lower() and _META.search(data[:_META_BYTES].decode("latin-1"))
        )
        charset = named[1].lower() if named else "utf-8"
    try:
        "x".encode(charset, "replace")  # raises LookupError for codecs that are not text encodings
        text, _ = whole_characters(data[len(mark) :], charset, final=not cut)
    except (UnicodeError, LookupError):
        return base64.b64encode(data).decode(), "base64", None
    return text, "utf-8", charset


class _Response(http.client.HTTPResponse):
    """A response that skips all provisional responses.

    `http.client` skips only 100, and mistakes 102 and 103 for the final response.
    """

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_PROVISIONAL_MAX):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many provisional responses")
