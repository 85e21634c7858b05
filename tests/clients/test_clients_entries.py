"""Entries in a client's file: what is taken out is what was added, whatever else is there."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.errors import UsageError
from interlock.surfaces.clients.documents import read_document
from interlock.surfaces.clients.entries import Entry, add, take_out

ENTRIES = (
    Entry(("mcpServers", "interlock"), {"command": "x"}),
    Entry(("permissions", "deny"), "Bash", listed=True),
    Entry(("permissions", "deny"), "Write", listed=True),
    Entry(("on",), "interlock", listed=True),
)
words = st.sampled_from(["Bash", "Write", "Read", "interlock", ""])
documents = st.fixed_dictionaries(
    {},
    optional={
        "mcpServers": st.dictionaries(st.sampled_from(["interlock", "other"]), st.just({"command": "y"})),
        "permissions": st.fixed_dictionaries(
            {}, optional={"deny": st.lists(words, unique=True), "allow": st.lists(words, unique=True)}
        ),
        "on": st.lists(words, unique=True),
        "else": st.integers(),
    },
)


@given(documents)
def test_what_is_taken_out_is_what_was_added(before):
    asked = copy.deepcopy(before)
    after = add(before, ENTRIES, Path("f"))
    assert before == asked, "the document itself is left as it was"
    assert add(after, ENTRIES, Path("f")) == after
    assert take_out(after, ENTRIES, before) == before


@given(documents)
def test_what_somebody_added_since_stays(before):
    after = add(before, ENTRIES, Path("f"))
    after["new"] = 1
    after["permissions"]["deny"].append("Later")
    left = take_out(after, ENTRIES, before)
    assert left["new"] == 1
    assert "Later" in left["permissions"]["deny"]


@pytest.mark.parametrize(
    "text", ["[]", '{"a": 1, "a": 2}', "{} // why", '{"permissions": []}', '{"permissions": {"deny": {}}}', "\x00"]
)
def test_a_file_that_is_not_understood_is_refused(text):
    with pytest.raises(UsageError) as caught:
        add(read_document(text.encode(), Path("f")), ENTRIES, Path("f"))
    assert caught.value.code == "client_file"


def test_an_empty_file_is_an_empty_object():
    assert read_document(b" \n", Path("f")) == {}
    assert json.loads(json.dumps(add({}, ENTRIES, Path("f"))))["on"] == ["interlock"]
