"""Records each proposal that states a goal, with its outcome, so that an agent finds its earlier attempts and their ends."""

from __future__ import annotations

from typing import Any, Final

from interlock.engine.services import EndedProposal, Services
from interlock.learning.facts import EPISODE, FactStore, Origin

_GOAL_CHARS: Final = 500
_TOOLS_MAX: Final = 20
_FAILED: Final = ("failed", "rejected", "unknown_outcome")


def note(services: Services, store: FactStore, ended: EndedProposal) -> None:
    """Store the episode of a proposal, if it states a goal. Only its agent can see it. Raises: StoreError."""
    goal = ended.proposal.context.get("goal")
    if not isinstance(goal, str) or not goal.strip():
        return
    said = {"goal": goal[:_GOAL_CHARS], **_outcome(ended)}
    # losing an episode does no harm, and a result must not wait for the disk
    with services.db.transaction(lasting=False):
        store.note(
            services.ids.new("mem"), f"agent:{ended.agent}", EPISODE, "", services.redactor.redact(said), author=EPISODE,
            origin=Origin(ended.run_id, ended.proposal.id),
        )  # fmt: skip


def _outcome(ended: EndedProposal) -> dict[str, Any]:
    """The summary of an episode without texts of tools: tools, status, the first failure, and the costs."""
    result = ended.result
    tools = list(dict.fromkeys(action.tool or action.type for action in ended.proposal.actions))
    found: dict[str, Any] = {"tools": tools[:_TOOLS_MAX], "outcome": result.status}
    failed = next((row for row in result.results if row.status in _FAILED), None)
    if failed is not None:
        tool = next((one.tool or one.type for one in ended.proposal.actions if one.id == failed.action_id), "")
        found["failed"] = {"tool": tool, "reason": failed.reason or failed.status}
    found["ms"] = round(result.cost.total_duration_ms)
    return found | ({"tokens": result.cost.tokens} if result.cost.tokens else {})
