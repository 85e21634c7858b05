"""The extension types of Cedar that are evaluated here: decimal, datetime and duration.

Sources: the Cedar language reference, "Operators and functions" (parsing functions, methods); RFC 80 of Cedar for
datetime and duration. `ip` is evaluated by the reference engine (see `reference`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from interlock.lazy import lazy_pattern
from interlock.policy.terms import (
    LONG_MAX,
    LONG_MIN,
    Datetime,
    Decimal,
    Duration,
    EvaluationError,
    mistyped,
)

DAY_MS: Final = 86_400_000
_DECIMAL = lazy_pattern(r"(-?)([0-9]+)\.([0-9]{1,4})")
_DATE = lazy_pattern(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{3}))?(?:Z|([+-])([0-9]{2})([0-9]{2})))?"
)
_DURATION = lazy_pattern(r"(-?)(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?(?:([0-9]+)ms)?")
_UNITS: Final = (DAY_MS, 3_600_000, 60_000, 1000, 1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def decimal(text: str) -> Decimal:
    """Parse a decimal such as `-12.5`: the point is required, with one to four digits after it."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise EvaluationError("the text is not a decimal")
    sign, whole, fraction = match.groups()
    if len(whole) > 32:
        # far beyond any Long; `int` refuses to parse thousands of digits
        whole = whole.lstrip("0")[:32] or "0"
    units = int(whole) * 10_000 + int(fraction.ljust(4, "0"))
    return Decimal(_long(-units if sign else units, "decimal"))


def parse_datetime(text: str) -> Datetime:
    """Parse `2024-10-15` or `2024-10-15T11:35:00[.000](Z|+0100)`."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise EvaluationError("the text is not a datetime")
    year, month, day, hour, minute, second, ms, sign, off_h, off_m = match.groups()
    try:
        # Cedar's calendar has a year 0 and Python's does not, so shift by 400 years, a full calendar cycle
        days = (datetime(int(year) + 400, int(month), int(day), tzinfo=UTC) - _EPOCH).days - 146_097
    except ValueError:
        if int(year) < 9600:
            raise EvaluationError("the text is not a datetime") from None
        days = _late_days(int(year), int(month), int(day))
    hours, minutes, seconds = int(hour or 0), int(minute or 0), int(second or 0)
    offset = (int(off_h or 0), int(off_m or 0))
    if hours > 23 or minutes > 59 or seconds > 59 or offset[0] > 23 or offset[1] > 59:
        raise EvaluationError("the text is not a datetime")
    total = days * DAY_MS + hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + int(ms or 0)
    shift = offset[0] * 3_600_000 + offset[1] * 60_000
    return Datetime(total + shift if sign == "-" else total - shift)


def _late_days(year: int, month: int, day: int) -> int:
    """Days since the epoch, for a year that cannot be shifted by 400 years within Python's calendar."""
    try:
        return (datetime(year, month, day, tzinfo=UTC) - _EPOCH).days
    except ValueError:
        raise EvaluationError("the text is not a datetime") from None


def parse_duration(text: str) -> Duration:
    """Parse `1d2h3m4s5ms`: units in this order, each at most once, at least one, an optional `-` before."""
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()[1:]):
        raise EvaluationError("the text is not a duration")
    sign, *numbers = match.groups()
    if any(len(number) > 20 for number in numbers if number):
        raise EvaluationError("the text is not a duration")
    total = sum(int(number) * unit for number, unit in zip(numbers, _UNITS, strict=True) if number)
    return Duration(_long(-total if sign else total, "duration"))


def _long(value: int, what: str) -> int:
    if not LONG_MIN <= value <= LONG_MAX:
        raise EvaluationError(f"overflow in a {what}")
    return value


def _quotient(value: int, by: int) -> int:
    """Division that rounds towards zero, as Cedar's conversions of durations do."""
    return value // by if value >= 0 else -(-value // by)


def _unary(cls: type, name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        if type(value) is not cls:
            raise mistyped(name, value)
        return function(value)

    return apply


def _binary(
    left_cls: type, right_cls: type, names: tuple[str, str], function: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        if type(left) is not left_cls:
            raise mistyped(names[0], left)
        if type(right) is not right_cls:
            raise mistyped(names[1], right)
        return function(left, right)

    return apply


def _decimals(function: Callable[[int, int], bool]) -> Callable[[Any, Any], Any]:
    return _binary(Decimal, Decimal, ("decimal", "decimal"), lambda a, b: function(a.units, b.units))


UNARY: Final[dict[str, Callable[[Any], Any]]] = {
    "decimal": _unary(str, "String", decimal),
    "datetime": _unary(str, "String", parse_datetime),
    "duration": _unary(str, "String", parse_duration),
    "to_date": _unary(Datetime, "datetime", lambda d: Datetime(_long(d.ms - d.ms % DAY_MS, "datetime"))),
    "to_time": _unary(Datetime, "datetime", lambda d: Duration(d.ms % DAY_MS)),
    "to_milliseconds": _unary(Duration, "duration", lambda d: d.ms),
    "to_seconds": _unary(Duration, "duration", lambda d: _quotient(d.ms, 1000)),
    "to_minutes": _unary(Duration, "duration", lambda d: _quotient(d.ms, 60_000)),
    "to_hours": _unary(Duration, "duration", lambda d: _quotient(d.ms, 3_600_000)),
    "to_days": _unary(Duration, "duration", lambda d: _quotient(d.ms, DAY_MS)),
}
"""Functions and methods of one argument, by their name in the syntax tree."""

BINARY: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "decimal_less_than": _decimals(lambda a, b: a < b),
    "decimal_less_eq": _decimals(lambda a, b: a <= b),
    "decimal_greater": _decimals(lambda a, b: a > b),
    "decimal_greater_eq": _decimals(lambda a, b: a >= b),
    "offset": _binary(
        Datetime, Duration, ("datetime", "duration"), lambda a, b: Datetime(_long(a.ms + b.ms, "datetime"))
    ),
    "duration_since": _binary(
        Datetime, Datetime, ("datetime", "datetime"), lambda a, b: Duration(_long(a.ms - b.ms, "duration"))
    ),
}
"""Methods of two arguments, by their name in the syntax tree."""
