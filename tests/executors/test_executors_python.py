"""`@interlock.tool`: schema from hints and docstring, bindings that are quick, outputs that are JSON or a clear failure."""

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import json
import uuid
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar, Union

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.executors import docstring
from interlock.executors.output import to_json
from interlock.executors.python import Host, InvalidToolError, PathRead, PathWrite, Secret, bind, define, tool
from interlock.model.canonical import canonical
from interlock.model.codes import ERROR_CODES
from interlock.model.errors import ToolError
from interlock.model.schema import Schema, marks
from interlock.model.tool import CompensationTemplate, Context, RateLimit


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: int
    y: float = 1.5


class Box(msgspec.Struct, tag="box"):
    corner: Point
    label: str = msgspec.field(name="title", default="")


class Options(TypedDict, total=False):
    colour: str
    depth: int


class Pair(NamedTuple):
    left: int
    right: str


CTX: Any = object()


def call(function, params, ctx=CTX):
    binding = bind(function)
    out = binding.function(params, ctx)
    return asyncio.run(out) if binding.mode == "async" else out


# --- declaring


@tool
def greet(name: str, times: int = 1, *, loud: bool = False) -> str:
    """Greet somebody,
    politely.

    Args:
        name: Whom to greet.
        times: How often.
    """
    return " ".join([name.upper() if loud else name] * times)


def test_a_bare_decorator_takes_everything_from_the_function():
    definition = greet.__interlock_tool__
    assert definition.name == "greet"
    assert definition.description == "Greet somebody, politely."
    assert definition.parameters == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Whom to greet."},
            "times": {"type": "integer", "description": "How often.", "default": 1},
            "loud": {"type": "boolean", "default": False},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    assert (definition.read_only, definition.destructive, definition.open_world) == (False, True, True)
    assert definition.reversibility == "irreversible"
    assert not definition.idempotent


def test_the_function_stays_what_it_was():
    assert greet("Ann", 2, loud=True) == "ANN ANN"
    assert inspect.isfunction(greet)


class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, by: int = 1, *, twice: bool = False) -> int:
        """Add."""
        self.count += by * (2 if twice else 1)
        return self.count

    @classmethod
    def zero(cls) -> int:
        """Count from nothing."""
        return cls(0).count


def test_a_method_of_an_instance_is_declared_for_that_instance_alone():
    one, other = Counter(1), Counter(10)
    first = tool(read_only=True)(one.add)
    second = tool(name="other")(other.add)
    assert (first.__interlock_tool__.name, first.__interlock_tool__.read_only) == ("add", True)
    assert (bind(second).tool.name, bind(second).tool.read_only) == ("other", False)
    assert bind(first).tool.parameters == bind(one.add).tool.parameters
    assert (call(first, {"by": 2}), call(second, {"twice": True}), first(1)) == (3, 12, 4)
    assert not hasattr(Counter.add, "__interlock_tool__")
    assert bind(tool(name="zero")(Counter.zero)).tool.name == "zero"


def test_every_option_reaches_the_definition():
    @tool(
        name="ops/restart",
        description="Restart.",
        open_world=False,
        compensation={"tool": "ops/stop", "parameters": {"id": "$output.id"}},
        idempotent=True,
        effects={"service.up": True},
        probe="ops/status",
        cache_ttl="5m",
        rate_limit={"calls": 30, "per": "1m"},
        timeout="1.5s",
        inline=True,
        tags=["ops"],
        returns=Point,
    )
    def restart(service: str): ...

    definition = restart.__interlock_tool__
    assert definition.name == "ops/restart"
    assert definition.compensation == CompensationTemplate(tool="ops/stop", parameters={"id": "$output.id"})
    assert definition.reversibility == "compensable"
    assert definition.rate_limit == RateLimit(calls=30, per_ms=60_000)
    assert (definition.timeout_ms, definition.cache_ttl_ms) == (1_500, 300_000)
    assert definition.effects == {"service.up": True}
    assert (definition.probe, definition.tags, definition.idempotent) == ("ops/status", ("ops",), True)
    assert Schema.compile(definition.returns).is_valid({"x": 1, "y": 2})
    assert bind(restart).mode == "inline"


def test_a_read_only_tool_is_neither_destructive_nor_irreversible():
    definition = define(lambda: None, name="look", read_only=True)
    assert not definition.destructive
    assert definition.reversibility == "reversible"


def test_a_changed_signature_is_another_version():
    def one(a: int): ...

    def two(a: str): ...

    assert define(one, name="x").version != define(two, name="x").version
    assert define(one, name="x").version == define(one, name="x").version


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"timeout": 30}, "unit"),
        ({"timeout": "30"}, "duration"),
        ({"cache_ttl": "soon"}, "duration"),
        ({"rate_limit": {"calls": 3}}, "per_ms"),
        ({"rate_limit": {"calls": "x", "per": "1m"}}, "int"),
        ({"rate_limit": {"calls": 3, "per": 60}}, "unit"),
        ({"read_only": True, "destructive": True}, "destructive"),
        ({"reversibility": "maybe"}, "reversib"),
        ({"compensation": {"tol": "x"}}, "tol"),
        ({"parameters": {}}, "parameters"),
        ({"colour": 1}, "colour"),
        ({"readonly": True}, "readonly"),
        ({"name": "two words"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"returns": complex}, "returns"),
    ],
)
def test_an_option_that_cannot_be_is_an_error_at_once(options, word):
    with pytest.raises(InvalidToolError, match=word) as caught:
        tool(**options)(lambda: None) if "name" in options else tool(**options)(greet_copy())
    assert caught.value.code == "invalid_tool"
    assert "invalid_tool" in ERROR_CODES


def test_an_unknown_option_suggests_the_nearest_one():
    with pytest.raises(InvalidToolError) as caught:
        tool(readonly=True)(greet_copy())
    assert "`read_only`" in caught.value.hint
    with pytest.raises(InvalidToolError, match="one of reversible, compensable, irreversible"):
        tool(reversibility="maybe")(greet_copy())


def greet_copy():
    def fresh(): ...

    return fresh


def takes(annotation, default=inspect.Parameter.empty):
    def function(value): ...

    function.__annotations__["value"] = annotation
    if default is not inspect.Parameter.empty:
        function.__defaults__ = (default,)
    return function


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (str, ["a"], [1, None]),
        (int, [1, -1], [1.5, "1", True, None]),
        (float, [1, 1.5], ["1"]),
        (bool, [True], [1, "true"]),
        (None, [None], [0]),
        (Any, [1, None, {"a": []}], []),
        (list, [[1, "a"]], [{}]),
        (list[int], [[1]], [["a"]]),
        (dict, [{"a": 1}], [[]]),
        (dict[str, int], [{"a": 1}], [{"a": "b"}]),
        (tuple[int, str], [[1, "a"]], [[1], [1, "a", 2]]),
        (tuple[int, ...], [[1, 2], []], [["a"]]),
        (set[str], [["a"], ["a", "a"]], [[1], "a"]),
        (Literal["a", 2], ["a", 2], ["b", 3]),
        (Colour, ["red"], ["green", "RED"]),
        (Optional[int], [1, None], ["a"]),  # noqa: UP045 - both spellings are in use
        (int | str, [1, "a"], [[]]),
        (Union[Point, None], [{"x": 1}, None], [{}]),  # noqa: UP007 - both spellings are in use
        (Point, [{"x": 1}, {"x": 1, "y": 2}], [{}, {"x": "a"}, {"x": 1, "z": 1}]),
        (
            Box,
            [{"type": "box", "corner": {"x": 1}, "title": "t"}],
            [{"corner": {}}, {"type": "bag", "corner": {"x": 1}}],
        ),
        (Options, [{}, {"depth": 1}], [{"depth": "1"}, {"dept": 1}]),
        (Annotated[int, msgspec.Meta(ge=1, le=3)], [1, 3], [0, 4]),
        (Annotated[str, msgspec.Meta(pattern="^a")], ["ab"], ["b"]),
        (Path, ["a/b"], [1]),
        (dt.date, ["2026-01-02"], [1]),
        (list[Point], [[{"x": 1}]], [[{"x": None}]]),
    ],
)
def test_types_become_schemas(annotation, good, bad):
    schema = Schema.compile(define(takes(annotation), name="t").parameters)
    assert schema.is_valid({"value": good[0] if good else None}) or not good
    for value in good:
        assert schema.is_valid({"value": value}), value
    for value in bad:
        assert not schema.is_valid({"value": value}), value
    assert not schema.is_valid({})


def test_annotations_may_be_text():
    def function(count: "int", point: "Point", ctx: "Context"):
        return [count, point.x, ctx is CTX]

    assert Schema.compile(define(function).parameters).is_valid({"count": 1, "point": {"x": 1}})
    assert call(function, {"count": 1, "point": {"x": 2}}) == [1, 2, True]


T = TypeVar("T")


class Custom(Generic[T]):
    pass


@pytest.mark.parametrize(
    "annotation", [complex, object, Custom, Custom[int], "Undefined", Point | Box, list[complex], type]
)
def test_an_unsupported_annotation_is_an_error_that_names_the_parameter(annotation):
    with pytest.raises(InvalidToolError) as caught:
        define(takes(annotation), name="t")
    assert caught.value.path.endswith(": value") or "Undefined" in caught.value.message
    assert f"{__file__}:" in caught.value.path
    assert caught.value.hint


def test_things_that_cannot_be_tools():
    def stars(*args): ...
    def context_twice(a: Context, b: Context): ...
    def bare_ctx(ctx): ...
    def context_rest(**kw: Context): ...
    def generator():
        yield 1

    async def async_generator():
        yield 1

    for function in (stars, context_twice, bare_ctx, context_rest, generator, async_generator, Point, 5, "x"):
        with pytest.raises(InvalidToolError):
            define(function, name="t")
    with pytest.raises(InvalidToolError, match="`<lambda>` cannot be a tool's name") as caught:
        tool(lambda: None)
    assert caught.value.path.endswith("<lambda>: name")
    assert f"{__file__}:" in caught.value.path
    with pytest.raises(InvalidToolError):
        tool(len)

    @tool(inline=True)
    async def both(): ...

    with pytest.raises(InvalidToolError, match="inline"):
        bind(both)


def test_marks_and_descriptions_by_annotation():
    def copy(
        source: PathRead,
        targets: list[PathWrite],
        host: Host | None = None,
        token: Annotated[Secret, "What opens the door."] = "",
        raw: Annotated[str, msgspec.Meta(extra_json_schema={"x-interlock": "path.read"})] = "",
    ): ...

    definition = define(copy)
    assert marks(definition.parameters) == (
        ("/host", "host"),
        ("/raw", "path.read"),
        ("/source", "path.read"),
        ("/targets/*", "path.write"),
        ("/token", "secret"),
    )
    assert definition.parameters["properties"]["token"]["description"] == "What opens the door."


def test_a_wrong_mark_is_an_error_at_declaration():
    def bad(a: Annotated[str, msgspec.Meta(extra_json_schema={"x-interlock": "file"})]): ...

    with pytest.raises(Exception, match="x-interlock"):
        define(bad)


def test_keyword_rest_opens_the_schema_but_never_for_the_context():
    def rest(a: int, ctx: Context, **more: str):
        return {"a": a, "more": more, "ctx": ctx is CTX}

    schema = Schema.compile(define(rest).parameters)
    assert schema.is_valid({"a": 1, "b": "x"})
    assert not schema.is_valid({"a": 1, "b": 1})
    assert not schema.is_valid({"a": 1, "ctx": "forged"})
    assert call(rest, {"a": 1, "b": "x"}) == {"a": 1, "more": {"b": "x"}, "ctx": True}
    assert call(rest, {"a": 1, "ctx": "forged"})["ctx"] is True


# --- binding and calling


def test_modes():
    @tool
    async def waits(): ...

    class Waits:
        async def __call__(self, a: int):
            return a

    assert bind(waits).mode == "async"
    assert bind(greet).mode == "thread"
    callable_object = Waits()
    binding = bind(callable_object, define(callable_object, name="w"))
    assert binding.mode == "async"
    assert asyncio.run(binding.function({"a": 2}, CTX)) == 2


def test_the_context_is_injected_wherever_it_stands():
    def keyword(a: int, *, c: Context):
        return [a, c is CTX]

    def first(c: Context, a: int = 5):
        return [a, c is CTX]

    def positional(a: int, c: Context, b: int = 7, /, *, d: int = 0):
        return [a, b, d, c is CTX]

    async def awaited(a: int, c: Context):
        return [a, c is CTX]

    assert call(keyword, {"a": 1}) == [1, True]
    assert call(first, {}) == [5, True]
    assert call(positional, {"a": 1, "d": 3}) == [1, 7, 3, True]
    assert call(awaited, {"a": 1}) == [1, True]
    assert "c" not in define(keyword).parameters["properties"]


def test_parameters_are_converted_to_what_the_hints_say():
    def all_of_them(
        colour: Colour, point: Point, box: Box, pair: tuple[int, str], names: set[str], where: Path, day: dt.date,
        raw: bytes, points: list[Point], table: dict[int, str], count: int, options: Options, maybe: Point | None = None,
    ):  # fmt: skip
        assert colour is Colour.RED
        assert point == Point(1, 2.5)
        assert box == Box(corner=Point(1), label="t")
        assert pair == (1, "a")
        assert names == {"a"}
        assert where == Path("x/y")
        assert day == dt.date(2026, 1, 2)
        assert raw == b"hi"
        assert points == [Point(1)]
        assert table == {1: "a"}
        assert (count, type(count)) == (3, int)
        assert options == {"depth": 1}
        assert maybe == Point(1)
        return "fine"

    params = {
        "colour": "red", "point": {"x": 1.0, "y": 2.5}, "box": {"type": "box", "corner": {"x": 1}, "title": "t"},
        "pair": [1, "a"], "names": ["a"], "where": "x/y", "day": "2026-01-02", "raw": "aGk=", "points": [{"x": 1}],
        "table": {"1": "a"}, "count": 3.0, "options": {"depth": 1}, "maybe": {"x": 1},
    }  # fmt: skip
    before = json.dumps(params)
    assert Schema.compile(define(all_of_them).parameters).errors(params) == []
    assert call(all_of_them, params) == "fine"
    assert json.dumps(params) == before


def test_a_parameter_that_cannot_be_converted_fails_without_showing_the_value():
    def on(day: dt.date, points: list[Point] = []): ...  # noqa: B006

    with pytest.raises(ToolError) as caught:
        call(on, {"day": "s3cr3t"})
    assert (caught.value.code, caught.value.path, caught.value.retryable) == ("invalid_parameters", "$.day", False)
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(ToolError) as caught:
        call(on, {"day": "2026-01-01", "points": [{"x": 1}, {"x": "s3cr3t"}]})
    assert caught.value.path == "$.points[1].x"


def test_methods_closures_partials_and_wrapped_functions():
    class Shop:
        def __init__(self, stock):
            self.stock = stock

        @tool
        def take(self, count: int) -> int:
            """Take some."""
            self.stock -= count
            return self.stock

        @tool
        @staticmethod
        def fixed(a: int):
            return a

        @classmethod
        @tool
        def kind(cls, a: int):
            return [cls.__name__, a]

    shop = Shop(10)
    assert shop.take.__interlock_tool__.parameters["required"] == ["count"]
    assert call(shop.take, {"count": 3}) == 7
    assert call(Shop.fixed, {"a": 1}) == 1
    assert call(Shop.kind, {"a": 1}) == ["Shop", 1]
    with pytest.raises(InvalidToolError, match="instance"):
        bind(Shop.take)

    def outer(n: int):
        @tool
        def inner(a: int):
            return a + n

        return inner

    assert call(outer(5), {"a": 1}) == 6

    @functools.wraps(greet)
    def wrapped(*args, **kwargs):
        return greet(*args, **kwargs) + "!"

    assert call(wrapped, {"name": "Ann"}) == "Ann!"
    part = functools.partial(greet, times=2)
    assert bind(part, define(part, name="twice")).function({"name": "a"}, CTX) == "a a"


def test_a_returned_tool_error_is_a_failure():
    error = ToolError("no", output={"exit_code": 1})

    async def later():
        return error

    for function in (lambda: error, later):
        with pytest.raises(ToolError) as caught:
            call_named(function)
        assert caught.value is error


def call_named(function, params=None):
    binding = bind(function, define(function, name="t"))
    out = binding.function(params or {}, CTX)
    return asyncio.run(out) if binding.mode == "async" else out


def test_a_plain_function_that_returns_a_coroutine_fails_and_leaves_no_warning():
    async def work(): ...

    with pytest.raises(ToolError, match="coroutine"):
        call_named(lambda: work())  # noqa: PLW0108 - a plain function is what the test needs


def test_what_a_tool_raises_passes_through():
    def boom():
        raise KeyError("x")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyError):
        call_named(boom)
    with pytest.raises(KeyboardInterrupt):
        call_named(stop)


# --- outputs


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (Colour.RED, "red"),
        (Level.LOW, 1),
        (Name("x"), "x"),
        (b"hi", {"b64": "aGk="}),
        (bytearray(b"hi"), {"b64": "aGk="}),
        (Path("a/b"), "a/b"),
        (Path("a\udcff"), {"b64": "Yf8="}),
        ((1, (2,)), [1, [2]]),
        (Pair(1, "a"), [1, "a"]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset(["b", "a"]), ["a", "b"]),
        (Point(1), {"x": 1, "y": 1.5}),
        (Box(corner=Point(1), label="t"), {"type": "box", "title": "t", "corner": {"x": 1, "y": 1.5}}),
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05Z"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({Colour.RED: [b"", {"k": Point(2)}]}, {"red": [{"b64": ""}, {"k": {"x": 2, "y": 1.5}}]}),
    ],
)
def test_outputs_become_json(value, expected):
    out = to_json(value)
    assert out == expected
    assert type(out) is type(expected)
    canonical(out)


def circle():
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "$"),
        ({"a": [1, object()]}, "$.a[1]"),
        (float("nan"), "$"),
        ([float("inf")], "$[0]"),
        (2**53, "$"),
        ("\ud800", "$"),
        ({"\ud800": 1}, "$"),
        ({1: 2}, "$"),
        (circle(), "$" + "[0]" * 64),
        (Point, "$"),
        (iter([]), "$"),
        (1j, "$"),
        ({"a b": {1j}}, '$["a b"][*]'),
    ],
)
def test_what_has_no_json_form_is_refused_with_its_place(value, path):
    with pytest.raises(ToolError) as caught:
        to_json(value)
    assert (caught.value.code, caught.value.path, caught.value.retryable) == ("invalid_output", path, False)


numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
python_values = st.recursive(
    json_values | st.binary() | st.floats() | st.integers() | st.complex_numbers() | st.dates(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(json_values)
def test_a_json_value_is_returned_as_it_is(value):
    assert to_json(value) is value


@given(python_values)
def test_any_python_value_becomes_json_or_a_tool_error(value):
    try:
        out = to_json(value)
    except ToolError as error:
        assert error.code == "invalid_output"  # noqa: PT017 - either way is right
    else:
        canonical(out)


# --- docstrings

GOOGLE = """Do it.

Args:
    a (int): First
        line two.
    b: Second: with colon.
    *rest: More.

    c (dict[str, int], optional): Third.

Returns:
    d: not a parameter
"""
NUMPY = """Do it.

Parameters
----------
a : int
    First
    line two.
b, c : str, optional
    Both.

Returns
-------
d : int
    Not a parameter.
"""
SPHINX = """Do it.

:param a: First
    line two.
:param int b: Second.
:type b: int
:returns: nothing
"""


def test_docstring_styles():
    assert docstring.parameters(GOOGLE) == {
        "a": "First line two.",
        "b": "Second: with colon.",
        "rest": "More.",
        "c": "Third.",
    }
    assert docstring.parameters(NUMPY) == {"a": "First line two.", "b": "Both.", "c": "Both."}
    assert docstring.parameters(SPHINX) == {"a": "First line two.", "b": "Second."}
    for text in (GOOGLE, NUMPY, SPHINX):
        assert docstring.summary(text) == "Do it."
    assert docstring.parameters(None) == {}
    assert docstring.summary(None) == ""
    assert docstring.summary(":param a: x") == ""


@given(st.text(alphabet=st.sampled_from("aArgsParmetes: \n-():*,param") | st.characters(), max_size=300))
def test_any_docstring_is_read_without_an_error(text):
    for name, description in docstring.parameters(text).items():
        assert name
        assert description
    assert "\n" not in docstring.summary(text)
