"""A world to ask questions in, and short ways to ask them."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.model.decision import Decision, Request
from interlock.model.errors import ConfigurationError
from interlock.model.tool import Tool
from interlock.policy import PolicyJudge, Rules, World, load

STRING = {"type": "string"}
TOOLS = (
    Tool(
        name="fs.read",
        read_only=True,
        destructive=False,
        open_world=False,
        reversibility="reversible",
        parameters={
            "type": "object",
            "properties": {"path": STRING, "offset": {"type": "integer"}},
            "required": ["path"],
        },
    ),
    Tool(name="fs.write", parameters={"type": "object", "properties": {"path": STRING, "content": STRING}}),
    Tool(
        name="pay",
        tags=("money",),
        parameters={
            "type": "object",
            "properties": {
                "amount": {"type": "number"},
                "count": {"type": "integer"},
                "to": STRING,
                "urgent": {"type": "boolean"},
                "labels": {"type": "array", "items": STRING},
                "note": {"type": ["string", "null"]},
                "any": {},
                "pair": {"type": "object", "properties": {"kind": STRING}, "required": ["kind"]},
                "card": {
                    "type": "object",
                    "properties": {"kind": {"enum": ["debit", "credit"]}, "limit": {"type": "number"}},
                    "required": ["kind"],
                },
            },
            "required": ["amount", "to"],
        },
    ),
    Tool(
        name="shell",
        parameters={
            "type": "object",
            "properties": {"command": STRING, "env": {"type": "object", "additionalProperties": STRING}},
            "required": ["command"],
        },
    ),
    Tool(name="github/create_issue"),
    Tool(name="github/delete_repo", tags=("danger",)),
)
WORLD = World(tools=TOOLS, pinned=frozenset({"github/create_issue"}))


def judge(text: str = "", rules: Rules | None = None, world: World = WORLD) -> PolicyJudge:
    """The judge of one file, `p.cedar`, which was checked before."""
    kept = Kept()
    load([("p.cedar", text)], rules or Rules(), world, kept)
    return load([("p.cedar", text)], rules or Rules(), world, kept)


class Kept(dict[str, bytes]):
    """Remembers what was checked, so that every judge in these tests comes from there, as in a second process."""

    find = dict.get
    keep = dict.__setitem__


def ask(policies: PolicyJudge, action: str, parameters: dict[str, Any] | None = None, **more: Any) -> Decision:
    """A decision about a tool, by agent `coder`."""
    return policies.decide(request(action, parameters, **more))


def request(action: str, parameters: dict[str, Any] | None = None, **more: Any) -> Request:
    """A request about a tool, by agent `coder`."""
    fields = {"agent": "coder", "resource": action, "parameters": parameters or {}, **more}
    return Request(action=action, **fields)


def problems(text: str, rules: Rules | None = None, world: World = WORLD) -> str:
    """The message of the error that loading raises."""
    with pytest.raises(ConfigurationError) as caught:
        judge(text, rules, world)
    assert caught.value.code == "policy"
    return caught.value.message


def warnings_of(text: str, rules: Rules | None = None, world: World = WORLD) -> str:
    """What loading warns of, in lines."""
    return "\n".join(map(str, judge(text, rules, world).warnings))
