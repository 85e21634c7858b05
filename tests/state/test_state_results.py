"""Results of calls that need not be made again: the idempotency store and the result cache."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.disk import Database
from interlock.model.canonical import CanonicalError
from interlock.state.cache import ResultCache
from interlock.state.idempotency import TTL_US, IdempotencyStore, Origin, Results, Stored, call_key
from interlock.testing import FakeClock

CALL = {
    "workspace": "w",
    "agent": "coder",
    "grant": "g1",
    "tool": "mail/send",
    "tool_version": "sha256:1",
    "parameters": {"to": "a", "n": 1},
}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(tmp_path, clock):
    return IdempotencyStore(Database(tmp_path / "interlock.db"), "w", clock)


def stored(run="r", proposal="p", action="a", output="done", changes=None):
    return Stored(Origin(run, proposal, action), output, changes or {})


class TestKey:
    def test_the_order_and_the_spelling_of_parameters_do_not_matter(self):
        assert call_key(**CALL) == call_key(**{**CALL, "parameters": {"n": 1.0, "to": "a"}})

    @pytest.mark.parametrize("part", CALL)
    def test_everything_else_does(self, part):
        other = {"to": "a", "n": 2} if part == "parameters" else "other"
        assert call_key(**{**CALL, part: other}) != call_key(**CALL)

    def test_parts_cannot_be_moved_between_fields(self):
        assert call_key(**{**CALL, "agent": "coderg", "grant": "1"}) != call_key(
            **{**CALL, "agent": "coder", "grant": "g1"}
        )


class TestIdempotency:
    def test_a_result_comes_back_with_its_origin(self, store):
        store.put({"k": stored(output={"id": 1e20}, changes={"x": None})})
        found = store.get("k")
        assert found == stored(output={"id": 1e20}, changes={"x": None})
        assert str(found.origin) == "r/p/a"
        assert store.get("other") is None

    def test_a_result_that_is_null_is_a_result(self, store):
        store.put({"k": stored(output=None)})
        assert store.get("k").output is None

    def test_a_result_lives_for_a_day(self, store, clock):
        store.put({"k": stored()})
        clock.set_wall(clock.now_us() + TTL_US - 1)
        assert store.get("k") is not None
        clock.set_wall(clock.now_us() + 1)
        assert store.get("k") is None

    def test_expired_results_are_deleted_when_others_are_stored(self, store, clock):
        store.put({"old": stored()})
        clock.set_wall(clock.now_us() + TTL_US)
        store.put({"new": stored()})
        assert store.db.execute("select key from idempotency") == [("new",)]

    def test_the_newest_result_of_a_call_counts(self, store):
        store.put({"k": stored(run="r1", output=1)})
        store.put({"k": stored(run="r2", output=2)})
        assert store.get("k") == stored(run="r2", output=2)

    @pytest.mark.parametrize(
        ("what", "left"),
        [
            (("r1",), {"d"}),
            (("r1", "p1"), {"c", "d"}),
            (("r1", "p1", "a1"), {"b", "c", "d"}),
            (("r9",), {"a", "b", "c", "d"}),
            (("r1", None, "a1"), {"b", "d"}),
        ],
    )
    def test_undo_of_a_run_a_proposal_or_an_action_deletes_its_results(self, store, what, left):
        store.put(
            {
                "a": stored("r1", "p1", "a1"),
                "b": stored("r1", "p1", "a2"),
                "c": stored("r1", "p2", "a1"),
                "d": stored("r2", "p1", "a1"),
            }
        )
        assert store.delete(*what) == 4 - len(left)
        assert {key for key in "abcd" if store.get(key)} == left

    def test_workspaces_and_processes(self, store, clock):
        store.put({"k": stored()})
        path = store.db.path
        assert IdempotencyStore(Database(path), "other", clock).get("k") is None
        assert IdempotencyStore(Database(path), "w", clock).get("k") == stored()

    def test_a_proposals_results_are_its_own_until_it_commits(self, store):
        results = Results(store)
        assert not results.pending
        results.put("k", stored())
        assert results.get("k") == stored()
        assert Results(store).get("k") is None
        results.commit()
        assert Results(store).get("k") == stored()

    def test_results_share_the_transaction_of_the_commit(self, store):
        results = Results(store)
        results.put("k", stored())

        def commit_and_fail():
            with store.db.transaction():
                results.commit()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            commit_and_fail()
        assert store.get("k") is None


def cached(clock, **bounds):
    return ResultCache(Database(Path(":memory:")), "w", clock, **bounds)


class TestCache:
    def test_threads_may_share_it(self, clock):
        cache = cached(clock)
        threads = [
            threading.Thread(target=lambda n=n: [cache.put(str(i % 7), n, 1000) for i in range(50)]) for n in (1, 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {cache.get(str(i)).output for i in range(7)} <= {1, 2}

    def test_processes_share_it_and_a_write_of_one_counts_for_all(self, tmp_path, clock):
        one, two = (
            ResultCache(Database(tmp_path / "db"), "w", clock, flag=tmp_path / "wake" / "flag") for _ in range(2)
        )
        generation = one.begin()
        one.put("file", 1, 1000, files=True, generation=generation)
        one.put("host", 2, 1000)
        assert (two.get("file").output, two.get("host").output) == (1, 2)
        two.files_changed()
        assert (one.get("file"), one.get("host").output) == (None, 2)
        one.put("file", 1, 1000, files=True, generation=generation)
        assert two.get("file") is None, "it was read before the write"
        two.clear()
        assert one.get("host") is None

    def test_what_was_stored_before_the_machine_was_started_does_not_count(self, tmp_path, clock):
        before, after = (ResultCache(Database(tmp_path / "db"), "w", clock, boot=boot) for boot in ("1", "2"))
        before.put("k", 1, 10**9)
        assert after.get("k") is None

    def test_what_was_forgotten_takes_no_room(self, clock):
        cache = cached(clock, chars_max=10)
        cache.put("a", "12345678", 1000)
        cache.clear()
        cache.put("b", "1", 1000)
        cache.put("c", "1", 1000)
        assert cache.get("b") is not None, "it was thrown out for what is not there any more"

    def test_an_output_lives_for_its_time(self, clock):
        cache = cached(clock)
        cache.put("k", {"a": 1}, ttl_ms=1000)
        clock.advance(0.999)
        assert cache.get("k").output == {"a": 1}
        clock.advance(0.001)
        assert cache.get("k") is None

    def test_the_wall_clock_does_not_matter(self, clock):
        cache = cached(clock)
        cache.put("k", 1, ttl_ms=1000)
        clock.set_wall(0)
        assert cache.get("k").output == 1

    def test_null_is_an_output(self, clock):
        cache = cached(clock)
        cache.put("k", None, ttl_ms=1)
        assert cache.get("k").output is None

    def test_changing_what_was_handed_out_changes_nothing(self, clock):
        cache = cached(clock)
        cache.put("k", [1], ttl_ms=1000)
        cache.get("k").output.append(2)
        assert cache.get("k").output == [1]

    def test_what_is_not_json_is_not_kept(self, clock):
        cache = cached(clock)
        with pytest.raises(CanonicalError):
            cache.put("k", float("nan"), ttl_ms=1000)
        assert cache.get("k") is None

    def test_the_least_recently_used_goes_first(self, clock):
        cache = cached(clock, entries_max=2)
        cache.put("a", 1, ttl_ms=1000)
        cache.put("b", 2, ttl_ms=1000)
        cache.get("a")
        cache.put("c", 3, ttl_ms=1000)
        assert [key for key in "abc" if cache.get(key)] == ["a", "c"]

    @given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), max_size=30))
    def test_it_never_grows_beyond_its_bounds_and_never_gives_an_old_output(self, puts):
        cache = cached(FakeClock(), entries_max=3, chars_max=40)
        last = {}
        for key, size in puts:
            cache.put(key, "x" * size, ttl_ms=1000)
            last[key] = "x" * size
            hits = {k: hit.output for k in last if (hit := cache.get(k))}
            assert len(hits) <= 3
            assert sum(len(output) + 2 for output in hits.values()) <= 40
            assert hits.items() <= last.items()
            assert key in hits

    def test_an_output_larger_than_the_cache_replaces_nothing_but_its_own_key(self, clock):
        cache = cached(clock, chars_max=10)
        cache.put("a", 1, ttl_ms=1000)
        cache.put("b", 2, ttl_ms=1000)
        cache.put("b", "x" * 20, ttl_ms=1000)
        assert (cache.get("a").output, cache.get("b")) == (1, None)


def test_memory_database_works_too(clock):
    store = IdempotencyStore(Database(Path(":memory:")), "w", clock)
    store.put({"k": stored()})
    assert store.get("k") == stored()
