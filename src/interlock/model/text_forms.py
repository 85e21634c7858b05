"""The JSON Schema keyword `x-interlock-form`: text that represents a type that JSON lacks.

JSON Schema's own `format` is only an annotation, and validators disagree about it. This keyword is checked with the parser
that later converts the value, so a value that passes also converts. The schemas of Python functions use it; the forms are
below.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid  # noqa: TID251 - the type of a value, not a source of ids
from typing import Annotated, Any, Final

import msgspec

from interlock.model import typed

KEYWORD: Final = "x-interlock-form"

FORMS: Final[dict[str, tuple[Any, str]]] = {
    "date": (dt.date, "a date such as 2026-01-31"),
    "date-time": (dt.datetime, "a date and time such as 2026-01-31T12:00:00Z"),
    "date-time-zoned": (
        Annotated[dt.datetime, msgspec.Meta(tz=True)],
        "a date and time with its offset, such as 2026-01-31T12:00:00Z",
    ),
    "date-time-local": (
        Annotated[dt.datetime, msgspec.Meta(tz=False)],
        "a date and time without an offset, such as 2026-01-31T12:00:00",
    ),
    "time": (dt.time, "a time of day such as 12:00:00"),
    "time-zoned": (Annotated[dt.time, msgspec.Meta(tz=True)], "a time with its offset, such as 12:00:00Z"),
    "time-local": (Annotated[dt.time, msgspec.Meta(tz=False)], "a time without an offset, such as 12:00:00"),
    "duration": (dt.timedelta, "an ISO 8601 duration such as PT1H30M"),
    "uuid": (uuid.UUID, "a UUID"),
    "decimal": (decimal.Decimal, "a decimal number"),
    "base64": (bytes, "base64"),
    "integer": (dict[int, Any], "a whole number"),
    "number": (dict[float, Any], "a number"),
}
"""Maps each form to the type that parses it, and its description. The last two are for property names, which are always text."""

_OF_NAMES: Final = ("integer", "number")


class Form:
    """The keyword, in the form that `jsonschema_rs` calls."""

    def __init__(self, _parent: object, form: object, _path: object) -> None:
        """Raises: ValueError for an unknown form, because ignoring a check would be a security hole."""
        if not isinstance(form, str) or form not in FORMS:
            raise ValueError(f"`{KEYWORD}` names an unknown form")
        self._type, self._what = FORMS[form]
        self._of_names = form in _OF_NAMES

    def validate(self, value: object) -> None:
        """Raises: ValueError, without the value, if text does not have the form."""
        if isinstance(value, str):
            try:
                typed.convert({value: None} if self._of_names else value, self._type, str_keys=True)
            except (msgspec.ValidationError, ValueError, ArithmeticError):
                raise ValueError(f"the value is not {self._what}") from None
