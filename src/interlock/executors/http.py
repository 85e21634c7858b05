"""The definition of the tool `http.fetch`. `http_fetch.py` makes the requests, and is imported on first use.

The tool is declared with the traits of its most cautious use (irreversible, not read-only), because one definition
covers all methods.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from interlock.model.tool import Binding, Tool

if TYPE_CHECKING:
    from interlock.executors.http_fetch import Fetcher

_TOOL: Final = Tool(
    name="http.fetch",
    description="Make an HTTP request to a public address. Redirects to other hosts are returned, not followed.",
    parameters={
        "type": "object",
        "properties": {
            "url": {"type": "string", "x-interlock": "host", "description": "http or https; no user name or password."},
            "method": {"enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"], "default": "GET"},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
            "body": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "properties": {"b64": {"type": "string"}},
                        "required": ["b64"],
                        "additionalProperties": False,
                    },
                ],
                "description": "Text, sent as UTF-8, or bytes as `{b64}`. Set Content-Type in `headers`.",
            },
        },
        "required": ["url"],
        "additionalProperties": False,
    },
    read_only=False,
    destructive=True,
    open_world=True,
    reversibility="irreversible",
)


def bindings(make_fetcher: Callable[[], Fetcher]) -> list[Binding]:
    """Returns the tool `http.fetch`: `{url, method?, headers?, body?}` to
    `{status, url, headers, body, body_encoding: utf-8 | base64, charset, truncated, redirects[]}`.
    """
    fetcher = functools.cache(make_fetcher)
    return [
        Binding(tool=_TOOL, function=lambda given, ctx: fetcher().fetch(given, ctx), mode="thread", writes="nothing")
    ]
