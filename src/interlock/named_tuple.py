"""`NamedTuple` as in `typing`, made in a tenth of the time: a command makes some seventy of these classes when it starts.

The standard library compiles a constructor for each class, and a forward reference for each annotation. Here a class gets
a copy of a constructor that is compiled with this module, with the names of its own parameters. To type checkers it is
`typing.NamedTuple`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414 - an export
else:
    from collections import _tuplegetter
    from types import FunctionType

    _new = tuple.__new__

    _CONSTRUCTORS: Final = (
        lambda _cls: _new(_cls, ()),
        lambda _cls, a: _new(_cls, (a,)),
        lambda _cls, a, b: _new(_cls, (a, b)),
        lambda _cls, a, b, c: _new(_cls, (a, b, c)),
        lambda _cls, a, b, c, d: _new(_cls, (a, b, c, d)),
        lambda _cls, a, b, c, d, e: _new(_cls, (a, b, c, d, e)),
        lambda _cls, a, b, c, d, e, f: _new(_cls, (a, b, c, d, e, f)),
        lambda _cls, a, b, c, d, e, f, g: _new(_cls, (a, b, c, d, e, f, g)),
        lambda _cls, a, b, c, d, e, f, g, h: _new(_cls, (a, b, c, d, e, f, g, h)),
        lambda _cls, a, b, c, d, e, f, g, h, i: _new(_cls, (a, b, c, d, e, f, g, h, i)),
        lambda _cls, a, b, c, d, e, f, g, h, i, j: _new(_cls, (a, b, c, d, e, f, g, h, i, j)),
        lambda _cls, a, b, c, d, e, f, g, h, i, j, k: _new(_cls, (a, b, c, d, e, f, g, h, i, j, k)),
        lambda _cls, a, b, c, d, e, f, g, h, i, j, k, l: _new(_cls, (a, b, c, d, e, f, g, h, i, j, k, l)),  # noqa: E741
    )
    """The constructor for each number of fields."""

    class _Made(type):
        def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(mcs, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            if tuple(defaults) != fields[len(fields) - len(defaults) :]:
                raise TypeError(f"`{name}`: a field without a default follows one with a default")
            body |= {field: _tuplegetter(number, "") for number, field in enumerate(fields)}
            own = {
                "__new__": _constructor(fields, tuple(defaults.values())),
                "__slots__": (),
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
            }
            return type(name, (tuple,), _METHODS | body | own)

    def _constructor(fields: tuple[str, ...], defaults: tuple[Any, ...]) -> FunctionType:
        if len(fields) < len(_CONSTRUCTORS):
            code = _CONSTRUCTORS[len(fields)].__code__
        else:
            names = [f"a{number}" for number in range(len(fields))]
            code = eval(f"lambda _cls, {', '.join(names)}: _new(_cls, ({', '.join(names)}))").__code__  # noqa: S307
        code = code.replace(co_varnames=("_cls", *fields), co_name="__new__")
        return FunctionType(code, globals(), "__new__", defaults)

    def _replace(self: Any, /, **changes: Any) -> Any:
        changed = type(self)(*map(changes.pop, self._fields, self))
        if changes:
            raise TypeError(f"unknown fields: {', '.join(changes)}")
        return changed

    _METHODS: Final = {
        "__repr__": lambda self: f"{type(self).__name__}({', '.join(map('{}={!r}'.format, self._fields, self))})",
        "__getnewargs__": lambda self: (*self,),
        "_asdict": lambda self: dict(zip(self._fields, self, strict=True)),
        "_make": classmethod(lambda cls, values: cls(*values)),
        "_replace": _replace,
    }

    class NamedTuple(metaclass=_Made):
        """See `typing.NamedTuple`."""
