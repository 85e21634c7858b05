"""Each step of the gate alone: one function, one action, a fake of ten lines for everything around it."""

import asyncio
from types import SimpleNamespace

import pytest
from engine_world import binding, call, embedded, nothing, write

from interlock.engine.gate import outcome
from interlock.engine.gate.admission import ADMITTED, Exhausted, Stored, admit, needs_nothing
from interlock.engine.gate.approval import ask
from interlock.engine.gate.execute import execute, write_intent
from interlock.engine.gate.judgement import judge
from interlock.engine.gate.retry import BASE_MS, DELAY_MAX_MS, next_delay
from interlock.engine.gate.sequence import take_action
from interlock.engine.gate.verify import find_unrunnable, verify_proposal
from interlock.engine.judges.verdict import ALLOW, Ask
from interlock.engine.proposals.action_run import ActionRun
from interlock.engine.proposals.attempt import Failure, Output
from interlock.engine.proposals.budget import Allowance
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.proposals.watchdog import Slot, Watchdog
from interlock.engine.record.recorder import Recorder
from interlock.engine.record.run_files import RunFiles
from interlock.engine.scheduler import Outcome
from interlock.journal import JournalWriter, read
from interlock.model.decision import Refusal
from interlock.model.decode import proposal_from_builtins
from interlock.model.errors import ProposalError, ToolError
from interlock.model.events import ActionIntent
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.proposal import Budget


class Alone:
    """A pool with nothing else in it."""

    alone = True

    async def wait_outside(self, answer):
        return await answer


def action_of(rt, *actions, index=0, budget=None, recorder=None, **options):
    """One action on its way, in a proposal that no pool drives."""
    services = rt.services
    proposal = proposal_from_builtins({"id": "p", "actions": list(actions)}, limits=DEFAULT_LIMITS)
    graph = verify_proposal(proposal, services.registry)
    judges = services.judges.current()
    run = ProposalRun(
        services,
        RunFiles("run_x", recorder=recorder),
        proposal,
        graph,
        judges.principal(services.agent, None),
        judges,
        allowance=Allowance(budget),
        **options,
    )
    slot = Slot(asyncio.current_task(), Watchdog(run.loop, run.clock), Alone())
    return ActionRun(run, slot, index)


def step(test):
    """Run an async test on a loop of its own."""

    def wrapped(*arguments, **named):
        asyncio.run(test(*arguments, **named))

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


async def echo(parameters, ctx):
    return parameters.get("say")


async def broken(parameters, ctx):
    raise ToolError("it broke", code="broken")


RULES = {"rules": {"allow": ["*"], "ask": ["asked"], "deny": ["denied"]}}


def world(**sections):
    names = {"echo": echo, "broken": broken, "asked": nothing, "denied": nothing}
    return embedded(*(binding(name, function) for name, function in names.items()), **RULES | sections)


@step
async def test_step_1_refuses_a_proposal_that_has_no_order():
    rt = world()
    circle = [call("echo", "a", dependencies=["b"]), call("echo", "b", dependencies=["a"])]
    with pytest.raises(ProposalError) as error:
        action_of(rt, *circle)
    assert error.value.code == "dependency_cycle"


@step
async def test_step_1_stops_a_proposal_whose_action_can_only_be_rejected():
    unrunnable = find_unrunnable(action_of(world(), call("echo"), call("nope")).run)
    assert (unrunnable.refusal.reason, unrunnable.action) == ("unknown_tool", 1)
    assert find_unrunnable(action_of(world(), call("echo"), call("nope", failure_behavior="skip")).run) is None


@step
async def test_steps_2_to_5_allow_ask_or_refuse():
    rt = world()
    assert judge(action_of(rt, call("echo"))) is ALLOW
    verdict = judge(action_of(rt, call("asked")))
    assert isinstance(verdict, Ask)
    assert verdict.decision.decision == "hold"
    denied = judge(action_of(rt, call("denied")))
    assert isinstance(denied, Refusal)
    assert denied.reason == "policy_denied"


@step
async def test_the_step_that_refuses_is_named():
    rt = world()
    missing = action_of(rt, call("echo", state_dependencies=["k"]))
    assert judge(missing).reason == "state_missing"
    assert missing.step == 4
    foreign = world(grants={"coder": {"tools": ["asked"], "unscoped": ["*"]}})
    ungranted = action_of(foreign, call("echo"))
    assert judge(ungranted).reason == "capability_denied"
    assert ungranted.step == 2


@step
async def test_step_2_refuses_a_tool_and_a_state_key_that_no_grant_covers():
    rt = world(grants={"coder": {"tools": ["echo"], "unscoped": ["*"], "state_keys": ["mine/**"]}})
    judges = rt.services.judges.current()

    def refusal(*actions):
        return judges.capability(action_of(rt, *actions).call(), judges.now_us())

    assert refusal(call("echo")) is None
    assert refusal(call("asked")).reason == "capability_denied"
    assert refusal(write("mine/k", 1)) is None
    assert refusal(write("k", 1)).reason == "state_key_denied"


@step
async def test_step_3_names_every_parameter_that_does_not_fit_the_schema():
    schema = {"type": "object", "properties": {"say": {"type": "integer"}}, "required": ["say"]}
    rt = embedded(binding("strict", echo, parameters=schema))
    judges = rt.services.judges.current()

    def refusal(parameters):
        return judges.parameters(action_of(rt, call("strict", parameters=parameters)).call(), judges.now_us())

    assert refusal({"say": 1}) is None
    wrong = refusal({"say": "one"})
    assert wrong.reason == "invalid_parameters"
    assert wrong.path.startswith("$.parameters")


@step
async def test_step_4_refuses_where_the_state_is_not_as_the_action_expects():
    rt = world()
    judges = rt.services.judges.current()
    before = {"key": "k", "value": 1}
    action = action_of(rt, call("echo", preconditions=[before]))
    assert judges.preconditions(action.call()).reason == "precondition_failed"
    action.run.buffer.write("k", 1, "earlier")
    assert judges.preconditions(action.call()) is None


@step
async def test_step_5_is_the_decision_of_the_rules():
    rt = world()
    judges = rt.services.judges.current()
    found = {name: judges.policy(action_of(rt, call(name)).call()).decision for name in ("echo", "asked", "denied")}
    assert found == {"echo": "allow", "asked": "hold", "denied": "deny"}


@step
async def test_step_6_refuses_where_nobody_can_be_asked():
    action = action_of(world(), call("asked"))
    answer = await ask(action, judge(action).decision)
    assert isinstance(answer, Refusal)
    assert (answer.reason, action.step) == ("approval_required", 6)


@step
async def test_step_7_has_nothing_to_do_for_most_actions():
    action = action_of(world(), call("echo"))
    assert needs_nothing(action)
    assert await admit(action) is ADMITTED


@step
async def test_step_7_says_that_a_budget_is_used_up():
    action = action_of(world(), call("echo"), budget=Budget(tool_calls=0))
    assert not needs_nothing(action)
    answer = await admit(action)
    assert isinstance(answer, Exhausted)
    assert "tool_calls" in answer.detail
    ended = outcome.end_unadmitted(action, answer)
    assert (ended.row.reason, ended.outcome, ended.stop) == ("budget_exceeded", Outcome.FAILED, "budget_exceeded")


@step
async def test_step_7_gives_a_stored_result():
    rt = embedded(binding("once", echo, idempotent=True))
    first = action_of(rt, call("once", idempotent=True, parameters={"say": 1}))
    assert (await take_action(first)).outcome is Outcome.DONE
    again = ActionRun(first.run, first.slot, 0)
    answer = await admit(again)
    assert isinstance(answer, Stored)
    assert outcome.end_unadmitted(again, answer).row.deduplicated_from == "run_x/p/" + again.spec.id


@step
async def test_step_8_writes_nothing_where_nothing_is_recorded():
    action = action_of(world(), call("echo"))
    assert await write_intent(action, ActionContext(action.run, 0, 1)) is None


@pytest.mark.parametrize("read_only", [False, True])
def test_step_8_has_the_intent_on_disk_before_an_effect_is_possible(tmp_path, read_only):
    async def intents():
        rt = embedded(binding("tool", echo, read_only=read_only))
        services = rt.services
        with JournalWriter.open(
            tmp_path / "run_x", run_id="run_x", disk=services.disk, clock=services.clock, create=True
        ) as writer:
            recorder = Recorder("run_x", writer, services.redactor, ())
            action = action_of(rt, call("tool", "a", parameters={"say": 1}), recorder=recorder)
            assert await write_intent(action, ActionContext(action.run, 0, 1)) is None
            on_disk = list(read(tmp_path / "run_x"))
        return on_disk, list(read(tmp_path / "run_x"))

    on_disk, at_the_end = asyncio.run(intents())
    assert [(type(one), one.action, one.step) for one in at_the_end] == [(ActionIntent, "a", 8)]
    assert on_disk == ([] if read_only else at_the_end), "a tool that only reads need not wait for the disk"


@step
async def test_step_9_returns_the_output_or_the_failure():
    rt = world()
    action = action_of(rt, call("echo", parameters={"say": "hi"}))
    result = await execute(action, ActionContext(action.run, 0, 1))
    assert isinstance(result, Output)
    assert result.value == "hi"
    failing = action_of(rt, call("broken"))
    failure = await execute(failing, ActionContext(failing.run, 0, 1))
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.retryable, failure.status) == ("broken", True, "failed")


@step
async def test_step_9_enforces_the_time_out():
    async def sleepy(parameters, ctx):
        await asyncio.sleep(60)

    action = action_of(embedded(binding("sleepy", sleepy, timeout_ms=20)), call("sleepy"))
    failure = await execute(action, ActionContext(action.run, 0, 1))
    assert failure.reason == "timeout"
    assert action.slot.task.cancelling() == 0, "nothing is left of the cancellation"


@step
async def test_step_10_puts_the_effect_into_the_buffer_and_returns_the_row():
    action = action_of(world(), write("k", 7))
    attempt = ActionContext(action.run, 0, 1)
    ended = outcome.settle(action, attempt, await execute(action, attempt))
    assert (ended.row.status, ended.row.state_changes, ended.outcome) == ("succeeded", {"k": 7}, Outcome.DONE)
    assert action.run.buffer.get("k").value == 7
    assert action.run.rows == [None], "only the pool writes rows"


@step
async def test_step_10_of_a_failure_stops_the_rest_unless_it_may_be_skipped():
    for behaviour, expected in (("abort", Outcome.ABORT), ("skip", Outcome.FAILED)):
        action = action_of(world(), call("broken", failure_behavior=behaviour))
        attempt = ActionContext(action.run, 0, 1)
        ended = outcome.settle(action, attempt, await execute(action, attempt))
        assert (ended.row.status, ended.row.reason, ended.outcome) == ("failed", "broken", expected)


@pytest.mark.parametrize(("attempt", "bound"), [(1, BASE_MS), (2, 2 * BASE_MS), (30, DELAY_MAX_MS)])
def test_a_retry_waits_longer_each_time_up_to_a_bound(attempt, bound):
    run = SimpleNamespace(stop_reason=None, services=SimpleNamespace(jitter=lambda: 1.0))
    action = SimpleNamespace(run=run, spec=SimpleNamespace(failure_behavior="retry", max_retries=99))
    failure = SimpleNamespace(retryable=True, attempt=SimpleNamespace(attempt=attempt))
    assert next_delay(action, failure, attempt - 1) == bound
    assert next_delay(action, failure, 99) is None, "as often as the action allows"
    run.stop_reason = "aborted"
    assert next_delay(action, failure, 0) is None, "not once the proposal has stopped"


@step
async def test_the_sequence_returns_how_the_action_ended():
    rt = world()
    assert (await take_action(action_of(rt, call("echo")))).row.status == "succeeded"
    assert (await take_action(action_of(rt, call("denied")))).row.reason == "policy_denied"
    assert (await take_action(action_of(rt, call("echo"), dry_run=True))).row.reason == "dry_run"
