"""What a step of the gate answers: go on, ask a person, or no (`Refusal`)."""

from __future__ import annotations

from typing import Final, NamedTuple

from interlock.model.decision import Decision, Refusal


class Allow:
    """The action may go on to the next step."""

    __slots__ = ()


class Ask(NamedTuple):
    """A person has to approve the action first, as this decision of step 5 requires."""

    decision: Decision


ALLOW: Final = Allow()
Verdict = Allow | Ask | Refusal
