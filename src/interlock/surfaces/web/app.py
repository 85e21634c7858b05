"""The routes of `/api/v1`, and what each of them does.

Only bearer tokens are accepted, never cookies, and no response allows another origin to read it (no CORS): a web page
has no credentials to send along, so requests cannot be forged. Every approver may see the holds; which ones they may
answer is decided in the transaction that counts the answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interlock.engine.people.answers import Answering, Approver, Choice, Hold, Outcome, Standing
from interlock.model import typed
from interlock.model.clock import Clock
from interlock.model.errors import UsageError
from interlock.surfaces.web import openapi
from interlock.surfaces.web.bodies import (
    Answered,
    ApprovalPage,
    ApprovalRow,
    ApproveBody,
    DenyBody,
    EditBody,
    ErrorBody,
    ErrorDetail,
    Health,
    ListQuery,
    Original,
    OriginalBody,
)
from interlock.surfaces.web.decoding import decode_body, decode_query
from interlock.surfaces.web.middleware import APPROVER, STATUS, Middleware, handlers, read_body, reply, source_of

Body = ApproveBody | EditBody | DenyBody
T = TypeVar("T")

_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]{1,512}=*) *\Z", re.IGNORECASE)  # RFC 6750, section 2.1
_HOLD_ID: Final = re.compile(r"hold_[0-9a-f]{32}\Z")
_SAID: Final = {
    "agent_may_not_approve": "an agent cannot approve its own calls",
    "separation": "the person who started the run may not approve its calls",
    "not_in_group": "you are not in a group that may approve this call",
    "changed": "the hold has changed since it was shown to you",
}
_HINTS: Final = {
    "not_in_group": "`requirements` of the hold names the groups",
    "changed": "read it again, and answer with its new `digest`",
}


def build(
    answering: Answering, clock: Clock, hosts: Callable[[str], bool], refresh: Callable[[], None] = lambda: None
) -> Middleware:
    """The application. `hosts` tells whether a Host header (without port) names this server; see `middleware`.

    `refresh` is called before each request that needs a token, because an edited configuration may change the groups.
    """
    api = _Api(answering, refresh)
    approval = "/api/v1/approvals/{hold_id}"
    app = Starlette(
        routes=[
            Route("/healthz", _health),
            Route("/api/v1/openapi.json", _document),
            Route("/api/v1/approvals", api.list),
            Route(approval, api.show),
            Route(approval + "/approve", api.answering("approve", ApproveBody), methods=["POST"]),
            Route(approval + "/deny", api.answering("deny", DenyBody), methods=["POST"]),
            Route(approval + "/original", api.original, methods=["POST"]),
            Route(approval + "/edit", api.answering("edit", EditBody), methods=["POST"]),
        ],
        exception_handlers=handlers(),
    )
    app.router.redirect_slashes = False
    return Middleware(app, clock, hosts)


async def _health(_request: Request) -> Response:
    return reply(Health())


async def _document(_request: Request) -> Response:
    return reply(openapi.document())


class _Api:
    """The routes that need a token."""

    def __init__(self, answering: Answering, refresh: Callable[[], None]) -> None:
        self._answering = answering
        self._refresh = refresh

    async def list(self, request: Request) -> Response:
        await self._authenticate(request)
        query = decode_query(request.query_params.multi_items(), ListQuery)
        status = None if query.status == "all" else query.status
        # Fetch one more than is shown, to know whether there are more.
        holds = await self._call(self._answering.holds, status, after=query.after, limit=query.limit + 1)
        shown = holds[: query.limit]
        rows = tuple(typed.convert(hold, ApprovalRow, from_attributes=True) for hold in shown)
        return reply(ApprovalPage(approvals=rows, next_after=shown[-1].seq if len(holds) > len(shown) else None))

    async def show(self, request: Request) -> Response:
        await self._authenticate(request)
        hold = await self._call(self._answering.hold, _hold_id(request))
        if hold is None:
            raise _unknown()
        return reply(hold)

    async def original(self, request: Request) -> Response:
        approver = await self._authenticate(request)
        hold_id = _hold_id(request)
        body = decode_body(await read_body(request), OriginalBody)
        outcome, parameters = await self._call(self._answering.original, hold_id, approver, digest=body.digest)
        if outcome.code != "recorded" or outcome.hold is None:
            return _outcome(outcome)
        return reply(Original(approval=outcome.hold, parameters=parameters))

    def answering(self, choice: Choice, shape: type[Body]) -> Callable[[Request], Awaitable[Response]]:
        """The route for one kind of answer."""

        async def answer(request: Request) -> Response:
            approver = await self._authenticate(request)
            hold_id = _hold_id(request)
            body = decode_body(await read_body(request), shape)
            outcome = await self._call(
                self._answering.answer,
                hold_id,
                approver,
                choice,
                digest=body.digest,
                reason=body.reason,
                patch=body.patch if isinstance(body, EditBody) else None,
                standing=_standing(body),
            )
            return _outcome(outcome)

        return answer

    async def _authenticate(self, request: Request) -> Approver:
        """The approver behind a request. A request without a token is not a guess, so it does not count as a failure."""
        given = request.headers.getlist("authorization")
        bearer = _BEARER.match(given[0]) if len(given) == 1 else None
        if bearer is None:
            raise UsageError(
                "an approver's token is required",
                code="unauthenticated",
                hint="send `Authorization: Bearer TOKEN`; `interlock approvers add` creates one",
            )
        self._refresh()
        approver = await self._call(self._answering.by_token, bearer[1], source_of(request))
        request.scope[APPROVER] = approver.id
        return approver

    @staticmethod
    async def _call(function: Callable[..., T], /, *arguments: object, **named: object) -> T:
        """Call a function off the event loop, because another process may lock the database for seconds."""
        return await asyncio.to_thread(function, *arguments, **named)


def _hold_id(request: Request) -> str:
    hold_id: str = request.path_params["hold_id"]
    if not _HOLD_ID.match(hold_id):
        raise _unknown()
    return hold_id


def _unknown() -> UsageError:
    return UsageError("there is no such hold", code="not_found", hint="`GET /api/v1/approvals` lists them")


def _standing(body: Body) -> Standing | None:
    """The terms of a standing answer in the body. There are no defaults, so that an approver states every term."""
    if isinstance(body, DenyBody):
        return None
    if body.scope == "once":
        if body.ttl_ms is not None or body.uses is not None:
            raise UsageError("`ttl_ms` and `uses` require the scope `session` or `always`", path="$.scope")
        return None
    if body.ttl_ms is None or body.uses is None:
        raise UsageError(
            f"the scope `{body.scope}` needs `ttl_ms` and `uses`: how long it is valid, and for how many calls",
            path="$.scope",
        )
    return Standing(scope=body.scope, ttl_ms=body.ttl_ms, uses=body.uses)


def _outcome(outcome: Outcome) -> Response:
    hold = outcome.hold
    if hold is None:
        raise _unknown()
    if outcome.code == "resolved" or outcome.code == "recorded":  # noqa: PLR1714 - mypy narrows no set
        return reply(Answered(outcome=outcome.code, approval=hold))
    message = _SAID.get(outcome.code) or f"the call is already {hold.status}{_by(hold)}"
    hint = _HINTS.get(outcome.code)
    error = ErrorDetail(code=outcome.code, message=message, hint=msgspec.UNSET if hint is None else hint)
    status = STATUS[outcome.code]
    return reply(ErrorBody(error=error, approval=hold if status == 409 else msgspec.UNSET), status)


def _by(hold: Hold) -> str:
    if hold.status not in ("approved", "denied") or not hold.votes:
        return ""
    return f", last answered by `{hold.votes[-1].approver}`"
