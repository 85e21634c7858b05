"""Redaction: nothing secret stays, nothing else changes, clean values are not copied, hostile text costs no more."""

# One line a strategy.
# ruff: noqa: E501

import hashlib
import hmac
import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.detect import Redactor, find_secrets, may_hold_secret
from interlock.model.canonical import canonical

KEY = b"0123456789abcdef0123456789abcdef"
TOKEN = "gh" + "p_" + "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zA0cF3hJ6"
redactor = Redactor(KEY)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def test_a_secret_becomes_a_fingerprint_that_names_its_kind() -> None:
    text = redactor.redact_text(f"use {TOKEN} now")
    assert re.fullmatch(r"use \[redacted:github-token:[0-9a-f]{8}\] now", text)


def test_the_same_secret_has_the_same_fingerprint_under_one_key_and_another_under_another() -> None:
    one, again, other = redactor.redact_text(TOKEN), redactor.redact_text(TOKEN), Redactor(b"k" * 32).redact_text(TOKEN)
    assert one == again != other


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Redactor(b"short")


@pytest.mark.parametrize(
    "value", [None, 1, "text", [], {}, {"a": [1, "b", {"c": None}]}, ["--path", "x"], {"password": ""}]
)
def test_a_clean_value_comes_back_as_the_same_object(value: Any) -> None:
    assert redactor.redact(value) is value
    assert redactor.redact(value, ("/no/such", "/a/9"), canonical(value)) is value


def test_parts_without_secrets_stay_the_same_objects() -> None:
    clean = {"deep": ["value"]}
    out = redactor.redact({"clean": clean, "token": TOKEN})
    assert out["clean"] is clean
    assert TOKEN not in json.dumps(out)


def test_fields_named_like_secrets_are_concealed_whatever_they_hold() -> None:
    value = {
        "password": "x",
        "auth": {"user": "u", "pin": 1234, "on": True, "none": None},
        "tokens": 5,
        "api_key": ["a", "b"],
    }
    out = redactor.redact(value)
    assert out["tokens"] == 5
    assert out["auth"]["on"] is True
    assert out["auth"]["none"] is None
    for hidden in (out["password"], out["auth"]["user"], out["auth"]["pin"], *out["api_key"]):
        assert re.fullmatch(r"\[redacted:named:[0-9a-f]{8}\]", hidden)


def test_one_secret_in_a_long_list_leaves_the_other_elements_as_they_are() -> None:
    items = [{"id": f"a{n}", "parameters": {"path": f"src/{n}.py", "deep": [[n]]}} for n in range(50)]
    items[7]["parameters"]["deep"] = [["--password", "hunter2-hunter2"], {"api_key": "4242"}]
    redacted = redactor.redact({"id": "prop_0123456789abcdef0123456789abcdef", "actions": items})
    assert [new is old for new, old in zip(redacted["actions"], items, strict=True)] == [n != 7 for n in range(50)]
    hidden = redacted["actions"][7]["parameters"]["deep"]
    assert hidden[0][1].startswith("[redacted:credential-flag:")
    assert hidden[1]["api_key"].startswith("[redacted:named:")


def test_keys_are_redacted_too() -> None:
    (key,) = redactor.redact({TOKEN: 1})
    assert key.startswith("[redacted:github-token:")


def test_the_argument_after_a_credential_flag_is_concealed() -> None:
    out = redactor.redact({"argv": ["mysql", "--password", "x", "--host", "h"]})
    assert out["argv"][2].startswith("[redacted:credential-flag:")
    assert out["argv"][3:] == ["--host", "h"]


@pytest.mark.parametrize(
    ("marks", "hidden"),
    [
        (("/a",), ["/a/0/b", "/a/1/b"]),
        (("/a/*/b",), ["/a/0/b", "/a/1/b"]),
        (("/a/1/b",), ["/a/1/b"]),
        (("/x~1y",), ["/x~1y"]),
        (("/n",), ["/n"]),
        (("/*",), ["/a/0/b", "/a/1/b", "/x~1y", "/n"]),
        (("/nowhere", "/a/7", "/n/deeper"), []),
    ],
)
def test_marks_of_the_schema_conceal_what_they_point_at(marks: tuple[str, ...], hidden: list[str]) -> None:
    value = {"a": [{"b": "one"}, {"b": "two"}], "x/y": "three", "n": 42, "empty": None}
    before = json.dumps(value)
    out = redactor.redact(value, marks)
    leaves = {"/a/0/b": out["a"][0]["b"], "/a/1/b": out["a"][1]["b"], "/x~1y": out["x/y"], "/n": out["n"]}
    assert [name for name, leaf in leaves.items() if str(leaf).startswith("[redacted:marked:")] == hidden
    assert out["empty"] is None
    assert json.dumps(value) == before, "the original is never changed"


def test_redacting_twice_changes_nothing_more() -> None:
    once = redactor.redact({"password": "x", "text": f"a {TOKEN} b", "argv": ["--token", "y"]}, ("/text",))
    assert redactor.redact(once, ("/text",)) == once


def test_lone_surrogates_do_not_stop_redaction() -> None:
    assert redactor.redact_text(f"\ud800 {TOKEN}").startswith("\ud800 [redacted:")


@given(json_values)
@example({"a": "\u2028", "é": 1.5})
def test_the_encoded_form_is_as_good_a_filter_as_the_value(value: Any) -> None:
    assert redactor.redact(value, (), canonical(value)) == redactor.redact(value)


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_token_between_any_two_texts_is_gone_unless_it_is_part_of_a_word(before: str, after: str) -> None:
    out = redactor.redact_text(f"{before} {TOKEN} {after}")
    assert TOKEN not in out


@given(json_values)
@example({"auth": "x"})
@example({"Pin": 0})
@example({"to.ken": "x"})
def test_what_the_filter_calls_clean_is_clean(value: Any) -> None:
    data = canonical(value)
    if not may_hold_secret(data):
        assert find_secrets(data.decode()) == []
        assert redactor._walk(value) is value


def test_a_secret_in_json_is_seen_by_the_filter_behind_any_escape() -> None:
    for before in ("\n", '"', "\\", "\x00", "\u2028", "é"):
        assert may_hold_secret(canonical({"a": before + TOKEN}))


ADVERSARIAL = {
    "jwt starts": "eyJ" * 60_000,
    "jwt starts, apart": "-eyJ" * 45_000,
    "jwt headers": ("ey" + "JhbGciOiJIUzI1NiJ9.") * 8_000,
    "key beginnings": ("-----BEGIN " + "PRIVATE KEY-----\n") * 6_000,
    "one key, endless": "-----BEGIN " + "PRIVATE KEY-----" + "A" * 180_000,
    "password words": "password" * 22_000,
    "assignments": "password=" * 20_000,
    "assignments with room": "password   :   " * 12_000,
    "flags": "--" * 90_000,
    "flag names": "--password-" * 16_000,
    "url starts": "://a" * 45_000,
    "url colons": "://" + ":" * 180_000,
    "curl": "curl -u " * 22_000,
    "mysql": "mysql -" * 25_000,
    "mysql words": "mysql " + "a " * 90_000,
    "authorization": "authorization:" * 12_000,
    "authorization, white space": "authorization" + " " * 180_000,
    "bearer": "bearer " * 25_000,
    "telegram": ":AA" * 60_000,
    "slashes": "\\" * 180_000,
    "slack": "xoxb-" * 36_000,
    "quotes": '"token"' * 25_000,
    "values that are names, a mebibyte": "token=" * 175_000,
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_hostile_text_is_searched_in_about_linear_time(name: str) -> None:
    """Ten times the text may cost about ten times the time. The bound is wide: it is there to find powers, not slowness."""
    text = ADVERSARIAL[name]
    began = time.perf_counter()
    redactor.redact_text(text)
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize("length", [16, 64, 65, 200])
def test_a_keyed_digest_is_hmac_sha256(length: int) -> None:
    """It is built from two hashes, for speed; what comes out is the standard's."""
    key = bytes(range(length))
    expected = hmac.new(key, b"sha256:abc", hashlib.sha256).hexdigest()
    assert Redactor(key).keyed("sha256:abc") == f"hmac-sha256:{expected}"


def test_known_secrets_are_replaced_in_every_form_and_place() -> None:
    known = Redactor(KEY, ["hunter2", 'a"b\\cé', "redacted", "short", "hunter2-longer"])
    sign = redactor.fingerprint("known", "hunter2")
    assert known.redact_text("x/hunter2/y") == f"x/{sign}/y"
    assert known.redact_text("hunter2-longer") == redactor.fingerprint("known", "hunter2-longer")
    value = {"hunter2": ['a"b\\cé', {"deep": "zhunter2z"}], "none": "short"}
    clean = known.redact(value)
    assert clean == {sign: [redactor.fingerprint("known", 'a"b\\cé'), {"deep": f"z{sign}z"}], "none": "short"}
    assert known.redact(clean) == clean, "what was replaced is not replaced again, though `redacted` is a secret"
    assert known.may_hold(canonical({"p": 'a"b\\cé'}))
    assert not known.may_hold(b"nothing of it")
    assert redactor.redact(value) is value
