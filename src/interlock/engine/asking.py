"""Step 6: ask a human."""

from __future__ import annotations

from interlock.engine.turn import Turn
from interlock.model.decision import Decision, Refusal


async def ask(turn: Turn, decision: Decision) -> Refusal | None:
    """Until approvals are there, nobody can be asked: a hold refuses."""
    turn.step = 6
    names = ", ".join(f"`{requirement.policy}`" for requirement in decision.requirements)
    return Refusal("approval_required", f"the rules say to ask first ({names}), and nobody is here to answer")
