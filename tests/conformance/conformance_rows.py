"""The rows of the table, source by source, function by function."""

import asyncio
import json
import os
import time

import msgspec
import pytest
from conformance_table import CAR, RUNTIMO, SYMBI, row
from engine_world import (
    AGENT,
    TOML,
    binding,
    call,
    change_services,
    execute,
    expect,
    plan,
    read,
    reasons,
    statuses,
    write,
)

import interlock
from interlock.model.errors import ConflictError, IntegrityError, StoreError, ToolError, UsageError
from interlock.model.tool import RateLimit, Tool

STRING = {"type": "object", "required": ["path"], "properties": {"path": {"type": "string"}}}


async def noop(parameters, ctx):
    return "done"


async def broken(parameters, ctx):
    raise RuntimeError("it broke")


def kinds(project, result, action=None):
    return project.kinds(result.run_id, action)


# -- runtimo-core


@row(RUNTIMO, "execute_with_telemetry", "a capability has 30 seconds")
def _(bench):
    assert Tool(name="x").timeout_ms == 30_000


@row(RUNTIMO, "execute_with_telemetry_and_session", "telemetry and processes are captured before and after")
def _(bench):
    rt = bench.project().open(binding("do", noop))
    until = time.monotonic() + 20
    while "processes" not in rt.services.sampler.latest().view:  # they are looked at once a second
        assert time.monotonic() < until
        time.sleep(0.05)
    row = execute(rt, call("do")).results[0]
    assert row.telemetry["before"]["processes"]
    assert row.telemetry["after"]["processes"]


@row(
    RUNTIMO,
    "execute_with_telemetry_and_session",
    "over 80 % of CPU or memory the call is refused at once",
    "it waits for the machine, and is rejected with `resource_guard` only if that takes too long; off until a limit is set",
    "a machine is often busy for seconds because of the agent's own last action",
)
def _(bench):
    toml = (TOML % "").replace("memory = 1.0", 'memory = 0.000001\nwait = "10ms"')
    rt = bench.project(toml=toml).open(binding("do", noop))
    assert reasons(execute(rt, call("do"))) == ["resource_guard"]


@row(RUNTIMO, "execute_with_telemetry_and_session", "the start is logged before the capability runs")
def _(bench):
    project = bench.project()
    seen = []

    async def look(parameters, ctx):
        seen.extend(project.kinds(ctx.run_id))

    execute(project.open(binding("look", look)), call("look"))
    assert seen[-1] == "action_intent"


@row(
    RUNTIMO, "execute_with_telemetry_and_session", "a capability gets `dry_run`, the job's id and the working directory"
)
def _(bench):
    seen = []

    async def look(parameters, ctx):
        seen.append((ctx.dry_run, ctx.run_id, ctx.workspace is not None))

    rt = bench.project().open(binding("look", look, supports_dry_run=True))
    real, dry = execute(rt, call("look")), execute(rt, call("look"), dry_run=True)
    assert seen == [(False, real.run_id, True), (True, dry.run_id, True)]


@row(
    RUNTIMO,
    "execute_with_telemetry_and_session",
    "arguments that do not validate give a failed result, after the start was logged",
    "they are rejected before the intent: nothing was about to happen",
    "an intent in the journal means that an effect was possible",
)
def _(bench):
    project = bench.project()
    result = execute(project.open(binding("do", noop, parameters=STRING)), call("do"))
    assert (statuses(result), reasons(result)) == (["rejected"], ["invalid_parameters"])
    assert "action_intent" not in kinds(project, result)


@row(RUNTIMO, "execute_with_telemetry_and_session", "a capability that fails gives a result, not an exception")
def _(bench):
    result = execute(bench.embedded(binding("do", broken)), call("do"))
    assert (statuses(result), result.results[0].error) == (["failed"], "RuntimeError: it broke")


@row(RUNTIMO, "execute_with_telemetry_and_session", "a capability can report that it did not succeed, with data")
def _(bench):
    async def partly(parameters, ctx):
        return interlock.ToolError("half of it", output={"done": 1})

    row = execute(bench.embedded(binding("do", partly)), call("do")).results[0]
    assert (row.status, row.output) == ("failed", {"done": 1})


@row(
    RUNTIMO,
    "execute_with_telemetry_and_session",
    "a job is added to its session after it succeeded",
    "a run belongs to its session from its start, also one that fails",
    "what failed is what people look for",
)
def _(bench):
    rt = bench.project().open(binding("do", broken))
    asyncio.run(rt.execute(plan(call("do")), session="s"))
    assert [row.status for row in rt.runs.list(session="s")] == ["failed"]


@row(RUNTIMO, "execute_with_telemetry_and_session", "a log that cannot be written is an error")
def _(bench):
    project = bench.project()
    rt = project.open(binding("do", noop))
    execute(rt, call("do"))
    runs = project.home / "runs"
    runs.rename(project.home / "away")
    runs.write_text("")
    with pytest.raises(StoreError):
        execute(rt, call("do"))


@row(RUNTIMO, "execute_with_telemetry_and_session", "an environment variable says where the log is")
def _(bench):
    project = bench.project()
    execute(project.open(binding("do", noop)), call("do"))
    assert project.home.is_relative_to(project.env["INTERLOCK_STATE_DIR"])


@row(RUNTIMO, "fail_result", "a failed result has a message and no data")
def _(bench):
    row = execute(bench.embedded(binding("do", broken)), call("do")).results[0]
    assert (row.output, bool(row.error)) == (None, True)


@row(RUNTIMO, "log_job_failed_with_snapshots", "a failure is logged with the telemetry of before and after")
def _(bench):
    project = bench.project()
    result = execute(project.open(binding("do", broken)), call("do"))
    (event,) = [event for event in project.journal(result.run_id) if event["kind"] == "action_failed"]
    assert {"before", "after"} <= event["telemetry"].keys()


@row(
    RUNTIMO,
    "execute_with_timeout_check",
    "a capability that took too long is an error, once it has ended",
    "it is stopped when its time is over; the error says after how long",
    "a time-out that is only measured stops nothing",
)
def _(bench):
    async def hang(parameters, ctx):
        await asyncio.sleep(20)

    row = execute(bench.embedded(binding("do", hang, timeout_ms=30)), call("do")).results[0]
    assert (row.status, row.reason) == ("failed", "timeout")
    assert "30ms" in row.error


# -- car_engine


@row(
    CAR,
    "idempotency_key",
    "the key is type, tool and parameters, whatever their order",
    "also the workspace, the agent, its grant and the tool's version",
    "what one agent was given must not be handed to another, nor survive a changed tool",
)
def _(bench):
    calls = []

    async def count(parameters, ctx):
        calls.append(1)
        return len(calls)

    rt = bench.embedded(binding("do", count, idempotent=True))
    action = call("do", parameters={"a": 1, "b": 2}, idempotent=True)
    execute(rt, action)
    assert execute(rt, action | {"parameters": {"b": 2, "a": 1}}).results[0].output == 1
    other = rt.fork("other")
    other.grants.set(interlock.Grant(id="g", agent="other", tools=("*",), unscoped=("*",)))
    assert execute(other, action).results[0].output == 2
    rt.register(binding("do", count, idempotent=True, description="another"))
    assert execute(rt, action).results[0].output == 3


@row(CAR, "rejected_result", "a rejected row has an error, no output and no changes")
def _(bench):
    rt = bench.embedded(binding("do", noop), rules={"deny": ["do"]})
    row = execute(rt, call("do")).results[0]
    assert (row.status, row.output, row.state_changes, bool(row.error)) == ("rejected", None, {}, True)


@row(
    CAR,
    "skipped_result",
    "a skipped row says why, in words",
    "as a stable code, and in words",
    "programs must not parse sentences",
)
def _(bench):
    row = execute(bench.embedded(), expect("x", 1), write("y", 1)).results[1]
    assert (row.status, row.reason) == ("skipped", "aborted")
    assert "stopped the proposal" in row.error


@row(
    CAR, "format_tool_result", "output as JSON, `[REJECTED] ...`, `[FAILED] ...`, `[Status] ...`; nothing for no output"
)
def _(bench):
    rt = bench.embedded(
        binding("do", noop), binding("broken", broken), binding("no", noop), rules={"allow": ["*"], "deny": ["no"]}
    )
    result = execute(
        rt,
        call("do"),
        call("no", failure_behavior="skip"),
        call("broken", "b", failure_behavior="skip"),
        call("do", dependencies=["b"]),
    )
    texts = [interlock.format_result(one) for one in result.results]
    assert texts[0] == '"done"'
    assert texts[1].startswith("[REJECTED] ")
    assert texts[2].startswith("[FAILED] ")
    assert texts[3].startswith("[SKIPPED] ")


@row(
    CAR,
    "new",
    "a new runtime allows everything that is registered",
    "nothing is allowed without a rule and a grant",
    "nothing that an agent says is authority to act",
)
def _(bench):
    with interlock.Runtime.open(settings={}) as rt:
        rt.register(binding("do", noop))
        assert statuses(execute(rt, call("do"))) == ["rejected"]


@row(CAR, "with_shared", "a runtime over shared state, log and policies has tools, executor and caches of its own")
def _(bench):
    rt = bench.embedded(
        binding("do", noop), rules={"allow": ["do", "own", "state_read", "state_write"], "deny": ["own"]}
    )
    rt.register(binding("own", noop))
    shared = rt.with_shared()
    shared.register(binding("own", noop))
    execute(rt, write("k", 1))
    assert execute(shared, read("k")).results[0].output == 1
    assert reasons(execute(shared, call("own"))) == ["policy_denied"]
    assert reasons(execute(shared, call("do"))) == ["unknown_tool"]


@row(
    CAR,
    "with_inference",
    "`infer`, `embed` and `classify` are built in, and bypass the executor",
    "a model is a tool like any other: registered, judged, recorded",
    "a second path around the gate is what Interlock exists to prevent",
)
def _(bench):
    async def infer(parameters, ctx):
        return {"text": "42"}

    rt = bench.embedded(binding("infer", infer), rules={"allow": ["infer"]})
    assert execute(rt, call("infer", parameters={"prompt": "6 x 7"})).results[0].output == {"text": "42"}
    assert reasons(execute(bench.embedded(binding("infer", infer), rules={"deny": ["infer"]}), call("infer"))) == [
        "policy_denied"
    ]


def learnt(bench, function=noop):
    """A runtime that has learnt a skill from a task that was done twice; and the events of what it learnt."""
    rt = bench.embedded(binding("do", function), journal={"durability": "memory"}).with_learning(auto_distill=True)
    for n in (1, 2):
        execute(rt, call("do", "x", parameters={"n": n}), call("do", "y", dependencies=["x"]), context={"goal": "work"})
    rt.skills.wait_learnt()
    return rt, lambda: [
        event
        for row in rt.runs.list()
        if row.source == "learning"
        for event in rt.runs.events(row.run_id)
        if event.__struct_config__.tag in ("skill_distilled", "evolution_triggered")
    ]


@row(
    CAR,
    "with_learning",
    "skills are distilled from a trace after each proposal, inside `execute`, and said in an event",
    "on a thread, after the result; what differs between two traces becomes a parameter; the event is in a run of its own",
    "a reader must not be able to change or delay a run, and a trace without parameters does one thing only",
)
def _(bench):
    rt, events = learnt(bench)
    (skill,) = rt.skills.list()
    assert list(skill.content.template.parameters) == ["n"]
    assert [(event.count, event.names) for event in events()] == [(1, ("work",))]


@row(
    CAR,
    "with_learning",
    "what is distilled is ingested, and in use at once",
    "it is a candidate, which a person reads and approves (or a rule, once its test has passed)",
    "nothing that an agent did may become what others do without anybody's yes",
)
def _(bench):
    rt, _ = learnt(bench)
    with pytest.raises(UsageError, match="candidate"):
        asyncio.run(rt.skills.run("work", {"n": 3}))


@row(
    CAR,
    "execute",
    "a domain whose success falls under 0.6 is evolved from the failures of this proposal, if it distilled something",
    "after every use, over the last 20 (at least 5); the repair is a candidate",
    "a proposal that fails distils nothing, so evolution would never see it",
)
def _(bench):
    broken = []

    async def sometimes(parameters, ctx):
        if broken:
            raise ToolError("no", code="tool_failed", retryable=False)

    rt, events = learnt(bench, sometimes)
    skill = rt.skills.get("work")
    rt.skills.approve("work", version=1, digest=skill.digest, by="eve", untested=True)
    broken.append(True)
    for n in range(5):
        asyncio.run(rt.skills.run("work", {"n": n}))
    rt.skills.wait_learnt()
    assert rt.skills.get("work").state == "degraded"
    assert [(e.domain, e.rate) for e in events() if e.__struct_config__.tag == "evolution_triggered"] == [("work", 0.0)]


@row(
    CAR,
    "dispatch",
    "`infer` is given what the memory says about its prompt, without a word of it",
    "only `infer.grounded` reads the memory, and its output lists what the model was shown",
    "who asks a model has to know what it was told, and by whom",
)
def _(bench):
    seen = []

    async def infer(parameters, ctx):
        seen.append(parameters)
        return {"text": "42"}

    rt = bench.embedded(binding("infer", infer), rules={"allow": ["*"]}).with_learning()
    execute(rt, call("memory.write", parameters={"subject": "answer", "value": "it is 42"}))
    execute(rt, call("infer", parameters={"prompt": "what is the answer?"}))
    assert seen == [{"prompt": "what is the answer?"}]
    assert "infer.grounded" not in {tool.name for tool in rt.tools()}  # it needs a configured model


class Executor:
    def __init__(self):
        self.calls = []

    async def execute(self, tool, parameters, ctx):
        self.calls.append(tool)
        return {"by": "executor"}


@row(CAR, "with_executor", "an executor performs the calls of tools that are schemas only")
def _(bench):
    rt = bench.embedded()
    rt.set_executor(Executor())
    rt.register(Tool(name="do"))
    assert execute(rt, call("do")).results[0].output == {"by": "executor"}


@row(
    CAR,
    "set_executor",
    "the executor can be set for the next `execute`",
    "`execute(..., executor=)` is for that call",
    "two calls at once must not share it by accident",
)
def _(bench):
    rt, mine = bench.embedded(binding("do", noop)), Executor()
    assert execute(rt, call("do"), executor=mine).results[0].output == {"by": "executor"}
    assert execute(rt, call("do")).results[0].output == "done"


@row(CAR, "with_event_log", "events are kept in memory, and can be read")
def _(bench):
    rt = bench.embedded(binding("do", noop), journal={"durability": "memory"})
    result = execute(rt, call("do"))
    assert list(rt.runs.events(result.run_id))


@row(
    CAR,
    "register_tool",
    "a bare name is a tool with an open schema",
    "with the most cautious traits",
    "nothing is known about it",
)
def _(bench):
    rt = bench.embedded()
    rt.register_name("do", lambda parameters: noop(parameters, None))
    assert execute(rt, call("do", parameters={"anything": [1]})).ok
    (tool,) = [tool for tool in rt.tools() if tool.name == "do"]
    assert (tool.read_only, tool.destructive, tool.open_world, tool.reversibility) == (
        False,
        True,
        True,
        "irreversible",
    )


@row(CAR, "register_tool_schema", "registering configures cache and rate limit, and replaces the namesake")
def _(bench):
    calls = []

    async def count(parameters, ctx):
        calls.append(1)
        return len(calls)

    rt = bench.embedded(binding("do", count, read_only=True, cache_ttl_ms=60_000))
    assert [execute(rt, call("do")).results[0].output for _ in range(2)] == [1, 1]
    rt.register(binding("do", count))
    assert execute(rt, call("do")).results[0].output == 2


@row(
    CAR,
    "tool_schemas",
    "all schemas can be listed, for a model's prompt",
    "by name; `tools_for` gives those that the agent may reach",
    "a model should not be offered what would be refused",
)
def _(bench):
    rt = bench.embedded(binding("b", noop), binding("a", noop), rules={"allow": ["a", "b"], "deny": ["b"]})
    assert [tool.name for tool in rt.tools()] == ["a", "b"]
    assert [one["function"]["name"] for one in rt.tools_for("openai")] == ["a"]


@row(
    CAR,
    "set_cost_budget",
    "actions, tool calls and duration are bounded; what is over is skipped, nothing is rolled back",
)
def _(bench):
    rt = bench.embedded(binding("do", noop))
    rt.set_budget(interlock.Budget(tool_calls=1))
    result = execute(rt, call("do"), call("do"))
    assert (statuses(result), reasons(result)) == (["succeeded", "skipped"], [None, "budget_exceeded"])


@row(
    CAR,
    "set_cost_budget",
    "the budget is checked before each action, and not among those of one parallel level",
    "a place is reserved before each attempt",
    "40 parallel calls would all pass a budget of one",
)
def _(bench):
    rt = bench.embedded(binding("do", noop))
    result = execute(rt, *[call("do") for _ in range(40)], order="free", budget={"tool_calls": 3})
    assert statuses(result).count("succeeded") == 3


@row(
    CAR,
    "set_capabilities",
    "tools, state keys of reads and writes, and the number of actions are limited",
    "also assertions, claims and preconditions",
    "a question about a key is a way to read it",
)
def _(bench):
    grant = {"tools": ["do"], "unscoped": ["do"], "state_keys": ["mine"], "actions_max": 1}
    rt = bench.embedded(binding("do", noop), binding("other", noop), grants={AGENT: grant})
    assert reasons(execute(rt, call("other"))) == ["capability_denied"]
    for action in (read("theirs"), write("theirs", 1), expect("theirs", 1)):
        assert reasons(execute(rt, action)) == ["state_key_denied"]
    assert reasons(execute(rt, call("do"), call("do"))) == ["too_many_actions"] * 2


@row(
    CAR,
    "set_rate_limit",
    "a token bucket: a call without a token waits",
    "within the deadline, and reported as `waited_ms`",
    "waiting is not execution, and must have an end",
)
def _(bench):
    rt = bench.embedded(binding("do", noop))
    rt.set_rate_limit("do", calls=1, per_ms=100)
    result = execute(rt, call("do"), call("do"))
    assert result.ok
    assert result.results[1].waited_ms > 0
    rt.set_rate_limit("do", calls=1, per_ms=60_000)
    execute(rt, call("do"))
    assert reasons(execute(rt, call("do"), deadline_ms=50)) == ["rate_limited"]


@row(CAR, "enable_tool_cache", "results of a tool are cached across proposals for a time")
def _(bench):
    calls = []

    async def count(parameters, ctx):
        calls.append(1)
        return len(calls)

    rt = bench.embedded(binding("do", count, read_only=True))
    rt.enable_cache("do", 60_000)
    assert [execute(rt, call("do")).results[0].output for _ in range(2)] == [1, 1]


@row(CAR, "execute", "the proposal's arrival is an event with its source and its number of actions")
def _(bench):
    rt = bench.embedded(binding("do", noop), journal={"durability": "memory"})
    result = execute(rt, call("do"), call("do"), source="planner")
    event = list(rt.runs.events(result.run_id))[1]
    assert (event.source, event.action_count) == ("planner", 2)


@row(CAR, "execute", "a proposal with too many actions is rejected whole")
def _(bench):
    grant = {"tools": ["*"], "unscoped": ["*"], "actions_max": 1}
    result = execute(bench.embedded(binding("do", noop), grants={AGENT: grant}), call("do"), call("do"))
    assert (result.status, statuses(result)) == ("rejected", ["rejected"] * 2)


@row(
    CAR,
    "execute",
    "an unknown tool is rejected when its action comes",
    "it stops the plan before anything runs",
    "a plan that cannot be carried out should have no effect at all",
)
def _(bench):
    rt = bench.embedded(binding("do", noop))
    result = execute(rt, write("k", 1), call("none"))
    assert (result.status, result.results[1].reason) == ("rejected", "unknown_tool")
    assert rt.state.snapshot() == {}


@row(CAR, "execute", "a failed action with `abort` ends the proposal: the rest is skipped and the state is as before")
def _(bench):
    rt = bench.embedded(binding("broken", broken))
    rt.state.set("k", 1)
    result = execute(rt, write("k", 2), call("broken"), write("k", 3))
    assert statuses(result) == ["rolled_back", "failed", "skipped"]
    assert rt.state.get("k") == 1


@row(
    CAR,
    "execute",
    "rolling back restores a snapshot, whoever wrote meanwhile",
    "a proposal's writes reach the store only at its end",
    "other writers must lose nothing",
)
def _(bench):
    rt = bench.embedded()

    async def interfere(parameters, ctx):
        rt.state.set("other", 1)

    rt.register(binding("interfere", interfere))
    execute(rt, write("k", 1), call("interfere"), expect("k", 2))
    assert rt.state.snapshot() == {"other": 1}


@row(
    CAR,
    "execute",
    "only a failed action aborts, a rejected one does not",
    "both do",
    "a plan with a hole in it is another plan",
)
def _(bench):
    rt = bench.embedded(binding("do", noop), rules={"allow": ["state_write"]})
    assert statuses(execute(rt, write("k", 1), call("do"), write("k", 2))) == ["rolled_back", "rejected", "skipped"]


@row(CAR, "execute", "actions run in the order of their dependencies, others of a level at once")
def _(bench):
    running, most = set(), []

    async def work(parameters, ctx):
        running.add(ctx.action_id)
        most.append(len(running))
        await asyncio.sleep(0.01)
        running.discard(ctx.action_id)

    rt = bench.embedded(binding("do", work))
    result = execute(rt, call("do", "c", dependencies=["a", "b"]), call("do", "a"), call("do", "b"), order="free")
    assert result.ok
    assert max(most) == 2


@row(CAR, "execute", "results are in the order of the proposal")
def _(bench):
    rt = bench.embedded(binding("do", noop))
    result = execute(rt, call("do", "b", dependencies=["a"]), call("do", "a"))
    assert [one.action_id for one in result.results] == ["b", "a"]


@row(CAR, "execute", "costs are summed up: tool calls, executed, skipped, retries, duration")
def _(bench):
    rt = bench.embedded(binding("do", noop), binding("broken", broken))
    change_services(rt, jitter=lambda: 0.0)
    result = execute(rt, call("do"), write("k", 1), call("broken", failure_behavior="retry", max_retries=1), call("do"))
    cost = result.cost
    assert (cost.actions_skipped, cost.retries) == (1, 1)
    assert cost.tool_calls >= 2
    assert cost.total_duration_ms > 0


@row(
    CAR,
    "execute",
    "a rollback is an event with the whole state",
    "with each key that the proposal had written: what was dropped, and what holds",
    "the state of a workspace may be large, and most of it is not this proposal's to copy",
)
def _(bench):
    rt = bench.embedded(journal={"durability": "memory"})
    rt.state.set("k", 0)
    result = execute(rt, write("k", 1), expect("k", 2))
    (event,) = [e for e in rt.runs.events(result.run_id) if e.__struct_config__.tag == "state_rolled_back"]
    assert msgspec.json.decode(msgspec.json.encode(event.state.view)) == {"k": {"dropped": 1, "value": 0, "version": 1}}


@row(CAR, "execute", "what an aborted proposal had stored of idempotent calls is forgotten")
def _(bench):
    calls = []

    async def count(parameters, ctx):
        calls.append(1)

    rt = bench.embedded(binding("do", count, idempotent=True))
    execute(rt, call("do", idempotent=True), expect("x", 1))
    execute(rt, call("do", idempotent=True))
    assert len(calls) == 2


@row(CAR, "execute", "a root span `proposal.execute`: ok, or error after an abort")
def _(bench):
    rt = bench.embedded(binding("do", noop), journal={"durability": "memory"})
    for actions, status in (([call("do")], "ok"), ([expect("x", 1)], "error")):
        spans = rt.runs.spans(execute(rt, *actions).run_id)
        (root,) = [span for span in spans if span.parent_id is None]
        assert (root.name, root.status) == ("proposal.execute", status)


@row(CAR, "process_action", "a child span `action.TYPE`: ok, error, or unset for a skipped one")
def _(bench):
    rt = bench.embedded(binding("broken", broken), journal={"durability": "memory"})
    result = execute(rt, write("k", 1), call("broken", "b", failure_behavior="skip"), read("k", dependencies=["b"]))
    spans = {span.name: span.status for span in rt.runs.spans(result.run_id)}
    assert (spans["action.state_write"], spans["action.tool_call"], spans["action.state_read"]) == (
        "ok",
        "error",
        "unset",
    )


@row(
    CAR,
    "process_action_inner",
    "stored results of idempotent calls are handed out first, also failures, and before policy",
    "only successes, after policy",
    "a call that became forbidden must not have its result handed out",
)
def _(bench):
    calls = []

    async def fails(parameters, ctx):
        calls.append(1)
        raise RuntimeError("no")

    rt = bench.embedded(binding("do", fails, idempotent=True), binding("good", noop, idempotent=True))
    for _ in range(2):
        execute(rt, call("do", idempotent=True))
    assert len(calls) == 2
    assert execute(rt, call("good", idempotent=True)).ok
    rt.grants.set(interlock.Grant(id="g", agent=AGENT, tools=("do",), unscoped=("do",)))
    assert reasons(execute(rt, call("good", idempotent=True))) == ["capability_denied"]


@row(CAR, "process_action_inner", "a hit has its own id, no duration, and names the first call")
def _(bench):
    rt = bench.embedded(binding("do", noop, idempotent=True))
    first = execute(rt, call("do", "a", idempotent=True))
    hit = execute(rt, call("do", "b", idempotent=True)).results[0]
    assert (hit.action_id, hit.duration_ms) == ("b", 0)
    assert hit.deduplicated_from == f"{first.run_id}/{first.proposal_id}/a"


@row(CAR, "process_action_inner", "a refusal by capability names the tool or the key")
def _(bench):
    rt = bench.embedded(binding("do", noop), grants={AGENT: {"tools": ["x"], "state_keys": ["y"]}})
    assert "`do`" in execute(rt, call("do")).results[0].error
    assert "`k`" in execute(rt, read("k")).results[0].error


@row(CAR, "process_action_inner", "a refusal by policy names the policy")
def _(bench):
    rt = bench.embedded(binding("do", noop), rules={"allow": ["*"], "deny": ["do"]})
    assert "deny:do" in execute(rt, call("do")).results[0].error


@row(
    CAR,
    "process_action_inner",
    "an action that passed is an event (`action_validated`)",
    "its intent is that event; a dry run has `action_validated`",
    "one event less on the way of every action",
)
def _(bench):
    rt = bench.embedded(binding("do", noop), journal={"durability": "memory"})
    real, dry = execute(rt, call("do")), execute(rt, call("do"), dry_run=True)
    assert "action_intent" in [event.__struct_config__.tag for event in rt.runs.events(real.run_id)]
    assert "action_validated" in [event.__struct_config__.tag for event in rt.runs.events(dry.run_id)]


@row(CAR, "execute_with_retry", "`retry` makes `max_retries` + 1 attempts, others one")
def _(bench):
    calls = []

    async def fails(parameters, ctx):
        calls.append(ctx.attempt)
        raise RuntimeError("no")

    rt = bench.embedded(binding("do", fails))
    change_services(rt, jitter=lambda: 0.0)
    execute(rt, call("do", failure_behavior="retry", max_retries=2))
    execute(rt, call("do"))
    assert calls == [1, 2, 3, 1]


@row(
    CAR,
    "execute_with_retry",
    "the delay is 100 ms, doubled each time",
    "at most that: with full jitter, and at most 30 s",
    "many that failed together should not come back together",
)
def _(bench):
    rt = bench.embedded(binding("do", broken), journal={"durability": "memory"})
    change_services(rt, jitter=lambda: 0.5)
    result = execute(rt, call("do", failure_behavior="retry", max_retries=2))
    delays = [
        event.delay_ms for event in rt.runs.events(result.run_id) if event.__struct_config__.tag == "action_retrying"
    ]
    assert delays == [50, 100]


@row(
    CAR,
    "execute_with_retry",
    "exhausted, `retry` is failed and the proposal continues",
    "it aborts",
    "what needed it cannot succeed, and what was done is half of a plan",
)
def _(bench):
    rt = bench.embedded(binding("broken", broken))
    result = execute(rt, write("k", 1), call("broken", failure_behavior="retry", max_retries=0), write("k", 2))
    assert statuses(result) == ["rolled_back", "failed", "skipped"]


@row(
    CAR,
    "execute_with_retry",
    "exhausted, `skip` is skipped",
    "it is failed, because it ran; what needs it is skipped",
    "`skipped` means that nothing happened",
)
def _(bench):
    rt = bench.embedded(binding("broken", broken), binding("do", noop))
    result = execute(rt, call("broken", "a", failure_behavior="skip"), call("do", dependencies=["a"]), call("do"))
    assert statuses(result) == ["failed", "skipped", "succeeded"]


@row(
    CAR,
    "execute_with_retry",
    "an action's own time-out says after how long it was over",
    "and cannot be longer than the tool's",
    "an agent must not extend what the operator set",
)
def _(bench):
    async def hang(parameters, ctx):
        await asyncio.sleep(20)

    rt = bench.embedded(binding("do", hang, timeout_ms=60))
    assert "20ms" in execute(rt, call("do", timeout_ms=20)).results[0].error
    assert "60ms" in execute(rt, call("do", timeout_ms=5_000)).results[0].error


@row(
    CAR,
    "execute_with_retry",
    "`expected_effects` are committed to the state",
    "they are claims: seen by preconditions of the same proposal, never committed",
    "an agent's word is not an observation",
)
def _(bench):
    rt = bench.embedded(binding("do", noop))
    claim = call("do", "a", expected_effects={"built": True})
    needs = call("do", dependencies=["a"], preconditions=[{"key": "built", "value": True}])
    assert execute(rt, claim, needs).ok
    assert rt.state.snapshot() == {}


@row(CAR, "execute_with_retry", "changes of the state are in the row and an event")
def _(bench):
    rt = bench.embedded(journal={"durability": "memory"})
    result = execute(rt, write("k", 1))
    assert result.results[0].state_changes == {"k": 1}
    assert any(event.__struct_config__.tag == "state_changed" for event in rt.runs.events(result.run_id))


@row(
    CAR,
    "dispatch",
    "a `tool_call` without a tool fails",
    "the proposal is malformed, and nothing runs",
    "a malformed plan has no effect at all",
)
def _(bench):
    rt = bench.embedded()
    with pytest.raises(interlock.ProposalError):
        execute(rt, write("k", 1), {"type": "tool_call", "parameters": {}})
    assert rt.state.snapshot() == {}


@row(CAR, "dispatch", "without an executor a tool without a function fails")
def _(bench):
    rt = bench.embedded()
    rt.register(Tool(name="do"))
    assert reasons(execute(rt, call("do"))) == ["no_executor"]


@row(CAR, "dispatch", "a rate limit is waited for before the call")
def _(bench):
    rt = bench.embedded(binding("do", noop, rate_limit=RateLimit(calls=1, per_ms=50)))
    assert execute(rt, call("do"), call("do")).results[1].waited_ms > 0


@row(CAR, "dispatch", "`state_write` sets a key (null without a value) and says `written: KEY`")
def _(bench):
    rt = bench.embedded()
    result = execute(rt, {"type": "state_write", "parameters": {"key": "k"}})
    assert result.results[0].output == "written: k"
    assert rt.state.snapshot() == {"k": None}


@row(CAR, "dispatch", "`state_read` gives the value, null if there is none")
def _(bench):
    rt = bench.embedded()
    rt.state.set("k", [1])
    assert [one.output for one in execute(rt, read("k"), read("none")).results] == [[1], None]


@row(
    CAR,
    "dispatch",
    "`assertion` gives `{asserted, value}`, or fails naming both values",
    "both values are in the output, not in the message",
    "a value may be a secret, and messages are shown and logged",
)
def _(bench):
    rt = bench.embedded()
    rt.state.set("k", 1)
    good, bad = execute(rt, expect("k", 1)).results[0], execute(rt, expect("k", 2)).results[0]
    assert good.output == {"asserted": "k", "value": 1}
    assert (bad.reason, bad.output) == ("assertion_failed", {"asserted": "k", "value": 1, "expected": 2})


@row(
    CAR,
    "dispatch",
    "1 and 1.0 are different in an assertion",
    "they are equal",
    "JSON has one kind of number, and models write both",
)
def _(bench):
    rt = bench.embedded()
    rt.state.set("k", 1)
    assert execute(rt, expect("k", 1.0)).ok


@row(CAR, "save_checkpoint", "a checkpoint has an id, the time, the state, the tools, metadata and events")
def _(bench):
    project = bench.project()
    rt = project.open(binding("do", noop))
    run_id = execute(rt, write("k", 1)).run_id
    file = project.root.parent / "c.json"
    saved = rt.checkpoints.save(file, run=run_id, metadata={"note": "before"}, events=True)
    document = json.loads(file.read_bytes().split(b"\n")[0])
    assert saved.id
    assert document["state"]["k"]["value"] == 1
    assert document["metadata"] == {"note": "before"}
    assert document["events"]
    assert "do" in document["tools"]


@row(
    CAR,
    "save_checkpoint_to_file",
    "it is written to a file as JSON",
    "atomically, for the owner only, with a digest and a signature",
    "an agent that can write the file could else edit the state",
)
def _(bench):
    project = bench.project()
    rt = project.open()
    execute(rt, write("k", 1))
    file = project.root.parent / "c.json"
    rt.checkpoints.save(file)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(file.read_bytes().replace(b'"k"', b'"x"'))
    with pytest.raises(IntegrityError):
        rt.checkpoints.restore(file)


@row(CAR, "load_checkpoint_from_file", "loading restores the state, in another process too")
def _(bench):
    project = bench.project()
    rt = project.open()
    execute(rt, write("k", 1))
    rt.checkpoints.save(project.root.parent / "c.json")
    execute(rt, write("k", 2))
    other = project.open()
    other.checkpoints.restore(project.root.parent / "c.json")
    assert rt.state.get("k") == 1


@row(
    CAR,
    "restore_checkpoint",
    "keys are set one by one, and those that the checkpoint lacks are kept",
    "one transaction makes the state exactly the checkpoint's; `merge=True` keeps them",
    "a mixture of two states is neither",
)
def _(bench):
    rt = bench.embedded()
    rt.state.set("k", 1)
    file = str(os.path.join(bench._directory, "c.json"))
    rt.checkpoints.save(file)
    rt.state.set("more", 1)
    rt.checkpoints.restore(file, merge=True)
    assert rt.state.list() == ["k", "more"]
    rt.checkpoints.restore(file)
    assert rt.state.list() == ["k"]


@row(
    CAR,
    "restore_checkpoint",
    "tools are replaced by names with open schemas",
    "they are compared: what is missing or differs is named, and refused unless accepted",
    "a tool without its schema is another tool",
)
def _(bench):
    file = str(os.path.join(bench._directory, "c.json"))
    bench.embedded(binding("do", noop)).checkpoints.save(file)
    rt = bench.embedded()
    with pytest.raises(ConflictError) as caught:
        rt.checkpoints.restore(file)
    assert caught.value.code == "tools_differ"
    assert rt.checkpoints.restore(file, accept_tools=True).tools_missing == ("do",)


# -- symbi-runtime


async def asked_and(rt, answer, **options):
    """Ask something; `answer` gets the hold once it is there."""
    asking = asyncio.create_task(rt.approvals.ask("do the thing", **options))
    while not rt.approvals.list():
        await asyncio.sleep(0.005)
    answer(rt.approvals.list()[0])
    return await asking


@row(
    SYMBI,
    "new",
    "the queue is in memory, and shared by its clones",
    "in a project it is in the database, and survives a crash; in a runtime in memory, and in its forks, it is in memory",
    "a question must outlive the process that asked it",
)
def _(bench):
    project = bench.project()
    rt = project.open()
    rt.approvals.desk.wait = False
    with pytest.raises(interlock.HeldError):
        asyncio.run(rt.approvals.ask("x"))
    rt.close()
    assert [hold.summary for hold in project.open().approvals.list()] == ["x"]
    memory = bench.embedded()
    assert memory.fork("other").approvals.desk is memory.approvals.desk


@row(
    SYMBI,
    "with_audit",
    "an audit sink gets a record of each resolution",
    "of each question, vote, refusal and expiry, from the first on",
    "what was refused matters as much",
)
def _(bench):
    rt, got = bench.embedded(), []
    rt.approvals.attach(got.append)
    asyncio.run(asked_and(rt, rt.approvals.approve))
    until = time.monotonic() + 10
    while not any(record.event == "approved" for record in got):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert {"asked", "voted", "approved"} <= {record.event for record in got}


@row(
    SYMBI,
    "subscribe",
    "a notifier is told of each held action",
    "on a thread of its own, with time limits and retries",
    "a notifier that hangs must not hold the question",
)
def _(bench):
    rt, told = bench.embedded(), []

    def notify(hold):
        told.append(hold.summary)

    rt.approvals.subscribe(notify)
    asyncio.run(asked_and(rt, rt.approvals.deny))
    rt.approvals.desk._notifications.drain(10)
    assert told == ["do the thing"]


@row(
    SYMBI,
    "next_id",
    "ids are 64 random bits",
    "128",
    "an id opens a question to whoever has it, for as long as it waits",
)
def _(bench):
    rt, ids = bench.embedded(), []
    for _ in range(2):
        asyncio.run(asked_and(rt, lambda hold: (ids.append(hold.id), rt.approvals.deny(hold))))
    assert len({*ids}) == 2
    assert all(len(bytes.fromhex(one.removeprefix("hold_"))) == 16 for one in ids)


@row(SYMBI, "enqueue", "the caller waits until somebody resolves the action")
def _(bench):
    rt = bench.embedded()
    assert asyncio.run(asked_and(rt, lambda hold: rt.approvals.approve(hold, reason="fine"))).reason == "fine"
    assert rt.approvals.list() == []


@row(
    SYMBI,
    "enqueue",
    "a time-out is a denial (`timeout`)",
    "status `expired`, refused, and kept on record",
    "that nobody answered is another fact than a denial",
)
def _(bench):
    rt = bench.embedded()
    answer = asyncio.run(rt.approvals.ask("slow", timeout_ms=20))
    assert (bool(answer), answer.status) == (False, "expired")
    assert rt.approvals.list() == []


@row(
    SYMBI,
    "enqueue",
    "any layer may enqueue, with kind, summary, reason and a context of its own",
    "the context is shown redacted",
    "a question is seen by more people than the agent's data",
)
def _(bench):
    rt, seen = bench.embedded(), []
    secret = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"

    def answer(hold):
        seen.append(hold)
        rt.approvals.deny(hold)

    for kind in ("tool_call", "delegate", "schedule", "other"):
        options = {"kind": kind, "reason": "why", "context": {"n": 1, "token": secret}, "agent": "planner"}
        asyncio.run(asked_and(rt, answer, **options))
    assert [hold.kind for hold in seen] == ["tool_call", "delegate", "schedule", "other"]
    assert {(hold.agent, hold.reason, hold.context["n"]) for hold in seen} == {("planner", "why", 1)}
    assert secret not in msgspec.json.encode(seen).decode()


@row(
    SYMBI,
    "enqueue",
    "notifiers are awaited one after the other before the wait begins",
    "the clock starts when the question is stored; nothing waits for notifiers",
    "a dead notifier would hold the action for ever",
)
def _(bench):
    rt = bench.embedded()

    class Hangs:
        name = "hangs"

        def notify(self, hold, timeout_s):
            time.sleep(1.5)

    rt.approvals.subscribe(Hangs())
    began = time.monotonic()
    assert not asyncio.run(rt.approvals.ask("x", timeout_ms=20))
    assert time.monotonic() - began < 1.4


@row(
    SYMBI,
    "list_pending_async",
    "pending actions are listed, in no order",
    "in the order in which they were asked",
    "people answer a queue",
)
def _(bench):
    rt = bench.embedded()

    async def scene():
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(rt.approvals.ask(f"q{number}")))
            while len(rt.approvals.list()) <= number:
                await asyncio.sleep(0.002)
        found = [hold.summary for hold in rt.approvals.list()]
        for hold in rt.approvals.list():
            rt.approvals.deny(hold)
        await asyncio.gather(*tasks)
        return found

    assert asyncio.run(scene()) == [f"q{number}" for number in range(5)]


@row(SYMBI, "resolve_async", "an unknown id is `not found`")
def _(bench):
    with pytest.raises(UsageError) as caught:
        bench.embedded().approvals.approve("hold_none")
    assert caught.value.code == "not_found"


@row(SYMBI, "resolve_async", "an approver has an id, a name to show, and a surface")
def _(bench):
    rt, votes = bench.embedded(), []
    asyncio.run(asked_and(rt, lambda hold: votes.extend(rt.approvals.approve(hold).votes)))
    assert (votes[0].approver, votes[0].surface, bool(votes[0].display)) == (rt.approvals.desk.user, "python", True)


@row(
    SYMBI,
    "resolve_locked",
    "the second of two resolutions is `already resolved`; one that races the time-out may be lost",
    "one compare-and-set in the store decides, across processes; the other is told which came first",
    "an approver must know whether their answer counted",
)
def _(bench):
    rt, second = bench.embedded(), []

    def twice(hold):
        rt.approvals.approve(hold)
        with pytest.raises(ConflictError) as caught:
            rt.approvals.deny(hold)
        second.append(caught.value.code)

    assert asyncio.run(asked_and(rt, twice))
    assert second == ["already_resolved"]


@row(
    SYMBI,
    "emit_audit",
    "the record is written after the resolution, and lost if the sink fails",
    "in the same transaction: if it cannot be written, nothing was resolved",
    "an answer without a record must not exist",
)
def _(bench):
    rt, problems = bench.embedded(), []

    def answer(hold):
        rt.services.db.execute(
            "create trigger broken before insert on approvals_audit begin select raise(abort, 'disk full'); end"
        )
        with pytest.raises(Exception) as caught:
            rt.approvals.approve(hold)
        problems.append(caught.value)
        rt.services.db.execute("drop trigger broken")
        assert rt.approvals.get(hold.id).status == "pending"
        rt.approvals.deny(hold)

    assert not asyncio.run(asked_and(rt, answer))
    assert problems
