"""`interlock policy replay`: the decisions that an edited policy set would have made on the requests of past runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from interlock.model.decision import Decision, Request
from interlock.policy.judge import PolicyJudge
from interlock.policy.verdict import together

Answer = Literal["allow", "deny", "hold"]


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A request of a past run and the decision on it. `request.discharged` is empty: only the first decision is replayed."""

    run: str
    action: str
    request: Request
    answer: Answer
    reads: tuple[str, ...] = ()
    """State keys that the action also read (`PolicyJudge.reads`)."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose decision is different now."""

    run: str
    action: str
    before: Answer
    after: Decision


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """The changes, in the order of the past requests."""

    requests: int
    changes: tuple[Change, ...]

    @property
    def summary(self) -> str:
        """A one-line summary, such as `would have held 3, denied 1 of 40`."""
        counts: Counter[str] = Counter(change.after.decision for change in self.changes)
        words = (("hold", "held"), ("deny", "denied"), ("allow", "allowed"))
        parts = [f"{word} {counts[answer]}" for answer, word in words if counts[answer]]
        if not parts:
            return f"none of {self.requests} decisions changes"
        return f"would have {', '.join(parts)} of {self.requests}"


def replay(judge: PolicyJudge, past: Iterable[Past]) -> Replay:
    """Judge each past request again."""
    changes: list[Change] = []
    count = 0
    for each in past:
        count += 1
        decision = together(judge.decide(each.request), judge.reads(each.request, each.reads))
        if decision.decision != each.answer:
            changes.append(Change(run=each.run, action=each.action, before=each.answer, after=decision))
    return Replay(requests=count, changes=tuple(changes))
