"""`runtime.grants`: the grants that a program sets and issues."""

from __future__ import annotations

from interlock.engine.people.grant_tokens import TTL_MS, IssuedToken, issue_token
from interlock.engine.services import Services
from interlock.model import typed
from interlock.model.errors import InterlockError, UsageError
from interlock.model.grant import Grant, Restriction


class Grants:
    """Sets grants for this runtime, and issues grant tokens."""

    def __init__(self, services: Services) -> None:
        """Use `runtime.grants`."""
        self._services = services

    def set(self, grant: Grant) -> None:
        """Replace the configured grant of the grant's agent, for this runtime. Raises ConfigurationError, UsageError."""
        typed.require(grant, Grant, "grant")
        judges = self._services.judges
        before = dict(judges.own_grants)
        judges.own_grants[grant.agent] = grant
        judges.expire()
        try:
            judges.current()
        except InterlockError:
            judges.own_grants = before
            raise

    def issue_token(
        self,
        grant_id: str,
        *,
        agent: str | None = None,
        restriction: Restriction | None = None,
        ttl_ms: int = TTL_MS,
        by: str | None = None,
    ) -> IssuedToken:
        """Issue a token for a grant (`interlock grants list` shows the ids) to pass to a sub-agent: see `Runtime.execute`.

        For a group's grant, `agent` names the member. The token is valid for `ttl_ms`, at most 30 days and no longer than the
        grant. `interlock.attenuate_token` narrows it, anywhere. Raises: UsageError if there is no such grant in force, or
        if this runtime is in memory (`not_available`); ConfigurationError for a bad glob.
        """
        services = self._services
        desk = services.desk
        if services.signer is None:
            raise UsageError("this runtime keeps nothing, so it issues no grant token", code="not_available")
        return issue_token(
            desk, services.signer, services.workspace_id, grant_id,
            agent=agent, restriction=restriction, ttl_ms=ttl_ms, by=by or desk.user,
        )  # fmt: skip
