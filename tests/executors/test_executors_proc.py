"""`proc.list` and `proc.kill`: named by number and start time, and some never touched."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from interlock.executors.proc import bindings, read_process
from interlock.executors.process import ProcessRunner
from interlock.model.codes import REASONS
from interlock.model.errors import ToolError
from interlock.model.schema import Schema


@pytest.fixture
def tools():
    return {b.tool.name: b for b in bindings(protected=list, redact=_redact)}


def _redact(value):
    if isinstance(value, dict):
        return {k: _redact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_redact(v) for v in value]
    return value.replace("hunter2", "[redacted]") if isinstance(value, str) else value


@pytest.fixture
def victim():
    with subprocess.Popen(["sleep", "794.25"]) as process:
        yield process
        process.kill()


@pytest.fixture
def kill(tools, context):
    def kill(pid, start_time=None, tools=tools, ctx=None, **more):
        parameters = {
            "pid": pid,
            "start_time": read_process(pid).start_time if start_time is None else start_time,
            **more,
        }
        assert Schema.compile(tools["proc.kill"].tool.parameters).is_valid(parameters)
        return asyncio.run(tools["proc.kill"].function(parameters, ctx or context()))

    return kill


def refused(kill, *arguments, **parameters):
    with pytest.raises(ToolError) as error:
        kill(*arguments, **parameters)
    assert error.value.code in REASONS
    return error.value.code


def listed(tools, context, **parameters):
    assert Schema.compile(tools["proc.list"].tool.parameters).is_valid(parameters)
    return tools["proc.list"].function(parameters, context())["processes"]


def test_a_process_is_listed_with_what_names_it(tools, context, victim):
    while read_process(victim.pid).state != "sleeping":  # it has only just been started
        time.sleep(0.001)
    (row,) = [row for row in listed(tools, context, filter="794.25") if row["pid"] == victim.pid]
    assert row["ppid"] == os.getpid()
    assert row["uid"] == os.geteuid()
    assert row["name"] == "sleep"
    assert row["command"] == ["sleep", "794.25"]
    assert row["state"] == "sleeping"
    assert row["memory_bytes"] > 0
    assert row["cpu_ms"] >= 0
    assert row["start_time"] == read_process(victim.pid).start_time


def test_everything_is_listed_without_a_filter_and_nothing_with_a_strange_one(tools, context):
    assert {os.getpid(), os.getppid()} <= {row["pid"] for row in listed(tools, context)}
    assert listed(tools, context, filter="no such process, surely 60203") == []


def test_names_that_try_to_confuse(tools, context):
    program = "import ctypes, time; ctypes.CDLL(None).prctl(15, b') R 1 (\\xff'); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        (row,) = [row for row in listed(tools, context) if row["pid"] == process.pid]
        process.kill()
    assert row["name"] == ") R 1 (\\xff"
    assert row["ppid"] == os.getpid()


def test_secrets_in_arguments_are_redacted_before_they_are_searched(tools, context):
    with subprocess.Popen(["sh", "-c", "sleep 60; true", "password=hunter2"]) as process:
        found, guess = (listed(tools, context, filter=text) for text in ("password=", "hunter2"))
        process.kill()
    (row,) = [row for row in found if row["pid"] == process.pid]
    assert "hunter2" not in str(row)
    assert guess == []


def test_it_is_ended_and_said_so(kill, victim, context):
    ctx = context()
    assert kill(victim.pid, ctx=ctx) == {"pid": victim.pid, "signal": "SIGTERM", "ended": True}
    assert victim.wait() == -signal.SIGTERM
    assert ctx.undoable == ["a process was signalled"]


def test_one_that_does_not_end_is_reported(kill):
    with subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert not kill(process.pid)["ended"]
        assert kill(process.pid, signal="SIGKILL")["ended"]


def test_stop_and_continue(kill, victim):
    assert not kill(victim.pid, signal="SIGSTOP")["ended"]
    until = time.monotonic() + 5
    while read_process(victim.pid).state != "stopped":
        assert time.monotonic() < until
    kill(victim.pid, signal="SIGCONT")
    while read_process(victim.pid).state == "stopped":
        assert time.monotonic() < until


def test_another_start_time_is_another_process(kill, victim, context):
    ctx = context()
    start_time = read_process(victim.pid).start_time
    assert refused(kill, victim.pid, start_time + 1, ctx=ctx) == "process_changed"
    assert ctx.undoable == []
    assert victim.poll() is None


def test_one_that_is_gone(kill, victim):
    start_time = read_process(victim.pid).start_time
    victim.kill()
    victim.wait()
    assert refused(kill, victim.pid, start_time) == "process_gone"


def test_init_itself_and_its_parents_are_protected(kill):
    pid = os.getpid()
    line = []
    while pid:
        line.append(pid)
        pid = read_process(pid).ppid
    for pid in {1, *line}:
        assert refused(kill, pid, signal="SIGCONT") == "process_protected"


def test_the_fork_server_and_its_supervisors_are_protected_but_not_what_they_run(kill, clock, context):
    runner = ProcessRunner(clock)

    async def scene():
        task = asyncio.create_task(runner.run(["sleep", "796.25"], ctx=context()))
        await asyncio.sleep(0.3)
        server = runner.server.pid
        (supervisor,) = _children(server)
        (payload,) = _children(supervisor)
        tools = {b.tool.name: b for b in bindings(protected=lambda: [server], redact=_redact)}
        codes = []
        for pid in (server, supervisor):
            start_time = read_process(pid).start_time
            with pytest.raises(ToolError) as error:
                await tools["proc.kill"].function({"pid": pid, "start_time": start_time}, context())
            codes.append(error.value.code)
        start_time = read_process(payload).start_time
        await tools["proc.kill"].function({"pid": payload, "start_time": start_time}, context())
        return codes, (await task).signal

    try:
        assert asyncio.run(scene()) == (["process_protected"] * 2, "SIGTERM")
    finally:
        runner.close()


def _children(parent):
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [p.pid for p in filter(None, map(read_process, pids)) if p.ppid == parent]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process of another user")
def test_another_users_process_is_refused_even_to_root(kill):
    with subprocess.Popen(["sleep", "60"], user=65534) as process:
        code = refused(kill, process.pid)
        assert process.poll() is None
        process.kill()
    assert code == "process_foreign"


@pytest.mark.skipif(os.geteuid() == 0, reason="pid 2 belongs to root, so root's own rule is tested elsewhere")
def test_a_process_of_root_is_refused(kill):
    assert refused(kill, 2) in ("process_protected", "process_foreign")


@pytest.mark.parametrize(
    "parameters",
    [
        {"pid": 0, "start_time": 0},
        {"pid": -1, "start_time": 0},
        {"pid": 5},
        {"pid": 5, "start_time": 0, "signal": "SIGSEGV"},
        {"pid": 5, "start_time": 0, "signal": 9},
        {"pid": "5", "start_time": 0},
    ],
)
def test_the_schema_refuses(tools, parameters):
    assert not Schema.compile(tools["proc.kill"].tool.parameters).is_valid(parameters)


def test_how_they_are_declared(tools):
    assert tools["proc.list"].tool.read_only
    assert not tools["proc.kill"].tool.read_only
    assert tools["proc.kill"].tool.reversibility == "irreversible"
