"""Everything that a type demands is in the tool's schema, so it is checked in step 3; what is not understood is refused."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import re
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict, TypeVar

import annotated_types as at
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock import PathRead, Secret, ToolError
from interlock.executors.output import to_json
from interlock.executors.python import InvalidToolError, bind, define, tool
from interlock.model.schema import Schema, SchemaError, marks

CTX: Any = object()


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass(frozen=True)
class Booking:
    day: dt.date
    guests: Annotated[int, msgspec.Meta(ge=1)] = 1


class Row(NamedTuple):
    id: uuid.UUID
    price: decimal.Decimal = decimal.Decimal(0)


class Settings(TypedDict, total=False):
    at: dt.time
    retries: Annotated[int, msgspec.Meta(le=9)]


class Event(msgspec.Struct):
    start: dt.datetime
    length: dt.timedelta | None = None


def takes(annotation, default=None):
    def function(value): ...

    function.__annotations__["value"] = annotation
    if default is not None:
        function.__defaults__ = (default,)
    return function


def echo(annotation):
    function = takes(annotation)
    seen = []
    returns = bind(_echo(annotation, seen))
    return Schema.compile(define(function).parameters), returns, seen


def _echo(annotation, seen):
    def function(value):
        seen.append(value)

    function.__annotations__["value"] = annotation
    return function


class Counted(pydantic.BaseModel):
    n: pydantic.conint(ge=0)


TYPES = [
    (dt.date, "2026-02-28", ["2026-02-30", "soon", ""]),
    (dt.datetime, "2026-01-02T03:04:05", ["2026-01-02", "x"]),
    (Annotated[dt.datetime, msgspec.Meta(tz=True)], "2026-01-02T03:04:05Z", ["2026-01-02T03:04:05"]),
    (Annotated[dt.datetime, at.Timezone(None)], "2026-01-02T03:04:05", ["2026-01-02T03:04:05Z"]),
    (dt.time, "03:04:05", ["25:00:00", "noon"]),
    (dt.timedelta, "PT1H", ["1 hour", "P"]),
    (uuid.UUID, "00000000-0000-0000-0000-000000000001", ["1", "zz"]),
    (decimal.Decimal, "1.50", ["1,5", "x", ""]),
    (bytes, "aGk=", ["aGk", "%%"]),
    (dict[int, str], {"1": "a"}, [{"a": "b"}, {"1.5": "b"}, {"1": 2}]),
    (dict[dt.date, int], {"2026-01-02": 1}, [{"today": 1}]),
    (dict[uuid.UUID, int], {"00000000-0000-0000-0000-000000000001": 1}, [{"1": 1}]),
    (dict[float, int], {"1.5": 1}, [{"x": 1}]),
    (dict[Colour, int], {"red": 1}, [{"blue": 1}]),
    (dict[Literal["a", "b"], int], {"a": 1}, [{"c": 1}]),
    (dict[Annotated[str, msgspec.Meta(max_length=2)], int], {"ab": 1}, [{"abc": 1}]),
    (Number, 1, [2, "1"]),
    (Booking, {"day": "2026-01-02"}, [{"day": "x"}, {"day": "2026-01-02", "guests": 0}]),
    (Row, ["00000000-0000-0000-0000-000000000001", "1.5"], [["x"], ["00000000-0000-0000-0000-000000000001", "y"]]),
    (Settings, {"at": "03:04:05"}, [{"at": "x"}, {"retries": 10}, {"more": 1}]),
    (Event, {"start": "2026-01-02T03:04:05Z", "length": "PT1S"}, [{"start": 1}, {"start": "x"}]),
    (list[dt.date], ["2026-01-02"], [["x"]]),
    (dt.date | None, None, ["x"]),
    (set[dt.date], ["2026-01-02", "2026-01-02"], [["x"]]),
    (frozenset[Booking], [{"day": "2026-01-02"}], [[{"day": "x"}]]),
    (tuple[dt.date, int], ["2026-01-02", 1], [["x", 1]]),
    (Annotated[int, at.Ge(0)], 0, [-3]),
    (Annotated[int, at.Interval(gt=0, le=5)], 5, [0, 6]),
    (Annotated[str, at.Len(1, 3)], "ab", ["", "abcd"]),
    (Annotated[list[int], at.MinLen(1)], [1], [[]]),
    (list[Annotated[int, at.MultipleOf(3)]], [3], [[4]]),
    (dict[str, Annotated[float, at.Lt(1)]], {"a": 0.5}, [{"a": 1.0}]),
    (Annotated[int, at.Ge(0)] | None, 1, [-1]),
    (Annotated[int, pydantic.Field(ge=0)], 0, [-3]),
    (
        Annotated[list[Annotated[str, pydantic.Field(pattern="^a")]], pydantic.Field(max_length=1)],
        ["a"],
        [["b"], ["a", "a"]],
    ),
    (NewType("Id", int), 1, ["x"]),
    (pydantic.conint(ge=0), 0, [-3]),  # `None` in its metadata stands for each constraint that is not given
    (Counted, {"n": 0}, [{"n": -3}]),
]


@pytest.mark.parametrize(("annotation", "good", "bad"), TYPES, ids=[str(t[0]) for t in TYPES])
def test_what_a_type_demands_is_in_the_schema(annotation, good, bad):
    schema, binding, seen = echo(annotation)
    assert schema.errors({"value": good}) == []
    binding.function({"value": good}, CTX)
    assert len(seen) == 1
    for value in bad:
        found = schema.errors({"value": value})
        assert found, value
        assert all(path.startswith("$.value") for path, _ in found)


TEXTS = st.one_of(
    st.text(max_size=12),
    st.dates().map(str),
    st.datetimes().map(lambda d: d.isoformat()),
    st.datetimes(timezones=st.just(dt.UTC)).map(lambda d: d.isoformat()),
    st.times().map(str),
    st.uuids().map(str),
    st.decimals().map(str),
    st.integers().map(str),
    st.binary(max_size=6).map(msgspec.to_builtins),
    st.from_regex(r"-?P([0-9]{1,3}D)?(T[0-9]{1,2}H)?", fullmatch=True),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(("annotation", "good", "bad"), TYPES[:26], ids=[str(t[0]) for t in TYPES[:26]])
@given(data=st.data())
def test_what_passes_the_schema_converts(annotation, good, bad, data):
    schema, binding, seen = echo(annotation)
    value = data.draw(
        JSON | st.lists(TEXTS, max_size=2) | st.dictionaries(TEXTS, st.integers(0, 3) | TEXTS, max_size=2)
    )
    if schema.is_valid({"value": value}):
        binding.function({"value": value}, CTX)
        assert seen


def test_the_message_names_the_parameter_and_not_the_value():
    def f(day: dt.date, names: dict[int, str]): ...

    found = Schema.compile(define(f).parameters).errors({"day": "s3cr3t", "names": {"s3cr3t": "x"}})
    assert {path for path, _ in found} == {"$.day", "$.names"}
    assert "s3cr3t" not in str(found)
    assert "a date such as 2026-01-31" in str(found)


def test_an_unknown_form_is_not_a_schema():
    with pytest.raises(SchemaError, match="unknown form"):
        Schema.compile({"properties": {"a": {"x-interlock-form": "colour"}}})


# --- refused, naming the parameter


class Unknown:
    pass


@dataclasses.dataclass
class Hidden:
    x: Annotated[int, at.Ge(0)]


class Nested(TypedDict):
    inner: list[Hidden]


class Limited(pydantic.BaseModel):
    n: Annotated[int, msgspec.Meta(ge=0)]


def even(n: int) -> bool:
    return n % 2 == 0


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (Annotated[int, Unknown()], "`Unknown` in `Annotated`"),
        (Annotated[int, at.Predicate(even)], "`Predicate`"),
        (list[Annotated[int, at.Predicate(even)]], "`Predicate`"),
        (Annotated[int, at.Ge(0), at.Ge(5)], "given twice"),
        (Annotated[str, at.Ge(0)], "numeric"),
        (Hidden, "`Ge` on `Hidden.x`"),
        (Nested, "`Ge` on `Hidden.x`"),
        (Limited, "`Meta` on `Limited.n` is ignored by pydantic"),
        (Annotated[int, pydantic.Field(min_length=3)], "`minLength` does not apply to values of the type integer"),
        (
            list[Annotated[str, pydantic.Field(multiple_of=3)]],
            "`multiple_of` does not apply to values of the type string",
        ),
        (Annotated[pydantic.BaseModel | int, msgspec.Meta(ge=0)], "`Meta` is ignored by pydantic"),
        (set[list[int]], "set"),
        (set[Any], "set"),
        (dict[bytes, int], None),
        (dict[tuple[int, int], int], "keys"),
        (dict[Annotated[int, msgspec.Meta(ge=0)], int], "keys"),
        (dict[PathRead, int], "mark"),
        (Annotated[bytes, msgspec.Meta(max_length=3)], "base64"),
        (Annotated[dt.datetime, at.Timezone("Europe/Zurich")], "`Timezone`"),
        (complex, None),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),
)
def test_what_is_not_understood_is_refused_naming_the_parameter(annotation, why):
    if annotation == dict[bytes, int]:  # base64 names: fine
        assert Schema.compile(define(takes(annotation)).parameters).errors({"value": {"%": 1}})
        return
    with pytest.raises(InvalidToolError) as caught:
        define(takes(annotation))
    assert caught.value.path.endswith(": value")
    assert "`value`" in caught.value.message
    assert why is None or why in caught.value.message


@pytest.mark.parametrize("default", [pydantic.Field(ge=0, default=1), dataclasses.field(default=1)])
def test_a_default_that_a_function_does_not_read_is_refused(default):
    with pytest.raises(InvalidToolError, match="default of `value`"):
        define(takes(int, default))


T = TypeVar("T", bound=Booking)


def test_a_bounded_type_variable_is_converted_to_its_bound():
    schema, binding, seen = echo(T)
    assert not schema.is_valid({"value": {"day": "x"}})
    binding.function({"value": {"day": "2026-01-02"}}, CTX)
    assert seen == [Booking(dt.date(2026, 1, 2))]


# --- pydantic


class Address(pydantic.BaseModel):
    street: str = pydantic.Field(min_length=1)
    since: dt.date | None = None


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    name: str = pydantic.Field(alias="fullName", description="First and last.")
    age: Annotated[int, pydantic.Field(ge=0)]
    home: Address
    photo: PathRead | None = None
    tags: set[str] = set()
    password: pydantic.SecretStr | None = None

    @pydantic.field_validator("age")
    @classmethod
    def not_forty(cls, age: int) -> int:
        if age == 40:
            raise ValueError(f"{age} is a secret")
        return age


PERSON = {"fullName": "Ann", "age": 3.0, "home": {"street": "x", "since": "2026-01-02"}, "tags": ["a", "a"]}


@tool(returns=Person)
def birthday(person: Person, others: list[Address] = []) -> Person:  # noqa: B006
    """Make older."""
    assert person.home.since == dt.date(2026, 1, 2)
    assert isinstance(person, Person)
    return person.model_copy(update={"age": person.age + 1})


def test_a_pydantic_model_as_parameter_and_as_result():
    binding = bind(birthday)
    schema = Schema.compile(binding.tool.parameters)
    assert schema.errors({"person": PERSON}) == []
    assert set(marks(binding.tool.parameters)) == {("/person/photo", "path.read"), ("/person/password", "secret")}
    output = binding.function({"person": PERSON}, CTX)
    assert output["age"] == 4
    assert (output["fullName"], output["home"]) == ("Ann", {"street": "x", "since": "2026-01-02"})
    assert Schema.compile(binding.tool.returns).errors(output) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"age": -1}, "$.person.age"),
        ({"age": "3"}, "$.person.age"),
        ({"home": {"street": ""}}, "$.person.home.street"),
        ({"home": {"street": "x", "since": "never"}}, "$.person.home.since"),
        ({"more": 1}, "$.person"),
    ],
)
def test_what_a_pydantic_model_demands_is_in_the_schema(change, path):
    schema = Schema.compile(bind(birthday).tool.parameters)
    assert path in [found for found, _ in schema.errors({"person": PERSON | change})]


def test_what_only_a_validator_can_check_fails_with_the_call_and_names_the_field():
    with pytest.raises(ToolError) as caught:
        bind(birthday).function({"person": PERSON | {"age": 40}}, CTX)
    assert (caught.value.code, caught.value.path) == ("invalid_parameters", "$.person.age")
    assert "40" not in caught.value.message


def test_pydantic_results_of_all_kinds():
    class Numbers(pydantic.RootModel[list[int]]):
        pass

    @pydantic.dataclasses.dataclass
    class Pair:
        left: int
        right: Path

    assert to_json([Address(street="x"), Numbers([1, 2])]) == [{"street": "x", "since": None}, [1, 2]]
    assert to_json(Pair(1, Path("a"))) == {"left": 1, "right": "a"}


def test_secret_marks_and_descriptions_stand_beside_constraints():
    def f(
        token: Annotated[Secret, at.MinLen(3), "What opens the door."],
        n: Annotated[int, pydantic.Field(description="How many.")],
    ): ...

    found = define(f).parameters["properties"]
    assert found["token"]["minLength"] == 3
    assert found["token"]["x-interlock"] == "secret"
    assert (found["token"]["description"], found["n"]["description"]) == ("What opens the door.", "How many.")
