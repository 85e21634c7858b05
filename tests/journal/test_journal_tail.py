"""A journal is followed as it grows."""

from __future__ import annotations

from journaling import RUN, intent, started, succeeded

from interlock.disk import Disk
from interlock.journal import JournalWriter, Tail
from interlock.testing import FakeClock


def open_writer(directory, *, create=True):
    return JournalWriter.open(directory, run_id=RUN, disk=Disk(), clock=FakeClock(), create=create)


def test_each_event_is_read_once_when_it_is_sealed(tmp_path):
    directory = tmp_path / RUN
    writer = open_writer(directory)
    tail = Tail(directory)
    writer.append(started())
    writer.flush()
    assert [event.seq for event in tail.read_new()] == [0]
    assert list(tail.read_new()) == []
    writer.append(intent("a"))
    writer.append(succeeded("a"))
    writer.flush()
    assert [event.seq for event in tail.read_new()] == [1, 2]
    writer.close()
    again = open_writer(directory, create=False)
    again.append(intent("b"))
    again.flush()
    again.close()
    assert [event.seq for event in tail.read_new()] == [3]


def test_what_is_not_sealed_yet_is_read_when_it_is(tmp_path):
    directory = tmp_path / RUN
    writer = open_writer(directory)
    for event in (started(), intent("a"), succeeded("a")):
        writer.append(event)
        writer.flush()
    writer.close()
    path = directory / "journal.ndjson"
    whole = path.read_bytes()
    seen = []
    tail = Tail(directory)
    for end in range(0, len(whole) + 1, 97):
        path.write_bytes(whole[:end])
        seen += [event.seq for event in tail.read_new()]
    path.write_bytes(whole)
    seen += [event.seq for event in tail.read_new()]
    assert seen == [0, 1, 2]
