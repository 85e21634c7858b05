"""`govern`: the same parameters, the same result, and the gate between."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import functools
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock import DeniedError, UsageError, govern

SETTINGS = {"rules": {"allow": ["*"]}, "grants": {"agent": {"tools": ["*"], "unscoped": ["*"]}}}


@pytest.fixture
def runtime():
    with interlock.Runtime.open(settings=SETTINGS) as opened:
        yield opened


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@pytest.mark.parametrize(
    "text",
    ["$x.output", "$$x", "$$x.output", "$$$x.output", "$a1.output.b[0]", "$", "$$", "plain", "$HOME", "$x.outputs"],
)
def test_no_text_is_a_reference(runtime, text):
    def echo(value: str, more: list[str], anything=None):
        return [value, more, anything]

    assert govern(echo, runtime)(text, [text], {"k": [text]}) == [text, [text], {"k": [text]}]


def test_positional_named_and_further_arguments_arrive_as_in_a_call(runtime):
    def f(a: int, /, b: int = 2, *, c: int = 3, **rest: str):
        return a, b, c, rest

    governed = govern(f, runtime)
    for arguments, named in [((1,), {}), ((1, 5), {"c": 6}), ((1,), {"b": 7, "x": "y", "z": "$x.output"})]:
        assert governed(*arguments, **named) == f(*arguments, **named)
    with pytest.raises(TypeError):
        governed(1, 2, 3)


def test_arguments_keep_their_types(runtime):
    seen = []

    def f(
        where: Path,
        day: dt.date,
        point: Point,
        table: dict[int, str],
        names: set[str],
        raw: bytes,
        pair: tuple[int, str],
    ):
        seen.append((where, day, point, table, names, raw, pair))

    given = (Path("a/b"), dt.date(2026, 1, 2), Point(1, 2), {1: "a"}, {"a"}, b"\x00hi", (1, "b"))
    govern(f, runtime)(*given)
    assert seen == [given]


@pytest.mark.parametrize("value", [Path("a"), dt.date(2026, 1, 2), Point(1), {1: 2}, object(), float("nan")])
def test_an_argument_that_the_function_would_not_get_back_is_refused_by_name(runtime, value):
    def f(thing):
        raise AssertionError("never called")

    with pytest.raises(UsageError) as caught:
        govern(f, runtime)(value)
    assert caught.value.path == "$.thing"


def test_a_path_may_be_given_where_text_is_declared(runtime):
    def f(where: interlock.PathRead) -> str:
        return where

    assert govern(f, runtime)(Path("a/b")) == "a/b"


def test_the_result_is_the_functions_own(runtime):
    value = {"path": Path("a"), "pair": (1, 2), "point": Point(3)}

    def f():
        return value

    async def g():
        return value

    assert govern(f, runtime)() is value
    assert asyncio.run(govern(g, runtime)()) is value
    with pytest.raises(DeniedError) as caught:
        govern(unserialisable, runtime)()
    assert caught.value.code == "invalid_output"


def unserialisable():
    return object()


def test_calls_side_by_side_get_their_own_results(runtime):
    async def double(n: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return (n, 2 * n)

    governed = govern(double, runtime)

    async def scene():
        return await asyncio.gather(*(governed(n) for n in range(20)))

    assert asyncio.run(scene()) == [(n, 2 * n) for n in range(20)]


def test_methods_and_partials(runtime):
    class Shop:
        def take(self, n: int) -> int:
            return n + 1

    def f(root: str, name: str) -> str:
        return f"{root}/{name}"

    assert govern(Shop().take, runtime)(2) == 3
    safe: Any = govern(functools.partial(f, "/safe"), runtime)
    assert safe("x") == "/safe/x"
    with pytest.raises(TypeError):
        safe("x", root="/etc")
