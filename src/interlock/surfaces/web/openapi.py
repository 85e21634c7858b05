"""The OpenAPI 3.1 document, generated from the structs that decode bodies and encode responses, so it cannot differ."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from interlock._version import __version__
from interlock.engine.people.answers import RETRY_AFTER_S, Hold
from interlock.surfaces.web.bodies import (
    Answered,
    ApprovalPage,
    ApproveBody,
    DenyBody,
    EditBody,
    ErrorBody,
    Health,
    ListQuery,
    Original,
    OriginalBody,
)

_SHAPES: Final = (
    Answered,
    ApprovalPage,
    ApproveBody,
    DenyBody,
    EditBody,
    ErrorBody,
    Health,
    Hold,
    Original,
    OriginalBody,
)

_REFUSED: Final = {
    400: "`malformed_request` or `limit_exceeded`: the path names the field.",
    401: "`unauthenticated`: the token is missing, or not that of an approver.",
    403: "`not_in_group`, `separation`, `agent_may_not_approve`: this approver may not answer this hold.",
    404: "`not_found`; `original_missing`: the run no longer has the original.",
    408: "`body_late`: the body did not arrive in time.",
    409: "`already_resolved` or `changed`; `approval` is the current hold.",
    413: "`body_too_large`: refused at once if `Content-Length` says so.",
    415: "`media_type`: the body must be JSON, without a `Content-Encoding`.",
    421: "`host_refused`: the Host header does not name this server.",
    422: "`usage`: the body is well-formed but not valid here. `invalid_parameters`: the edit does not fit the tool.",
    429: f"`too_many_failures`: try again after `Retry-After` seconds, at most {RETRY_AFTER_S}.",
    500: "`internal`: a bug in Interlock.",
    503: "The database is temporarily unavailable: `database_locked`, `disk_full` and others.",
}
_ALWAYS: Final = (421, 500)
_WITH_TOKEN: Final = (401, 429, 503)
_HOLD_ID: Final = {
    "name": "hold_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^hold_[0-9a-f]{32}$"},
    "description": "Id of the hold.",
}


@cache
def document() -> dict[str, Any]:
    """The document, as a JSON value. Do not change it."""
    _, components = msgspec.json.schema_components(_SHAPES, ref_template="#/components/schemas/{name}")
    components["ErrorBody"]["additionalProperties"] = components["ErrorDetail"]["additionalProperties"] = False
    approval = "/api/v1/approvals/{hold_id}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Interlock",
            "version": __version__,
            "description": "Held calls and their approvals. Bearer tokens only; no cookies, no CORS.",
        },
        "paths": {
            "/healthz": {
                "get": _get("health", "The server is running. Reveals nothing about the workspace.", "Health")
            },
            "/api/v1/openapi.json": {
                "get": _operation("openapi", "This document.", _json({"type": "object"}), (), open_to_all=True)
            },
            "/api/v1/approvals": {
                "get": _get("list", "Holds, in order of creation.", "ApprovalPage", 400, parameters=_query())
            },
            approval: {"get": _get("show", "A hold in full.", "Hold", 404, parameters=[_HOLD_ID])},
            f"{approval}/approve": {"post": _post("approve", "Approve the call as it was shown.", "ApproveBody")},
            f"{approval}/deny": {"post": _post("deny", "Deny the call; one denial decides.", "DenyBody")},
            f"{approval}/original": {
                "post": _post("original", "Show the hidden values of a hold; recorded.", "OriginalBody", "Original")
            },
            f"{approval}/edit": {"post": _post("edit", "Approve the call with changed parameters.", "EditBody")},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of an approver: `interlock approvers add NAME --group GROUP`.",
                }
            },
        },
    }


def _get(name: str, summary: str, shape: str, *refusals: int, **more: Any) -> dict[str, Any]:
    return _operation(name, summary, _json(_ref(shape)), refusals, open_to_all=name == "health", **more)


def _post(name: str, summary: str, body: str, shape: str = "Answered") -> dict[str, Any]:
    refusals = (400, 403, 404, 408, 409, 413, 415, 422)
    content = {"required": True, "content": _json(_ref(body))}
    return _operation(name, summary, _json(_ref(shape)), refusals, parameters=[_HOLD_ID], requestBody=content)


def _operation(
    name: str,
    summary: str,
    content: dict[str, Any],
    refusals: tuple[int, ...],
    *,
    open_to_all: bool = False,
    **more: Any,
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": content}}
    codes = {*refusals, *_ALWAYS, *(() if open_to_all else _WITH_TOKEN)}
    for code in sorted(codes):
        responses[str(code)] = {"description": _REFUSED[code], "content": _json(_ref("ErrorBody"))}
    if not open_to_all:
        responses["401"]["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
        responses["429"]["headers"] = {"Retry-After": {"required": True, "schema": {"type": "string"}}}
    security: list[dict[str, list[str]]] = [] if open_to_all else [{"token": []}]
    return {"operationId": name, "summary": summary, "security": security, "responses": responses, **more}


def _query() -> list[dict[str, Any]]:
    _, shapes = msgspec.json.schema_components([ListQuery])
    properties = shapes["ListQuery"]["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in properties.items()
    ]


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
