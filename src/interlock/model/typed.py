"""Decodes values into types, from any thread.

`msgspec` analyses a type when it is first used. Two threads that do so at once for the same type, or for types that
share a struct, can crash the process. So the first use of each type is limited to one thread at a time; later uses are
free. No other module calls `msgspec.convert`, creates a decoder, or decodes into a type; a test enforces that.

The `require` functions check what a program passes, so that the call that makes a mistake reports it, and not a later one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import msgspec

from interlock.model.errors import UsageError

T = TypeVar("T")

_lock = threading.RLock()
"""Reentrant, because a hook that is called during a conversion may convert too."""
_used: set[Any] = set()


@overload
def convert(value: Any, kind: type[T], **how: Any) -> T: ...
@overload
def convert(value: Any, kind: Any, **how: Any) -> Any: ...
def convert(value: Any, kind: Any, **how: Any) -> Any:
    """`msgspec.convert`. Raises: msgspec.ValidationError."""
    if _is_used(kind):
        return msgspec.convert(value, kind, **how)
    return _first(kind, lambda: msgspec.convert(value, kind, **how))


@overload
def decode(data: bytes | str, kind: type[T]) -> T: ...
@overload
def decode(data: bytes | str, kind: Any) -> Any: ...
def decode(data: bytes | str, kind: Any) -> Any:
    """Decode a JSON value as this type. Raises: msgspec.DecodeError, msgspec.ValidationError."""
    if _is_used(kind):
        return msgspec.json.decode(data, type=kind)
    return _first(kind, lambda: msgspec.json.decode(data, type=kind))


def json_decoder(kind: Any, *, strict: bool = True) -> msgspec.json.Decoder[Any]:
    """A decoder that can be kept, and used by many threads."""
    return _first(kind, lambda: msgspec.json.Decoder(kind, strict=strict))


def msgpack_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """As `json_decoder`, for MessagePack."""
    return _first(kind, lambda: msgspec.msgpack.Decoder(kind))


def _is_used(kind: Any) -> bool:
    try:
        return kind in _used
    # an annotation that cannot be hashed is never remembered, so it is always used by one thread at a time
    except TypeError:
        return False


def _first(kind: Any, use: Callable[[], T]) -> T:
    with _lock:
        try:
            return use()
        finally:
            with contextlib.suppress(TypeError):
                _used.add(kind)  # also after an invalid value, because msgspec has prepared the type by then


def require(value: T, kinds: type | tuple[type, ...], name: str, *, hint: str | None = None) -> T:
    """The value, if it is one of `kinds`. Raises: UsageError, which names the parameter and its type, not the value."""
    if not isinstance(value, kinds):
        wanted = " or ".join(f"`{_name(kind)}`" for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise UsageError(f"`{name}` is a `{type(value).__name__}`, but must be {wanted}", path=name, hint=hint)
    return value


def at_least(least: int, value: int, name: str) -> int:
    """The value, if it is an integer of at least `least`. Raises: UsageError."""
    if isinstance(value, bool) or require(value, int, name) < least:
        raise UsageError(f"`{name}` must be at least {least}", path=name)
    return value


def require_function(value: T, name: str, *, hint: str | None = None) -> T:
    """The value, if it can be called or is None. Raises: UsageError."""
    if value is not None and not callable(value):
        raise UsageError(f"`{name}` is a `{type(value).__name__}`, which cannot be called", path=name, hint=hint)
    return value


def require_names(value: Sequence[str], name: str) -> tuple[str, ...]:
    """The texts of a list. A single text is refused: its letters would count as names. Raises: UsageError."""
    found: tuple[Any, ...] = () if isinstance(value, str | bytes) else tuple(value)
    if isinstance(value, str | bytes) or not all(isinstance(one, str) for one in found):
        raise UsageError(f"`{name}` must be a list of texts", path=name, hint=f'such as `{name}=["fs.*"]`')
    return found


def _name(kind: type) -> str:
    return "None" if kind is type(None) else kind.__name__
