"""The event streams of servers over HTTP: whatever parts they come in, and however long they are."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.executors.mcp import http_wire
from interlock.executors.mcp.http_wire import EventSplitter, HttpError


def specified(stream: bytes) -> list[bytes]:
    """The events of a stream, read as the HTML standard describes it: at once."""
    found, data = [], []
    for line in re.split(rb"\r\n|\n|\r", stream)[:-1]:  # the last line has no end
        if not line:
            found += [b"\n".join(data)] if data else []
            data = []
        elif line.partition(b":")[0] == b"data":
            data.append(line.partition(b":")[2].removeprefix(b" "))
    return found


LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"data: ", b": comment", b"id: 7", b"event: x", b"retry: 5", b""]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(LINES, ENDS).map(b"".join)), st.data())
def test_events_are_the_same_in_whatever_parts_they_come(lines, data):
    stream = b"".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    splitter, found = EventSplitter(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])
    assert found == specified(stream)


def test_an_event_in_very_many_parts_takes_time_in_proportion():
    def seconds(count: int) -> float:
        splitter, began = EventSplitter(), time.process_time()
        for _ in range(count):
            splitter.feed(b"x")
        return time.process_time() - began

    seconds(1_000)
    assert seconds(400_000) < 40 * seconds(40_000) + 0.2


@pytest.mark.parametrize("part", [b"x", b"data:\n", b"data: x\n"])
def test_an_event_without_end_is_not_kept(monkeypatch, part):
    monkeypatch.setattr(http_wire, "_LINE_BYTES_MAX", 1_000)
    splitter = EventSplitter()
    for _ in range(1_000 // len(part)):
        splitter.feed(part)
    with pytest.raises(HttpError, match="too long"):
        splitter.feed(part)


def test_a_time_to_wait_of_any_length_is_bounded():
    splitter = EventSplitter()
    splitter.feed(b"retry: " + b"9" * 10_000 + b"\n")
    assert splitter.retry_s == 30.0
