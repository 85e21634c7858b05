"""The tools `skills.find` and `skills.run`.

A call of `skills.run` stands for the actions of the skill: they are added to its proposal before verification, and each
is judged, journaled and undone as if the caller had proposed it. The call itself does nothing but report the problem if
it stands for no actions.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from interlock.detect import prompt_flags
from interlock.engine.learning.plans import parameters_of
from interlock.engine.learning.skills import Skills, source_of
from interlock.engine.learning.traces import RUN_TOOL
from interlock.engine.proposals.expand import expand, plain_parameters
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.tools.registry import Registry
from interlock.learning.skills import Skill
from interlock.model.errors import ProposalError, ToolError, UsageError
from interlock.model.proposal import Action, Proposal
from interlock.model.tool import Binding, Context, Expansion, Tool

FIND_TOOL: Final = "skills.find"
SKILL_TOOLS: Final = (FIND_TOOL, RUN_TOOL)
FOUND_MAX: Final = 20
_TEXT: Final = {"type": "string"}


def bindings(skills: Skills) -> list[Binding]:
    """The two tools for the skills of a workspace."""

    def find(parameters: dict[str, Any], ctx: Context) -> Any:
        assert isinstance(ctx, ActionContext)
        registry = ctx.run.services.registry
        found = skills.find(parameters["goal"], registry)[: parameters.get("limit", 5)]
        return {"items": [_shown(skills, one) for one in found]}

    def stands_for(action: str, parameters: dict[str, Any]) -> Expansion | None:
        try:
            return _expansion(skills, action, parameters)
        except UsageError:
            return None

    async def run(parameters: dict[str, Any], ctx: Context) -> Any:
        assert isinstance(ctx, ActionContext)
        return _run(skills, parameters, ctx)

    return [
        Binding(tool=_FIND, function=find, mode="thread", writes="nothing"),
        Binding(tool=_RUN, function=run, writes="nothing", expand=stands_for),
    ]


def _expansion(skills: Skills, action: str, parameters: dict[str, Any], registry: Registry | None = None) -> Expansion:
    """The actions that a call stands for. Raises: UsageError."""
    name, arguments = parameters.get("name"), parameters.get("parameters", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        # the schema reports this when the call is judged
        raise UsageError("`name` must be a string and `parameters` an object")
    skill = skills.usable(name, registry)
    document = skills.proposal(skill, arguments, source=source_of(skill), after=action)
    return Expansion(document["actions"], document["order"], document["source"])


def _run(skills: Skills, parameters: dict[str, Any], ctx: ActionContext) -> dict[str, Any]:
    """Return the skill, if the rest of the proposal is what the call stands for. Raises: ToolError."""
    proposal, services = ctx.run.proposal, ctx.run.services
    own = proposal.actions[ctx.index]
    try:
        skill = skills.usable(parameters["name"], services.registry)
        found = _expansion(skills, own.id, parameters, services.registry)
    except UsageError as error:
        raise ToolError(error.message, code="skill_unusable", retryable=False, hint=error.hint) from None
    if proposal.actions == _expanded(proposal, own, ctx):
        return {"skill": skill.name, "version": skill.version}
    if proposal.source == found.source and ctx.index == 0:
        message = "the call or the skill has changed since it was expanded to actions: propose it again"
        raise ToolError(message, code="skill_unusable", retryable=False)
    raise ToolError(
        f"`{RUN_TOOL}` stands for a whole proposal: it must be the only action that you propose",
        code="skill_not_alone", retryable=False,
    )  # fmt: skip


def _expanded(proposal: Proposal, own: Action, ctx: ActionContext) -> tuple[Action, ...]:
    """The actions to which a proposal with only this call is expanded; after an approver's edit, those of the edited call."""
    edited = ctx.run.edited.get(ctx.index)
    if edited is not None and edited != plain_parameters(own):
        return ()
    alone = msgspec.structs.replace(proposal, actions=(own,))
    try:
        return expand(alone, ctx.run.services.registry, ctx.run.services.bounds.limits).actions
    except ProposalError as error:
        raise ToolError(error.message, code="skill_unusable", retryable=False) from None


def _shown(skills: Skills, skill: Skill) -> dict[str, Any]:
    uses = skills.uses(skill)
    flags = prompt_flags(list(skill.content.goals))
    return {
        "name": skill.name, "version": skill.version, "goals": list(skill.content.goals),
        "parameters": parameters_of(skill), "tools": sorted(skill.content.tools), "uses": uses.uses,
        "succeeded": uses.succeeded, **({"flags": list(flags)} if flags else {}),
    }  # fmt: skip


_FIND: Final = Tool(
    name=FIND_TOOL,
    description="Search for skills: tasks of several steps that succeeded before, which one call of `skills.run` repeats.",
    parameters={
        "type": "object",
        "properties": {
            "goal": {**_TEXT, "minLength": 1, "maxLength": 2_000, "description": "The task in words."},
            "limit": {"type": "integer", "minimum": 1, "maximum": FOUND_MAX, "default": 5},
        },
        "required": ["goal"],
        "additionalProperties": False,
    },
    returns={
        "type": "object",
        "properties": {
            "items": {
                "type": "array",
                "items": {"type": "object"},
                "description": "Best first: `name`, `version`, `goals`, `parameters` (its schema), `tools`, `uses`, `succeeded`.",
            }
        },
        "required": ["items"],
    },
    read_only=True,
    destructive=False,
    open_world=False,
    reversibility="reversible",
    tags=("builtin",),
)
_RUN: Final = Tool(
    name=RUN_TOOL,
    description="Run a skill: all of its steps, each judged as if you had proposed it. It gives no rights. In a "
    "proposal it must be the only action.",
    parameters={
        "type": "object",
        "properties": {
            "name": {**_TEXT, "minLength": 1, "description": "The skill's name from `skills.find`."},
            "parameters": {"type": "object", "default": {}, "description": "The skill's parameters."},
        },
        "required": ["name"],
        "additionalProperties": False,
    },
    returns={
        "type": "object",
        "properties": {
            "skill": _TEXT,
            "version": {"type": "integer"},
            "results": {
                "type": "array",
                "items": {"type": "object"},
                "description": "For a single call: `id`, `status` and `output` of each step. In a proposal each is a row.",
            },
        },
        "required": ["skill", "version"],
    },
    open_world=False,
    reversibility="reversible",
    tags=("builtin",),
)
