"""Repairs a failing skill: only in safe ways, as a candidate that a person reads, tests and approves.

- A step that can be repeated without harm (`read_only`, `idempotent`) and failed for a transient reason is retried.
- If one state key had one value before every use that succeeded, and before none that failed, that value becomes a
  precondition of the first step: a use in another state is refused before anything is done.
- A tool that changed is used with its present definition, if its schema still has every parameter that the skill gives,
  and requires no other.
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
from interlock.learning.uses import Condition
from interlock.model.proposal import Precondition

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
"""Transient reasons, which may not recur at the next attempt."""


class Repair(NamedTuple):
    """A candidate, and its changes in words."""

    skill: Skill
    changes: tuple[str, ...]


def repair(services: Services, store: SkillStore, skill: Skill) -> Repair | None:
    """Store the repair of a skill as a candidate.

    Returns None if there is no repair, or a candidate already. Raises: StoreError.
    """
    found = repaired(services, store, skill)
    if found is None:
        return None
    content, changes = found
    made = store.add_repair(skill, content)
    return None if made is None else Repair(made, changes)


def repaired(services: Services, store: SkillStore, skill: Skill) -> tuple[Content, tuple[str, ...]] | None:
    """The repaired content of a skill, and the changes; None if nothing can be repaired."""
    changes: list[str] = []
    tools = _tools_as_they_are(services, skill, changes)
    if tools is None:
        return None
    often = Counter(store.uses.of([(skill.name, skill.version)]).failed)
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
    condition = store.uses.condition(skill.name, skill.version)
    if condition is not None and not _requires(steps[0], condition.key):
        steps[0] = _with_precondition(steps[0], condition)
        value = msgspec.json.encode(condition.value).decode()
        changes.append(
            f"it is used only where the state `{condition.key}` is {value}, as before {condition.succeeded} uses that succeeded"
            f" and none of {condition.failed} that failed"
        )
    if not changes:
        return None
    template = msgspec.structs.replace(skill.content.template, steps=tuple(steps))
    return msgspec.structs.replace(skill.content, template=template, tools=dict(tools)), tuple(changes)


def _retried(step: Step) -> Step:
    return msgspec.structs.replace(step, more={**step.more, "failure_behavior": "retry"})


def _requires(step: Step, key: str) -> bool:
    return any(one["key"] == key for one in step.more.get("preconditions", ()))


def _with_precondition(step: Step, condition: Condition) -> Step:
    found = msgspec.to_builtins(Precondition(key=condition.key, value=condition.value))
    return msgspec.structs.replace(
        step, more={**step.more, "preconditions": [*step.more.get("preconditions", ()), found]}
    )


def _tools_as_they_are(services: Services, skill: Skill, changes: list[str]) -> Mapping[str, str] | None:
    """The tools with their present versions; None if one is missing, or does not accept the skill's parameters."""
    found = {}
    for name, version in skill.content.tools.items():
        tool = services.registry.find(name)
        if tool is None:
            return None
        if tool.version != version:
            if not all(_fits(step, tool) for step in skill.content.template.steps if step.tool == name):
                return None
            changes.append(f"`{name}` is used with its present definition")
        found[name] = tool.version
    return found


def _fits(step: Step, tool: Registered) -> bool:
    """True if a step gives the parameters that the tool requires, and no unknown ones."""
    schema, given = tool.tool.parameters, step.parameters.keys()
    properties = schema.get("properties", {})
    known = schema.get("additionalProperties", True) is not False or given <= properties.keys()
    return known and set(schema.get("required", ())) <= given and (not properties or given <= properties.keys())
