"""Semantic versions compare as their specification says, and ranges are what capsules write."""

from __future__ import annotations

import pytest

from interlock.model.versions import parse_version, version_range

ORDER = [
    "1.0.0-1", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
    "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0",
]  # fmt: skip


def test_versions_are_in_the_order_of_the_specification():
    assert sorted(set(ORDER), key=parse_version) == ORDER
    assert parse_version("1.0.0+build.5") == parse_version("1.0.0")


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "v1.2.3", "1.2.3 ", "1.2.٣", "1" * 200]
)
def test_what_is_not_a_version_is_refused(text):
    with pytest.raises(ValueError, match="semantic version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("*", ["0.0.1", "9.9.9"], ["1.0.0-alpha"]),
        (">=1.2.0, <2.0.0", ["1.2.0", "1.10.3"], ["1.1.9", "2.0.0", "2.0.0-alpha", "1.3.0-alpha"]),
        ("1.2.3", ["1.2.3"], ["1.2.4", "1.2.3-rc.1"]),
        ("> 1.0.0", ["1.0.1"], ["1.0.0"]),
        (">=1.0.0-beta, <=1.0.0", ["1.0.0-beta", "1.0.0-rc", "1.0.0"], ["1.0.0-alpha", "1.0.1"]),
    ],
)
def test_a_range_holds_what_all_its_bounds_hold(text, inside, outside):
    holds = version_range(text)
    assert [version for version in (*inside, *outside) if holds(parse_version(version))] == inside


@pytest.mark.parametrize("text", ["", ",", ">=1.0.0,", "^1.0.0", ">=1", "=>1.0.0", "* , 1.0.0", "1.0.0 " + " " * 200])
def test_what_is_not_a_range_is_refused(text):
    with pytest.raises(ValueError):
        version_range(text)
