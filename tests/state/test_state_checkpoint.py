"""Checkpoint files: saving the state, and going back to it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.disk import Database
from interlock.model.canonical import digest
from interlock.model.errors import IntegrityError, UsageError
from interlock.state.buffer import Buffer
from interlock.state.checkpoint import Head, compare_tools, load, restore, save
from interlock.state.store import StateConflictError, StateStore
from interlock.testing import FakeClock

HEAD = Head(seq=41, seal="sha256:abc")


@pytest.fixture
def store(tmp_path):
    return StateStore(Database(tmp_path / "interlock.db"), "w", FakeClock())


def put(store, run, *removed, **values):
    buffer = Buffer(store)
    for key, value in values.items():
        buffer.write(key, value)
    for key in removed:
        buffer.delete(key)
    buffer.commit(run=run, seq=1, seal="s")


def checkpoint(store):
    return save(
        store, run="run_1", created_at_us=5, journal=HEAD, tools={"fs.read": "sha256:1"}, metadata={"note": "before"}
    )


def values(store):
    return {key: entry.value for key, entry in store.snapshot().items()}


def test_what_was_saved_is_what_is_loaded(store):
    put(store, "r1", x={"a": [1e20, -0.0, None]}, y="z")
    put(store, "r2", y="zz")
    found = load(checkpoint(store))
    assert {key: (saved.value, saved.version) for key, saved in found.state.items()} == store.snapshot()
    assert (found.run, found.workspace, found.created_at_us, found.journal) == ("run_1", "w", 5, HEAD)
    assert (found.tools, found.metadata) == ({"fs.read": "sha256:1"}, {"note": "before"})


def test_restoring_makes_the_state_exactly_what_it_was(store):
    put(store, "r1", keep=1, change=1, gone=1)
    data = checkpoint(store)
    put(store, "r2", "gone", change=2, new=2)
    buffer = Buffer(store)
    restore(buffer, store, load(data))
    buffer.commit(run="r3", seq=1, seal="s")
    assert values(store) == {"keep": 1, "change": 1, "gone": 1}
    assert store.get("keep").version == 1, "what was right already is not touched"
    assert store.get("change").version == 3, "versions continue counting"


def test_merging_leaves_other_keys_alone(store):
    put(store, "r1", change=1, gone=1)
    data = checkpoint(store)
    put(store, "r2", "gone", change=2, new=2)
    buffer = Buffer(store)
    restore(buffer, store, load(data), merge=True)
    buffer.commit(run="r3", seq=1, seal="s")
    assert values(store) == {"change": 1, "gone": 1, "new": 2}


@pytest.mark.parametrize("merge", [False, True])
def test_somebody_elses_change_in_between_is_a_conflict(store, merge):
    put(store, "r1", x=1)
    data = checkpoint(store)
    put(store, "r2", x=2)
    buffer = Buffer(store)
    restore(buffer, store, load(data), merge=merge)
    put(store, "r3", x=3)
    with pytest.raises(StateConflictError):
        buffer.commit(run="r4", seq=1, seal="s")
    assert values(store) == {"x": 3}


def test_a_restored_checkpoint_of_another_workspace(store):
    put(store, "r1", x=1)
    other = StateStore(store.db, "other", FakeClock())
    buffer = Buffer(other)
    restore(buffer, other, load(checkpoint(store)))
    buffer.commit(run="r", seq=1, seal="s")
    assert values(other) == {"x": 1}


def test_every_changed_byte_is_noticed(store):
    put(store, "r1", x="value")
    data = checkpoint(store)
    for at in range(len(data) - 1):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises((IntegrityError, UsageError)):
            load(changed)
    for length in range(len(data) - 1):
        with pytest.raises((IntegrityError, UsageError)):
            load(data[:length])


@pytest.mark.parametrize("data", [b"{}", b"[]", b"1", b'{"format": "other"}'])
def test_another_json_file_is_not_a_checkpoint(data):
    with pytest.raises(UsageError):
        load(data)


def test_a_later_format_is_named_and_not_guessed(store):
    value = json.loads(checkpoint(store))
    del value["digest"]
    value["version"] = 3
    with pytest.raises(UsageError, match="another version"):
        load(json.dumps({**value, "digest": digest("checkpoint", value)}).encode())


@pytest.mark.parametrize("rest", [b"1" + b"0" * 30, b"[" * 100_000, b'"\\ud800"', b"1e999"])
def test_a_file_that_only_begins_like_a_checkpoint(rest):
    with pytest.raises((IntegrityError, UsageError)):
        load(b'{"format": "interlock.checkpoint", "x": ' + rest + b"}")


@given(st.binary(max_size=100))
def test_any_bytes_give_an_error_of_ours(data):
    with pytest.raises((IntegrityError, UsageError)):
        load(data)


def test_a_file_of_the_first_format_is_read(store):
    put(store, "r1", x=1)
    value = json.loads(checkpoint(store))
    for name in ("digest", "id", "about_run", "events"):
        value.pop(name)
    value |= {"version": 1}
    found = load(json.dumps(value | {"digest": digest("checkpoint", value)}).encode())
    assert (found.version, found.id, found.events, found.state["x"].value) == (1, "", None, 1)


def test_tools_are_compared_by_name_and_definition(store):
    found = load(save(store, run="", created_at_us=5, journal=None, tools={"a": "1", "b": "1", "c": "1"}))
    assert not compare_tools(found, {"a": "1", "b": "1", "c": "1", "new": "1"})
    differences = compare_tools(found, {"b": "2", "c": "1"})
    assert (differences.missing, differences.changed) == (("a",), ("b",))
    assert differences.text == "`a` is missing; `b` has another definition"
    assert compare_tools(found, {}).text == "`a`, `b`, `c` are missing"
