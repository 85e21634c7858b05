"""Compares two verified archives, for gates in CI: what one run accessed and used and the other did not."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from interlock.verification.findings import Documents

CLAIMS: Final = {
    "host": "hosts",
    "program": "programs",
    "file-read": "files_read",
    "file-written": "files_written",
    "tool": "tools",
    "reported-tool": "tools_reported",
    "decision": "decisions",
}
"""Maps the word in a kind of change to the list of the surface."""
_WORDS: Final = {
    "host": "a host that was connected to",
    "program": "a program that was executed",
    "file-read": "a file that was read",
    "file-written": "a file that was written",
    "tool": "a tool that was called through the gate",
    "reported-tool": "a tool that the agent's SDK reported",
    "decision": "a decision about a tool",
}
KINDS: Final[dict[str, str]] = {
    **{f"new-{word}": f"{text.capitalize()} in the second run, and not in the first." for word, text in _WORDS.items()},
    **{
        f"gone-{word}": f"{text.capitalize()} in the first run, and not in the second." for word, text in _WORDS.items()
    },
    **{
        f"unobserved-{word}": f"The second archive does not claim to list every {word}: there may be more."
        for word in _WORDS
    },
    "new-ambiguity": "Something in the second run cannot be attributed, or more of it than in the first run.",
    "new-note": "A note about something not observed, which the first archive does not have.",
    "less-observed": "A layer, the network or the correlation is observed less completely than in the first run.",
}
"""Maps every kind of change to its description."""
_RANKS: Final = {"absent": 0, "failed": 0, "partial": 1, "self_reported": 2, "complete": 2, "clean": 2}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference."""

    kind: str
    value: str
    fails: bool
    """True if the caller asked to fail on this kind."""


def difference(
    first: Documents,
    second: Documents,
    *,
    fail_on: Collection[str] = (),
    ignore: Collection[str] = (),
    allow_unobserved: bool = False,
) -> list[Change]:
    """Returns the changes from the first run to the second, by kind and value.

    `fail_on` are kinds. For each `new-X` among them, `unobserved-X` fails too, unless `allow_unobserved`. Values that
    match a shell pattern in `ignore` are left out.
    """
    needed = {word for word in CLAIMS if f"new-{word}" in fail_on}
    failing = set(fail_on)
    if not allow_unobserved:
        failing |= {f"unobserved-{word}" for word in needed}
    found = [*_surface(first.surface, second.surface, needed), *_observation(first, second)]
    return [
        Change(kind=kind, value=value, fails=kind in failing)
        for kind, value in found
        if not any(fnmatchcase(value, pattern) for pattern in ignore)
    ]


def _surface(first: dict[str, Any], second: dict[str, Any], needed: set[str]) -> Iterator[tuple[str, str]]:
    for word, name in CLAIMS.items():
        before, after = first[name], second[name]
        old, new = set(before["values"]), set(after["values"])
        yield from ((f"new-{word}", value) for value in sorted(new - old))
        yield from ((f"gone-{word}", value) for value in sorted(old - new))
        if not after["complete"] and (before["complete"] or word in needed):
            yield f"unobserved-{word}", name


def _observation(first: Documents, second: Documents) -> Iterator[tuple[str, str]]:
    counts = {one["code"]: one["count"] for one in first.correlation["ambiguities"]}
    for one in second.correlation["ambiguities"]:
        before = counts.get(one["code"], 0)
        if one["count"] > before:
            yield "new-ambiguity", f"{one['code']}: {before} -> {one['count']}"
    for note in second.health["notes"]:
        if note not in first.health["notes"]:
            yield "new-note", note
    states = [_states(documents.health) for documents in (first, second)]
    for name, state in states[1].items():
        before = states[0][name]
        if _RANKS[state] < _RANKS[before]:
            yield "less-observed", f"{name}: {before} -> {state}"


def _states(health: dict[str, Any]) -> dict[str, str]:
    layers = {name: layer["state"] for name, layer in health["layers"].items()}
    return {**layers, "network": health["network_coverage"], "correlation": health["cgroup_correlation"]}
