"""The two ways of finding literals find the same, and redaction finds the same with either of them."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.detect import credentials, redact, shapes
from interlock.detect import literals as module
from interlock.detect.literals import LONG_CHARS, LiteralFinder
from interlock.model.canonical import canonical

WORDS = ("a", "ab", "ba", "bab", "://", "é", "key")
PIECES = (
    "password=", "passwd: ", "passw", "PASSWORD=hunter2-hunter2", "api", "api key: ", "api_key='", "apiKey=", "accesskey=",
    "access key=", "private-key: ", "token=token=", "secret", "credential", "pwd=", "--password ", "--token=", "https://u:",
    "://", "@host", "curl -u me:", "mysql -pabc123 ", "sshpass -p x1y2z3 ", "Authorization: Bearer ", "bearer ",
    "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----", "ghp_" + "a1B2" * 9, "sk-" + "a1B2" * 8, "AKIA" + "ABCD2345" * 2, ":AA" + "x1" * 17, "12345678",
    "eyJ", "[redacted:jwt:12345678]", "s3cr3t-V4lue", "\n", " ", '"', "'", "\\n", "é", "K", "İ", "x" * 30, "🙂",
)  # fmt: skip


@given(st.text(alphabet="abké:/y", max_size=40))
def test_the_automaton_finds_what_the_pattern_finds(text):
    finder = LiteralFinder(WORDS)
    short = list(finder.find(text))
    filler = "." * LONG_CHARS
    assert list(finder.find(text + filler)) == short
    assert finder.words == ["a", "é", "ba", "://", "key"] or set(finder.words) == {"a", "é", "ba", "://", "key"}


def findings(text, monkeypatch, long_chars):
    monkeypatch.setattr(module, "LONG_CHARS", long_chars)
    monkeypatch.setattr(credentials, "LONG_CHARS", long_chars)
    return redact.find_secrets(text)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_redaction_finds_the_same_in_either_way(text):
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert findings(text, monkeypatch, 0) == findings(text, monkeypatch, 1 << 60)


def test_redaction_finds_the_same_in_long_texts(monkeypatch):
    draw = random.Random(5)
    for _ in range(20):
        text = "".join(draw.choice(PIECES) + draw.choice(("", " ", "\n", "word ")) for _ in range(4_000))
        found = redact.find_secrets(text)
        assert found
        assert found == findings(text, monkeypatch, 1 << 60)
        monkeypatch.undo()


def test_the_filters_of_long_values_let_through_what_those_of_short_ones_do(monkeypatch):
    for piece in PIECES:
        for data in (piece.encode(), f'{{"{"pin"}": "{piece}"}}'.encode(), f'{{"auth": "{piece}"}}'.encode()):
            monkeypatch.undo()
            before = credentials.may_hold_credential(data), shapes.may_hold_token(data)
            monkeypatch.setattr(credentials, "LONG_CHARS", 0)
            monkeypatch.setattr(module, "LONG_CHARS", 0)
            assert (credentials.may_hold_credential(data), shapes.may_hold_token(data)) == before


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_the_filter_of_tokens_misses_none_in_the_text_or_in_its_json(text):
    if list(shapes.find_tokens(text)):
        assert shapes.may_hold_token(text.encode())
        assert shapes.may_hold_token(canonical({"id": text}))


def test_an_identifier_of_ours_is_no_reason_to_search_a_value():
    assert not redact.may_hold_secret(canonical({"id": "prop_411080ce42149954e9825cd5dc7994ee"}))


def test_shapes_share_no_beginning_with_a_longer_one_that_is_lost():
    for _, literal, _ in shapes._SHAPES:
        assert any(literal.startswith(word) for word in shapes._FINDER.words)


@pytest.mark.parametrize("length", [0, LONG_CHARS])
def test_the_filter_for_tokens_needs_the_start_of_one_beside_a_run(length):
    document = f'{{"id": "prop_{"0f" * 16}", "text": "%s{" " * length}"}}'
    assert not shapes.may_hold_token((document % "ordinary text").encode())
    for literal in (*(literal for _, literal, _ in shapes._SHAPES), ":AA"):
        for written in (literal, literal.replace("/", "\\/")):
            assert shapes.may_hold_token((document % written).encode()), literal
