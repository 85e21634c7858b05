"""Templates in a tool's definition: `$parameters.x` and `$output.y.z` stand for parts of a call.

`Tool.effects` and `CompensationTemplate.parameters` contain them. They come from the operator, not from the agent.
"""

from __future__ import annotations

from typing import Any


def fill(template: Any, parameters: dict[str, Any], output: Any) -> Any:
    """Returns a copy of `template` with its placeholders replaced; null if the call has no such value."""
    if isinstance(template, dict):
        return {key: fill(value, parameters, output) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, parameters, output) for value in template]
    root, *steps = template[1:].split(".") if isinstance(template, str) and template.startswith("$") else ("",)
    if root not in ("parameters", "output"):
        return template
    value: Any = parameters if root == "parameters" else output
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def mentions(template: Any, root: str) -> bool:
    """Returns True if the template contains a placeholder of `root` (`parameters` or `output`)."""
    if isinstance(template, dict):
        return any(mentions(value, root) for value in template.values())
    if isinstance(template, list):
        return any(mentions(value, root) for value in template)
    return isinstance(template, str) and (template == f"${root}" or template.startswith(f"${root}."))
