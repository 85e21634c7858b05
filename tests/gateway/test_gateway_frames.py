"""Frames are decoded strictly, and what is wrong with one becomes an error that its sender can understand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.json_rpc import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    Batch,
    Fault,
    LineSplitter,
    Notification,
    Request,
    Response,
    read_frame,
)


def frame(**fields):
    return json.dumps({"jsonrpc": "2.0", **fields}).encode()


def test_messages():
    assert read_frame(frame(id=1, method="ping")) == Request(1, "ping", {})
    assert read_frame(frame(id="1", method="ping", params={"a": 1})) == Request("1", "ping", {"a": 1})
    assert read_frame(frame(method="notifications/cancelled", params={"requestId": 1})) == Notification(
        "notifications/cancelled", {"requestId": 1}
    )
    assert read_frame(frame(id=7, result={})) == Response(7, {}, None)
    assert read_frame(b"\xef\xbb\xbf" + frame(id=1, method="ping")) == Request(1, "ping", {})
    assert read_frame(b"[" + frame(id=1, method="ping") + b"]") == Batch([Request(1, "ping", {})])


@pytest.mark.parametrize(
    ("line", "message_id", "code", "says"),
    [
        (b"{", None, PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}', None, PARSE_ERROR, "occurs twice"),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"a","params":' + b"[" * 300 + b"]" * 300 + b"}",
            None,
            PARSE_ERROR,
            "nested",
        ),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', None, PARSE_ERROR, "unicode"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a"} {}', None, PARSE_ERROR, "not JSON"),
        (b'{"jsonrpc":"2.0","id":NaN,"method":"a"}', None, PARSE_ERROR, "not JSON"),
        (b"7", None, INVALID_REQUEST, "object"),
        (b"[]", None, INVALID_REQUEST, "empty"),
        (b"[" + b"1," * 100 + b"1]", None, INVALID_REQUEST, "101 messages"),
        (b'{"id":1,"method":"a"}', 1, INVALID_REQUEST, "jsonrpc"),
        (b'{"jsonrpc":"1.0","id":1,"method":"a"}', 1, INVALID_REQUEST, "jsonrpc"),
        (frame(id=1.0, method="a"), None, INVALID_REQUEST, "`id`"),
        (frame(id=True, method="a"), None, INVALID_REQUEST, "`id`"),
        (frame(id=None, method="a"), None, INVALID_REQUEST, "`id`"),
        (frame(id=1), 1, INVALID_REQUEST, "method"),
        (frame(id=1, result={}, error={}), 1, INVALID_REQUEST, "method"),
        (frame(id=1, method=3), 1, INVALID_REQUEST, "method"),
        (frame(id=1, method="a", params=[1]), 1, INVALID_PARAMS, "params"),
    ],
)
def test_what_is_not_a_message_is_an_error(line, message_id, code, says):
    fault = read_frame(line)
    assert isinstance(fault, Fault)
    assert (fault.id, fault.code) == (message_id, code)
    assert says in fault.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_line_is_more_than_a_frame_can_say(line):
    assert isinstance(read_frame(line), Request | Notification | Response | Fault | Batch)


@given(st.lists(st.binary(max_size=30)), st.data())
def test_lines_come_out_whole_however_they_arrive(lines, data):
    lines = [line.replace(b"\n", b"x") for line in lines]
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    splitter = LineSplitter(20)
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])
    stripped = [None if len(line) > 20 else line.strip(b" \t\r") for line in lines]
    assert found == [line for line in stripped if line != b""]


def test_a_line_that_is_too_long_is_not_kept():
    splitter = LineSplitter(1_000)
    for _ in range(100):
        assert list(splitter.feed(b"x" * 1_000)) == []
    assert splitter._size == 100_000  # counted
    assert sum(map(len, splitter._parts)) <= 1_000  # and dropped
    assert list(splitter.feed(b"\nshort\n")) == [None, b"short"]
