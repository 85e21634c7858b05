"""Grant tokens: issued from a grant, narrowed by their holders, and checked where they are presented.

Once a token was presented, it is known by its id: its blocks are in the table of grants, each a child of the previous one, so
that revocation, uses, expiry and resumption after a crash work as for any grant. The token itself is not stored.
"""

from __future__ import annotations

from typing import Final

import msgspec

from interlock.approvals import StandingAnswer
from interlock.capability import compile_grants
from interlock.capability.tokens import GrantToken, GrantTokenError, Root, make_token, read_token, verify_token
from interlock.capability.tokens import attenuate_token as add_block
from interlock.engine.people import grants as granting
from interlock.engine.people.approval_desk import Desk
from interlock.model.errors import ConfigurationError, UsageError
from interlock.model.grant import GROUP, TOKEN, Grant, Restriction
from interlock.signing import Signer

TTL_MS: Final = 3_600_000
TTL_MAX_MS: Final = 30 * 86_400_000


class IssuedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token. `token` is the secret itself; the other fields are not secret."""

    token: str
    id: str
    agent: str
    grant: str
    expires_at_us: int


def issue_token(
    desk: Desk,
    signer: Signer | None,
    audience: str,
    grant_id: str,
    *,
    agent: str | None = None,
    restriction: Restriction | None = None,
    ttl_ms: int = TTL_MS,
    by: str,
) -> IssuedToken:
    """Issue a token for a grant of an agent, or of a group (then `agent` is the member). `audience` is the workspace.

    It is valid for `ttl_ms`, at most 30 days and no longer than the grant. Raises: UsageError if there is no such grant in
    force, or the request is invalid; ConfigurationError for a bad glob.
    """
    signer = _required(signer)
    grant = _grant_in_force(desk, grant_id)
    if not 0 < ttl_ms <= TTL_MAX_MS:
        raise UsageError("a grant token holds for more than no time and at most 30 days")
    now_us = desk.store.time.now_us()
    limits = restriction or Restriction()
    ends = [now_us + ttl_ms * 1000, limits.expires_at_us, grant.expires_at_us]
    limits = msgspec.structs.replace(limits, expires_at_us=min(end for end in ends if end is not None))
    root = Root(
        audience=audience,
        grant=grant_id,
        agent=_agent_of(desk, grant, agent),
        issued_at_us=now_us,
        restriction=limits,
        next_key="",
    )
    text = make_token(root, signer, Signer.generate())
    made = verify_token(text, key=signer.keyid, audience=audience, now_us=now_us)
    compile_grants(made.grants)
    desk.issued.present(made.grants, by=by)
    return IssuedToken(token=text, id=made.id, agent=root.agent, grant=grant_id, expires_at_us=made.expires_at_us)


def attenuate_token(token: str, restriction: Restriction) -> str:
    """Make a narrower token from `token`, which remains valid. Needs no project, none of Interlock's keys and no connection.

    It allows what both `token` and `restriction` allow, and expires no later. Raises: GrantTokenError if `token` is damaged,
    has 16 blocks already, or a limit is below 1; ConfigurationError for a bad glob.
    """
    narrower = add_block(token.strip(), restriction, Signer.generate())
    compile_grants(read_token(narrower).grants)
    return narrower


def present_token(desk: Desk, signer: Signer | None, audience: str, token: str, *, agent: str | None) -> GrantToken:
    """Check a token that was presented with a proposal, and store its blocks. If in doubt, refuse it.

    `agent` is the one that the proposal names, if any. Raises: GrantTokenError `bad_grant_token`, `grant_token_audience`,
    `grant_token_expired`, `grant_token_agent`; UsageError `grant_token_revoked`, or `not_available` in a runtime that keeps
    nothing; StoreError.
    """
    key = _required(signer).keyid
    found = verify_token(token.strip(), key=key, audience=audience, now_us=desk.store.time.now_us())
    try:
        compile_grants(found.grants)
    except ConfigurationError as error:
        raise GrantTokenError(f"the grant token cannot be used: {error.message}") from None
    if agent not in (None, "", found.root.agent):
        raise GrantTokenError(
            f"the grant token is of `{found.root.agent}`, not of `{agent}`",
            code="grant_token_agent",
            hint="leave `agent` out: the token says who acts",
        )
    desk.issued.present(found.grants)
    return found


def _required(signer: Signer | None) -> Signer:
    if signer is None:
        raise UsageError("this runtime keeps nothing, so it has issued no grant token", code="not_available")
    return signer


def _grant_in_force(desk: Desk, grant_id: str) -> Grant:
    found = granting.get(desk, grant_id)
    if isinstance(found, StandingAnswer):
        raise UsageError(
            f"`{grant_id}` is an answer to a question, not a grant", hint="`interlock grants list` shows both"
        )
    grant = found.grant
    if grant.source == TOKEN:
        raise UsageError(f"`{grant_id}` is a grant token already", hint="`interlock grants attenuate` narrows it")
    if found.revoked_at_us is not None:
        raise UsageError(f"the grant `{grant_id}` was revoked", code="grant_revoked")
    if grant.expires_at_us is not None and grant.expires_at_us <= desk.store.time.now_us():
        raise UsageError(f"the grant `{grant_id}` has expired", code="grant_expired")
    return grant


def _agent_of(desk: Desk, grant: Grant, agent: str | None) -> str:
    """The agent as which the holder acts: the grant's agent, or a member of its group. A token never changes the agent."""
    if not grant.agent.startswith(GROUP):
        if agent not in (None, grant.agent):
            raise UsageError(f"the grant is of `{grant.agent}`, so its token cannot be one of `{agent}`")
        return grant.agent
    members = desk.agent_groups.get(grant.agent.removeprefix(GROUP), ())
    if agent not in members:
        raise UsageError(
            f"the grant is of a group: name one of its agents ({', '.join(members)})", hint="`--agent NAME`"
        )
    assert agent is not None
    return agent
