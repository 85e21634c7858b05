"""Skills that fail are repaired where that is safe, as candidates; nothing replaces or activates itself."""

import asyncio

import msgspec
import pytest
from engine_world import call, execute, statuses
from test_learning_skills import approve, rt  # noqa: F401 - a fixture

from interlock.model.errors import ToolError, UsageError
from interlock.model.tool import Binding, Tool


def tool(name, function, **definition):
    return Binding(tool=Tool(name=name, open_world=False, **definition), function=function, mode="async")


@pytest.fixture
def flaky(rt):  # noqa: F811
    """A skill of two tools; `fetch` fails as often as `broken` says, and may be repeated."""
    broken = []

    async def fetch(parameters, ctx):
        if broken:
            raise ToolError("no connection", code=broken.pop(), retryable=True)

    async def keep(parameters, ctx):
        return None

    rt.register(tool("fetch", fetch, read_only=True, idempotent=True))
    rt.register(tool("keep", keep))
    for n in ("a", "b"):
        execute(rt, call("fetch", parameters={"n": n}), call("keep"), context={"goal": "fetch and keep"})
    rt.skills.wait_learnt()
    approve(rt, "fetch-and-keep")
    rt.broken = broken
    return rt


def use(rt, count=1):  # noqa: F811
    done = [asyncio.run(rt.skills.run("fetch-and-keep", {"n": str(n)})) for n in range(count)]
    rt.skills.wait_learnt()
    return done


def test_a_step_that_fails_for_a_reason_that_passes_is_retried_once_a_person_agrees(flaky):
    flaky.broken += ["connection_failed"] * 5
    use(flaky, 5)
    degraded, repair = sorted(flaky.skills.list(), key=lambda one: one.version)
    assert (degraded.state, repair.state, repair.source) == ("degraded", "candidate", "evolved")
    assert [step.more for step in repair.content.template.steps] == [{"failure_behavior": "retry"}, {}]
    newest = next(row for row in flaky.runs.list() if row.source == "learning")
    events = [msgspec.to_builtins(event) for event in flaky.runs.events(newest.run_id)]
    (event,) = [e for e in events if e["kind"] == "evolution_triggered"]
    assert (event["domain"], event["rate"], event["repairs"]) == ("fetch-and-keep", 0.0, ("fetch-and-keep@2",))
    with pytest.raises(UsageError, match="is candidate"):
        use(flaky)
    assert len(flaky.skills.evidence(repair)) == 2
    flaky.skills.approve("fetch-and-keep", version=2, digest=repair.digest, by="eve", untested=True)
    flaky.broken.append("connection_failed")
    (done,) = use(flaky)
    assert (done.status, done.results[0].attempts) == ("succeeded", 2)
    assert flaky.skills.uses(flaky.skills.get("fetch-and-keep")).succeeded == 1


def test_the_same_task_done_by_hand_makes_no_other_version_of_a_repaired_skill(flaky):
    flaky.broken += ["connection_failed"] * 5
    use(flaky, 5)
    for state in ("candidate", "active"):
        execute(flaky, call("fetch", parameters={"n": state}), call("keep"))
        flaky.skills.wait_learnt()
        assert sorted(one.version for one in flaky.skills.list()) == [1, 2]
        repair = flaky.skills.get("fetch-and-keep", 2)
        assert repair.state == state
        if state == "candidate":
            flaky.skills.approve("fetch-and-keep", version=2, digest=repair.digest, by="eve", untested=True)


def test_what_could_do_harm_twice_or_will_not_pass_is_not_repaired(flaky):
    flaky.broken += ["tool_failed"] * 5
    use(flaky, 5)
    assert [one.state for one in flaky.skills.list()] == ["degraded"]
    assert flaky.skills.repair("fetch-and-keep") is None


def test_a_repair_is_made_once(flaky):
    flaky.broken += ["connection_failed"] * 5
    use(flaky, 5)
    assert flaky.skills.repair("fetch-and-keep") is None  # a candidate waits


@pytest.mark.parametrize(
    ("schema", "repaired"),
    [
        ({"type": "object", "properties": {"n": {"type": "string"}, "more": {"type": "string"}}}, True),
        ({"type": "object", "properties": {"n": {}, "must": {}}, "required": ["must"]}, False),
        ({"type": "object", "properties": {"number": {"type": "string"}}, "additionalProperties": False}, False),
    ],
)
def test_a_tool_that_changed_is_taken_as_it_is_if_it_still_takes_what_the_skill_gives(flaky, schema, repaired):
    async def fetch(parameters, ctx):
        return None

    flaky.register(tool("fetch", fetch, description="new", parameters=schema))
    with pytest.raises(UsageError) as refused:
        use(flaky)
    assert refused.value.code == "skill_tool_changed"
    found = flaky.skills.repair("fetch-and-keep")
    assert (found is not None) == repaired
    if found is not None:
        assert found.changes == ("`fetch` is used with its present definition",)
        assert flaky.skills.problems(found.skill) == []
        approved = flaky.skills.approve(
            "fetch-and-keep", version=found.skill.version, digest=found.skill.digest, by="eve", untested=True
        )
        assert approved.state == "active"
        assert statuses(use(flaky)[0]) == ["succeeded", "succeeded"]


def test_few_uses_degrade_nothing(flaky):
    flaky.broken += ["connection_failed"] * 4
    use(flaky, 4)
    assert [one.state for one in flaky.skills.list()] == ["active"]


def test_only_the_last_twenty_uses_count(flaky):
    use(flaky, 20)
    flaky.broken += ["connection_failed"] * 8
    use(flaky, 8)
    assert flaky.skills.get("fetch-and-keep").state == "active"  # 12 of the last 20: 60 %
    flaky.broken.append("connection_failed")
    use(flaky)
    assert flaky.skills.get("fetch-and-keep", 1).state == "degraded"


def set_state(rt, **values):  # noqa: F811
    for key, value in values.items():
        action = {"type": "state_write", "id": "w", "parameters": {"key": key, "value": value}}
        assert execute(rt, action).status == "succeeded"
    rt.skills.wait_learnt()


def test_a_precondition_is_learnt_from_the_state_before_uses(flaky):
    """It fails whenever the lock is held; other keys say nothing."""
    for number in range(6):
        held = number % 2 == 1
        set_state(
            flaky,
            a=number,
            lock=held,
            zone="eu",
            secret="ghp_" + "kRw7Zc2QxN5vTb9YfJ3mHd8LsPq4Ga1Ue6Xo",
        )
        if held:
            flaky.broken.append("tool_failed")
        use(flaky)
    degraded, found = sorted(flaky.skills.list(), key=lambda one: one.version)
    assert (degraded.state, found.state, found.source) == ("degraded", "candidate", "evolved")
    assert found.content.template.steps[0].more == {"preconditions": [{"key": "lock", "value": False}]}
    flaky.skills.approve("fetch-and-keep", version=2, digest=found.digest, by="eve", untested=True)
    (refused,) = use(flaky)
    assert (refused.results[0].status, refused.results[0].reason) == ("rejected", "precondition_failed")
    assert flaky.skills.uses(flaky.skills.get("fetch-and-keep")).uses == 0  # a refusal says nothing about it
    set_state(flaky, lock=False)
    assert use(flaky)[0].status == "succeeded"


def test_the_state_that_a_use_itself_changed_is_that_of_before(rt):  # noqa: F811
    async def work(parameters, ctx):
        return None

    rt.register(tool("work", work))
    for n in ("a", "b"):
        write = {"type": "state_write", "id": "w", "parameters": {"key": "done", "value": True}}
        execute(rt, call("work", parameters={"n": n}), write, context={"goal": "work"})
    rt.skills.wait_learnt()
    approve(rt, "work")
    set_state(rt, done=False)
    asyncio.run(rt.skills.run("work", {"n": "x"}))
    rt.skills.wait_learnt()
    (row,) = rt.services.db.execute("select state from skill_uses")
    assert row == ('{"done":false}',)


def test_undo_of_a_use_takes_it_out_of_the_count(flaky):
    done = use(flaky, 2)
    undo = asyncio.run(flaky.runs.undo(done[0].run_id))
    assert flaky.skills.uses(flaky.skills.get("fetch-and-keep")).uses == 1
    asyncio.run(flaky.runs.undo(undo.run_id))
    assert flaky.skills.uses(flaky.skills.get("fetch-and-keep")).uses == 2


def test_a_domain_that_fails_degrades_its_weak_skills_and_leaves_the_good_one(rt):  # noqa: F811
    broken = set()

    def made(name):
        async def function(parameters, ctx):
            if name in broken:
                raise ToolError("no", code="tool_failed", retryable=False)

        return tool(f"net.{name}", function)

    for name in ("good", "bad", "worse"):
        rt.register(made(name))
        for n in ("a", "b"):
            execute(rt, call(f"net.{name}", "1", parameters={"n": n}), call(f"net.{name}", "2"), context={"goal": name})
        rt.skills.wait_learnt()
        approve(rt, name)
    broken |= {"bad", "worse"}

    def times(name, count):
        for n in range(count):
            asyncio.run(rt.skills.run(name, {"n": str(n)}))
            rt.skills.wait_learnt()

    times("good", 3)
    times("bad", 4)
    times("worse", 2)
    assert {rt.skills.get(name).state for name in ("good", "bad", "worse")} == {"active"}
    times("worse", 1)  # the tenth use of the domain: 3 of 10 succeeded
    assert [rt.skills.get(name).state for name in ("good", "bad", "worse")] == ["active", "degraded", "degraded"]
    newest = next(row for row in rt.runs.list() if row.source == "learning")
    events = [msgspec.to_builtins(event) for event in rt.runs.events(newest.run_id)]
    assert [(e["domain"], e["rate"]) for e in events if e["kind"] == "evolution_triggered"] == [("net", 0.3)]
