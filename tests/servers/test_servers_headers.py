"""What HTTP headers repeat of a call, on both sides; and the trace of a call."""

from __future__ import annotations

import asyncio
import json

import pytest
from servers_world import client, tool

from interlock.executors.mcp.definitions import UnusableDefinition, read_definition
from interlock.executors.mcp.headers import decode_value, encode_value, find_mismatch, headers_of, marked_parameters


def schema(**properties):
    return {"type": "object", "properties": properties}


MARKED = schema(
    region={"type": "string", "x-mcp-header": "Region"},
    count={"type": "integer", "x-mcp-header": "Count"},
    inner=schema(on={"type": "boolean", "x-mcp-header": "On"}),
    other={"type": "string"},
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("eu-1", "eu-1"),
        ("", ""),
        ("two words", "two words"),
        (" edge", "=?base64?IGVkZ2U=?="),
        ("Zürich", "=?base64?WsO8cmljaA==?="),
        ("a\nb: c", "=?base64?YQpiOiBj?="),
        ("=?base64?eA==?=", "=?base64?PT9iYXNlNjQ/ZUE9PT89?="),
    ],
)
def test_any_text_survives_a_header(text, value):
    assert encode_value(text) == value
    assert decode_value(value) == text


@pytest.mark.parametrize("value", ["=?base64?!!?=", "=?base64?SGVsbG8?=", "=?base64?/w==?="])
def test_what_is_not_an_encoded_text_is_none(value):
    assert decode_value(value) is None


def test_marked_parameters_are_repeated_where_they_are_given():
    marked = marked_parameters(MARKED)
    given = {"region": "Zürich", "count": 3.0, "inner": {"on": True}, "other": "x"}
    headers = headers_of(marked, given)
    assert headers == {
        "Mcp-Param-Region": "=?base64?WsO8cmljaA==?=", "Mcp-Param-Count": "3", "Mcp-Param-On": "true",
    }  # fmt: skip
    sent = {name.lower().encode(): value.encode() for name, value in headers.items()}
    assert find_mismatch(marked, given, sent) is None
    assert find_mismatch(marked, {**given, "count": 4}, sent) == "Mcp-Param-Count"
    assert find_mismatch(marked, {"region": "Zürich", "count": 3}, sent) == "Mcp-Param-On"
    assert find_mismatch(marked, given, {**sent, b"mcp-param-region": b"=?base64?!?="}) == "Mcp-Param-Region"
    del sent[b"mcp-param-region"]
    assert find_mismatch(marked, given, sent) == "Mcp-Param-Region"
    assert headers_of(marked, {"region": None, "inner": 3, "count": [1]}) == {}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (schema(a={"type": "number", "x-mcp-header": "A"}), "not text"),
        (schema(a={"type": "string", "x-mcp-header": "A:\r\nHost"}), "not the name"),
        (schema(a={"type": "string", "x-mcp-header": 3}), "not the name"),
        (schema(a={"type": "string", "x-mcp-header": "A"}, b={"type": "string", "x-mcp-header": "a"}), "twice"),
        (schema(a={"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}), "more than one parameter"),
        ({**schema(), "x-mcp-header": "A"}, "more than one parameter"),
    ],
)
def test_a_definition_that_marks_what_cannot_be_a_header_cannot_be_locked(wrong, why):
    with pytest.raises(UnusableDefinition, match=why):
        read_definition({"name": "a", "inputSchema": wrong})


def test_the_word_is_only_a_mark_where_a_schema_has_it():
    data = schema(a={"type": "object", "default": {"x-mcp-header": "A"}})
    assert marked_parameters(data) == {}
    assert marked_parameters(schema(**{"x-mcp-header": {"type": "string"}})) == {}


def test_the_trace_of_a_client_is_passed_on(project):
    """As `_meta` of the call, in any revision; what cannot be read as a trace is not."""
    runtime = project.ready(tool("meta"))
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def said(one, **meta):
        number = one.ask("tools/call", name="s_meta", arguments={}, _meta=meta)
        answer = await one.read()
        assert answer["id"] == number
        found = json.loads(answer["result"]["content"][0]["text"])
        return {name: value for name, value in found.items() if name.startswith(("trace", "baggage"))}

    async def use() -> None:
        for modern in (False, True):
            async with client(runtime, modern=modern) as one:
                trace = {"traceparent": good, "tracestate": "a=1"}
                assert await said(one, **trace, baggage="secret=1") == trace
                assert await said(one, traceparent=good) == {"traceparent": good}
                assert await said(one, traceparent="x" * 55, tracestate="a=1") == {}
                assert await said(one, traceparent=good, tracestate="a\n") == {"traceparent": good}
                assert await said(one) == {}

    asyncio.run(use())
