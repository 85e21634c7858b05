"""Files of clients edited as text: they hold what they are to hold, and comments and layout stay."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.model.errors import UsageError
from interlock.surfaces.clients.documents import read_document, rewrite_document
from interlock.surfaces.clients.entries import Entry, add, take_out

JSON, TOML = Path("settings.json"), Path("config.toml")
names = st.sampled_from(["a", "b", 'q"//', "mcp"])
leaves = st.one_of(st.booleans(), st.integers(0, 9), st.sampled_from(["x", "/* no comment */", "a,]", ""]))
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)
objects = st.dictionaries(names, values, max_size=4)


@st.composite
def commented(draw) -> str:
    """An object as people write it."""

    def space() -> str:
        return draw(st.sampled_from(["", " ", "\n", " // c, }\n", "/* , ] */", "\n\t"]))

    def written(value) -> str:
        if isinstance(value, dict | list) and value:
            pairs = value.items() if isinstance(value, dict) else [(None, inner) for inner in value]
            parts = [
                f"{'' if k is None else json.dumps(k) + space() + ':'}{space()}{written(v)}{space()}" for k, v in pairs
            ]
            ending = draw(st.sampled_from(["", ",", ",\n"]))
            left, right = "{}" if isinstance(value, dict) else "[]"
            return f"{left}{space()}{f',{space()}'.join(parts)}{ending}{space()}{right}"
        return json.dumps(value)

    return space() + written(draw(objects)) + space()


@settings(deadline=None, max_examples=60)
@given(commented(), objects)
def test_a_commented_file_holds_what_it_is_to_hold(text, wanted):
    data = text.encode()
    before = read_document(data, JSON, comments=True)
    written = rewrite_document(data, wanted, JSON, comments=True)
    assert read_document(written, JSON, comments=True) == wanted
    back = rewrite_document(written, before, JSON, comments=True)
    assert read_document(back, JSON, comments=True) == before
    assert rewrite_document(data, before, JSON, comments=True) == data


@settings(deadline=None, max_examples=60)
@given(objects, objects)
def test_a_toml_file_holds_what_it_is_to_hold(before, wanted):
    data = b"# first\n" + tomlkit.dumps(before).encode() + b"\n# last\n"
    written = rewrite_document(data, wanted, TOML)
    assert tomllib.loads(written.decode()) == wanted
    assert b"# first\n" in written


def test_comments_and_layout_stay():
    text = '{\n\t// why\n\t"a": 1, // one\n\t"list": ["x"], /* here */\n\t"mine": {"k": 1} // last\n}\n'
    entries = (Entry(("mcp", "interlock"), {"command": "x"}), Entry(("list",), "y", listed=True))
    before = read_document(text.encode(), JSON, comments=True)
    after = add(before, entries, JSON)
    written = rewrite_document(text.encode(), after, JSON, comments=True).decode()
    assert written == (
        '{\n\t// why\n\t"a": 1, // one\n\t"list": ["x", "y"], /* here */\n\t"mine": {"k": 1}, // last\n'
        '  "mcp": {\n    "interlock": {\n      "command": "x"\n    }\n  }\n}\n'
    )
    edited = written.replace('"a": 1', '"a": 2')
    left = take_out(read_document(edited.encode(), JSON, comments=True), entries, before)
    assert rewrite_document(edited.encode(), left, JSON, comments=True).decode() == (
        '{\n\t// why\n\t"a": 2, // one\n\t"list": ["x"], /* here */\n\t"mine": {"k": 1} // last\n}\n'
    )


def test_comments_in_toml_stay():
    text = '# mine\nmodel = "m"  # best\n\n[features]  # few\nweb = true\n\n[mcp_servers.other]\ncommand = "o"\n'
    entries = (Entry(("features", "shell"), value=False), Entry(("mcp_servers", "interlock"), {"command": "x"}))
    before = read_document(text.encode(), TOML)
    written = rewrite_document(text.encode(), add(before, entries, TOML), TOML).decode()
    assert all(part in written for part in ("# mine\n", "  # best\n", "[features]  # few\n", "[mcp_servers.other]\n"))
    left = take_out(read_document(written.encode(), TOML), entries, before)
    assert rewrite_document(written.encode(), left, TOML).decode().strip() == text.strip()


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (JSON, b'{"a": 1, "a": 2} // c'),
        (JSON, b'{"a": [1,, 2]}'),
        (JSON, b"{ /* open"),
        (JSON, b"\xff"),
        (TOML, b"a = 1\na = 2"),
    ],
)
def test_what_is_not_understood_is_refused(path, data):
    with pytest.raises(UsageError) as caught:
        rewrite_document(data, {"b": 1}, path, comments=True)
    assert caught.value.code == "client_file"


def test_comments_are_refused_where_the_client_reads_none():
    with pytest.raises(UsageError):
        read_document(b'{"a": 1} // c', JSON)
