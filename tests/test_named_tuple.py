"""`interlock.named_tuple` makes the same classes as `typing.NamedTuple`."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock import named_tuple


class Ours(named_tuple.NamedTuple):
    """One of each kind of field."""

    name: str
    size: int = 3
    parts: tuple[str, ...] = ()

    @property
    def doubled(self) -> int:
        return 2 * self.size

    def named(self) -> str:
        return f"{super().__len__()} {self.name}"


class Theirs(typing.NamedTuple):
    """One of each kind of field."""

    name: str
    size: int = 3
    parts: tuple[str, ...] = ()

    @property
    def doubled(self) -> int:
        return 2 * self.size

    def named(self) -> str:
        return f"3 {self.name}"


def outcome(use):
    try:
        return use()
    except (TypeError, ValueError) as error:
        return type(error)


@given(
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from(["name", "size", "parts", "_cls", "x"]), st.text()),
)
def test_calls_accept_and_refuse_the_same(positional, named):
    ours, theirs = (outcome(lambda kind=kind: kind(*positional, **named)) for kind in (Ours, Theirs))
    assert ours == theirs
    if isinstance(ours, tuple):
        assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
        assert hash(ours) == hash(theirs)
        assert ours._asdict() == theirs._asdict()
        assert outcome(lambda: ours._replace(**named)) == outcome(lambda: theirs._replace(**named))
        assert (ours.name, ours.parts, ours[1]) == (theirs.name, theirs.parts, theirs[1])


def test_what_a_class_says_of_itself():
    for name in (
        "_fields",
        "_field_defaults",
        "__match_args__",
        "__slots__",
        "__doc__",
        "__module__",
    ):
        assert getattr(Ours, name) == getattr(Theirs, name), name
    assert Ours.__mro__[1:] == Theirs.__mro__[1:]
    assert [*inspect.signature(Ours).parameters] == [*inspect.signature(Theirs).parameters]
    assert typing.get_type_hints(Ours) == typing.get_type_hints(Theirs)


def test_values_are_immutable_tuples_that_copy_pickle_and_encode():
    one = Ours("a", parts=("b",))
    assert isinstance(one, tuple)
    assert one == ("a", 3, ("b",)) == Theirs("a", parts=("b",))
    assert (one.doubled, one.named()) == (6, "3 a")
    for same in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), Ours._make(one)):
        assert same == one
        assert type(same) is Ours
    with pytest.raises(AttributeError):
        one.name = "b"
    with pytest.raises(AttributeError):
        one.other = "b"
    assert msgspec.json.encode(one) == msgspec.json.encode(Theirs(*one))
    assert msgspec.convert(["a", 1], Ours) == msgspec.convert(["a", 1], Theirs)
    match one:
        case Ours(name, size=size):
            assert (name, size) == ("a", 3)


@pytest.mark.parametrize("count", range(30))
def test_any_number_of_fields(count):
    body = {"__annotations__": {f"f{number}": "int" for number in range(count)}, "__module__": __name__}
    made = type(named_tuple.NamedTuple)("Made", (named_tuple.NamedTuple,), body)
    assert made(*range(count)) == tuple(range(count))
    assert made(**{f"f{number}": number for number in range(count)}) == tuple(range(count))
    with pytest.raises(TypeError):
        made(*range(count + 1))


def test_a_default_before_a_field_without_one_is_refused():
    with pytest.raises(TypeError):

        class _Wrong(named_tuple.NamedTuple):
            a: int = 1
            b: int
