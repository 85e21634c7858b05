"""The differences between revisions of MCP, for a server that offers tools.

Up to 2025-11-25 a connection begins with `initialize`, whose revision applies to the whole connection. From 2026-07-28
on there is no handshake: each request carries its revision and the client's capabilities in `_meta`, and
`server/discover` describes the server. Sources: the specification at modelcontextprotocol.io, of each revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from interlock._version import __version__
from interlock.lazy import lazy_pattern
from interlock.model.json_rpc import INVALID_PARAMS, UNSUPPORTED_REVISION, Fault, Request

HANDSHAKE: Final = ("2025-03-26", "2025-06-18", "2025-11-25")
"""Revisions that begin with `initialize`, oldest first."""
ENVELOPE: Final = ("2026-07-28",)
"""Revisions with self-contained requests."""
BATCHES: Final = "2025-03-26"
"""The only revision with batches."""

REMOVED: Final = frozenset(("initialize", "ping"))
"""Methods that exist only in revisions with `initialize`."""
_NOT_OFFERED: Final = {
    "resources": "this gateway lists and reads the resources of servers whose lock has them, and has no subscriptions",
    "prompts": "this gateway offers the prompts of servers whose lock has them",
    "completion": "this gateway has no completions",
    "logging": "this gateway does not pass on log messages of servers",
    "subscriptions": "this gateway has no subscriptions; request the list of tools again",
    "tasks": "this gateway has no tasks; a call is answered when it is done",
}

REVISION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
_TRACEPARENT: Final = lazy_pattern(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE: Final = lazy_pattern(r"[\x20-\x7e]{1,512}")
_SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"

SERVER: Final = {"name": "interlock", "title": "Interlock", "version": __version__}
CAPABILITIES: Final[dict[str, Any]] = {"tools": {}}
INSTRUCTIONS: Final = (
    "Every call is checked against the rules of this project and recorded. Some calls need a person's approval: the "
    "result says so, and repeating the call continues it once it is approved. Do not work around a refusal by the "
    "rules."
)


class Envelope(NamedTuple):
    """The metadata of a request. `revision` is None before one was agreed on."""

    revision: str | None
    meta: Mapping[str, Any]

    @property
    def is_modern(self) -> bool:
        """True if answers need the fields that revisions with envelopes add."""
        return self.revision in ENVELOPE

    @property
    def capabilities(self) -> dict[str, Any]:
        """The client's capabilities, in revisions whose requests declare them."""
        found = self.meta.get(CAPABILITIES_KEY)
        return found if isinstance(found, dict) else {}

    @property
    def trace(self) -> dict[str, str]:
        """The trace of the request, by the names of W3C Trace Context; empty if there is no valid one."""
        parent, state = self.meta.get("traceparent"), self.meta.get("tracestate")
        if not isinstance(parent, str) or not _TRACEPARENT.fullmatch(parent):
            return {}
        kept = isinstance(state, str) and _TRACESTATE.fullmatch(state)
        return {"traceparent": parent} | ({"tracestate": str(state)} if kept else {})

    @property
    def progress_token(self) -> str | int | None:
        """The token for progress notifications; None if the client wants none."""
        token = self.meta.get("progressToken")
        return token if isinstance(token, str | int) and not isinstance(token, bool) else None


def read_envelope(request: Request, agreed: str | None, *, required: bool = False) -> Envelope | Fault:
    """The envelope of a request on a connection whose revision, if any, is `agreed`. `required`: the request must have one."""
    meta = request.params.get("_meta", {})
    if not isinstance(meta, dict):
        return Fault(request.id, INVALID_PARAMS, "`_meta` must be an object")
    if REVISION_KEY not in meta:
        if required or request.method == "server/discover":
            return Fault(request.id, INVALID_PARAMS, f"`_meta` lacks `{REVISION_KEY}`")
        return Envelope(agreed, meta)
    revision = meta[REVISION_KEY]
    if not isinstance(revision, str):
        return Fault(request.id, INVALID_PARAMS, f"`{REVISION_KEY}` must be a string")
    if revision not in ENVELOPE:
        known = {"requested": revision, "supported": [*HANDSHAKE, *ENVELOPE]}
        return Fault(request.id, UNSUPPORTED_REVISION, f"revision {revision[:40]!r} is not supported", known)
    if not isinstance(meta.get(CAPABILITIES_KEY), dict):
        return Fault(request.id, INVALID_PARAMS, f"`_meta` lacks the object `{CAPABILITIES_KEY}`")
    return Envelope(revision, meta)


def explain_missing(method: str, envelope: Envelope) -> str:
    """The message for a method that does not exist here."""
    reason = _NOT_OFFERED.get(method.partition("/")[0])
    if method in REMOVED and envelope.is_modern:
        reason = f"revision {envelope.revision} has none"
    return f"no method `{method[:80]}`{f': {reason}' if reason else ''}"


def negotiate(params: Mapping[str, Any]) -> str | None:
    """The revision for an `initialize`: the client's if it is supported, else the newest. None if it names none."""
    wanted = params.get("protocolVersion")
    if not isinstance(wanted, str):
        return None
    return wanted if wanted in HANDSHAKE else HANDSHAKE[-1]


def initialized(revision: str, servers: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `initialize`; `servers` are the instructions of the MCP servers behind the gateway."""
    server = SERVER if revision >= "2025-06-18" else {k: v for k, v in SERVER.items() if k != "title"}
    return {
        "protocolVersion": revision,
        "capabilities": {"tools": {"listChanged": True}, **data},
        "serverInfo": server,
        "instructions": _instructions(servers),
    }


def _instructions(servers: Mapping[str, str]) -> str:
    parts = [f"The server `{name}` describes its tools as follows: {text}" for name, text in servers.items()]
    return "\n\n".join([INSTRUCTIONS, *parts])


def discovered(servers: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `server/discover`, before `complete`."""
    return {
        "supportedVersions": [*HANDSHAKE, *ENVELOPE],
        "capabilities": {**CAPABILITIES, **data},
        "instructions": _instructions(servers),
        **not_cached(),
    }


def tool_list(tools: list[dict[str, Any]], envelope: Envelope) -> dict[str, Any]:
    """The result of `tools/list`, before `complete`."""
    return {"tools": tools, **(not_cached() if envelope.is_modern else {})}


def complete(value: dict[str, Any], envelope: Envelope) -> dict[str, Any]:
    """Complete a result with the fields of the request's revision."""
    if not envelope.is_modern:
        return value
    return {"resultType": "complete", **value, "_meta": {_SERVER_KEY: SERVER, **value.get("_meta", {})}}


def not_cached() -> dict[str, Any]:
    """The fields of a newer result that forbid caching it."""
    # An agent's tools depend on rules and grants, which can change at any time, and on its identity.
    return {"ttlMs": 0, "cacheScope": "private"}


def one_page(request: Request) -> Fault | None:
    """The error for a list request with a `cursor`: every list has one page, so that no client was given one."""
    if request.params.get("cursor") is None:
        return None
    return Fault(request.id, INVALID_PARAMS, "the list has only one page, so there is no `cursor`")
