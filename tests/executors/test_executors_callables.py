"""Partials, methods, decorators: hints and marks of the function behind hold and what is bound is hidden, or it is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import functools
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, no_type_check

import msgspec
import pytest

import interlock
from interlock import Context, PathRead, ToolError, tool
from interlock.executors.python import InvalidToolError, bind, define
from interlock.model.schema import Schema, marks
from interlock.model.tool import Tool, open_schema

CTX: Any = object()


def read(root: str, f: PathRead, *, limit: int = 1) -> str:
    """Read a file."""
    return f"{root}/{f}:{limit}"


async def read_later(root: str, f: PathRead) -> str:
    return f"{root}/{f}"


def call(binding, params):
    out = binding.function(params, CTX)
    return asyncio.run(out) if binding.mode == "async" else out


def properties(binding):
    return set(binding.tool.parameters["properties"])


def retried(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        for _ in range(3):
            try:
                return function(*args, **kwargs)
            except OSError:
                continue
        return None

    return wrapper


def awaited(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        await asyncio.sleep(0)
        return await function(*args, **kwargs)

    return wrapper


def of_a_method(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        self.calls += 1
        return function(self, *args, **kwargs)

    return wrapper


# --- seen through


@pytest.mark.parametrize(
    "part",
    [
        functools.partial(read, "/safe"),
        functools.partial(read, root="/safe"),
        functools.partial(functools.partial(read, root="/elsewhere"), root="/safe"),
        functools.partial(retried(read), "/safe"),
        functools.partial(functools.cache(read), root="/safe"),
    ],
)
def test_a_partial_keeps_types_and_marks_and_hides_what_is_bound(part):
    binding = bind(part)
    assert properties(binding) == {"f", "limit"}
    assert marks(binding.tool.parameters) == (("/f", "path.read"),)
    assert binding.tool.name == "read"
    assert binding.tool.description == "Read a file."
    assert call(binding, {"f": "x", "limit": 2.0}) == "/safe/x:2"
    schema = Schema.compile(binding.tool.parameters)
    assert not schema.is_valid({"f": "x", "root": "/etc"})
    assert not schema.is_valid({"f": "x", "limit": "y"})
    with pytest.raises(ToolError) as caught:
        call(binding, {"f": "x", "root": "/etc"})
    assert (caught.value.code, caught.value.path) == ("invalid_parameters", "$.root")


def test_a_bound_name_is_hidden_where_any_name_is_taken():
    def f(a: int, **rest: str):
        return [a, rest]

    binding = bind(functools.partial(f, secret="s"))
    schema = Schema.compile(binding.tool.parameters)
    assert schema.is_valid({"a": 1, "b": "x"})
    assert not schema.is_valid({"a": 1, "secret": "x"})
    assert call(binding, {"a": 1, "b": "x"}) == [1, {"b": "x", "secret": "s"}]


def test_a_declared_function_gives_its_partial_what_it_declares():
    @tool(read_only=True, timeout="5s")
    def look(root: str, f: PathRead): ...

    found = bind(functools.partial(look, "/safe")).tool
    assert (found.name, found.read_only, found.timeout_ms) == ("look", True, 5_000)
    assert set(found.parameters["properties"]) == {"f"}


class Shop:
    calls = 0

    def __init__(self, stock=10):
        self.stock = stock

    def take(self, count: int) -> int:
        return self.stock - count

    @of_a_method
    def counted(self, f: PathRead) -> str:
        return f"{self.stock}{f}"

    @classmethod
    def kind(cls, f: PathRead) -> str:
        return cls.__name__ + f

    @functools.cache  # noqa: B019 - what is tested
    def kept(self, f: PathRead) -> str:
        return f

    fixed = functools.partialmethod(take, count=3)

    def __call__(self, f: PathRead) -> str:
        return f"called {f}"


def test_methods_and_callable_objects():
    shop = Shop()
    for function, params, output in [
        (shop.take, {"count": 3}, 7),
        (shop.counted, {"f": "x"}, "10x"),
        (Shop.kind, {"f": "x"}, "Shopx"),
        (shop.kind, {"f": "x"}, "Shopx"),
        (shop.kept, {"f": "x"}, "x"),
        (shop.fixed, {}, 7),
        (functools.partial(Shop.take, shop), {"count": 1}, 9),
    ]:
        binding = bind(function)
        assert properties(binding) == set(params)
        assert call(binding, params) == output
        expected = (("/f", "path.read"),) if "f" in params else ()
        assert marks(binding.tool.parameters) == expected
    assert shop.calls == 1
    called = bind(shop, define(shop, name="shop"))
    assert marks(called.tool.parameters) == (("/f", "path.read"),)
    assert call(called, {"f": "x"}) == "called x"


@pytest.mark.parametrize("wrapped", [retried(read), retried(retried(read)), functools.lru_cache(read)])
def test_a_decorator_that_only_passes_on(wrapped):
    binding = bind(wrapped)
    assert marks(binding.tool.parameters) == (("/f", "path.read"),)
    assert call(binding, {"root": "r", "f": "x"}) == "r/x:1"


@pytest.mark.parametrize("wrapped", [retried(read_later), awaited(read_later), functools.partial(retried(read_later))])
def test_an_async_function_behind_any_wrapper_runs(wrapped):
    binding = bind(wrapped)
    assert binding.mode == "async"
    assert call(binding, {"root": "r", "f": "x"}) == "r/x"


def test_a_decorator_that_names_its_parameters_fills_in_the_others_itself():
    def with_root(function):
        @functools.wraps(function)
        def wrapper(f, *, limit=5):
            return function("/safe", f, limit=limit)

        return wrapper

    binding = bind(with_root(read))
    assert properties(binding) == {"f", "limit"}
    assert marks(binding.tool.parameters) == (("/f", "path.read"),)
    assert call(binding, {"f": "x"}) == "/safe/x:5"
    with pytest.raises(ToolError):
        call(binding, {"f": "x", "root": "/etc"})
    declared = bind(with_root(tool(read_only=True)(lambda_like(read))))
    assert properties(declared) == {"f", "limit"}
    assert declared.tool.read_only


def lambda_like(function):
    def copy(root: str, f: PathRead, *, limit: int = 1) -> str:
        return function(root, f, limit=limit)

    return copy


def test_a_context_is_given_through_wrappers():
    def f(a: int, ctx: Context):
        return [a, ctx is CTX]

    assert call(bind(functools.partial(retried(f), 3)), {}) == [3, True]


# --- refused


def first(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function("/safe", *args, **kwargs)

    return wrapper


def set_default(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        kwargs.setdefault("root", "/safe")
        return function(*args, **kwargs)

    return wrapper


def merged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **{"root": "/safe", **kwargs})

    return wrapper


def named(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, root="/safe", **kwargs)

    return wrapper


def replaced(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        kwargs = {"root": "/safe", **kwargs}
        return function(*args, **kwargs)

    return wrapper


def through_another(function):
    inner = functools.partial(function, root="/safe")

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return inner(*args, **kwargs)

    return wrapper


def in_a_closure(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        def change():
            kwargs["root"] = "/safe"

        change()
        return function(*args, **kwargs)

    return wrapper


def overridable(function):
    @functools.wraps(function)
    def wrapper(*args, root="/safe", **kwargs):
        return function(root, *args, **kwargs)

    return wrapper


def renamed(function):
    @functools.wraps(function)
    def wrapper(path):
        return function("/safe", path)

    return wrapper


def only_keywords(function):
    @functools.wraps(function)
    def wrapper(**kwargs):
        return function("/safe", **kwargs)

    return wrapper


def never_called(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return open(args[0])

    return wrapper


def through_exec(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        exec("kwargs['root'] = '/safe'")
        return function(*args, **kwargs)

    return wrapper


def through_locals(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        locals()["kwargs"]["root"] = "/safe"
        return function(*args, **kwargs)

    return wrapper


def through_the_frame(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        sys._getframe().f_locals["kwargs"]["root"] = "/safe"
        return function(*args, **kwargs)

    return wrapper


class Traced:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args, **kwargs):
        return self.function("/safe", *args, **kwargs)


class Partial(functools.partial):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


@pytest.mark.parametrize(
    "wrap",
    [
        first, set_default, merged, named, replaced, through_another, in_a_closure, overridable, renamed, only_keywords,
        never_called, through_exec, through_locals, through_the_frame,
        Traced, functools.singledispatch, Partial, lambda f: functools.partial(f, nothing=1),
        lambda f: functools.partial(f, 1, 2, 3),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_through_is_refused(wrap):
    with pytest.raises(InvalidToolError, match="cannot be determined"):
        bind(wrap(read))
    with pytest.raises(InvalidToolError):
        define(wrap(read), name="t")


def test_a_signature_that_is_only_said_is_refused():
    def f(f: PathRead): ...

    f.__signature__ = inspect.signature(lambda f: None)
    with pytest.raises(InvalidToolError, match="__signature__"):
        bind(f)


def test_hints_that_were_taken_away_are_refused():
    @no_type_check
    def f(f: PathRead): ...

    with pytest.raises(InvalidToolError, match="no_type_check"):
        bind(f)


def test_a_given_definition_may_not_lack_a_mark():
    closed = {"type": "object", "properties": {"root": {}, "f": {"type": "string"}}}
    with pytest.raises(InvalidToolError, match=r"lacks the mark `path.read` .* `/f`"):
        bind(read, Tool(name="read", parameters=closed))
    assert marks(bind(read, Tool(name="read", parameters=open_schema())).tool.parameters) == (("/f", "path.read"),)


def test_a_default_of_a_marked_parameter_that_cannot_be_judged_is_refused():
    marked = Annotated[Path, msgspec.Meta(extra_json_schema={"x-interlock": "path.read"})]

    def seen(where=Path("no/x")): ...
    def unseen(where=CTX): ...

    for function in (seen, unseen):
        function.__annotations__["where"] = marked
    assert define(seen).parameters["properties"]["where"]["default"] == "no/x"
    with pytest.raises(InvalidToolError, match="default of `where`"):
        define(unseen)


# --- the conversions that were left out


def test_further_named_parameters_are_converted_and_checked():
    def f(a: int, **days: dt.date):
        return {name: day.year for name, day in days.items()} | {"a": a}

    binding = bind(f)
    assert call(binding, {"a": 1, "x": "2026-01-02"}) == {"a": 1, "x": 2026}
    assert Schema.compile(binding.tool.parameters).errors({"a": 1, "x": "never"})[0][0] == "$.x"
    with pytest.raises(ToolError) as caught:
        call(binding, {"a": 1, "x": "never"})
    assert caught.value.path == "$.x"


class Tree(TypedDict):
    name: str
    below: NotRequired[list[Tree]]


@dataclasses.dataclass
class Node:
    name: str
    below: list[Node] = dataclasses.field(default_factory=list)


def test_recursive_types():
    def f(tree: Tree, node: Node):
        return [tree["below"][0]["name"], node.below[0].name]

    binding = bind(f)
    value = {"name": "a", "below": [{"name": "b"}]}
    assert call(binding, {"tree": value, "node": value}) == ["b", "b"]
    wrong = {"name": "a", "below": [{"name": 1}]}
    paths = [path for path, _ in Schema.compile(binding.tool.parameters).errors({"tree": wrong, "node": wrong})]
    assert sorted(paths) == ["$.node.below[0].name", "$.tree.below[0].name"]


# --- through the gate


def settings(*reads):
    return {
        "rules": {"allow": ["*"]},
        "grants": {"agent": {"tools": ["*"], "unscoped": ["*"], "paths": {"read": list(reads)}}},
    }


@pytest.mark.parametrize("wrap", [lambda f: f, retried, functools.partial, functools.cache])
def test_a_grant_holds_for_a_wrapped_function_as_for_the_plain_one(tmp_path, wrap):
    opened = []

    def look(f: PathRead) -> str:
        opened.append(f)
        return "seen"

    with interlock.Runtime.open(settings=settings("ok/**"), workspace=tmp_path) as runtime:
        runtime.register(wrap(look))
        rows = [
            runtime.execute_sync(
                {"actions": [{"type": "tool_call", "tool": "look", "parameters": {"f": path}}]}
            ).results[0]
            for path in ("ok/x", "no/x")
        ]
    assert [(row.status, row.reason) for row in rows] == [("succeeded", None), ("rejected", "path_denied")]
    assert opened == ["ok/x"]
