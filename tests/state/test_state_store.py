"""The versioned store of a workspace, and a proposal's buffer over it."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from interlock.disk import Database
from interlock.model.canonical import CanonicalError
from interlock.model.codes import ERROR_CODES
from interlock.model.errors import IntegrityError
from interlock.state.buffer import Buffer
from interlock.state.store import StateConflictError, StateStore
from interlock.testing import FakeClock


@pytest.fixture(params=["file", "memory"])
def db(request, tmp_path):
    database = Database(tmp_path / "interlock.db" if request.param == "file" else Path(":memory:"))
    yield database
    database.close()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(db, clock):
    return StateStore(db, "workspace", clock)


def put(store, run, **values):
    buffer = Buffer(store)
    for key, value in values.items():
        buffer.write(key, value)
    return buffer.commit(run=run, seq=1, seal="seal")


class TestStore:
    def test_a_key_that_never_was_is_absent(self, store):
        assert store.get("x") is None
        assert store.snapshot() == {}
        assert store.history("x") == []
        assert store.latest() == 0

    def test_a_null_is_a_value_and_not_an_absence(self, store):
        put(store, "r", x=None)
        assert store.get("x") == (None, 1)
        assert store.snapshot() == {"x": (None, 1)}

    @pytest.mark.parametrize("value", [0, -0.0, 1.0, 1e20, 5e-324, 2**53 - 1, "", "\x00é😀", [], {"a": [{}]}, True])
    def test_values_come_back_as_they_were(self, store, value):
        put(store, "r", x=value)
        found = store.get("x").value
        assert (found, type(found), str(found)) == (value, type(value), str(value))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, "\ud800", {1: 2}, b"x", object()])
    def test_what_is_not_json_is_refused_when_it_is_written(self, store, value):
        buffer = Buffer(store)
        with pytest.raises(CanonicalError):
            buffer.write("x", value)
        assert not buffer.dirty

    def test_versions_count_writes_and_removals_and_never_go_back(self, store):
        put(store, "r1", x="a")
        put(store, "r2", x="b")
        buffer = Buffer(store)
        assert buffer.delete("x") == (2, 3)
        buffer.commit(run="r3", seq=1, seal="s")
        assert store.get("x") is None
        assert store.snapshot() == {}
        put(store, "r4", x="c")
        assert store.get("x") == ("c", 4)

    def test_history_says_who_changed_what_and_when(self, store, clock):
        buffer = Buffer(store, "p")
        buffer.write("x", 1, "a1")
        buffer.write("y", 2, "a1")
        buffer.write("x", 3, "a2")
        buffer.commit(run="r", seq=7, seal="s")
        clock.advance(1)
        buffer = Buffer(store, "q")
        buffer.delete("x", "a9")
        buffer.commit(run="r2", seq=4, seal="s2")
        seen = [
            (t.number, t.version, t.value, t.deleted, t.run, t.seq, t.proposal, t.action) for t in store.history("x")
        ]
        assert seen == [
            (1, 1, 1, False, "r", 7, "p", "a1"),
            (3, 2, 3, False, "r", 7, "p", "a2"),
            (4, 3, None, True, "r2", 4, "q", "a9"),
        ]
        assert [t.at_us for t in store.history("x")] == [clock.now_us() - 1_000_000] * 2 + [clock.now_us()]
        assert [(t.number, t.key) for t in store.transitions_since(2)] == [(3, "x"), (4, "x")]
        assert len(store.transitions_since(0)) == store.latest() == 4

    def test_the_histories_of_many_keys_are_what_each_history_is(self, store):
        for run in range(3):
            put(store, f"r{run}", **{f"k{n}": run for n in range(700) if n % (run + 1) == 0})
        keys = [f"k{n}" for n in range(700)] + ["never"]
        assert store.histories(keys, 0)[0] == {key: store.history(key) for key in keys}
        assert store.histories([], 0) == ({}, {})

    def test_workspaces_do_not_see_each_other(self, db, clock, store):
        put(store, "r", x=1)
        other = StateStore(db, "other", clock)
        assert other.get("x") is None
        put(other, "r", x=2)
        assert (store.get("x"), other.get("x")) == ((1, 1), (2, 1))
        assert len(other.transitions_since(0)) == 1

    def test_pruning_forgets_old_changes_but_never_the_newest_of_a_key(self, store, clock):
        put(store, "r1", x=1, y=1)
        put(store, "r2", x=2)
        clock.advance(10)
        put(store, "r3", x=3)
        assert store.prune(clock.now_us()) == 2
        assert [t.value for t in store.history("x")] == [3]
        assert [t.value for t in store.history("y")] == [1]
        assert store.snapshot() == {"x": (3, 3), "y": (1, 1)}
        put(store, "r4", x=4)
        assert store.latest() == 5


class TestBuffer:
    def test_a_proposal_sees_its_own_writes_and_nobody_else_does(self, store):
        put(store, "r0", x=1)
        buffer = Buffer(store)
        assert buffer.get("x") == (1, 1)
        assert buffer.write("x", 2) == (1, 2)
        assert buffer.write("x", 3) == (2, 3)
        assert buffer.get("x") == (3, 3)
        buffer.delete("x")
        assert buffer.get("x") is None
        assert store.get("x") == (1, 1)

    def test_what_was_handed_out_or_in_can_be_changed_without_changing_the_state(self, store):
        buffer, value = Buffer(store), {"a": [1]}
        buffer.write("x", value)
        value["a"].append(2)
        buffer.get("x").value["a"].append(3)
        buffer.commit(run="r", seq=1, seal="s")
        assert store.get("x") == ({"a": [1]}, 1)

    def test_dropping_a_buffer_is_all_there_is_to_a_rollback(self, store):
        Buffer(store).write("x", 1)
        assert (store.get("x"), store.latest()) == (None, 0)

    def test_a_proposal_never_sees_half_of_the_commit_of_another(self, store):
        put(store, "r0", x=1, y=1)
        buffer = Buffer(store)
        assert buffer.get("x") == (1, 1)
        put(store, "r1", x=2, y=2, z=2)
        assert buffer.get("y") == (1, 1)
        assert buffer.get("z") is None
        assert Buffer(store).get("y") == (2, 2)

    def test_keys_that_are_read_ahead_are_as_of_the_first_read_and_do_not_count_as_read(self, store):
        put(store, "r0", x=1, y=1)
        buffer = Buffer(store)
        assert buffer.get("x") == (1, 1)
        put(store, "r1", y=2, new=2)
        buffer.histories(["x", "y", "new", "never"])
        assert buffer.read == {"x": 1}
        assert [buffer.get(key) for key in ("x", "y", "new", "never")] == [(1, 1), (1, 1), None, None]
        assert buffer.read == {"x": 1, "y": 1, "new": 0, "never": 0}

    def test_a_version_that_was_pruned_under_a_reader_is_a_conflict_and_never_a_wrong_value(self, store, clock):
        put(store, "r0", x=1, y=1)
        buffer = Buffer(store)
        buffer.get("x")
        put(store, "r1", y=2)
        clock.advance(1)
        store.prune(clock.now_us())
        with pytest.raises(StateConflictError):
            buffer.get("y")

    def test_reading_what_somebody_else_changed_is_a_conflict_and_nothing_is_applied(self, store):
        put(store, "r0", x=1)
        buffer = Buffer(store)
        buffer.get("x")
        buffer.get("new")
        buffer.write("y", 1)
        put(store, "r1", x=2, new=1)
        with pytest.raises(StateConflictError) as caught:
            buffer.commit(run="r2", seq=1, seal="s")
        assert caught.value.code == "state_conflict"
        assert caught.value.code in ERROR_CODES
        assert caught.value.keys == ["x", "new"]
        assert "`x`, `new`" in caught.value.message
        assert store.get("y") is None
        assert store.applied("r2", 1) is None

    def test_a_key_that_came_back_to_the_same_value_was_still_changed(self, store):
        put(store, "r0", x=1)
        buffer = Buffer(store)
        buffer.get("x")
        put(store, "r1", x=2)
        put(store, "r2", x=1)
        with pytest.raises(StateConflictError):
            buffer.commit(run="r3", seq=1, seal="s")

    def test_a_write_of_a_key_that_was_not_read_conflicts_with_nothing(self, store):
        first, second = Buffer(store), Buffer(store)
        first.write("x", "first")
        second.write("x", "second")
        first.commit(run="r1", seq=1, seal="s")
        [change] = second.commit(run="r2", seq=1, seal="s")
        assert (change.version, store.get("x")) == (2, ("second", 2))

    def test_only_reads_of_the_store_are_checked_and_not_those_of_own_writes(self, store):
        buffer = Buffer(store)
        buffer.write("x", 1)
        buffer.get("x")
        assert buffer.read == {}
        buffer.get("y")
        assert buffer.read == {"y": 0}

    def test_claims_are_seen_by_conditions_only_and_never_committed(self, store):
        put(store, "r0", x="observed")
        buffer = Buffer(store)
        buffer.claim("x", "claimed")
        buffer.claim("new", "claimed")
        assert buffer.claimed("x").value == buffer.claimed("new").value == "claimed"
        assert (buffer.get("x").value, buffer.get("new")) == ("observed", None)
        assert not buffer.dirty
        buffer.commit(run="r1", seq=1, seal="s")
        assert store.snapshot() == {"x": ("observed", 1)}

    def test_what_was_observed_later_replaces_a_claim(self, store):
        buffer = Buffer(store)
        buffer.claim("x", "claimed")
        buffer.write("x", "written")
        assert buffer.claimed("x") == ("written", 1)
        buffer.claim("x", "again")
        buffer.delete("x")
        assert buffer.claimed("x") is None


class TestCommit:
    def test_applying_twice_changes_nothing_and_says_the_same(self, store):
        buffer = Buffer(store)
        buffer.get("x")
        buffer.write("x", 1, "a1")
        changes = buffer.commit(run="r", seq=3, seal="s")
        put(store, "r2", x=2)
        # As recovery does it, when it cannot know whether the database heard of the commit before the crash.
        assert buffer.commit(run="r", seq=3, seal="s") == changes
        store.apply(buffer.writes, run="r", seq=3, seal="s")
        assert store.changes_of("r", 3) == changes
        assert store.get("x") == (2, 2)

    def test_applying_checks_nothing_because_the_journal_has_decided(self, store):
        buffer = Buffer(store)
        buffer.get("x")
        buffer.write("x", 1)
        put(store, "r1", x="later")
        store.apply(buffer.writes, run="r", seq=3, seal="s")
        assert store.get("x") == (1, 2)

    def test_another_seal_for_the_same_place_means_that_the_journal_was_replaced(self, store):
        store.apply([], run="r", seq=3, seal="s")
        with pytest.raises(IntegrityError):
            store.apply([], run="r", seq=3, seal="another")

    def test_a_run_commits_at_several_places(self, store):
        for seq, value in ((3, "a"), (9, "b")):
            buffer = Buffer(store)
            buffer.write("x", value)
            buffer.commit(run="r", seq=seq, seal=f"s{seq}")
        assert store.get("x") == ("b", 2)
        assert (store.applied("r", 3), store.applied("r", 9), store.applied("r", 4)) == ("s3", "s9", None)

    def commit_with_a_row(self, db, buffer, afterwards):
        with db.transaction():
            db.execute("insert into other values (1)")
            buffer.commit(run="r", seq=1, seal="s")
            afterwards()

    def test_rows_of_other_rooms_are_bound_to_the_commit(self, db, store):
        db.execute("create table other (x integer)")
        buffer = Buffer(store)
        buffer.write("x", 1)
        with pytest.raises(ZeroDivisionError):
            self.commit_with_a_row(db, buffer, lambda: 1 / 0)
        assert (db.execute("select * from other"), store.get("x"), store.applied("r", 1)) == ([], None, None)
        self.commit_with_a_row(db, buffer, lambda: None)
        assert (db.execute("select * from other"), store.get("x")) == ([(1,)], (1, 1))

    def test_a_conflict_takes_the_rows_of_other_rooms_with_it(self, db, store):
        db.execute("create table other (x integer)")
        buffer = Buffer(store)
        buffer.get("x")
        put(store, "r1", x=1)
        with pytest.raises(StateConflictError):
            self.commit_with_a_row(db, buffer, lambda: None)
        assert db.execute("select * from other") == []


def increment(path, run, times):
    """Read, add one, commit; on a conflict propose it again. What a run of its own would do."""
    store = StateStore(Database(path, busy_ms=20_000, synchronous="OFF"), "workspace", FakeClock())
    for seq in range(times):
        while True:
            buffer = Buffer(store)
            found = buffer.get("n")
            buffer.write("n", (found.value if found else 0) + 1)
            try:
                buffer.commit(run=run, seq=seq, seal="s")
                break
            except StateConflictError:
                continue


class TestTogether:
    def test_no_increment_is_lost_between_threads(self, tmp_path):
        store = StateStore(Database(tmp_path / "interlock.db", synchronous="OFF"), "workspace", FakeClock())
        threads = [threading.Thread(target=increment, args=(store.db.path, f"r{i}", 25)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get("n") == (100, 100)

    def test_no_increment_is_lost_between_processes(self, tmp_path):
        path = tmp_path / "interlock.db"
        program = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
            "from test_state_store import increment; increment(Path(sys.argv[2]), sys.argv[3], 50)"
        )
        arguments = [sys.executable, "-c", program, str(Path(__file__).parent), str(path)]
        children = [subprocess.Popen([*arguments, f"r{i}"]) for i in range(2)]
        assert [child.wait(25) for child in children] == [0, 0]
        assert StateStore(Database(path), "workspace", FakeClock()).get("n") == (100, 100)


KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.none() | st.integers(0, 3) | st.lists(st.booleans(), max_size=2)


class _Model:
    """A buffer as simple as it can be: the whole state copied at the first look."""

    def __init__(self, world):
        self.world = world
        self.base = None
        self.read = {}
        self.writes = []

    def see(self):
        if self.base is None:
            self.base = dict(self.world)
        return self.base

    def get(self, key):
        own = [boxed for k, boxed in self.writes if k == key]
        if own:
            return own[-1]
        boxed, self.read[key] = self.see().get(key, (None, 0))
        return boxed


class TwoBuffersAtOnce(RuleBasedStateMachine):
    """Buffers opened, used and committed in any order, against a dict of key to ((value,) or None, version)."""

    buffers = Bundle("buffers")

    @initialize()
    def open_store(self):
        self.db = Database(Path(":memory:"))
        self.store = StateStore(self.db, "w", FakeClock())
        self.world = {}
        self.commits = 0

    def teardown(self):
        self.db.close()

    @rule(target=buffers)
    def begin(self):
        return Buffer(self.store), _Model(self.world)

    @rule(pair=buffers, key=KEYS)
    def read(self, pair, key):
        buffer, model = pair
        found, boxed = buffer.get(key), model.get(key)
        assert (found and (found.value,)) == boxed

    @rule(pair=buffers, key=KEYS, value=VALUES)
    def write(self, pair, key, value):
        buffer, model = pair
        own = sum(k == key for k, _ in model.writes)
        base = model.see().get(key, (None, 0))[1]
        assert buffer.write(key, value) == (base + own, base + own + 1)
        model.writes.append((key, (value,)))

    @rule(pair=buffers, key=KEYS)
    def delete(self, pair, key):
        buffer, model = pair
        model.see()
        buffer.delete(key)
        model.writes.append((key, None))

    @rule(pair=consumes(buffers), again=st.booleans())
    def commit(self, pair, again):
        buffer, model = pair
        self.commits += 1
        place = {"run": "r", "seq": self.commits, "seal": "s"}
        stale = [key for key, version in model.read.items() if self.world.get(key, (None, 0))[1] != version]
        if stale:
            with pytest.raises(StateConflictError) as caught:
                buffer.commit(**place)
            assert caught.value.keys == stale
            return
        changes = buffer.commit(**place)
        for key, boxed in model.writes:
            self.world[key] = (boxed, self.world.get(key, (None, 0))[1] + 1)
        assert [(t.key, t.value, t.deleted) for t in changes] == [
            (key, boxed[0] if boxed else None, boxed is None) for key, boxed in model.writes
        ]
        if again:
            assert buffer.commit(**place) == changes

    @invariant()
    def the_store_is_the_model(self):
        wanted = {key: (boxed[0], version) for key, (boxed, version) in self.world.items() if boxed is not None}
        assert self.store.snapshot() == wanted
        assert self.store.latest() == sum(version for _, version in self.world.values())


TwoBuffersAtOnce.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestTwoBuffersAtOnce = TwoBuffersAtOnce.TestCase
