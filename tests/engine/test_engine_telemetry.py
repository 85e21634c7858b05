"""Readings of the machine: whole in every row, once in the journal."""

import asyncio

import msgspec
from engine_world import TOML, binding, call, execute, plan, write

from interlock.engine.record.replay import ReplayedRun
from interlock.journal import read
from interlock.journal.sealing import SAMPLES_KEPT
from interlock.model import events as e
from interlock.telemetry import Snapshot, diff, expand, report


async def tool(parameters, ctx):
    if parameters.get("fails"):
        raise ValueError("no")
    if parameters.get("looks"):  # the sampler's next reading comes while the tool runs
        sampler = ctx.run.services.sampler
        sampler._latest = sampler.snapshot_now()
    return 1


def journal_of(project, result):
    return list(read(project.run_directory(result.run_id)))


def test_a_reading_is_journaled_once_and_rows_show_it_whole(project):
    rt = project.open(binding("step", tool))
    with rt:
        result = asyncio.run(rt.execute(plan(*(call("step") for _ in range(5)))))
    kinds = [type(event) for event in journal_of(project, result)]
    assert 1 <= kinds.count(e.MachineSampled) <= 10, "of a slow machine: one before and one after each"
    for row in result.results:
        assert row.telemetry["before"]["cpus"] >= 1
        assert row.telemetry["change"]["interval_ms"] >= 0
    for event in journal_of(project, result):
        if isinstance(event, e.ActionSucceeded):
            assert isinstance(event.telemetry["before"], int)
            assert event.telemetry["before"] < event.seq


def test_what_runs_show_prints_is_what_the_caller_got(project):
    rt = project.open(binding("step", tool))
    actions = [call("step", parameters={"looks": True}), call("step"), call("step", parameters={"fails": 1})]
    with rt:
        result = asyncio.run(rt.execute(plan(*actions[:2], actions[2] | {"failure_behavior": "skip"})))
    (proposal_id,) = ReplayedRun(project.run_directory(result.run_id)).proposals
    replayed = ReplayedRun(project.run_directory(result.run_id)).result(proposal_id)
    assert [row.status for row in replayed.results] == ["succeeded", "succeeded", "failed"]
    for shown, row in zip(replayed.results, result.results, strict=True):
        assert shown.telemetry == msgspec.json.decode(msgspec.json.encode(row.telemetry))
    first = replayed.results[0].telemetry
    assert first["before"] != first["after"]
    assert first["change"]["interval_ms"] > 0


def test_an_action_that_lasts_as_long_as_readings_are_kept_names_one_that_is_there(project):
    async def others(parameters, ctx):  # other actions end with each reading meanwhile
        sampler, recorder = ctx.run.services.sampler, ctx.run.recorder
        recorder.sampled(sampler.latest())
        for _ in range(SAMPLES_KEPT - 1):
            sampler._latest = msgspec.structs.replace(sampler.latest())
            recorder.sampled(sampler.latest())
        sampler._latest = msgspec.structs.replace(sampler.latest())

    rt = project.open(binding("long", others))
    with rt:
        result = asyncio.run(rt.execute(plan(call("long"))))
    replayed = ReplayedRun(project.run_directory(result.run_id))
    assert [one.finished.status for one in replayed.proposals.values()] == ["succeeded"]


def test_two_readings_that_are_one_differ_in_nothing_and_an_own_use_stays():
    sample = Snapshot(ts=1, mono_ns=2, cpus=4, disk_used_bytes=5)
    same = expand({"before": 3, "after": 3, "own": {"cpu_ms": 1.5}}, {3: sample.view})
    assert same == report(sample, sample, {"cpu_ms": 1.5})
    assert same["change"] == diff(sample, sample)
    assert expand(None, {}) is None
    assert expand({"own": {"cpu_ms": 1}}, {}) == {"own": {"cpu_ms": 1}}


def test_rows_of_refused_actions_and_of_read_only_tools_say_how_the_machine_was(new_project):
    project = new_project(toml=TOML % 'deny = ["fs.write"]')
    rt = project.open()
    refused = call("fs.write", "w", parameters={"path": "a", "content": ""}, failure_behavior="skip")
    result = execute(rt, call("fs.list", "l"), refused, write("k", 1, "s"))
    for name in ("l", "w"):
        telemetry = result[name].telemetry
        assert telemetry["before"]["processes"]["total"] >= 1, "the first reading has the processes"
    assert result["w"].telemetry["change"]["interval_ms"] == 0
    assert result["s"].telemetry is None
    replayed = ReplayedRun(project.run_directory(result.run_id)).result(result.proposal_id)
    as_json = [[msgspec.json.encode(row.telemetry) for row in found.results] for found in (replayed, result)]
    assert as_json[0] == as_json[1]


def test_a_short_run_has_a_reading_from_before_and_one_from_after_its_action(project):
    rt = project.open()
    began_us = rt.services.clock.now_us()
    result = execute(rt, call("shell", "s", parameters={"command": "sleep 0.05"}))
    before, after = (result["s"].telemetry[name] for name in ("before", "after"))
    assert began_us <= before["ts"] + 100_000
    assert after["ts"] >= result["s"].timestamp - 10_000
    assert result["s"].telemetry["change"]["interval_ms"] >= 50


def test_the_row_names_the_process_that_the_action_started(project):
    result = execute(project.open(), call("shell", "s", parameters={"command": "true"}))
    [pid] = result["s"].telemetry["own"]["pids"]
    assert pid > 0
