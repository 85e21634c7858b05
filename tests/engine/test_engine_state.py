"""State as a proposal sees it: its own buffer, one commit, conflicts, conditions, effects and claims."""

import asyncio
import threading

import pytest
from engine_world import binding, call, execute, expect, plan, read, reasons, statuses, write
from engine_world import embedded as open_embedded

import interlock
from interlock.testing import FakeClock


async def noop(parameters, ctx):
    return parameters


def value(rt, key):
    found = rt.services.store.get(key)
    return None if found is None else found.value


def test_a_proposal_sees_its_own_writes_and_others_do_not_before_the_end(embedded):
    rt = embedded()
    seen = []

    async def look(parameters, ctx):
        seen.append((await rt.execute(plan(read("k")))).results[0].output)

    rt.register(binding("look", look, read_only=True))
    result = execute(rt, write("k", 1), read("k"), call("look", dependencies=["a2"]), read("k"))
    assert [row.output for row in result.results] == ["written: k", 1, None, 1]
    assert seen == [None]
    assert value(rt, "k") == 1


def test_rows_say_what_changed(embedded):
    rt = embedded(
        binding("build", noop, effects={"build.ok": True, "build.id": "$output.id", "who": "$parameters.who"})
    )
    result = execute(
        rt, write("k", [1, {"x": None}]), call("build", parameters={"id": 7, "who": "me"}), read("build.id")
    )
    assert result.results[0].state_changes == {"k": [1, {"x": None}]}
    assert result.results[1].state_changes == {"build.ok": True, "build.id": 7, "who": "me"}
    assert result.results[2].output == 7
    assert {k: e.value for k, e in rt.services.store.snapshot().items()} == {
        "build.ok": True, "build.id": 7, "who": "me", "k": [1, {"x": None}],
    }  # fmt: skip


def test_an_effect_whose_part_is_missing_is_null(embedded):
    rt = embedded(binding("build", noop, effects={"id": "$output.deep.id"}))
    assert execute(rt, call("build")).results[0].state_changes == {"id": None}


def test_history_and_transitions(embedded):
    rt = embedded()
    first = execute(rt, write("k", 1), write("k", 2))
    execute(rt, write("k", 3))
    history = rt.services.store.history("k")
    assert [(t.version, t.value) for t in history] == [(1, 1), (2, 2), (3, 3)]
    assert (history[0].proposal, history[0].action) == (first.proposal_id, "a1")
    assert [t.value for t in rt.services.store.transitions_since(1)] == [2, 3]


def test_what_was_read_and_changed_meanwhile_is_a_conflict(embedded):
    rt = embedded()

    async def interfere(parameters, ctx):
        await rt.execute(plan(write("k", "theirs")))

    rt.register(binding("interfere", interfere, read_only=True))
    execute(rt, write("k", 0))
    result = execute(
        rt, read("k", "r"), call("interfere", "i", dependencies=["r"]), write("sum", 1, dependencies=["i"])
    )
    assert result.status == "failed"
    assert result["r"].reason == "state_conflict"
    assert statuses(result) == ["rolled_back", "succeeded", "rolled_back"]  # `i` read nothing that has changed
    assert (value(rt, "k"), value(rt, "sum")) == ("theirs", None)


def test_what_was_only_written_is_not_a_conflict(embedded):
    rt = embedded()

    async def interfere(parameters, ctx):
        await rt.execute(plan(write("k", "theirs")))

    rt.register(binding("interfere", interfere, read_only=True))
    result = execute(rt, write("k", 1), call("interfere", dependencies=["a1"]))
    assert result.ok
    assert value(rt, "k") == 1


def test_a_reader_without_writes_never_conflicts(embedded):
    """It changes nothing, so there is nothing that somebody else's change could spoil."""
    rt = embedded()

    async def interfere(parameters, ctx):
        await rt.execute(plan(write("k", "theirs")))

    rt.register(binding("interfere", interfere, read_only=True))
    result = execute(rt, read("k"), call("interfere", dependencies=["a1"]), read("k", dependencies=["a2"]))
    assert result.ok
    assert [result.results[0].output, result.results[2].output] == [None, None], "one view for the whole proposal"


def test_of_many_that_count_at_once_none_loses_a_count(embedded):
    """Two proposals at once: read, add one, write; whoever is told `state_conflict` proposes again."""
    rt = embedded(binding("add", lambda p, c: p["n"] + 1 if p["n"] else 1, mode="thread", read_only=True))
    conflicts = []

    def count():
        for _ in range(5):
            while True:
                result = rt.execute_sync(
                    plan(read("n", "r"), call("add", "s", parameters={"n": "$r.output"}), write("n", "$s.output"))
                )
                if result.ok:
                    break
                assert "state_conflict" in reasons(result)
                conflicts.append(1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(25)
    assert value(rt, "n") == 20


def test_processes_that_count_at_once(project):
    body = """
        async def add(parameters, ctx):
            return (parameters["n"] or 0) + 1
        rt = project.open(binding("add", add, read_only=True))
        actions = [read("n", "r"), call("add", "s", parameters={"n": "$r.output"}), write("n", "$s.output")]
        done = 0
        while done < 5:
            result = execute(rt, *actions)
            assert result.ok or "state_conflict" in reasons(result), result
            done += result.ok
        project.close()
    """
    project.open().close()
    children = [project.script(body) for _ in range(3)]
    for child in children:
        _, errors = child.communicate(timeout=25)
        assert child.returncode == 0, errors
    with project.open() as rt:
        assert value(rt, "n") == 15


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"key": "n", "value": 1}, True),
        ({"key": "n", "value": 1.0}, True),
        ({"key": "n", "operator": "neq", "value": 1}, False),
        ({"key": "n", "operator": "gt", "value": 0.5}, True),
        ({"key": "n", "operator": "lte", "value": 1}, True),
        ({"key": "n", "operator": "lt", "value": "2"}, False),
        ({"key": "s", "operator": "gte", "value": "abc"}, True),
        ({"key": "s", "operator": "contains", "value": "bc"}, True),
        ({"key": "o", "path": "/a/0", "value": 5}, True),
        ({"key": "o", "path": "/a/1", "operator": "exists"}, False),
        ({"key": "o", "path": "/a/1", "operator": "not_exists"}, True),
        ({"key": "none", "value": None}, True),
        ({"key": "absent", "value": None}, False),
        ({"key": "absent", "operator": "neq", "value": 1}, False),
        ({"key": "absent", "operator": "not_exists"}, True),
        ({"key": "b", "value": 1}, False),
    ],
)
def test_preconditions(embedded, condition, holds):
    rt = embedded(binding("noop", noop))
    execute(rt, *[write(k, v) for k, v in {"n": 1, "s": "abc", "o": {"a": [5]}, "none": None, "b": True}.items()])
    result = execute(rt, call("noop", preconditions=[condition]))
    assert reasons(result) == ([None] if holds else ["precondition_failed"])


def test_conditions_see_the_proposals_own_writes(embedded):
    rt = embedded(binding("noop", noop))
    result = execute(
        rt, write("k", 1), call("noop", preconditions=[{"key": "k", "value": 1}], state_dependencies=["k"])
    )
    assert result.ok


def test_assumptions_about_value_and_version(embedded):
    rt = embedded(binding("noop", noop))
    execute(rt, write("k", 1), write("k", 2))
    assert execute(rt, call("noop", assumptions=[{"key": "k", "expected_value": 2, "read_version": 2}])).ok
    assert execute(rt, call("noop", assumptions=[{"key": "absent", "read_version": 0}])).ok
    for wrong in ({"expected_value": 1}, {"read_version": 1}, {"expected_value": None}):
        assert reasons(execute(rt, call("noop", assumptions=[{"key": "k", **wrong}]))) == ["precondition_failed"]


def test_what_an_assumption_looked_at_is_checked_again_at_the_commit(embedded):
    rt = embedded()

    async def interfere(parameters, ctx):
        await rt.execute(plan(write("k", "theirs")))

    rt.register(binding("interfere", interfere, read_only=True))
    result = execute(
        rt, call("interfere", assumptions=[{"key": "k", "read_version": 0}]), write("done", 1, dependencies=["a1"])
    )
    assert result.status == "failed"
    assert reasons(result) == ["state_conflict", None]
    assert value(rt, "done") is None


def test_a_missing_state_dependency(embedded):
    rt = embedded(binding("noop", noop))
    assert reasons(execute(rt, call("noop", state_dependencies=["k"]))) == ["state_missing"]
    execute(rt, write("k", None))
    assert execute(rt, call("noop", state_dependencies=["k"])).ok


def test_claims_are_never_committed_nor_seen_by_policy(embedded):
    rt = embedded(binding("noop", noop))
    result = execute(
        rt,
        call("noop", expected_effects={"k": 5}),
        read("k"),
        expect("k", None),
        call("noop", state_dependencies=["k"]),
    )
    assert statuses(result) == ["succeeded"] * 4
    assert rt.services.store.snapshot() == {}


def test_a_write_is_stronger_than_an_older_claim(embedded):
    rt = embedded(binding("noop", noop))
    condition = {"preconditions": [{"key": "k", "value": 2}]}
    assert execute(rt, call("noop", expected_effects={"k": 1}), write("k", 2), call("noop", **condition)).ok


def test_claims_that_differ_are_journaled(project):
    rt = project.open(binding("set", noop, effects={"a": "$parameters.a"}))
    claims = {"a": 1, "b": 2}
    right = execute(rt, call("set", parameters={"a": 1}, expected_effects={"a": 1.0}))
    wrong = execute(rt, call("set", parameters={"a": 3}, expected_effects=claims))
    assert [e["key"] for e in project.journal(right.run_id) if e["kind"] == "effect_divergence"] == []
    assert [e["key"] for e in project.journal(wrong.run_id) if e["kind"] == "effect_divergence"] == ["a", "b"]


def test_state_is_kept_in_the_project_and_not_in_memory(project):
    with project.open() as rt:
        execute(rt, write("k", {"x": [1, 2.5, "ü", None, True]}))
    with project.open() as rt:
        assert execute(rt, read("k")).results[0].output == {"x": [1, 2.5, "ü", None, True]}


def test_nothing_is_committed_before_the_last_action_ended(embedded):
    rt = embedded()
    seen = []
    rt.register(binding("peek", lambda p, c: seen.append(value(rt, "k")), mode="inline"))
    assert execute(rt, write("k", 1), call("peek"), write("k", 2), call("peek")).ok
    assert seen == [None, None]


def test_a_reference_may_be_written(embedded):
    rt = embedded(binding("noop", noop))
    assert execute(rt, call("noop", "n", parameters={"x": {"y": [1]}}), write("k", "$n.output.x")).ok
    assert value(rt, "k") == {"y": [1]}


def test_a_value_that_a_tool_changes_later_stays_what_it_was(embedded):
    kept = []

    async def give(parameters, ctx):
        kept.append({"list": [1]})
        return kept[0]

    async def spoil(parameters, ctx):
        parameters["v"]["list"].append(2)
        kept[0]["list"].append(3)

    rt = embedded(binding("give", give), binding("spoil", spoil))
    execute(rt, call("give", "g"), write("k", "$g.output"), call("spoil", parameters={"v": "$g.output"}), read("k"))
    assert value(rt, "k") == {"list": [1]}


def test_the_same_clock_gives_the_same_times():
    with open_embedded(clock=FakeClock(now_us=5)) as rt:
        result = execute(rt, write("k", 1))
        assert result.results[0].timestamp == 5
        assert rt.services.store.history("k")[0].at_us == 5


def test_two_proposals_of_one_run_at_once(embedded):
    rt = embedded(binding("noop", noop))

    async def main():
        run = rt.runs.start()
        decode = interlock.model.decode.proposal_from_builtins
        both = await asyncio.gather(*[run.execute(decode(plan(write(f"k{i}", i)))) for i in range(2)])
        run.finish()
        return both, run.status

    both, status = asyncio.run(main())
    assert ([r.ok for r in both], status) == ([True, True], "succeeded")
    assert both[0].run_id == both[1].run_id
