"""Runs skills in layers that are discarded: tests of one version, and comparisons of a version with its successor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from interlock.engine.learning.plans import parameters_of, proposal_of
from interlock.engine.learning.traces import TEST_SOURCE
from interlock.engine.runs.kept_layers import discard_layers
from interlock.engine.services import Services
from interlock.learning.skills import EVOLVED, Evidence, Skill, SkillStore
from interlock.model.errors import UsageError
from interlock.model.result import ProposalResult
from interlock.model.schema import Schema

CASES_MAX: Final = 5
"""The newest recorded cases on which versions are compared."""
_CONSEQUENCES: Final = ("rolled_back", "compensated", "not_undone", "skipped", "cancelled")
"""What follows from the failure of another action."""
Execute = Callable[..., Awaitable[ProposalResult]]


class Trial(NamedTuple):
    """One run of a version."""

    outcome: str
    """`passed`, or the problem."""
    actions: int = 0
    duration_ms: float = 0.0
    tokens: int = 0


class Trials(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a version on the recorded cases."""

    version: int
    state: str
    cases: int
    passed: int
    actions: int
    duration_ms: float
    tokens: int
    problems: tuple[str, ...]


class TrialRunner:
    """Runs skills. Nothing is committed, but programs can reach the hosts of the grant."""

    def __init__(self, services: Services, store: SkillStore, execute: Execute, undo: Execute) -> None:
        """Use the services of a runtime."""
        self._services = services
        self._store = store
        self._execute = execute
        self._undo = undo

    def cases(self, skill: Skill) -> Sequence[Evidence]:
        """The recorded cases of a version: its evidence, or that of earlier versions if their arguments fit."""
        found = self._store.evidence(skill)
        if found or skill.source != EVOLVED:
            return found
        schema = Schema.compile(parameters_of(skill))
        for older in self._store.versions(skill.name):
            if older.version < skill.version and older.shape == skill.shape:
                found = [one for one in self._store.evidence(older) if not schema.errors(one.arguments)]
                if found:
                    break
        return found

    async def compare(self, name: str, *, agent: str | None = None) -> Sequence[Trials]:
        """See `Skills.compare`."""
        versions = self._store.versions(name)
        candidate = next((one for one in versions if one.state == "candidate"), None)
        current = next((one for one in versions if one.state in ("active", "degraded")), None)
        if candidate is None or current is None:
            raise UsageError(f"`{name}` has no version in use with a candidate", code="not_found")
        cases = list(self.cases(candidate))[-CASES_MAX:]
        found = []
        for skill in (current, candidate):
            covers = Schema.compile(parameters_of(skill))
            runs = [
                Trial("the case has other parameters")
                if covers.errors(case.arguments)
                else await self.run(skill, case.arguments, agent=agent)
                for case in cases
            ]
            found.append(
                Trials(
                    version=skill.version, state=skill.state, cases=len(runs),
                    passed=sum(one.outcome == "passed" for one in runs), actions=sum(one.actions for one in runs),
                    duration_ms=round(sum(one.duration_ms for one in runs), 1), tokens=sum(one.tokens for one in runs),
                    problems=tuple(dict.fromkeys(one.outcome for one in runs if one.outcome != "passed")),
                )
            )  # fmt: skip
        return found

    async def run(self, skill: Skill, arguments: dict[str, Any], *, agent: str | None) -> Trial:
        """Run a version once. Raises: UsageError `not_available`, `skill_arguments`; as `Runtime.execute`."""
        settings = self._services.settings.workspace
        if settings.mode != "layer" or settings.commit != "never":
            raise UsageError(
                "skills can be tested only if layers wait for a commit",
                code="not_available",
                hint="`interlock skills test`",
            )
        problem = self._why_not_testable(skill)
        if problem is not None:
            return Trial(problem)
        document = proposal_of(skill, arguments, source=TEST_SOURCE)
        result = await self._execute(document | ({} if agent is None else {"agent": agent}), wait=False)
        cost = result.cost
        return Trial(await self._outcome(result), cost.actions_executed, cost.total_duration_ms, cost.tokens)

    async def _outcome(self, result: ProposalResult) -> str:
        others = [row for row in result.results if row.status != "succeeded"]
        failed = next((row for row in others if row.status not in _CONSEQUENCES), others[0] if others else None)
        if result.status == "held":  # with an approval it would continue, and then it would no longer be a test
            await self._undo(result.run_id)
            return "not possible: a person must approve " + ", ".join(
                f"`{row.action_id}`" for row in result.results if row.status == "held"
            )
        if result.workspace is not None and result.workspace.status == "kept":
            discard_layers(self._services, result.run_id)
        if failed is None and result.status == "succeeded":
            return "passed"
        return "failed" if failed is None else f"`{failed.action_id}`: {failed.status}, {failed.reason}"

    def _why_not_testable(self, skill: Skill) -> str | None:
        registry = self._services.registry
        for name, version in sorted(skill.content.tools.items()):
            found = registry.by_name.get(name)
            if found is None or found.version != version:
                return f"there is no tool `{name}`" if found is None else f"the tool `{name}` has changed"
        for step in skill.content.template.steps:
            tool = registry.find(step.tool)
            if tool is None:
                if step.type == "state_write":
                    return "not possible: it writes state, which layers do not cover"
                continue
            local = tool.in_layer and tool.touches_files
            if not local and not (tool.read_only and not tool.tool.open_world):
                return f"not possible: `{tool.name}` reaches outside of a layer"
        return None
