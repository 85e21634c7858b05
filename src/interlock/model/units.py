"""Durations and sizes as people write them: a number and a unit, `10m`, `1.5s`, `1GiB`. A bare number is refused."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from interlock.model.limits import INTEGER_MAX

MS_PER_UNIT: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
BYTES_PER_UNIT: Final = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip

_NUMBER: Final = r"([0-9]{1,16}(?:\.[0-9]{1,9})?) ?"
DURATION_PATTERN: Final = f"^{_NUMBER}({'|'.join(MS_PER_UNIT)})$"
SIZE_PATTERN: Final = f"^{_NUMBER}({'|'.join(BYTES_PER_UNIT)})$"


def duration_ms(text: str) -> int:
    """Whole milliseconds of `500ms`, `30s`, `10m`, `2h`, `90d`, `1w`. Raises: ValueError with a sentence for people."""
    return _parse(text, DURATION_PATTERN, MS_PER_UNIT, "a duration such as `30s`, `10m` or `2h`", "1ms")


def size_bytes(text: str) -> int:
    """Whole bytes of `512KiB`, `1GiB` (powers of 1024) or `1MB` (powers of 1000). Raises: ValueError, for people."""
    return _parse(text, SIZE_PATTERN, BYTES_PER_UNIT, "a size such as `512KiB` or `1GiB`", "1B")


def as_duration(milliseconds: int) -> str:
    """The shortest text that `duration_ms` parses to this value: `600000` is `10m`."""
    return _text(milliseconds, {unit: MS_PER_UNIT[unit] for unit in ("d", "h", "m", "s", "ms")})


def as_size(count: int) -> str:
    """The shortest text in powers of 1024 that `size_bytes` parses to this value: `1073741824` is `1GiB`."""
    return _text(count, {unit: BYTES_PER_UNIT[unit] for unit in ("TiB", "GiB", "MiB", "KiB", "B")})


def _text(value: int, units: dict[str, int]) -> str:
    unit = next(unit for unit, size in units.items() if value % size == 0 and (value or size == 1))
    return f"{value // units[unit]}{unit}"


def _parse(text: str, pattern: str, units: dict[str, int], example: str, smallest: str) -> int:
    found = re.fullmatch(pattern, text, re.ASCII)
    if found is None:
        raise ValueError(f"expected {example}")
    value = Decimal(found[1]) * units[found[2]]
    if value != value.to_integral_value():
        raise ValueError(f"expected {example}, in whole steps of {smallest}")
    if value > INTEGER_MAX:
        raise ValueError("too large")
    return int(value)
