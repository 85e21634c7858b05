"""Keeps the judges that are in force: built when first needed, and rebuilt once tools, rules or grants have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from interlock.engine.judges.code_rules import CodeRules
from interlock.engine.judges.judges import Judges
from interlock.engine.tools.registry import Registry
from interlock.model.grant import Grant

JudgeMaker = Callable[[Registry, str | None, Mapping[str, Grant], str | None], Judges]
"""Builds the judges for tools, a session, the grants set in code (by agent, in place of the configured ones), and the id of
the presented grant token, which then replaces all other grants of its agent."""

_TOKENS_MAX: Final = 64
"""The number of judges that are kept for tokens; the oldest are dropped, and are rebuilt when needed."""

_TOLD_MAX: Final = 3


def _told(problems: Sequence[object]) -> list[str]:
    """What is said of names that nothing has. Many are said in one line: a project's rules may name tools of its own programs."""
    if len(problems) <= _TOLD_MAX:
        return [str(problem) for problem in problems]
    many = f"{len(problems)} names in the rules are of nothing that is here, the first: {problems[0]}"
    return [f"{many}; `interlock policy check` lists them"]


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
        configuration: str,
    ) -> None:
        """`revision` is the current one of the issued grants; `warn` is called with names in the rules that match nothing."""
        self.make = make
        self.configuration = configuration
        """Digest of the configuration in force."""
        self.own_grants = own_grants
        """Grants that were set in code, by agent."""
        self.code_rules = CodeRules()
        self._registry = registry
        self._revision = revision
        self._warn = warn
        self._by_session: dict[tuple[str | None, str | None], Judges] = {}

    def current(self, session: str | None = None, token: str | None = None) -> Judges:
        """The judges for a session (None: outside any) and the grant token with that id. Raises: ConfigurationError."""
        key = session, token
        judges = self._by_session.get(key)
        if judges is None or not self.is_current(judges):
            if token is not None:
                self._make_room()
            judges = self._by_session[key] = self.make(self._registry, session, self.own_grants, token)
            judges.code_rules = self.code_rules
            for text in _told(judges.policies.warnings):
                self._warn(text)
        return judges

    def _make_room(self) -> None:
        of_tokens = [key for key in tuple(self._by_session) if key[1] is not None]
        for key in of_tokens[: max(0, len(of_tokens) - _TOKENS_MAX + 1)]:
            if (judges := self._by_session.pop(key, None)) is not None:
                judges.replaced = True  # a proposal that still holds them has to ask for new ones

    def is_current(self, judges: Judges) -> bool:
        """False once a grant was issued or revoked, by any process, since these judges were built."""
        return not judges.replaced and judges.revision == self._revision()

    def replace_rules(self, make: JudgeMaker, configuration: str) -> None:
        """Put an edited configuration with this digest into force."""
        self.make = make
        self.configuration = configuration
        self.expire()

    def expire(self) -> None:
        """Mark all judges as replaced, because tools or rules have changed: every holder must ask for the new ones."""
        for judges in self._by_session.values():
            judges.replaced = True
        self._by_session.clear()

    def fork(
        self, registry: Registry, own_grants: dict[str, Grant], *, make: JudgeMaker | None = None
    ) -> JudgesInForce:
        """Separate judges for other tools, grants set in code, or rules."""
        forked = JudgesInForce(
            make or self.make, registry, own_grants, revision=self._revision, warn=self._warn,
            configuration=self.configuration,
        )  # fmt: skip
        forked.code_rules = self.code_rules.copy()
        return forked
