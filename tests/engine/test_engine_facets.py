"""What a program has of a runtime beside `execute`: its state, runs, checkpoints, executor, cache, and runtimes beside it."""

import asyncio

import pytest
from engine_world import AGENT, TOML, binding, call, execute, plan, read, reasons, statuses, write

import interlock
from interlock.model.errors import ConfigurationError, UsageError
from interlock.model.events import RunFinished
from interlock.model.tool import Tool


async def noop(parameters, ctx):
    return "done"


# -- state


def test_the_state_is_read_from_the_program(embedded):
    rt = embedded()
    execute(rt, write("a.x", 1), write("a.y", [2]), write("b", None))
    execute(rt, write("a.x", 3))
    assert (rt.state.get("a.x"), rt.state.get("none"), rt.state.get("none", 7)) == (3, None, 7)
    assert rt.state.entry("a.x").version == 2
    assert list(rt.state) == rt.state.list() == ["a.x", "a.y", "b"]
    assert rt.state.list("a.*") == ["a.x", "a.y"]
    assert rt.state.snapshot() == {"a.x": 3, "a.y": [2], "b": None}
    assert [(one.value, one.version) for one in rt.state.history("a.x")] == [(1, 1), (3, 2)]
    assert [one.key for one in rt.state.transitions_since()] == ["a.x", "a.y", "b", "a.x"]
    assert [one.key for one in rt.state.transitions_since(rt.state.latest - 1)] == ["a.x"]
    assert "b" in rt.state
    assert "none" not in rt.state


def test_a_program_sets_the_state_of_a_runtime_in_memory(embedded):
    rt = embedded()
    assert rt.state.set("k", {"n": 1}).version == 1
    assert execute(rt, read("k")).results[0].output == {"n": 1}
    rt.state.delete("k")
    rt.state.delete("k")
    assert rt.state.get("k") is None
    assert [one.deleted for one in rt.state.history("k")] == [False, True]
    assert rt.state.set("k", 2).version == 3
    with pytest.raises(UsageError):
        rt.state.set("", 1)


def test_what_a_program_sets_meanwhile_is_a_conflict_like_any_other(embedded):
    rt = embedded()

    async def interfere(parameters, ctx):
        rt.state.set("k", 9)

    rt.register(binding("interfere", interfere))
    result = execute(rt, read("k"), call("interfere"), write("other", 1))
    assert result.status == "failed"
    assert rt.state.snapshot() == {"k": 9}


def test_the_state_of_a_project_changes_through_the_gate_only(project):
    rt = project.open()
    execute(rt, write("k", 1))
    assert rt.state.get("k") == 1
    for change in (lambda: rt.state.set("k", 2), lambda: rt.state.delete("k")):
        with pytest.raises(UsageError) as caught:
            change()
        assert caught.value.code == "not_available"
    assert rt.state.get("k") == 1


# -- plans


def test_plans_are_looked_at_without_running_anything(embedded):
    ran = []

    async def note(parameters, ctx):
        ran.append(1)

    rt = embedded(binding("note", note), binding("other", noop), rules={"allow": ["note", "state_write"]})
    proposal = plan(write("k", 1), call("note"), call("other"))
    assert rt.verify(proposal).valid
    assert rt.verify(plan(call("none"))).issues[0].code == "unknown_tool"
    assert rt.simulate(proposal).state == {"k": 1}
    assert [one.answer for one in rt.explain(proposal)] == ["allow", "allow", "reject"]
    assert ran == []
    assert rt.state.snapshot() == {}


# -- checkpoints


def test_a_checkpoint_of_a_runtime_in_memory_begins_the_next_one(embedded, tmp_path):
    first = embedded()
    execute(first, write("k", 1), write("gone", 1))
    saved = first.checkpoints.save(tmp_path / "state.json")
    assert (saved.run_id, saved.keys, saved.seq) == ("", 2, -1)
    second = embedded()
    second.state.set("more", 1)
    assert second.checkpoints.restore(tmp_path / "state.json", merge=True).written == 2
    assert second.state.snapshot() == {"k": 1, "gone": 1, "more": 1}
    assert second.checkpoints.restore(tmp_path / "state.json").removed == 1
    assert second.state.snapshot() == {"k": 1, "gone": 1}


# -- runs


def test_a_run_is_followed_from_its_first_event_to_its_last(project):
    rt = project.open(binding("noop", noop))

    async def scene():
        run = rt.runs.start()
        seen = []

        async def watch():
            seen.extend([event async for event in rt.runs.follow(run.id)])

        watching = asyncio.create_task(watch())
        await run.execute(plan(call("noop")))
        await run.execute(plan(call("noop")))
        run.finish()
        await watching
        return run.id, seen

    run_id, seen = asyncio.run(scene())
    assert [event.seq for event in seen] == list(range(len(seen)))
    assert isinstance(seen[-1], RunFinished)
    assert [event.seq for event in rt.runs.events(run_id)] == [event.seq for event in seen]
    assert [result.status for result in rt.runs.results(run_id)] == ["succeeded"] * 2


def test_events_in_memory_are_followed_too(embedded):
    rt = embedded(binding("noop", noop), journal={"durability": "memory"})

    async def scene():
        run = rt.runs.start()
        await run.execute(plan(call("noop")))
        run.finish()
        return [event.seq async for event in rt.runs.follow(run.id)], run.id

    seen, run_id = asyncio.run(scene())
    assert seen == list(range(len(seen)))
    assert rt.runs.get(run_id).status == "succeeded"


def test_following_ends_when_a_run_is_left_held(new_project):
    project = new_project(toml=(TOML % 'ask = ["noop"]\n'))
    rt = project.open(binding("noop", noop))

    async def scene():
        result = await rt.execute(plan(call("noop")), wait=False)
        return result, [event.__struct_config__.tag async for event in rt.runs.follow(result.run_id)]

    result, kinds = asyncio.run(scene())
    assert result.status == "held"
    assert "action_held" in kinds
    assert "run_finished" not in kinds


def test_a_run_that_is_not_there(project):
    rt = project.open()
    for look in (rt.runs.get, rt.runs.events, rt.runs.results):
        with pytest.raises(UsageError) as caught:
            look("run_none")
        assert caught.value.code == "not_found"


def test_the_oldest_events_make_room(embedded):
    rt = embedded(binding("noop", noop), journal={"durability": "memory"})
    rt.services.kept._events_max = 40
    ids = [execute(rt, call("noop")).run_id for _ in range(20)]
    assert list(rt.runs.events(ids[-1]))
    with pytest.raises(UsageError, match="make room"):
        rt.runs.events(ids[0])


def test_events_of_runs_side_by_side_name_their_run(embedded):
    rt = embedded(binding("noop", noop), journal={"durability": "memory"})
    heard = {}
    rt.subscribe(events=lambda run_id, event: heard.setdefault(run_id, []).append(event))

    async def scene():
        return await asyncio.gather(*(rt.execute(plan(call("noop"), id="same")) for _ in range(3)))

    results = asyncio.run(scene())
    assert set(heard) == {result.run_id for result in results}
    assert len({len(events) for events in heard.values()}) == 1


# -- the executor of the program


class Recording:
    """A `ToolExecutor` that remembers what it was asked to do."""

    def __init__(self):
        self.calls = []

    async def execute(self, tool, parameters, ctx):
        self.calls.append((tool, parameters))
        return {"by": tool}


def test_the_default_executor_performs_what_has_no_function(embedded):
    executor = Recording()
    rt = embedded(binding("own", noop))
    rt.set_executor(executor)
    rt.register(Tool(name="defined", parameters={"type": "object", "required": ["x"]}))
    rt.register_name("named")
    result = execute(rt, call("own"), call("defined", parameters={"x": 1}), call("named"), call("anything"))
    assert statuses(result) == ["succeeded"] * 4
    assert [name for name, _ in executor.calls] == ["defined", "named", "anything"]
    assert reasons(execute(rt, call("defined"))) == ["invalid_parameters"]


def test_what_nobody_registered_is_judged_as_cautiously_as_can_be(embedded):
    rt = embedded(binding("own", noop), rules={"allow": ["own"]})
    rt.set_executor(Recording())
    assert reasons(execute(rt, call("anything"))) == ["policy_denied"]
    (tool,) = [tool for tool in rt.tools() if tool.name == "anything"]
    assert (tool.read_only, tool.destructive, tool.open_world, tool.reversibility) == (
        False,
        True,
        True,
        "irreversible",
    )
    scoped = embedded(binding("own", noop), grants={AGENT: {"tools": ["*"]}})
    scoped.set_executor(Recording())
    assert reasons(execute(scoped, call("anything"))) == ["unscoped_denied"]


def test_without_an_executor_a_tool_without_a_function_fails(embedded):
    rt = embedded()
    rt.register(Tool(name="defined"))
    assert reasons(execute(rt, call("defined"))) == ["no_executor"]
    assert execute(rt, call("anything")).status == "rejected"
    rt.set_executor(Recording())
    assert execute(rt, call("anything")).ok
    rt.set_executor(None)
    assert reasons(execute(rt, call("anything"))) == ["no_executor"]


def test_an_agent_that_makes_up_names_reaches_a_limit(embedded, monkeypatch):
    monkeypatch.setattr("interlock.engine.tools.executors.NAMES_MAX", 3)
    rt = embedded()
    rt.set_executor(Recording())
    assert execute(rt, *[call(f"t{n}") for n in range(3)]).ok
    assert reasons(execute(rt, call("t3"))) == ["unknown_tool"]


def test_the_executor_of_one_proposal_comes_first(embedded):
    mine, default = Recording(), Recording()
    rt = embedded(binding("own", noop))
    rt.set_executor(default)
    assert execute(rt, call("own"), call("anything"), executor=mine).ok
    assert [name for name, _ in mine.calls] == ["own", "anything"]
    assert default.calls == []


# -- the cache


def test_a_tools_results_are_cached_from_now_on(embedded):
    calls = []

    async def look(parameters, ctx):
        calls.append(parameters)
        return len(calls)

    rt = embedded(binding("look", look, read_only=True))
    one, two = call("look", parameters={"x": 1}), call("look", parameters={"x": 2})
    execute(rt, one)
    rt.enable_cache("look", ttl_ms=60_000)
    first, again, other = (execute(rt, action).results[0] for action in (one, one, two))
    assert (first.output, again.output, other.output) == (2, 2, 3)
    assert (again.deduplicated_from, again.attempts) == ("cache", 0)
    rt.enable_cache("look", None)
    assert execute(rt, one).results[0].output == 4
    with pytest.raises(UsageError) as caught:
        rt.enable_cache("none", 1)
    assert caught.value.code == "not_found"


def test_results_of_a_tool_that_changes_something_are_not_cached(embedded):
    written = []

    async def add(parameters, ctx):
        written.append(parameters)

    rt = embedded(binding("add", add))
    with pytest.raises(UsageError) as caught:
        rt.enable_cache("add", ttl_ms=60_000)
    assert caught.value.code == "not_cacheable"
    execute(rt, call("add"))
    execute(rt, call("add"))
    assert len(written) == 2


# -- what a program passes by mistake


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda rt: rt.set_budget(5), "budget"),
        (lambda rt: rt.set_limits(5), "limits"),
        (lambda rt: rt.set_rate_limit("look", calls=0, per_ms=1), "calls"),
        (lambda rt: rt.set_rate_limit("look", calls=1, per_ms=True), "per_ms"),
        (lambda rt: rt.enable_cache("look", ttl_ms=-5), "ttl_ms"),
        (lambda rt: rt.set_executor(len), "execute"),
        (lambda rt: rt.grants.set({"agent": "a"}), "grant"),
        (lambda rt: rt.rules.add("r", "deny"), "predicate"),
        (lambda rt: rt.rules.add("r", bool, tools="fs.*"), "tools"),
        (lambda rt: rt.rules.add("r", bool, state_keys=[1]), "state_keys"),
        (lambda rt: rt.subscribe(events=5), "events"),
        (lambda rt: rt.call_sync(5), "tool"),
        (lambda rt: rt.call_sync("look", [1]), "parameters"),
        (lambda rt: rt.call_sync("look", on_question=5), "on_question"),
        (lambda rt: rt.execute_sync({"actions": []}, on_question=5), "on_question"),
        (lambda rt: interlock.Runtime.open(settings={}, on_question=5), "on_question"),
    ],
)
def test_the_call_that_gets_a_wrong_argument_says_so(embedded, mistake, named):
    rt = embedded(binding("look", noop, read_only=True))
    with pytest.raises(UsageError, match=named):
        mistake(rt)
    assert execute(rt, call("look")).ok


# -- runtimes beside each other


def test_a_runtime_over_shared_state_has_tools_of_its_own(embedded):
    rt = embedded(binding("noop", noop), rules={"allow": ["noop", "own", "state_write", "state_read"]})
    rt.register(binding("own", noop))
    beside = rt.with_shared("other")
    beside.grants.set(interlock.Grant(id="g", agent="other", tools=("*",), unscoped=("*",), state_keys=("**",)))
    assert beside.tools() == []
    beside.register(binding("own", noop))
    execute(rt, write("k", 1))
    assert execute(beside, read("k"), call("own")).ok
    assert reasons(execute(beside, call("noop"))) == ["unknown_tool"]
    assert beside.state.get("k") == 1
    assert [tool.name for tool in rt.tools()] == ["noop", "own"]


def test_shared_policies_bind_both(embedded):
    rt = embedded(binding("noop", noop), rules={"allow": ["*"], "deny": ["noop"]})
    beside = rt.with_shared()
    beside.register(binding("noop", noop))
    assert reasons(execute(beside, call("noop"))) == ["policy_denied"]


def test_shared_journals_list_the_runs_of_both(project):
    rt = project.open(binding("noop", noop))
    beside = rt.with_shared()
    beside.register(binding("noop", noop))
    ids = {execute(rt, call("noop")).run_id, execute(beside, call("noop")).run_id}
    assert {row.run_id for row in rt.runs.list()} == {row.run_id for row in beside.runs.list()} == ids


def test_the_person_is_not_an_agent_of_a_shared_runtime(embedded):
    with pytest.raises(ConfigurationError):
        embedded().with_shared("operator")


def test_cached_results_and_executors_are_not_shared(embedded):
    rt = embedded(binding("look", noop, read_only=True))
    rt.set_executor(Recording())
    beside = rt.with_shared()
    assert beside.services.cache is not rt.services.cache
    assert reasons(execute(beside, call("anything"))) == ["unknown_tool"]


def test_options_are_checked(embedded):
    """A misspelt option must not be taken for none: `dryrun=True` would run for real."""
    rt = embedded()
    with pytest.raises(TypeError):
        rt.execute_sync(plan(write("k", 1)), dryrun=True)
    assert rt.state.snapshot() == {}
