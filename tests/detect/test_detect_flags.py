"""Unseen characters, and the flags that policies see."""

# Strange letters are what is tested, and tables read better in one line a case.
# ruff: noqa: E501

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.detect import FLAGS, find_unseen
from interlock.detect.flags import flags

TOKEN = "gh" + "p_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0cF3hJ6"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bidirectional", "a\u202eb"), ("bidirectional", "\u2066x\u2069"), ("bidirectional", "\u200ex"), ("bidirectional", "\u061cx"),
        ("zero_width", "rm\u200b -rf"), ("zero_width", "\ufeffx"), ("zero_width", "a\u200db"), ("zero_width", "a\u2060b"),
        ("tag", "hello\U000e0068\U000e0069"), ("tag", "🏴" + "\U000e0061" * 20), ("invisible", "soft\u00adhyphen"), ("invisible", "\u3164"), ("invisible", "a\u2028b"),
        ("invisible", "\u115f"), ("selectors", "x\ufe01\ufe02\ufe03"), ("selectors", "p\ufe0f"), ("selectors", "x" + "\U000e0101" * 5),
        ("control", "\x1b[8mhidden"), ("control", "a\x00b"), ("control", "a\x08b"), ("control", "\x9b31m"), ("control", "a\x7f"),
    ],
)  # fmt: skip
def test_what_is_not_seen_is_found(kind: str, text: str) -> None:
    assert kind in {f.kind for f in find_unseen(text)}


@pytest.mark.parametrize(
    "text", ["plain", "tab\tand\r\nlines", "naïve café 日本語 Ελληνικά русский עברית العربية", "👩‍💻 🏳️‍🌈 ❤️ 🇩🇪", "क्‍ष", "می‌خواهم", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"]
)  # fmt: skip
def test_ordinary_text_of_the_world_is_left_alone(text: str) -> None:
    assert find_unseen(text) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"path": "src/main.py", "content": "print('hi')\n"}, ()),
        ({"url": "https://example.org/a/b?c=d"}, ()),
        ([None, True, 1, 2.5, "text"], ()),
        ({"content": f"key = {TOKEN}"}, ("secret",)),
        ({TOKEN: 1}, ("secret",)),
        ({"password": "x"}, ("secret",)),
        ({"password": ""}, ()),
        ({"password": None}, ()),
        ({"argv": ["mysql", "--password", "hunter2"]}, ("secret",)),
        ({"x": "a\u200bb"}, ("invisible_text",)),
        ({"x": "a\u202eb"}, ("bidirectional_text",)),
        ({"x": "\x1b[8m"}, ("control_characters",)),
        ({"url": "http://0x7f.1/"}, ("private_address",)),
        ({"host": "localhost"}, ("private_address",)),
        ({"path": "../x"}, ("path_escape",)),
        ({"argv": ["cat", "/etc/passwd"]}, ("path_escape",)),
        ({"a": [{"b": {"../x": "\u202e"}}]}, ("bidirectional_text", "path_escape")),
    ],
)
def test_flags_of_a_value(value: Any, expected: tuple[str, ...]) -> None:
    assert flags(value) == expected


def test_all_flags_at_once_are_exactly_the_documented_ones() -> None:
    everything = {"secret": "x", "a": "\u200b", "b": "\u202e", "c": "\x1b", "d": "http://10.0.0.1", "e": "~/x"}
    assert set(flags(everything)) == set(FLAGS)


def test_a_deep_value_does_not_exhaust_the_stack() -> None:
    value: Any = "../x"
    for _ in range(100_000):
        value = [value]
    assert flags(value) == ("path_escape",)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=10
    )
)
def test_flags_of_any_value_are_sorted_and_known(value: Any) -> None:
    found = flags(value)
    assert list(found) == sorted(set(found))
    assert set(found) <= set(FLAGS)
