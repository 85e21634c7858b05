"""Builds the Cedar schema (JSON form) of a world, against which `cedarpy.validate_policies` checks types.

Each action has its own context, with only the parts that policies mention. Source of the format: the Cedar
documentation, "JSON schema format".
"""

from __future__ import annotations

from typing import Any

from interlock.policy.contexts import Context
from interlock.policy.shapes import Atom, Fields, Many, Shape
from interlock.policy.world import ENTITY_TYPES, ActionType

_NAMES = {"Bool": "Boolean", "Long": "Long", "String": "String"}


def cedar_schema(actions: dict[str, ActionType], groups: set[str], contexts: dict[str, Context]) -> dict[str, Any]:
    """The schema as a JSON value."""
    types: dict[str, Any] = {
        name: {"memberOfTypes": list(parents), "shape": _type(shape)} for name, (parents, shape) in ENTITY_TYPES.items()
    }
    types["Host"]["shape"]["attributes"]["ip"] = {"type": "Extension", "name": "ipaddr", "required": False}
    table: dict[str, Any] = {name: {} for name in groups}
    for action in actions.values():
        table[action.name] = {
            "memberOf": [{"id": group} for group in action.groups],
            "appliesTo": {
                "principalTypes": ["Agent"],
                "resourceTypes": [action.resource_type],
                "context": _type(contexts[action.name].shape),
            },
        }
    return {"": {"entityTypes": types, "actions": table}}


def _type(shape: Shape) -> dict[str, Any]:
    match shape:
        case Atom(name="decimal"):
            return {"type": "Extension", "name": "decimal"}
        case Atom(name=name):
            return {"type": _NAMES[name]}
        case Many(element=element):
            return {"type": "Set", "element": _type(element)}
        case Fields(fields=fields):
            attributes = {name: {**_type(field.shape), "required": field.required} for name, field in fields.items()}
            return {"type": "Record", "attributes": attributes}
        case _:
            # an entity of this type supports no operation, so a policy that uses the value is refused
            return {"type": "Entity", "name": "Group"}
