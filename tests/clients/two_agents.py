"""A model that is an agent and the sub-agents that it starts, each with calls of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from interlock.surfaces.clients.model_replies import Turn
from interlock.surfaces.clients.scripted_model import Call, ScriptedModel

PROMPT = "begin with the first of the calls"
"""What the agent is asked. A sub-agent is asked something else."""


class TwoAgents(ScriptedModel):
    """`sub` is what the model says to a sub-agent."""

    def __init__(self, calls: Sequence[Call], sub: Sequence[Call]) -> None:
        super().__init__(calls)
        self.sub = ScriptedModel(sub, "sub")

    def turn(self, request: dict[str, Any]) -> Turn:
        if not request.get("tools") or PROMPT in json.dumps(request):
            return super().turn(request)
        return self.sub.turn(request)
