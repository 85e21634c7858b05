"""Attenuation: a child's grant is the intersection of the request and the parent's grant."""

from __future__ import annotations

from collections.abc import Callable

from interlock.capability.compiled import TAG
from interlock.model.globs import PathGlob, name_covers
from interlock.model.grant import Grant, Paths
from interlock.model.hosts import pattern_covers

Covers = Callable[[str, str], bool]


def attenuate(parent: Grant, child: Grant) -> Grant:
    """Returns the child's grant, never more than the parent's, with `parent` set.

    It denies what either denies. Globs are narrowed if one side covers the other. If an intersection cannot be written as a
    glob (`a*` with `*b`), the child's glob is kept; the result is still exact, because `compile_grants` checks both.

    Raises: ConfigurationError for a bad glob or host pattern.
    """
    return Grant(
        id=child.id,
        agent=child.agent,
        tools=_meet(parent.tools, child.tools, _tool_covers),
        deny_tools=tuple(dict.fromkeys((*parent.deny_tools, *child.deny_tools))),
        state_keys=_meet(parent.state_keys, child.state_keys, name_covers),
        paths=Paths(
            read=_meet(parent.paths.read, child.paths.read, _path_covers),
            write=_meet(parent.paths.write, child.paths.write, _path_covers),
        ),
        hosts=_meet(parent.hosts, child.hosts, pattern_covers),
        unscoped=_meet(parent.unscoped, child.unscoped, name_covers),
        actions_max=_least(parent.actions_max, child.actions_max),
        expires_at_us=_least(parent.expires_at_us, child.expires_at_us),
        uses_max=_least(parent.uses_max, child.uses_max),
        parent=parent.id,
        source="parent",
    )


def _meet(parent: tuple[str, ...], child: tuple[str, ...], covers: Covers) -> tuple[str, ...]:
    out: dict[str, None] = {}
    for glob in child:
        if any(covers(p, glob) for p in parent):
            out[glob] = None
            continue
        narrower = [p for p in parent if covers(glob, p)]
        out.update(dict.fromkeys(narrower))
        if any(_may_overlap(p, glob) for p in parent if p not in narrower):
            out[glob] = None
    return tuple(out)


def _may_overlap(a: str, b: str) -> bool:
    """Returns True if both globs have wildcards, or one matches by tag. Neither of the two may cover the other."""
    wild = [any(c in g for c in "*?") or g.startswith(TAG) for g in (a, b)]
    return all(wild) or a.startswith(TAG) or b.startswith(TAG)


def _tool_covers(outer: str, inner: str) -> bool:
    if outer.startswith(TAG) or inner.startswith(TAG):
        return outer == inner or set(outer) == {"*"}
    return name_covers(outer, inner)


def _path_covers(outer: str, inner: str) -> bool:
    return PathGlob(outer).covers(PathGlob(inner))


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)
