"""`proc.start` and the tools around it, on real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from interlock.executors.background import KEPT_BYTES, RUNNING_MAX, Programs, bindings
from interlock.executors.process import ProcessLimits, ProcessRunner
from interlock.model.codes import REASONS
from interlock.model.errors import ToolError
from interlock.model.schema import Schema

SERVER = "echo listening; exec sleep 60"


class Record:
    """What would go into the journal."""

    def __init__(self):
        self.rows = []

    def started(self, program, ctx):
        self.rows.append(("started", program.handle, ctx.action_id))

    def ended(self, program, end, ctx):
        self.rows.append((end.why, program.handle, ctx.action_id))


@pytest.fixture
def record():
    return Record()


@pytest.fixture
def programs(runner, clock, record):
    made = Programs(runner, clock, record)
    yield made
    made.close()


@pytest.fixture
def call(programs, context):
    return _caller(programs, context)


@pytest.fixture
def bare(clock, record, context):
    """As `call`, without walls: programs have the pids that they say, and can signal their supervisor."""
    runner = ProcessRunner(clock)
    made = Programs(runner, clock, record)
    yield _caller(made, context)
    made.close()
    runner.close()


def _caller(programs, context):
    tools = {binding.tool.name: binding for binding in bindings(programs)}
    count = iter(range(1000))

    def call(name, ctx=None, *, run="run_1", agent="coder", session=None, mode="one_shot", seconds=20.0, **parameters):
        tool = tools[f"proc.{name}"]
        assert Schema.compile(tool.tool.parameters).is_valid(parameters)
        ctx = ctx or context(seconds)
        ctx.run_id, ctx.agent, ctx.session, ctx.invocation_mode = run, agent, session, mode
        ctx.action_id = f"a{next(count)}"
        return asyncio.run(tool.function(parameters, ctx))

    return call


def refused(call, *arguments, **parameters):
    with pytest.raises(ToolError) as caught:
        call(*arguments, **parameters)
    assert caught.value.code in REASONS
    return caught.value


def state(pid):
    """The state that /proc shows; a zombie that waits to be collected counts as gone (`X`)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            found = file.read().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return b"X"
    return b"X" if found == b"Z" else found


def gone(pid):
    return state(pid) == b"X"


def wait_until(true):
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def wait_state(pid, wanted):
    wait_until(lambda: state(pid) == wanted)


def test_a_server_outlives_its_action_and_each_event_loop(call):
    started = call("start", command=SERVER)
    assert started["until"] == "run"
    found = call("wait", handle=started["handle"], output="listening")
    assert (found["found"], found["running"], found["stdout"]) == (True, True, "listening\n")
    again = call("output", handle=started["handle"], stdout_from=found["stdout_next"])
    assert (again["running"], again["stdout"], again["exit_code"]) == (True, "", None)


def test_stop_ends_the_whole_tree_and_says_how(bare, record):
    call = bare
    handle = call("start", command="setsid sleep 60 & echo $!; trap 'echo bye; exit 3' TERM; wait; wait")["handle"]
    child = int(call("wait", handle=handle, output="\n")["stdout"])
    wait_until(lambda: os.getsid(child) == child)  # before that the group's SIGTERM ends it
    end = call("stop", handle=handle)
    assert (end["running"], end["stopped"], end["exit_code"], end["strays_ended"]) == (False, True, 3, 1)
    assert end["stdout"].endswith("bye\n")
    assert gone(child)
    assert [row[0] for row in record.rows] == ["started", "stopped"]
    after = call("stop", handle=handle)
    assert (after["stopped"], after["exit_code"]) == (False, 3)
    assert len(record.rows) == 2


def test_a_program_that_ignores_term_is_killed(call):
    handle = call("start", command="trap '' TERM; echo up; sleep 60 & wait; wait")["handle"]
    call("wait", handle=handle, output="up")
    assert call("stop", handle=handle)["signal"] == "SIGKILL"


def test_a_program_that_keeps_its_supervisor_stopped_is_ended_all_the_same(bare):
    call = bare
    command = "trap '' TERM; echo $PPID; sleep 0.3; while :; do kill -STOP $PPID; done"
    handle = call("start", command=command)["handle"]
    supervisor = int(call("wait", handle=handle, output="\n")["stdout"])
    wait_state(supervisor, b"T")
    assert call("stop", handle=handle)["running"] is False


def test_the_end_is_seen_and_reported_once(call, record):
    handle = call("start", command="echo out; echo err >&2; exit 7")["handle"]
    end = call("wait", handle=handle)
    assert (end["running"], end["exit_code"], end["stdout"], end["stderr"]) == (False, 7, "out\n", "err\n")
    assert call("output", handle=handle)["exit_code"] == 7
    assert [row[0] for row in record.rows] == ["started", "exited"]


def test_waiting_for_text_that_never_comes(call):
    handle = call("start", command="echo other; exit 0")["handle"]
    ended = refused(call, "wait", handle=handle, output="listening")
    assert (ended.code, ended.output["stdout"]) == ("process_ended", "other\n")
    handle = call("start", command=SERVER)["handle"]
    late = refused(call, "wait", handle=handle, output="never", seconds=0.5)
    assert (late.code, late.output["running"]) == ("timeout", True)
    assert call("output", handle=handle)["running"]


def test_the_last_output_is_kept_and_the_rest_is_read(call):
    handle = call("start", command=f"head -c {3 * KEPT_BYTES} /dev/zero | tr '\\0' x; printf end; exec sleep 60")[
        "handle"
    ]
    found = call("wait", handle=handle, output="end")
    assert len(found["stdout"]) == KEPT_BYTES
    assert (found["stdout_from"], found["stdout_next"]) == (2 * KEPT_BYTES + 3, 3 * KEPT_BYTES + 3)
    assert found["stdout"].endswith("xend")


def test_asking_often_costs_its_supervisor_no_descriptors(clock, record, context, walls):
    runner = ProcessRunner(clock, enclose=walls, limits=ProcessLimits(open_files=64))
    programs = Programs(runner, clock, record)
    call = _caller(programs, context)
    handle = call("start", command="head -c 20000 /dev/zero | tr '\\0' x; echo end; exec sleep 60")["handle"]
    call("wait", handle=handle, output="end")
    for _ in range(80):
        assert call("output", handle=handle)["running"]
    programs.close()
    runner.close()


def test_half_a_character_comes_with_the_next_call(call):
    handle = call("start", command=r"printf 'a\303'; exec sleep 60")["handle"]
    part = call("wait", handle=handle, output="a")
    assert (part["stdout"], part["stdout_encoding"], part["stdout_next"]) == ("a", "utf-8", 1)


def test_what_cannot_be_started_is_reported_and_nothing_is_left(call, record):
    error = refused(call, "start", command="true", cwd="missing")
    assert error.code == "not_found"
    assert refused(call, "start", command="x" * 3_000_000).code == "spawn_failed"
    assert record.rows == []


def test_a_handle_is_for_one_agent_in_one_run(call):
    handle = call("start", command=SERVER)["handle"]
    for other in ({"agent": "other"}, {"run": "run_2"}, {"run": "run_2", "session": "s"}):
        for tool in ("output", "wait", "stop"):
            assert refused(call, tool, handle=handle, **other).code == "process_unknown"
    assert call("output", handle=handle)["running"]


def test_as_long_as_the_session(call, programs):
    assert refused(call, "start", command=SERVER, mode="session").code == "session_missing"
    started = call("start", command=SERVER, mode="session", session="night")
    assert started["until"] == "session"
    assert programs.end_run("run_1") == []
    later = {"run": "run_2", "session": "night"}
    assert call("output", handle=started["handle"], **later)["running"]
    assert refused(call, "output", handle=started["handle"], run="run_2", session="day").code == "process_unknown"
    ((program, end),) = programs.close()
    assert (program.handle, end.why) == (started["handle"], "session_ended")


def test_a_run_takes_its_programs_with_it_and_no_others(call, programs):
    mine = call("start", command="echo up; exec sleep 60")["handle"]
    call("wait", handle=mine, output="\n")
    other = call("start", command=SERVER, run="run_2")["handle"]
    ((program, end),) = programs.end_run("run_1")
    assert (program.handle, end.why, end.outcome.report["signal"]) == (mine, "run_ended", signal.SIGTERM)
    assert call("output", handle=other, run="run_2")["running"]


def test_the_number_of_programs_is_bounded(call):
    for _ in range(RUNNING_MAX):
        call("start", command=SERVER)
    assert refused(call, "start", command=SERVER).code == "process_limit"


def test_undo_is_told_the_truth(call, context):
    ctx = context()
    call("start", ctx, command="echo x > made; exec sleep 60")
    assert ctx.undoable == ["a background program ran in the workspace itself, where not every change is recorded"]
    assert ctx.layers


def test_a_killed_supervisor_takes_its_program_with_it(bare, record):
    call = bare
    handle = call("start", command="echo $$ $PPID; exec sleep 60")["handle"]
    pid, supervisor = map(int, call("wait", handle=handle, output="\n")["stdout"].split())
    os.kill(supervisor, signal.SIGKILL)
    wait_state(pid, b"X")
    assert refused(call, "output", handle=handle).code == "process_lost"
    assert record.rows[-1][0] == "lost"
