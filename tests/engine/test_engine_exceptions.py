"""What a registered function does instead of returning: it exits, or raises; and what is kept of it."""

from __future__ import annotations

import argparse
import sys

import pytest

import interlock

SETTINGS = {"rules": {"allow": ["*"]}, "grants": {"agent": {"tools": ["*"], "unscoped": ["*"]}}}


@pytest.fixture
def row_of():
    with interlock.Runtime.open(settings=SETTINGS) as runtime:

        def row_of(function, **options):
            runtime.register(interlock.tool(**options)(function))
            runtime.register(after)
            actions = [{"type": "tool_call", "tool": name} for name in (function.__name__, "after")]
            result = runtime.execute_sync({"actions": [actions[0] | {"failure_behavior": "skip"}, actions[1]]})
            assert result.results[1].status == "succeeded", "the run continues"
            return result.results[0]

        yield row_of


def after():
    return 1


def parse():
    argparse.ArgumentParser(prog="p").parse_args(["--nothing"])


def leave():
    sys.exit()


def leave_with_a_code():
    sys.exit(3)


def leave_with_a_text():
    sys.exit("no such city")


async def leave_async():
    sys.exit(4)


@pytest.mark.parametrize(
    ("function", "code", "text"),
    [
        (parse, 2, "exited with code 2"),
        (leave, 0, "exited with code 0"),
        (leave_with_a_code, 3, "exited with code 3"),
        (leave_with_a_text, 1, "no such city"),
        (leave_async, 4, "exited with code 4"),
    ],
)
def test_a_function_that_exits_has_failed_with_its_code(row_of, function, code, text):
    row = row_of(function)
    assert (row.status, row.reason, row.output) == ("failed", "tool_error", {"exit_code": code})
    assert text in row.error


def test_an_inline_function_that_exits_has_failed(row_of):
    assert row_of(leave_with_a_code, inline=True).output == {"exit_code": 3}


def test_all_of_an_exception_is_kept(row_of):
    def fails():
        try:
            {}["inner"]
        except KeyError as inner:
            error = ValueError("first line\nsecond line")
            error.add_note("a note")
            raise error from inner

    assert row_of(fails).error == "ValueError: first line\nsecond line\na note\ncaused by KeyError: 'inner'"


def test_the_members_of_a_group_are_named(row_of):
    def fails():
        raise ExceptionGroup("both", [ValueError("left"), OSError("right")])

    assert row_of(fails).error == "ExceptionGroup: both (2 sub-exceptions)\n- ValueError: left\n- OSError: right"


def test_what_is_kept_is_bounded(row_of):
    def fails():
        raise ValueError("x" * 100_000)

    error = row_of(fails).error
    assert 4_000 < len(error) < 4_100
    assert "more characters" in error


def test_an_exception_without_text_and_one_that_cannot_be_shown(row_of):
    class BrokenError(Exception):
        def __str__(self):
            raise RuntimeError

    def bare():
        raise ValueError

    def broken():
        raise BrokenError

    assert row_of(bare).error == "ValueError"
    assert row_of(broken).error == "BrokenError: a BrokenError that cannot be shown"
