"""The scheduler against a model that is slow and obvious: random graphs, random outcomes, in any order of ending."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from interlock.engine.scheduler import Outcome, Scheduler
from interlock.model.decode import proposal_from_builtins
from interlock.model.tool import Tool
from interlock.verify.graph import build_graph

TOOLS = {"change": Tool(name="change"), "look": Tool(name="look", read_only=True)}


@st.composite
def proposals(draw, actions_max=12):
    """Any mixture of needs (in both directions where that closes no circle), state keys, order, and reserved actions."""
    size = draw(st.integers(1, actions_max))
    rank = draw(st.permutations(range(size)))  # needs point down in rank, so there is no circle
    actions = []
    for i in range(size):
        below = [j for j in range(size) if rank[j] < rank[i]]
        needs = draw(st.lists(st.sampled_from(below), unique=True, max_size=3)) if below else []
        keys = st.lists(st.sampled_from("xyz"), max_size=1)
        actions.append(
            {
                "id": f"n{i}",
                "type": "tool_call",
                "tool": draw(st.sampled_from(["change", "look"])),
                "dependencies": [f"n{j}" for j in needs],
                "read_set": draw(keys),
                "write_set": draw(keys),
                "failure_behavior": draw(st.sampled_from(["abort", "retry", "skip"])),
            }
        )
    if size > 1 and draw(st.booleans()):
        owner, undoer = draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True))
        actions[owner]["compensation"] = {"type": "action_ref", "action_id": f"n{undoer}"}
    return proposal_from_builtins({"actions": actions, "order": draw(st.sampled_from(["declared", "free"]))})


class Model:
    """What the design says, said again without counters: looks at everything each time."""

    def __init__(self, proposal):
        self.actions = proposal.actions
        self.reserved = {a.compensation.action_id for a in self.actions if a.compensation}
        self.graph = build_graph(proposal, TOOLS)
        self.needs = {a.id: set(a.dependencies) | self.written_for(a) for a in self.actions}
        self.before = {a.id: set() for a in self.actions}  # every edge, needs among them
        for i, followers in enumerate(self.graph.dependents):
            for j in followers:
                self.before[self.actions[j if j >= 0 else ~j].id].add(self.actions[i].id)
        self.ended = dict.fromkeys(self.reserved, "reserved")
        self.settle()

    def written_for(self, action):
        """The nearest earlier writers of what the action reads."""
        earlier = [self.actions[i] for i in self.graph.order]
        earlier = [a for a in earlier[: earlier.index(action)] if a.id not in self.reserved]
        if action.id in self.reserved:
            return set()
        return {next((a.id for a in reversed(earlier) if key in a.write_set), None) for key in action.read_set} - {None}

    def settle(self):
        """Skip what needs something that did not succeed, once everything before it has ended; again until nothing changes."""
        changed = True
        while changed:
            changed = False
            for a in self.actions:
                if a.id in self.ended or not self.before[a.id] <= self.ended.keys():
                    continue
                if any(self.ended[n] != "done" for n in self.needs[a.id]):
                    self.ended[a.id] = "skipped"
                    changed = True

    def ready(self):
        return {a.id for a in self.actions if a.id not in self.ended and self.before[a.id] <= self.ended.keys()}

    def skipped(self):
        return {i for i, how in self.ended.items() if how == "skipped"}


class Histories(RuleBasedStateMachine):
    """Start what may start, end it somehow, in any order."""

    @initialize(proposal=proposals())
    def begin(self, proposal):
        self.proposal = proposal
        self.model = Model(proposal)
        self.scheduler = Scheduler(self.model.graph)
        self.name = [a.id for a in proposal.actions]
        ready, skipped = self.scheduler.start()
        self.running, self.started, self.skipped = [], set(), set()
        self.log = []
        self.take(ready, skipped)

    def take(self, ready, skipped):
        for i in ready:
            assert self.name[i] not in self.started | self.skipped, "nothing runs twice, or after it was skipped"
            self.started.add(self.name[i])
            self.running.append(i)
        for i in skipped:
            assert self.name[i] not in self.started | self.skipped
            self.skipped.add(self.name[i])

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from([Outcome.DONE, Outcome.DONE, Outcome.FAILED, Outcome.ABORT]))
    def end_one(self, data, outcome):
        i = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.log.append((i, outcome))
        self.model.ended[self.name[i]] = "done" if outcome is Outcome.DONE else "failed"
        self.model.settle()
        self.take(*self.scheduler.step(i, outcome))

    @precondition(lambda self: not self.running)
    @rule()
    def rest(self):
        """Nothing runs any more."""

    @invariant()
    def what_runs_is_what_may_run(self):
        if self.scheduler.halted:
            return
        assert {self.name[i] for i in self.running} == self.model.ready()
        assert self.skipped == self.model.skipped()
        assert self.scheduler.remaining == len(self.name) - len(self.model.ended)

    @invariant()
    def nothing_is_stuck(self):
        if not self.scheduler.halted and not self.running:
            assert self.scheduler.remaining == 0

    @invariant()
    def a_replay_of_the_journal_stands_where_the_live_one_stands(self):
        other = Scheduler(self.model.graph)
        started, skipped = map(set, other.start())
        for i, outcome in self.log:
            assert i in started
            ready, fell = other.step(i, outcome)
            started.update(ready)
            skipped.update(fell)
        assert {self.name[i] for i in skipped} == self.skipped
        if not self.scheduler.halted:
            assert {self.name[i] for i in started} == self.started
        assert (other.remaining, other.halted) == (self.scheduler.remaining, self.scheduler.halted)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=16, deadline=None)


@given(proposals())
@settings(max_examples=150, deadline=None)
def test_declared_order_holds_for_everything_that_changes_something(proposal):
    model = Model(proposal)
    chain = [
        a.id for i in model.graph.order if (a := proposal.actions[i]).tool == "change" and a.id not in model.reserved
    ]
    if proposal.order == "declared":
        for earlier, later in pairwise(chain):
            assert earlier in model.before[later]
    # without needs that point backwards the chain is the order in which they were written
    if list(model.graph.order) == sorted(model.graph.order):
        assert chain == sorted(chain, key=lambda name: int(name[1:]))


@given(proposals(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_everything_ends_whatever_the_order(proposal, random):
    scheduler = Scheduler(build_graph(proposal, TOOLS))
    ready, skipped = scheduler.start()
    running, ended = list(ready), list(skipped)
    while running:
        i = running.pop(random.randrange(len(running)))
        ended.append(i)
        more, fell = scheduler.step(i, random.choice([Outcome.DONE, Outcome.FAILED]))
        running += more
        ended += fell
    reserved = scheduler._reserved
    assert sorted(ended) == [i for i in range(len(proposal.actions)) if i not in reserved]
    assert scheduler.remaining == 0


def test_a_chain_of_skips_needs_no_stack():
    actions = [{"id": "n0", "type": "tool_call", "tool": "look"}]
    actions += [
        {"id": f"n{i}", "type": "tool_call", "tool": "look", "dependencies": [f"n{i - 1}"]} for i in range(1, 50_000)
    ]
    scheduler = Scheduler(build_graph(proposal_from_builtins({"actions": actions}), TOOLS))
    scheduler.start()
    _, skipped = scheduler.step(0, Outcome.FAILED)
    assert skipped == list(range(1, 50_000))
