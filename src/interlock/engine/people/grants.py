"""Grants outside of the configuration, which a person issues, lists and revokes, including standing answers."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from interlock.approvals import IssuedGrant, StandingAnswer
from interlock.capability import attenuate, compile_grants
from interlock.engine.people.approval_desk import Desk
from interlock.lazy import lazy_pattern
from interlock.model.errors import UsageError
from interlock.model.grant import GROUP, OPERATOR, TOKEN, Grant, Paths

TTL_MAX_MS: Final = 36_500 * 86_400_000
_TOKEN_ID: Final = lazy_pattern("token_[0-9a-f]{32}")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A grant as a person requests it. Omitted fields grant nothing, except in a child, which gets the parent's."""

    agent: str
    tools: tuple[str, ...] = ()
    deny_tools: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    state_keys: tuple[str, ...] = ()
    unscoped: tuple[str, ...] = ()
    actions_max: int | None = None
    uses: int | None = None
    ttl_ms: int | None = None
    session: str | None = None
    parent: str | None = None


class Listed(NamedTuple):
    """Grants and standing answers."""

    grants: list[IssuedGrant]
    standing: list[StandingAnswer]
    now_us: int
    """The time of the list: a grant that has expired by then is not in force."""


def listed(desk: Desk, *, agent: str | None = None, revoked: bool = False) -> Listed:
    """Grants and standing answers, oldest first; of an agent, with the grants of its groups."""
    grants = [g for g in desk.issued.all() if revoked or g.revoked_at_us is None]
    standing = [s for s in desk.store.standing.all() if revoked or s.revoked_at_us is None]
    holders = {agent, *(GROUP + name for name, members in desk.agent_groups.items() if agent in members)}
    return Listed(
        [g for g in grants if agent is None or g.grant.agent in holders],
        [s for s in standing if agent in (None, s.agent)],
        desk.store.time.now_us(),
    )


def get(desk: Desk, grant_id: str) -> IssuedGrant | StandingAnswer:
    """A grant or a standing answer by its id. Raises: UsageError `not_found`."""
    found = desk.issued.get(grant_id)
    if found is not None:
        return found
    for answer in desk.store.standing.all():
        if answer.id == grant_id:
            return answer
    raise UsageError(f"there is no grant `{grant_id}`", code="not_found", hint="`interlock grants list` shows them")


def issue(desk: Desk, wish: Wish, *, by: str) -> Grant:
    """Issue a grant. Raises: UsageError for an invalid request; ConfigurationError for an invalid glob."""
    if not wish.agent or not wish.agent.isprintable():
        raise UsageError("an agent's name must be printable, and not empty")
    if wish.agent == OPERATOR:
        raise UsageError(f"`{OPERATOR}` is not an agent: it stands for the person at the command line")
    group = wish.agent.removeprefix(GROUP)
    if group != wish.agent and group not in desk.agent_groups:
        raise UsageError(
            f"there is no group of agents `{group}`", code="not_found", hint="`[groups]` in interlock.toml names them"
        )
    if wish.parent is None and not wish.tools and not wish.state_keys:
        raise UsageError("a grant of nothing", hint="name what it is for, such as `--tool 'fs.*' --read '**'`")
    if wish.ttl_ms is not None and not 0 < wish.ttl_ms <= TTL_MAX_MS:
        raise UsageError(
            "a grant holds for more than no time and at most 100 years", hint="leave the time out for no end"
        )
    if not all((*wish.tools, *wish.deny_tools, *wish.state_keys, *wish.read, *wish.write, *wish.hosts, *wish.unscoped)):
        raise UsageError("an empty glob matches nothing", hint="leave the option out, or name what is meant")
    grant = Grant(
        id="",
        agent=wish.agent,
        tools=wish.tools,
        deny_tools=wish.deny_tools,
        state_keys=wish.state_keys,
        paths=Paths(read=wish.read, write=wish.write),
        hosts=wish.hosts,
        unscoped=wish.unscoped,
        actions_max=wish.actions_max,
        uses_max=wish.uses,
        expires_at_us=None if wish.ttl_ms is None else desk.store.time.now_us() + wish.ttl_ms * 1000,
        source="command",
    )
    if wish.parent is not None:
        parent = desk.issued.get(wish.parent)
        if parent is None:
            raise UsageError(f"there is no grant `{wish.parent}`", code="not_found", hint="`interlock grants list`")
        above = parent.grant
        if above.source == TOKEN:
            raise UsageError(f"`{wish.parent}` is a grant token", hint="`interlock grants attenuate` narrows it")
        inherited = {
            "tools": wish.tools or above.tools,
            "state_keys": wish.state_keys or above.state_keys,
            "paths": Paths(read=wish.read or above.paths.read, write=wish.write or above.paths.write),
            "hosts": wish.hosts or above.hosts,
            "unscoped": wish.unscoped or above.unscoped,
        }
        grant = attenuate(above, msgspec.structs.replace(grant, **inherited))
    compile_grants([grant])  # an invalid glob must not get into the database, where it would stop every run
    return desk.issued.issue(grant, by=by, session=wish.session)


def revoke(desk: Desk, grant_id: str, *, by: str) -> list[str]:
    """Revoke a grant, and return all ids that this revokes. A grant token need not have been presented before.

    Raises: UsageError `not_found`, or another one for a configured grant.
    """
    if _TOKEN_ID.fullmatch(grant_id) and desk.issued.get(grant_id) is None:
        desk.issued.revoke_unseen(grant_id, by)
        return [grant_id]
    found = get(desk, grant_id)
    if isinstance(found, StandingAnswer):
        desk.store.standing.revoke(grant_id, by)
        return [grant_id]
    if found.grant.source == "configuration":
        raise UsageError(
            "that grant is from the configuration", hint="take it out of interlock.toml, and `interlock trust`"
        )
    return list(desk.issued.revoke(grant_id, by))
