"""Random histories of questions against a simple model, through two connections, with the wall clock set about at will."""

import tempfile
from pathlib import Path

from approvals_world import World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from interlock.approvals import Approver, HoldRequest
from interlock.model.decision import Requirement

WHO = st.sampled_from(["ann", "ben", "cat"])


class Modelled:
    """What a question must be, by the rules in the design."""

    def __init__(self, hold, ends_s, quorum):
        self.id, self.digest, self.ends_s, self.quorum = hold.id, hold.digest, ends_s, quorum
        self.decided = None
        self.agreed = set()
        self.consumed_by = None

    def status(self, now_s):
        return self.decided or ("expired" if now_s >= self.ends_s else "pending")


class Questions(RuleBasedStateMachine):
    holds = Bundle("holds")

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.world = World(Path(self.directory.name))
        self.stores = [self.world.store(), self.world.store()]
        self.now_s = 0
        self.all = []

    def teardown(self):
        for database in self.world.open:
            database.close()
        self.directory.cleanup()

    def _settle(self, model):
        """Whoever touches a question after its time fixes that it is over."""
        if model.status(self.now_s) == "expired":
            model.decided = "expired"

    @rule(target=holds, ttl_s=st.integers(1, 20), quorum=st.sampled_from([1, 1, 1, 2, 3]), at=st.integers(0, 1))
    def ask(self, ttl_s, quorum, at):
        need = (Requirement(policy="p", content="c", quorum=quorum),)
        digest = f"d{len(self.all)}"
        hold = self.stores[at].ask(
            HoldRequest(agent="a", tool="t", summary="s", digest=digest, ttl_ms=ttl_s * 1000, requirements=need)
        )
        self.all.append(Modelled(hold, self.now_s + ttl_s, quorum))
        return self.all[-1]

    @rule(
        model=holds,
        who=WHO,
        decision=st.sampled_from(["approve", "approve", "approve", "edit", "deny"]),
        at=st.integers(0, 1),
    )
    def vote(self, model, who, decision, at):
        self._settle(model)
        patch = {"x": 1} if decision == "edit" else None
        outcome = self.stores[at].vote(model.id, Approver(id=who), "cli", decision, digest=model.digest, patch=patch)
        if model.decided:
            assert (outcome.code, outcome.hold.status) == ("already_resolved", model.decided)
            return
        if decision == "deny":
            model.decided = "denied"
        else:
            model.agreed = {who} if decision == "edit" else model.agreed | {who}
            model.digest = outcome.hold.digest
            if len(model.agreed) >= model.quorum:
                model.decided = "approved"
        assert outcome.code == ("resolved" if model.decided else "recorded")

    @rule(model=holds, at=st.integers(0, 1))
    def cancel(self, model, at):
        self._settle(model)
        outcome = self.stores[at].cancel(model.id, "x")
        assert outcome.code == ("already_resolved" if model.decided else "resolved")
        model.decided = model.decided or "cancelled"

    @rule(
        model=holds,
        by=st.sampled_from(["r/p/1", "r/p/2"]),
        stale=st.sampled_from([False, False, True]),
        at=st.integers(0, 1),
    )
    def consume(self, model, by, stale, at):
        allowed = model.decided == "approved" and not stale and model.consumed_by in (None, by)
        assert self.stores[at].consume(model.id, "other" if stale else model.digest, by) is allowed
        if allowed:
            model.consumed_by = by

    @rule(at=st.integers(0, 1))
    def sweep(self, at):
        due = [m for m in self.all if m.decided is None and m.status(self.now_s) == "expired"]
        assert self.stores[at].expire() == len(due)
        for model in due:
            model.decided = "expired"

    @rule(seconds=st.integers(1, 8))
    def time_passes(self, seconds):
        self.now_s += seconds
        self.world.clock.advance(seconds)

    @rule(seconds=st.integers(1, 100_000))
    def the_wall_clock_is_set_back(self, seconds):
        self.world.clock.set_wall(self.world.clock.now_us() - seconds * 1_000_000)

    @rule(at=st.integers(0, 1))
    def a_process_starts_anew(self, at):
        self.stores[at] = self.world.store()

    @invariant()
    def everybody_sees_the_same(self):
        for store in self.stores:
            seen = {m.id: store.get(m.id) for m in self.all}
            assert {i: h.status for i, h in seen.items()} == {m.id: m.status(self.now_s) for m in self.all}
            assert {i: h.consumed_by for i, h in seen.items()} == {m.id: m.consumed_by for m in self.all}
            pending = [m.id for m in self.all if m.status(self.now_s) == "pending"]
            assert [h.id for h in store.list_holds(limit=1000)] == pending
            assert {h.id for h in store.answered(list(seen))} == seen.keys() - set(pending)

    @invariant()
    def each_decision_is_audited_once(self):
        events = [(r.subject, r.event) for r in self.stores[0].audit.records(limit=10_000)]
        for model in self.all:
            decided = [e for s, e in events if s == model.id and e in {"approved", "denied", "expired", "cancelled"}]
            assert decided == ([model.decided] if model.decided else [])


TestQuestions = Questions.TestCase
TestQuestions.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
