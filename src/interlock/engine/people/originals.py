"""Reads the original of a question's hidden values, which is in the private part of the run that asked, never in the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from interlock.approvals import Hold, merge_patch
from interlock.approvals.hold import edited_digest
from interlock.engine.people.approval_desk import Desk
from interlock.journal import read
from interlock.journal.private import Originals
from interlock.model.errors import IntegrityError, UsageError
from interlock.model.events import ActionHeld, Kept


def original_parameters(desk: Desk, hold: Hold) -> Any:
    """The parameters to which an approval of this question is bound, including edits of approvers.

    Raises: IntegrityError `original_missing` if the run no longer has them, or they do not match the digest;
    `private_damaged`, `journal_corrupt`; StoreError.
    """
    directory = desk.runs_directory / hold.run
    kept = _kept(directory, hold.id)
    if kept is None:
        raise _missing(hold)
    if kept.private:
        data = Originals(directory).get(kept.digest)
        if data is None:
            raise _missing(hold)
        parameters = msgspec.json.decode(data)
    else:
        parameters = kept.view
    digest = desk.call_digest(hold.tool, hold.tool_version, parameters)
    if digest != hold.asked_digest:
        raise _missing(hold)
    for patch in hold.edits:
        parameters, digest = merge_patch(parameters, patch), edited_digest(digest, patch)
    if digest != hold.digest:
        raise _missing(hold)
    return parameters


def _kept(directory: Path, hold_id: str) -> Kept | None:
    try:
        for event in read(directory):
            if isinstance(event, ActionHeld) and event.approval == hold_id:
                return event.parameters
    except UsageError:
        return None  # the run does not exist
    return None


def _missing(hold: Hold) -> IntegrityError:
    return IntegrityError(
        f"the original parameters of `{hold.id}` are not in the journal of its run",
        code="original_missing",
        hint="do not approve what you cannot see: deny it, and let it be proposed again",
    )
