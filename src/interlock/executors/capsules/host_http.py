"""The host function `http.fetch`: a request made by the runtime, as for the tool `http.fetch`, to hosts in the manifest.

A capsule has no sockets, so there is no traffic for the egress proxy, but the same rules decide: the manifest, the
caller's grants and the policies about `connect` must allow the host, for the first request and for each redirect. An
address that is not public needs an explicit exception. Blocks, and runs on a thread.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal, NamedTuple, cast

import msgspec

from interlock.executors.capsules.rights import Rights
from interlock.executors.http_fetch import Fetcher
from interlock.isolation.egress.rules import Rules
from interlock.isolation.egress.wire import Outcome, Record
from interlock.model import typed
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.hosts import Endpoint, endpoint, endpoint_matcher
from interlock.model.tool import Context

REQUESTS_MAX: Final = 100
"""Maximum number of requests per call."""
_REFUSED: Final = frozenset({"private_address", "host_denied", "policy_denied", "policy_error", "approval_required"})


class _Base64(msgspec.Struct, forbid_unknown_fields=True):
    b64: str


class _Request(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    url: str
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    headers: dict[str, str] = {}
    body: str | _Base64 | None = None


class Fetched(NamedTuple):
    """The result of a request."""

    data: bytes
    """The response, as JSON."""
    records: tuple[Record, ...]
    """Connections to record."""
    error: ToolError | None = None


class Http:
    """The HTTP requests of one call."""

    def __init__(self, rights: Rights, net: tuple[str, ...], clock: Clock) -> None:
        """`net` holds the host patterns in the manifest."""
        self._rights = rights
        self._declared = endpoint_matcher(net)
        self._clock = clock
        self._made = 0

    def renew(self) -> None:
        """Reset the number of requests."""
        self._made = 0

    def fetch(self, request: str, ctx: Context, bounded: Context) -> Fetched:
        """Make a request. `bounded` has the call's deadline.

        Raises: ToolError if the request is malformed or over the limit.
        """
        self._made += 1
        if self._made > REQUESTS_MAX:
            raise ToolError(f"a call makes at most {REQUESTS_MAX} requests", code="limit_exceeded", retryable=False)
        try:
            decoded = typed.decode(request.encode(), _Request)
            there = endpoint(decoded.url)
        except (msgspec.DecodeError, ValueError) as error:
            raise ToolError(f"the request: {error}", code="invalid_parameters", retryable=False) from None
        policy = self._rights.network(ctx)
        rules = Rules(policy.grants, policy.private)
        private = (*policy.private, *((str(there),) if rules.may_be_private(there) else ()))
        used: dict[str, int] = {}

        def refusal(where: Endpoint) -> str | None:
            if not self._declared(where) or not rules.allows(where):
                return "host_denied"
            return self._rights.refuse_connection(ctx, where)

        if (reason := refusal(there)) is not None:
            denied = ToolError(f"`{there}` is not a host that this call may reach", code=reason, retryable=False)
            return Fetched(b"", (_record(there, reason, used),), denied)
        fetcher = Fetcher(self._clock, allow_private=private, may_redirect=lambda _ctx, where: refusal(where) is None)
        try:
            answer = fetcher.fetch(msgspec.to_builtins(decoded), cast("Context", _Measured(bounded, used)))
        except ToolError as error:
            return Fetched(b"", (_record(there, error.code, used),), error)
        hops = [_record(endpoint(url), None, {}) for url in answer["redirects"]]
        return Fetched(json.dumps(answer).encode(), (_record(there, None, used), *hops))


class _Measured:
    """The context of a request, which counts the bytes sent and received."""

    def __init__(self, ctx: Context, used: dict[str, int]) -> None:
        self._ctx = ctx
        self._used = used

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def resources(self, usage: dict[str, Any]) -> None:
        """Add to the counts."""
        for name, value in usage.items():
            self._used[name] = self._used.get(name, 0) + value


def _record(there: Endpoint, reason: str | None, used: dict[str, int]) -> Record:
    outcome: Outcome = "connected" if reason is None else "refused" if reason in _REFUSED else "failed"
    return Record(
        host=there.host, port=there.port, via="http", outcome=outcome, reason=reason, address=None, sni=None,
        sent=used.get("sent_bytes", 0), received=used.get("received_bytes", 0), duration_ms=0.0, count=1,
    )  # fmt: skip
