"""The smallest lists that still cover what was used: of rules, tools, paths, keys. Pure; nothing here widens a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from interlock.model.globs import PathGlob

GLOBS_MAX: Final = 12
"""Up to this many paths or keys are listed one by one; more are combined."""
_WILD: Final = ("*", "?", "[")


def entries(given: Sequence[str], used: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Returns the used entries of `rules.allow`, or of a grant's `tools`.

    `used` maps an entry to the names of the tools it was used for.

    An unused entry is dropped. An entry for several tools (a glob, or a tag) is replaced by the names of those that
    were used.
    """
    found: dict[str, None] = {}
    for entry in given:
        tools = sorted(set(used.get(entry, ())))
        if tools:
            several = "(" not in entry and (entry.startswith("tag:") or any(mark in entry for mark in _WILD))
            found.update(dict.fromkeys(tools if several else [entry]))
    return tuple(found)


def globs(used: Iterable[str], given: Sequence[str], *, most: int = GLOBS_MAX) -> tuple[str, ...]:
    """Returns globs that cover the used paths (or directories with `/**`), within the `given` globs.

    If there are more than `most`, those of the directory with most of them become `DIRECTORY/**`, as long as some given
    glob covers that; as a last resort the given ones are returned unchanged.
    """
    allowed = [PathGlob(glob) for glob in given]
    found = set(used)
    if not all(any(outer.covers(PathGlob(one)) for outer in allowed) for one in found):
        return tuple(given)
    while len(found) > most:
        counts = Counter(_parent(one) for one in found)
        possible = [
            parent for parent in counts if parent and any(outer.covers(PathGlob(f"{parent}/**")) for outer in allowed)
        ]
        if not possible:
            return tuple(given)
        # Among equals, take the deepest, then the first by name.
        parent = min(possible, key=lambda one: (-counts[one], -one.count("/"), one))
        found = {one for one in found if not one.startswith(f"{parent}/") and one != parent} | {f"{parent}/**"}
    return tuple(sorted(_without_covered(found)))


def _parent(glob: str) -> str:
    """Returns the directory above a path, or above `DIRECTORY/**`; empty at the top."""
    return glob.removesuffix("/**").rpartition("/")[0]


def _without_covered(found: set[str]) -> Iterable[str]:
    wide = [one.removesuffix("**") for one in found if one.endswith("/**")]
    if "**" in found:
        return ["**"]
    return [one for one in found if not any(one.startswith(w) and one != f"{w}**" for w in wide)]
