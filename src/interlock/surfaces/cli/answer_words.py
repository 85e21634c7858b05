"""Sentences about the answer to a hold: how to give it, what it allows, and what continues after it."""

from __future__ import annotations

from interlock.engine.people.answers import Hold, Standing
from interlock.model.errors import InterlockError
from interlock.model.proposal import CLIENT_SOURCE
from interlock.model.units import as_duration
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import clean
from interlock.surfaces.cli.results import when


def standing_terms(hold: Hold, terms: Standing) -> str:
    """The terms of an answer for more than one call."""
    where = f"session `{clean(hold.session or '')}`" if terms.scope == "session" else "any session"
    return (
        f"this lets agent `{clean(hold.agent)}` call `{clean(hold.tool)}` in {where} without asking,"
        f" {terms.uses} times, for {as_duration(terms.ttl_ms)}; `interlock grants revoke` revokes it"
    )


def how_to_answer(hold: Hold) -> str:
    """The commands that answer a hold from elsewhere, and until when."""
    until = when(hold.expires_at_us, short=True)
    return f"answer with `interlock approvals approve {hold.id}` (or deny, edit, show) by {until}"


def how_it_continues(run_id: str) -> str | None:
    """What continues a run after the answer to its hold; None if a process waits for the answer."""
    try:
        with history() as past:
            row = past.run(run_id)
    except InterlockError:
        return None
    if row.status not in ("held", "interrupted"):
        return None
    if row.source.startswith(CLIENT_SOURCE):
        return "the call continues when its coding agent makes it again"
    return f"its run has no process: `interlock resume {clean(run_id)}` continues it, unless `interlock serve` does"
