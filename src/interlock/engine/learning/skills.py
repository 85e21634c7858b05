"""`runtime.skills`: proposals that have succeeded before, for a program or a person to read, approve, test and use."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.detect import prompt_flags
from interlock.engine.learning import edited_plan, embedding, evolve
from interlock.engine.learning.plans import check_content, proposal_of
from interlock.engine.learning.traces import SKILL_SOURCE
from interlock.engine.learning.trials import TrialRunner, Trials
from interlock.engine.services import Services
from interlock.engine.tools.registry import Registry
from interlock.learning.align import PARAMETER, REFERENCE
from interlock.learning.skills import Content, Evidence, Skill, SkillStore
from interlock.learning.uses import Uses
from interlock.learning.vectors import SIMILARITY_MIN
from interlock.model import typed
from interlock.model.errors import ConflictError, UsageError
from interlock.model.globs import name_matcher
from interlock.model.result import ProposalResult

if TYPE_CHECKING:
    from interlock.engine.learning.distil import Distiller

_WORD: Final = re.compile(r"\w+")
_HOST: Final = re.compile(
    r"(?:\b[a-z][a-z0-9+.-]{0,30}://(?:[^\s/?#\"'@]*@)*|git@)(\[[0-9a-f:.]+\]|[^\s/?#:\"'@<>\[\](),;|&]+)"
    r"|\b((?:\w[\w-]{0,62}\.){1,20}(?:[^\W\d_]{2,63}|xn--[\w-]{1,59}))\b|\b(\d{1,3}(?:\.\d{1,3}){3})\b",
    re.IGNORECASE,
)
BY_RULE: Final = "rule:learning.approve"
"""The approver of a skill that was approved by a rule instead of a person."""
_FORMAT: Final = 1
IMPORT_BYTES_MAX: Final = 1024 * 1024
Execute = Callable[..., Awaitable[ProposalResult]]


class Exported(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A skill in a file, without state, evidence and rights."""

    interlock_skill: int
    """Version of the format. 1: first."""
    name: str
    content: Content


class Skills:
    """The skills of a workspace."""

    def __init__(self, services: Services, execute: Execute, undo: Execute) -> None:
        """Created as `runtime.skills`."""
        self._services = services
        self._execute = execute
        self._store = SkillStore(services.db, services.workspace_id, services.clock)
        self._trials = TrialRunner(services, self._store, execute, undo)
        self.distiller: Distiller | None = None
        """Set while proposals are learnt from."""

    def wait_learnt(self) -> None:
        """Wait until the proposals that have ended so far were learnt from."""
        if self.distiller is not None:
            self.distiller.wait_learnt()

    def list(self) -> Sequence[Skill]:
        """Every version of every skill. Every method may raise StoreError."""
        return self._store.all()

    def get(self, name: str, version: int | None = None) -> Skill:
        """A version of a skill; by default the one in use, else the newest. Raises: UsageError `not_found`."""
        return self._store.get(name, version)

    def evidence(self, skill: Skill) -> Sequence[Evidence]:
        """The proposals that the skill was learnt from."""
        return self._store.evidence(skill)

    def uses(self, skill: Skill) -> Uses:
        """The results of the skill's last uses."""
        return self._store.uses.of([(skill.name, skill.version)])

    def find(self, goal: str, registry: Registry | None = None) -> Sequence[Skill]:
        """The skills in use that match `goal`, best first; `registry` as in `problems`.

        They share words with it in their name, goals or tools, or are similar to it by the vectors of the local model.
        """
        wanted = {word.lower() for word in _WORD.findall(goal)}
        usable = [one for one in self._store.all() if one.state == "active" and not self.problems(one, registry)]
        texts = [" ".join((one.name.replace("-", " "), *one.content.goals, *one.content.tools)) for one in usable]
        similar = embedding.similarities(self._services, goal, texts)
        scored = []
        for one, text, near in zip(usable, texts, similar, strict=True):
            score = len(wanted & set(_WORD.findall(text.lower())))
            if score or near >= SIMILARITY_MIN:
                scored.append((-score - near, one.name, one))
        return [one for _, _, one in sorted(scored, key=lambda each: each[:2])]

    def problems(self, skill: Skill, registry: Registry | None = None) -> Sequence[str]:
        """The skill's tools that are missing or have changed since it was learnt; in a fork, according to its `registry`."""
        versions = (registry or self._services.registry).by_name
        found = []
        for name, version in sorted(skill.content.tools.items()):
            if name not in versions:
                found.append(f"there is no tool `{name}`")
            elif versions[name].version != version:
                found.append(f"the tool `{name}` has changed")
        return found

    def proposal(
        self, skill: Skill, arguments: dict[str, Any], *, source: str = "unknown", after: str | None = None
    ) -> dict[str, Any]:
        """The skill as a proposal with these arguments; `after` as in `document_of`. Raises: UsageError `skill_arguments`."""
        return proposal_of(skill, arguments, source=source, after=after)

    def usable(self, name: str, registry: Registry | None = None) -> Skill:
        """The version in use, if its tools are unchanged.

        Raises: UsageError `not_found`, `skill_not_active`, `skill_tool_changed`.
        """
        skill = self._store.get(name)
        if skill.state != "active":
            raise UsageError(
                f"`{name}` is {skill.state}",
                code="skill_not_active",
                hint=f"`interlock skills show {name}`, then `interlock skills approve {name}`",
            )
        self._require_tools(skill, registry)
        return skill

    async def run(self, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> ProposalResult:
        """Run a skill as a proposal, with the rights of the runtime's agent (or `agent`), and no others.

        Other options are those of `Runtime.execute`. Raises: UsageError `not_found`, `skill_not_active`,
        `skill_tool_changed`, `skill_arguments`; else as `Runtime.execute`.
        """
        skill = self.usable(name)
        agent = options.pop("agent", None)
        document = self.proposal(skill, arguments or {}, source=source_of(skill))
        return await self._execute(document | ({} if agent is None else {"agent": agent}), **options)

    def approve(self, name: str, *, version: int, digest: str, by: str | None = None, untested: bool = False) -> Skill:
        """Approve a version for use, in the name of a person. `digest` is that of the version that was read.

        Raises: UsageError `not_found`, `skill_untested`, `skill_tool_changed`; ConflictError `changed`.
        """
        skill = self._store.get(name, version)
        self._require_tools(skill)
        if skill.tested != "passed" and not untested:
            raise UsageError(
                f"`{name}` was not tested" if skill.tested is None else f"the test of `{name}`: {skill.tested}",
                code="skill_untested",
                hint=f"`interlock skills test {name}`, or `--untested` if it cannot be tested",
            )
        return self._store.approve(name, version, digest, by=by or self._services.desk.user)

    async def repair_by_model(self, name: str, *, agent: str | None = None) -> evolve.Repair | None:
        """Ask a model for another plan of a failing skill, with a call of `infer` under the rules, and store it as a
        candidate.

        Raises: UsageError `not_found`, `infer_failed`.
        """
        skill = self._store.get(name)
        return await edited_plan.repair(self._services, self._store, skill, agent or self._services.agent)

    def repair(self, name: str) -> evolve.Repair | None:
        """Create a candidate with a skill's safe repairs, if there are any. Raises: UsageError `not_found`."""
        return evolve.repair(self._services, self._store, self._store.get(name))

    def retire(self, name: str, *, by: str | None = None) -> Sequence[Skill]:
        """Retire a skill, so that no version is used any more. Raises: UsageError `not_found`."""
        return self._store.retire(name, by=by or self._services.desk.user)

    async def test(self, skill: Skill, arguments: dict[str, Any] | None = None, *, agent: str | None = None) -> str:
        """Run a skill in a layer that is discarded. Returns `passed`, or the problem. Default `arguments`: those of its
        newest evidence. A candidate that passes is approved if `[learning] approve` names all of its tools.

        Only for a runtime whose layers wait (`workspace.mode` is `layer`, `commit` is `never`). Programs can still
        reach the hosts of the grant. Raises: UsageError `not_available`, `skill_arguments`; as `Runtime.execute`.
        """
        if arguments is None:
            known = self._trials.cases(skill)
            arguments = known[-1].arguments if known else {}
        outcome = (await self._trials.run(skill, arguments, agent=agent)).outcome
        self._store.set_tested(skill, outcome)
        if outcome == "passed" and self._is_approved_by_rule(skill):
            with contextlib.suppress(ConflictError):  # relearnt meanwhile: the new content has not passed
                self._store.approve(skill.name, skill.version, skill.digest, by=BY_RULE)
        return outcome

    async def compare(self, name: str, *, agent: str | None = None) -> Sequence[Trials]:
        """Run the version in use and the newest candidate on the recorded cases, in layers that are discarded.

        Raises: UsageError `not_found` if there is no candidate; as `test`.
        """
        return await self._trials.compare(name, agent=agent)

    def _is_approved_by_rule(self, skill: Skill) -> bool:
        allowed = name_matcher(self._services.settings.learning.approve)
        return (
            skill.state == "candidate"
            and skill.source == "learnt"  # a repair may have the steps of a stranger or a model
            and all(map(allowed, skill.content.tools))
            and not prompt_flags(msgspec.to_builtins(skill.content))
        )

    def export(self, skill: Skill) -> bytes:
        """The skill as a JSON document for use elsewhere."""
        document = Exported(interlock_skill=_FORMAT, name=skill.name, content=skill.content)
        return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2)

    def load(self, data: bytes) -> Skill:
        """Import an untrusted skill as a candidate, which a person has to review. Raises: UsageError `malformed_proposal`."""
        if len(data) > IMPORT_BYTES_MAX:
            raise UsageError(f"a skill must have at most {IMPORT_BYTES_MAX} bytes")
        try:
            found = typed.decode(data, Exported)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UsageError(f"the file is not an exported skill: {error}") from None
        if found.interlock_skill != _FORMAT or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", found.name):
            raise UsageError("the file is not an exported skill that this version knows")
        check_content(found.content)
        return self._store.add_imported(found.name, found.content)

    def _require_tools(self, skill: Skill, registry: Registry | None = None) -> None:
        problems = self.problems(skill, registry)
        if problems:
            raise UsageError(
                f"`{skill.name}` cannot be used: {problems[0]}",
                code="skill_tool_changed",
                hint=f"`interlock skills repair {skill.name}`, or repeat the task, so that it is learnt with these tools",
            )


def source_of(skill: Skill) -> str:
    """The `source` of a proposal that uses the skill."""
    return f"{SKILL_SOURCE}{skill.name}@{skill.version}"


def hosts_of(skill: Skill) -> list[str]:
    """The names and addresses in a skill's literals that look like hosts, for the person who reviews it."""
    texts = [text for step in skill.content.template.steps for text in _literals([step.parameters, step.more])]
    return sorted({next(filter(None, one.groups())).lower() for text in texts for one in _HOST.finditer(text)})


def _literals(value: Any) -> Iterator[str]:
    """Texts in a value, keys included, without its references and parameters."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _literals(inner)
    elif isinstance(value, dict) and not (len(value) == 1 and (REFERENCE in value or PARAMETER in value)):
        for key, inner in value.items():
            yield from (key, *_literals(inner))
