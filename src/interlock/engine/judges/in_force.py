"""Which judges are in force: built when first needed, and again once tools, rules or grants have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from interlock.engine.judges.judges import Judges
from interlock.engine.tools.registry import Registry
from interlock.model.grant import Grant

JudgeMaker = Callable[[Registry, str | None, Mapping[str, Grant]], Judges]
"""Builds the judges for tools, a session, and the grants set in code (by agent, in place of the configured ones)."""


class JudgesInForce:
    """The judges of one runtime, for each of its sessions."""

    def __init__(
        self,
        make: JudgeMaker,
        registry: Registry,
        own_grants: dict[str, Grant],
        *,
        revision: Callable[[], int],
        warn: Callable[[str], None],
    ) -> None:
        """`revision` is that of the issued grants as of now; `warn` is told of names in the rules that nothing has."""
        self.make = make
        self.own_grants = own_grants
        """Grants that were set in code, by agent."""
        self._registry = registry
        self._revision = revision
        self._warn = warn
        self._by_session: dict[str | None, Judges] = {}

    def current(self, session: str | None = None) -> Judges:
        """The judges for a session (None: outside any). Raises: ConfigurationError."""
        judges = self._by_session.get(session)
        if judges is None or not self.is_current(judges):
            judges = self._by_session[session] = self.make(self._registry, session, self.own_grants)
            for problem in judges.policies.warnings:
                self._warn(str(problem))
        return judges

    def is_current(self, judges: Judges) -> bool:
        """False once a grant was issued or revoked, by whatever process, since these judges were built."""
        return not judges.replaced and judges.revision == self._revision()

    def expire(self) -> None:
        """The tools or the rules have changed: every holder of judges must ask for the new ones."""
        for judges in self._by_session.values():
            judges.replaced = True
        self._by_session.clear()

    def fork(
        self, registry: Registry, own_grants: dict[str, Grant], *, make: JudgeMaker | None = None
    ) -> JudgesInForce:
        """Judges of their own for other tools, grants set in code, or rules."""
        return JudgesInForce(make or self.make, registry, own_grants, revision=self._revision, warn=self._warn)
