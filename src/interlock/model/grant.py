"""Grants: what an agent may reach at all (steps 2 and 3)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

GROUP: Final = "group:"
"""A grant for the agent `group:NAME` applies to the members of that group. No agent's own name has this prefix."""

OPERATOR: Final = "operator"
"""The principal of a person at the command line. No agent has this name, and no proposal may use it."""


TOKEN: Final = "token"  # noqa: S105 - the name of a source
"""The `source` of a grant that is a block of a grant token. It applies only where that token is presented."""

Bound = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class Paths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Workspace-relative globs (`**` crosses directories). An empty tuple allows nothing."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent (or a group of agents, `group:NAME`) may reach.

    Everything that is not listed is denied; attenuation can only narrow a grant.
    """

    id: str
    agent: str
    tools: tuple[str, ...] = ()
    """Globs over tool names; `tag:NAME` matches by tag."""
    deny_tools: tuple[str, ...] = ()
    """Exceptions from `tools`, in the same form; a child also denies what its parents deny."""
    state_keys: tuple[str, ...] = ("**",)
    paths: Paths = Paths(read=("**",), write=("**",))
    hosts: tuple[str, ...] = ()
    """`name:port`, `*.example.org:443`."""
    unscoped: tuple[str, ...] = ()
    """Globs of tools that are allowed although they mark no paths or hosts."""
    actions_max: int | None = None
    expires_at_us: int | None = None
    uses_max: int | None = None
    parent: str | None = None
    source: str = "configuration"
    """The origin of the grant: `configuration`, `parent`, `approval:ID`, `command`, `token`."""


class Restriction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The restrictions of one block of a grant token. None (or an empty denial) restricts nothing.

    A block cannot widen the one before it: only what both allow is allowed.
    """

    tools: tuple[str, ...] | None = None
    deny_tools: tuple[str, ...] = ()
    state_keys: tuple[str, ...] | None = None
    read: tuple[str, ...] | None = None
    """Paths that may be read, as in `Paths`."""
    write: tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None
    unscoped: tuple[str, ...] | None = None
    actions_max: Bound | None = None
    uses_max: Bound | None = None
    """Counted where the token is presented, for this block and all blocks derived from it together."""
    expires_at_us: Annotated[int, Meta(ge=0, le=9_007_199_254_740_991)] | None = None


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The acting agent, its groups and its session."""

    agent: str
    groups: tuple[str, ...] = ()
    session: str | None = None
