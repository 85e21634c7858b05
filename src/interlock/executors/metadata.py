"""Reads the metadata of `Annotated`, and refuses what it does not understand, because a dropped constraint would be a hole.

The schema is expressed in `msgspec.Meta`; constraints of `annotated_types` are translated into it. Pydantic types, and
types with pydantic's `Field`, are read by pydantic (`pydantic_types`). Annotations inside classes cannot be rewritten,
so only `msgspec.Meta` is understood there, unless pydantic reads the whole type.

No library is imported for this: an object of a library can exist only if the library is loaded.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import sys
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, NamedTuple, Union

import msgspec

MARK: Final = "x-interlock"
_BOUNDS: Final = {"Ge": "ge", "Gt": "gt", "Le": "le", "Lt": "lt", "MultipleOf": "multiple_of"}
_LENGTHS: Final = {"MinLen": "min_length", "MaxLen": "max_length"}


class Mark:
    """Gives pydantic the mark that a `msgspec.Meta` in the same annotation gives msgspec: the kind of a parameter."""

    def __init__(self, kind: str) -> None:
        """`kind` is a value of `x-interlock`."""
        self.kind = kind

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> Any:
        """Returns the schema with the mark."""
        return {**handler(core), MARK: self.kind}


class NotUnderstoodError(Exception):
    """An annotation that neither the schema nor the conversion would enforce."""


class Found(NamedTuple):
    """An item of a type tree: metadata of an `Annotated`, or a class."""

    item: Any
    beside: tuple[Any, ...]
    """The other metadata of the same `Annotated`."""
    owner: str | None
    """`Class.field` if it is inside a class."""


def translate(kind: Any) -> Any:
    """Translate a type into msgspec's terms. Raises: NotUnderstoodError."""
    for found in walk(kind):
        if found.owner is not None and not isinstance(found.item, type) and not _is_known(found.item):
            raise NotUnderstoodError(
                f"`{type(found.item).__name__}` on `{found.owner}` is not understood inside a class; write `msgspec.Meta`"
            )
    return _translate(kind)


def is_pydantic(kind: Any) -> bool:
    """Returns True if pydantic must read the type, because the type contains a pydantic type."""
    if "pydantic" not in sys.modules:
        return False
    return any(_of_pydantic(found.item) for found in walk(kind))


def check_for_pydantic(kind: Any) -> None:
    """Check a type that pydantic reads. Raises: NotUnderstoodError if it has metadata that pydantic ignores."""
    for found in walk(kind):
        item = found.item
        if (
            item is None
            or isinstance(item, type)
            or _of_pydantic(item)
            or _module(item) == "annotated_types"
            or _is_text(item)
        ):
            continue
        if isinstance(item, Mark) or (isinstance(item, msgspec.Meta) and _same_mark(item, found.beside)):
            continue
        where = f" on `{found.owner}`" if found.owner else ""
        raise NotUnderstoodError(f"`{type(item).__name__}`{where} is ignored by pydantic; write pydantic's `Field`")


def descriptions(kind: Any) -> list[str]:
    """Returns the descriptions (plain strings) in the outermost metadata."""
    found = []
    for item in getattr(kind, "__metadata__", ()):
        text = item if isinstance(item, str) else getattr(item, "documentation", getattr(item, "description", None))
        if isinstance(text, str):
            found.append(text)
    return found


def walk(kind: Any) -> Iterator[Found]:
    """Yields all classes and metadata in a type, including the fields of its classes. Each class is visited once."""
    seen: set[int] = set()
    stack: list[tuple[Any, str | None]] = [(kind, None)]
    while stack:
        current, owner = stack.pop()
        origin = typing.get_origin(current)
        if origin is Literal:
            continue
        if origin is Annotated:
            metadata = tuple(current.__metadata__)
            for at, item in enumerate(metadata):
                yield Found(item, metadata[:at] + metadata[at + 1 :], owner)
            stack.append((current.__origin__, owner))
            continue
        stack.extend((part, owner) for part in typing.get_args(current) if not isinstance(part, str))
        whole = alias if (alias := _alias(current)) is not None else origin if origin is not None else current
        if alias is not None:
            stack.append((alias, owner))
        elif isinstance(whole, type) and id(whole) not in seen:
            seen.add(id(whole))
            yield Found(whole, (), owner)
            stack.extend((each, f"{whole.__name__}.{name}") for name, each in _fields(whole).items())


def _fields(cls: type) -> dict[str, Any]:
    """Returns the types of a class's fields, with their metadata; empty for a class without fields."""
    models = getattr(cls, "__pydantic_fields__", None)
    if isinstance(models, dict):
        return {
            name: Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
            for name, info in models.items()
        }
    is_record = (
        dataclasses.is_dataclass(cls)
        or typing.is_typeddict(cls)
        or issubclass(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    )
    if not is_record:
        return {}
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise NotUnderstoodError(f"an annotation of `{cls.__name__}` cannot be resolved: {error}") from None


def _translate(kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _annotated(_translate(kind.__origin__), kind.__metadata__)
    if (alias := _alias(kind)) is not None:
        return _translate(alias)
    if origin is Literal or origin is None:
        return kind
    arguments = typing.get_args(kind)
    fresh = tuple(part if part is Ellipsis or isinstance(part, str) else _translate(part) for part in arguments)
    if fresh == arguments and all(a is b for a, b in zip(fresh, arguments, strict=True)):
        return kind
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, fresh)
    return kind.copy_with(fresh) if hasattr(kind, "copy_with") else origin[fresh]


def _annotated(base: Any, metadata: tuple[Any, ...]) -> Any:
    kept: list[Any] = []
    bounds: dict[str, Any] = {}
    for item in _flat(metadata):
        name, module = type(item).__name__, _module(item)
        if isinstance(item, msgspec.Meta | Mark | str):
            kept.append(item)
        elif item is None:
            continue  # no constraint; `pydantic.conint` leaves it for each that is not given
        elif _is_text(item):
            continue  # a description; `descriptions` reads it
        elif module == "annotated_types" and (name in _BOUNDS or name in _LENGTHS):
            key = _BOUNDS.get(name) or _LENGTHS[name]
            value = getattr(item, key)
            if bounds.setdefault(key, value) != value:
                raise NotUnderstoodError(f"`{name}` is given twice")
        elif module == "annotated_types" and name == "Timezone" and item.tz in (None, ...):
            bounds["tz"] = item.tz is ...
        else:
            raise NotUnderstoodError(f"`{name}` in `Annotated` is not understood")
    if bounds.get("min_length") == 0:
        del bounds["min_length"]
    if bounds:
        kept.append(msgspec.Meta(**bounds))
    return Annotated[(base, *kept)] if kept else base


def _flat(metadata: tuple[Any, ...]) -> Iterator[Any]:
    """Expand `Interval` and `Len`, which combine several constraints."""
    for item in metadata:
        if _module(item) == "annotated_types" and type(item).__name__ in ("Interval", "Len"):
            yield from item
        else:
            yield item


def _alias(kind: Any) -> Any:
    """Returns the target of a `type X = ...` or a `NewType`; None for other types."""
    if isinstance(kind, typing.NewType):
        return kind.__supertype__
    return getattr(kind, "__value__", None) if type(kind).__name__ == "TypeAliasType" else None


def _is_known(item: Any) -> bool:
    return isinstance(item, msgspec.Meta | Mark) or _is_text(item)


def _is_text(item: Any) -> bool:
    return isinstance(item, str) or isinstance(getattr(item, "documentation", None), str)


def _module(item: Any) -> str:
    return str(type(item).__module__).partition(".")[0]


def _of_pydantic(item: Any) -> bool:
    if isinstance(item, type):
        return hasattr(item, "__get_pydantic_core_schema__") or hasattr(item, "__pydantic_core_schema__")
    return _module(item) == "pydantic" or hasattr(type(item), "__get_pydantic_core_schema__")


def _same_mark(meta: msgspec.Meta, beside: tuple[Any, ...]) -> bool:
    """Returns True if the Meta holds only a mark that a `Mark` in the same annotation repeats."""
    return any(isinstance(item, Mark) and meta == msgspec.Meta(extra_json_schema={MARK: item.kind}) for item in beside)
