"""Semantic versions and version ranges, for dependencies between capsules. Source: https://semver.org/spec/v2.0.0.html"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_TEXT_CHARS_MAX: Final = 128
_NUMBER: Final = r"(?:0|[1-9][0-9]{0,8})"
_PART: Final = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION: Final = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PART}(?:\.{_PART})*))?(?:\+[0-9A-Za-z.-]+)?", re.ASCII
)
_BOUND: Final = re.compile(r"(>=|<=|>|<|=)?\s*(\S+)")
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip


class Version(NamedTuple):
    """A version in a form that compares as the specification requires. Build metadata is dropped."""

    major: int
    minor: int
    patch: int
    pre: tuple[tuple[int, int, str], ...]
    """Parts of a pre-release, numbers before words. A release compares higher than each of its pre-releases."""


_RELEASE: Final = ((2, 0, ""),)


def parse_version(text: str) -> Version:
    """Parse a version. Raises: ValueError, with a reason that does not repeat the text."""
    found = _VERSION.fullmatch(text) if len(text) <= _TEXT_CHARS_MAX else None
    if found is None:
        raise ValueError("expected a semantic version such as `1.2.0`")
    major, minor, patch, pre = found.groups()
    parts = _RELEASE if pre is None else tuple(map(_part, pre.split(".")))
    return Version(int(major), int(minor), int(patch), parts)


def version_range(text: str) -> Callable[[Version], bool]:
    """A test whether a version is in a range: `*`, or bounds that must all be met, such as `>=1.2.0, <2.0.0`.

    A pre-release is in a range only if the range names a pre-release of the same version. Raises: ValueError.
    """
    if len(text) > _TEXT_CHARS_MAX:
        raise ValueError(f"a range must have at most {_TEXT_CHARS_MAX} characters")
    if text.strip() == "*":
        return lambda version: version.pre == _RELEASE
    bounds: list[tuple[Callable[[Any, Any], bool], Version]] = []
    for part in text.split(","):
        found = _BOUND.fullmatch(part.strip())
        if found is None:
            raise ValueError("expected `*`, or bounds such as `>=1.2.0, <2.0.0`")
        bounds.append((_COMPARE[found[1] or "="], parse_version(found[2])))

    def holds(version: Version) -> bool:
        if version.pre != _RELEASE and not any(
            bound.pre != _RELEASE and bound[:3] == version[:3] for _, bound in bounds
        ):
            return False
        return all(compare(version, bound) for compare, bound in bounds)

    return holds


def _part(text: str) -> tuple[int, int, str]:
    return (0, int(text), "") if text.isdigit() else (1, 0, text)
