"""Asks a model for another plan of a failing skill. The answer is a candidate, which a person compares and approves.

The plan may have other steps, but only with the tools and parameters of the skill: it reaches nothing that the skill
did not reach, and the recorded cases fit it. The model is asked with a call of `infer`, which is judged like any call
of the agent.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec

from interlock.engine.kit import calls
from interlock.engine.learning.evolve import Repair
from interlock.engine.learning.plans import check_content
from interlock.engine.services import Services
from interlock.learning.align import PARAMETER, REFERENCE, Step, Template, keeps_apart
from interlock.learning.skills import Content, Skill, SkillStore
from interlock.model.errors import InterlockError, UsageError

STEPS_MAX: Final = 30
_STEP: Final = {
    "type": "object",
    "properties": {
        "tool": {"type": "string"},
        "parameters": {"type": "object"},
        "needs": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    },
    "required": ["tool", "parameters"],
    "additionalProperties": False,
}
_SCHEMA: Final = {
    "type": "object",
    "properties": {"steps": {"type": "array", "items": _STEP, "maxItems": STEPS_MAX}},
    "required": ["steps"],
    "additionalProperties": False,
}
_PROMPT: Final = (
    "A plan of steps fails too often. Give steps that do the same and do not fail in the same way, with the same tools and "
    'parameters and no others. `{"$parameter": NAME}` stands for a parameter, and `{"$reference": "s1.output[\'x\']"}` for the '
    "output of step 1; `needs` are the numbers, from 0, of the steps that come before. Give no steps if that is not possible."
)


async def repair(services: Services, store: SkillStore, skill: Skill, agent: str) -> Repair | None:
    """Store a model's repair as a candidate. Returns None if the model has none, or there is already a candidate.

    Raises: UsageError `infer_failed` if the model was not asked, or its plan cannot be used; StoreError.
    """
    if any(one.state == "candidate" for one in store.versions(skill.name)):
        return None
    known = services.registry.by_name
    said = {
        "steps": msgspec.to_builtins(skill.content.template.steps),
        "parameters": skill.content.template.parameters,
        "failures": Counter(store.uses.of([(skill.name, skill.version)]).failed),
        "tools": {name: known[name].parameters for name in sorted(skill.content.tools) if name in known},
    }
    context = msgspec.json.encode(services.redactor.redact(said), order="deterministic").decode()
    given = {"prompt": _PROMPT, "context": context, "schema": _SCHEMA}
    result = await calls.call(services, "infer", given, calls.Caller(agent, None), call_id=None)
    if not result.ok:
        raise _failed(f"`infer`: {result.reason}: {result.error or ''}".rstrip(": "))
    steps = result.output["value"]["steps"]
    if not steps:
        return None
    try:
        content = content_of(services, skill, steps)
    except RecursionError:
        raise _failed("its parameters are nested too deeply") from None
    made = store.add_repair(skill, content)
    return None if made is None else Repair(made, (f"the plan is that of a model (run `{result.run_id}`)",))


def content_of(services: Services, skill: Skill, steps: list[dict[str, Any]]) -> Content:
    """The content of a skill with these steps. Raises: UsageError `infer_failed`."""
    old = skill.content
    tools = {step["tool"] for step in steps}
    if not tools <= old.tools.keys():
        raise _failed(f"it calls `{min(tools - old.tools.keys())}`, which the skill does not call")
    if keeps_apart([step["parameters"] for step in steps]):
        raise _failed("it has an absolute path, or a secret, as a literal")
    made = tuple(
        Step(
            type="tool_call",
            tool=one["tool"],
            parameters=one["parameters"],
            needs=tuple(sorted(set(one.get("needs", ())))),
        )
        for one in steps
    )
    parameters = {
        name: old.template.parameters[name] for name in sorted(_names(made)) if name in old.template.parameters
    }
    registry = services.registry.by_name
    versions = {name: registry[name].version for name in sorted(tools) if name in registry}
    template = Template(order=old.template.order, steps=made, parameters=parameters)
    content = Content(goals=old.goals, template=template, tools=versions)
    try:
        check_content(content, "the plan of the model cannot be used")
        if any(need >= number for number, step in enumerate(made) for need in step.needs):
            raise UsageError("the plan of the model cannot be used: a step needs a later one")
    except InterlockError as error:
        raise _failed(error.message) from None
    return content


def _names(steps: tuple[Step, ...]) -> set[str]:
    found: set[str] = set()
    pending: list[Any] = [step.parameters for step in steps]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if isinstance(value.get(PARAMETER), str):
                found.add(value[PARAMETER])
            elif REFERENCE not in value:
                pending += value.values()
        elif isinstance(value, list):
            pending += value
    return found


def _failed(why: str) -> UsageError:
    return UsageError(f"a model gave no repair: {why}", code="infer_failed")
