"""Services for another runtime over the same workspace: `Runtime.fork` and `Runtime.with_shared`."""

from __future__ import annotations

import msgspec

from interlock.capability import attenuate
from interlock.engine.facets.grants import Grants
from interlock.engine.services import Services
from interlock.model.errors import ConfigurationError
from interlock.model.grant import GROUP, OPERATOR, Grant


def fork(services: Services, agent: str, grant: Grant | None = None) -> Services:
    """The services for another agent, with the same tools. `grant` is cut to this agent's grant. Raises ConfigurationError."""
    _require_agent(agent)
    forked = services.fork(agent)
    if grant is None:
        return forked
    own, settings, above = services.judges.own_grants, services.settings, services.agent
    holders = [above, *(GROUP + name for name in settings.groups_by_agent().get(above, ()))]
    parent = next((found for one in holders if (found := own.get(one) or settings.grant(one)) is not None), None)
    if parent is None:
        raise ConfigurationError(f"`{above}` has no grant of which `{agent}` could get a part", code="grant_missing")
    forked.judges.own_grants.setdefault(parent.agent, parent)
    Grants(forked).set(attenuate(parent, msgspec.structs.replace(grant, agent=agent)))
    return forked


def share(services: Services, agent: str) -> Services:
    """The services without the tools: state, policies, grants, journals and questions are shared. Raises ConfigurationError."""
    _require_agent(agent)
    return services.fork(agent, tools=False)


def _require_agent(agent: str) -> None:
    if agent == OPERATOR:
        raise ConfigurationError(f"`{OPERATOR}` is not an agent: it stands for the person at the command line")
