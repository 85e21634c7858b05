"""Repairs of a skill that fails: only safe ones, as a candidate that a person reads, tests and approves.

- A step that can be repeated without harm (`read_only`, `idempotent`) and failed for a reason that passes is retried.
- A tool that changed is taken as it is now, if its schema still has every parameter that the skill gives, and needs no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from interlock.engine.services import Services
from interlock.engine.tools.registry import Registered
from interlock.learning.align import Step
from interlock.learning.skills import Content, Skill, SkillStore

_PASSING: Final = frozenset(
    (
        "timeout",
        "connection_failed",
        "model_unavailable",
        "model_rate_limited",
        "server_unavailable",
        "server_lost",
        "tool_error",
    )
)
"""Reasons that can be gone at the next attempt."""


class Repair(NamedTuple):
    """A candidate, and what it changes in words."""

    skill: Skill
    changes: tuple[str, ...]


def repair(services: Services, store: SkillStore, skill: Skill) -> Repair | None:
    """The repair of a skill, stored as a candidate; None if there is none, or a candidate waits already. Raises: StoreError."""
    found = repaired(services, store, skill)
    if found is None:
        return None
    content, changes = found
    made = store.add_repair(skill, content)
    return None if made is None else Repair(made, changes)


def repaired(services: Services, store: SkillStore, skill: Skill) -> tuple[Content, tuple[str, ...]] | None:
    """The content of a skill with what can be repaired, and what that is; None if nothing can."""
    changes: list[str] = []
    tools = _tools_as_they_are(services, skill, changes)
    if tools is None:
        return None
    often = Counter(store.uses(skill.name, skill.version).failed)
    steps = list(skill.content.template.steps)
    for failed in sorted(often):
        number, _, reason = failed.partition(" ")
        if not number.isdecimal() or int(number) >= len(steps) or reason not in _PASSING:
            continue
        step = steps[int(number)]
        tool = services.registry.find(step.tool)
        if tool is None or not (tool.read_only or tool.tool.idempotent) or "failure_behavior" in step.more:
            continue
        steps[int(number)] = _retried(step)
        what = f"s{int(number) + 1} (`{step.tool}`) is retried"
        changes.append(f"{what}: it failed {often[failed]} times ({reason})")
    if not changes:
        return None
    template = msgspec.structs.replace(skill.content.template, steps=tuple(steps))
    return msgspec.structs.replace(skill.content, template=template, tools=dict(tools)), tuple(changes)


def _retried(step: Step) -> Step:
    return msgspec.structs.replace(step, more={**step.more, "failure_behavior": "retry"})


def _tools_as_they_are(services: Services, skill: Skill, changes: list[str]) -> Mapping[str, str] | None:
    """The tools with their present versions; None if one is gone, or does not take what the skill gives."""
    found = {}
    for name, version in skill.content.tools.items():
        tool = services.registry.find(name)
        if tool is None:
            return None
        if tool.version != version:
            if not all(_fits(step, tool) for step in skill.content.template.steps if step.tool == name):
                return None
            changes.append(f"`{name}` is used as it is defined now")
        found[name] = tool.version
    return found


def _fits(step: Step, tool: Registered) -> bool:
    """True if a step gives the parameters that the tool needs, and no others."""
    schema, given = tool.tool.parameters, step.parameters.keys()
    properties = schema.get("properties", {})
    known = schema.get("additionalProperties", True) is not False or given <= properties.keys()
    return known and set(schema.get("required", ())) <= given and (not properties or given <= properties.keys())
