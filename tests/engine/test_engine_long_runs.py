"""A run may carry any number of proposals: what is over is counted and forgotten, and its head is signed on the way."""

import asyncio
import gc

import pytest
from engine_world import binding, call, expect, plan, write

import interlock
from interlock.engine.record.replay import ReplayedRun
from interlock.engine.runs import indexed_run
from interlock.journal import decode_head, read_head, verify_head
from interlock.model.errors import UsageError
from interlock.state.store import StateConflictError


async def noop(parameters, ctx):
    return parameters


async def fail(parameters, ctx):
    raise interlock.ToolError("no")


TOOLS = [binding("do", noop, reversibility="reversible"), binding("fail", fail), binding("undo_do", noop)]
PLANS = [
    plan(call("do", "a"), write("k", 1)),
    plan(call("do", "a"), call("fail", "b"), call("do", "c")),
    plan(call("fail", "a", failure_behavior="skip"), call("do", "b", dependencies=["a"])),
    plan(call("nowhere", "a"), call("do", "b")),
    plan(expect("k", 2, "a")),
    plan(
        call("do", "a", reversibility="compensable", compensation={"type": "action_ref", "action_id": "b"}),
        call("undo_do", "b"),
    ),
    plan(call("do", "a"), call("do", "b"), budget={"actions": 1}),
]


async def carry(rt, *plans):
    run = rt.runs.start()
    for one in plans:
        await run.execute(interlock.model.decode.proposal_from_builtins(one))
    return run


@pytest.mark.parametrize("number", range(len(PLANS)))
def test_a_proposal_that_is_over_is_counted_as_it_was_and_forgotten(project, number):
    run = asyncio.run(carry(project.open(*TOOLS), PLANS[number]))
    run.leave()
    replayed = ReplayedRun(run.files.directory, open_only=True)
    assert not replayed.proposals
    assert (replayed.ended.counts, replayed.ended.statuses) == (run.tally.counts, run.tally.statuses - {"interrupted"})
    run.finish()


def test_a_resumed_run_counts_what_was_over_before(project):
    child = project.script(
        """
        import asyncio
        from interlock.model.decode import proposal_from_builtins
        async def noop(parameters, ctx):
            if parameters.get("die"):
                os.kill(os.getpid(), 9)
        async def main():
            run = project.open(binding("do", noop, idempotent=True)).runs.start()
            for i in range(3):
                await run.execute(proposal_from_builtins(plan(call("do"), call("do"))))
            await run.execute(proposal_from_builtins(plan(call("do", parameters={"die": True}, idempotent=True))))
        asyncio.run(main())
        """
    )
    _, errors = child.communicate(timeout=20)
    assert child.returncode == -9, errors
    rt = project.open(binding("do", noop, idempotent=True))
    (run_id,) = project.runs()
    (result,) = asyncio.run(rt.runs.resume(run_id))
    assert result.status == "succeeded"
    row = rt.services.index.get(run_id)
    assert (row.status, row.actions, row.succeeded) == ("succeeded", 7, 7)


def test_the_readings_that_are_kept_while_folding_do_not_grow(project):
    rt = project.open(*TOOLS)
    run = asyncio.run(carry(rt, PLANS[0]))
    sample = rt.services.sampler.latest()
    for _ in range(50):
        run.recorder._sampled.clear()
        run.recorder.sampled(sample)
    run.finish()
    assert len(ReplayedRun(run.files.directory).samples) <= 9


def test_the_head_of_a_long_run_is_signed_on_the_way(project, monkeypatch):
    monkeypatch.setattr(indexed_run, "SIGN_EVERY", 5)
    run = asyncio.run(carry(project.open(*TOOLS), PLANS[0], PLANS[0]))
    head, _ = verify_head(run.files.directory, read_head(run.files.directory))
    assert head.seq >= 5
    run.finish()
    assert verify_head(run.files.directory, read_head(run.files.directory))[0].seq > head.seq


def test_the_head_is_signed_at_a_checkpoint_and_no_newer_one_is_replaced(project, tmp_path):
    rt = project.open(*TOOLS)
    run = asyncio.run(carry(rt, PLANS[0]))
    with pytest.raises(UsageError):
        read_head(run.files.directory)
    saved = rt.checkpoints.save(tmp_path / "c.json", run=run.id)
    assert decode_head(read_head(run.files.directory))[0].seq == saved.seq
    run.finish()
    last = read_head(run.files.directory)
    rt.checkpoints.save(tmp_path / "c.json", run=run.id)
    assert read_head(run.files.directory) == last


def test_a_restore_that_fails_is_not_listed_as_a_success(project, tmp_path, monkeypatch):
    rt = project.open(*TOOLS)
    run = asyncio.run(carry(rt, PLANS[0]))
    run.finish()
    rt.checkpoints.save(tmp_path / "c.json", run=run.id)
    asyncio.run(carry(rt, plan(write("k", 9)))).finish()

    def conflict(_read):
        raise StateConflictError(["k"])

    monkeypatch.setattr(rt.services.store, "check", conflict)
    with pytest.raises(StateConflictError):
        rt.checkpoints.restore(tmp_path / "c.json")
    assert rt.services.index.list_runs()[0].status == "failed"


def test_what_a_proposal_used_is_freed_without_the_garbage_collector(embedded):
    """A circle would keep the rows and outputs of every proposal until the collector runs, and make it run more often."""
    rt = embedded()

    async def story():
        run = rt.runs.start()
        await run.execute(plan(call("nothing")))
        gc.collect()
        gc.disable()
        try:
            await run.execute(plan(call("nothing")))
            return gc.collect()
        finally:
            gc.enable()
            run.finish()

    assert asyncio.run(story()) == 0
