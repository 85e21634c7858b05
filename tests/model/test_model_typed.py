"""Types that are first used by many threads at once: `msgspec` alone crashes there, now and then."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Annotated, Any

import msgspec
import pytest

from interlock.model import typed

RACE = """
import sys, threading
import msgspec
from interlock.model import typed

sys.setswitchinterval(1e-6)
uses = [
    lambda kind, value: typed.convert(value, kind),
    lambda kind, value: typed.decode(msgspec.json.encode(value), kind),
    lambda kind, value: typed.json_decoder(kind).decode(msgspec.json.encode(value)),
    lambda kind, value: typed.msgpack_decoder(kind).decode(msgspec.msgpack.encode(value)),
]
for round in range(60):
    inner = msgspec.defstruct("Inner", [(f"f{n}", "tuple[int | str, ...] | None", None) for n in range(20)])
    outer = msgspec.defstruct("Outer", [("one", inner), ("many", list[inner]), ("named", dict[str, inner])])
    value = {"one": {"f1": [1, "a"]}, "many": [{}, {}], "named": {"x": {}}}
    barrier, found = threading.Barrier(8), []

    def use(number):
        barrier.wait()
        kind = outer if number % 2 else list[outer]
        got = uses[number % 4](kind, value if number % 2 else [value])
        found.append((got if number % 2 else got[0]).one.f1)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert found == [(1, "a")] * 8, found
"""


def test_the_first_use_of_a_type_by_many_threads_is_safe():
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=28, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class Point(msgspec.Struct, frozen=True):
    x: int


def test_values_are_as_msgspec_has_them():
    assert typed.convert({"x": 1}, Point) == Point(1)
    assert typed.convert({"1": 2}, dict[int, int], str_keys=True) == {1: 2}
    assert typed.decode(b'{"x": 1}', Point) == Point(1)
    for use in (lambda: typed.convert({"x": "a"}, Point), lambda: typed.decode('{"x": "a"}', Point)):
        with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
            use()


def test_an_annotation_that_cannot_be_hashed_is_one():
    kind = Annotated[int, {"no": "hash"}]
    assert [typed.convert(5, kind) for _ in range(2)] == [5, 5]


def test_a_hook_may_convert_too():
    class Own:
        pass

    def hook(kind: Any, value: Any) -> Any:
        assert kind is Own
        return Own() if typed.convert(value, Point) else None

    finished = []
    thread = threading.Thread(target=lambda: finished.append(typed.convert([{"x": 1}], list[Own], dec_hook=hook)))
    thread.start()
    thread.join(20)
    assert len(finished) == 1
