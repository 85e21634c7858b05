"""Two processes on one workspace, and proposals so large that memory counts."""

import asyncio
import subprocess
import sys
import time

import pytest
from engine_world import binding, call, execute, statuses

from interlock.engine.runs import write_lease as engine_writing
from interlock.model.errors import StoreError


async def noop(parameters, ctx):
    return None


HOLDER = """
    async def hold(parameters, ctx):
        print("in", flush=True)
        await asyncio.sleep(30)
    rt = project.open(binding("hold", hold))
    execute(rt, call("hold"))
"""


@pytest.fixture
def holder(project):
    project.open().close()
    child = project.script(HOLDER)
    assert child.stdout.readline() == "in\n"
    yield child
    child.kill()
    child.communicate()


def test_a_writer_waits_for_the_other_process_and_is_told_which_it_is(project, holder):
    rt = project.open(binding("noop", noop))
    rt.services.bounds.lease_wait_ms = 100
    (row,) = execute(rt, call("noop")).results
    assert (row.status, row.reason) == ("rejected", "workspace_busy")
    assert str(holder.pid) in row.error


def test_readers_do_not_wait(project, holder):
    (project.root / "f").write_text("text")
    rt = project.open()
    assert execute(rt, call("fs.read", parameters={"path": "f"})).ok


def test_a_dead_holder_is_taken_over_from_at_once(project, holder):
    holder.kill()
    holder.wait()
    rt = project.open(binding("noop", noop))
    began = time.monotonic()
    assert execute(rt, call("noop")).ok
    assert time.monotonic() - began < 10


def test_many_processes_write_one_after_the_other(project):
    project.open().close()
    body = """
        async def append(parameters, ctx):
            path = project.root / "log"
            text = path.read_text() if path.exists() else ""
            await asyncio.sleep(0.005)
            path.write_text(text + "x")
        rt = project.open(binding("append", append))
        for _ in range(4):
            assert execute(rt, call("append")).ok
    """
    children = [project.script(body) for _ in range(4)]
    for child in children:
        _, errors = child.communicate(timeout=25)
        assert child.returncode == 0, errors
    assert (project.root / "log").read_text() == "x" * 16


def peak(code):
    """Peak memory of a process in MB, and what it printed."""
    # Not `ru_maxrss`: it starts with that of the process that forked, which may be larger.
    body = (
        code
        + "\nprint(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, timeout=28, check=False)
    assert done.returncode == 0, done.stderr
    *said, megabytes = done.stdout.splitlines()
    return int(megabytes), said


LARGE = """
import asyncio, json, interlock
from interlock.model.tool import Binding, Tool
async def noop(parameters, ctx): return {{"n": parameters["x"]}}
rules = {{"allow": ["noop"]}}
rt = interlock.Runtime.open(settings={{"agent": "a", "rules": rules, "grants": {{"a": {{"tools": ["*"], "unscoped": ["*"]}}}}}})
rt.register(Binding(tool=Tool(name="noop"), function=noop))
document = b'{{"actions":[' + b",".join(
    b'{{"type":"tool_call","tool":"noop","parameters":{{"x":%d}}}}' % i for i in range({count})
) + b"]}}"
try:
    result = asyncio.run(rt.execute(document))
    print(result.status, len(result.results), result.results[-1].output["n"])
except interlock.ProposalError as error:
    print(error.code, error.path)
"""


@pytest.mark.slow
def test_a_hundred_thousand_actions_take_less_than_600_mb():
    megabytes, said = peak(LARGE.format(count=100_000))
    assert said == ["succeeded 100000 99999"]
    assert megabytes < 600


def test_a_million_actions_are_refused_within_2_gb():
    # more bytes than a document may have: refused unread
    megabytes, said = peak(LARGE.format(count=1_000_000))
    assert said[0].startswith("limit_exceeded")
    assert megabytes < 2_000
    # a million that fit into the bytes: refused after reading
    code = LARGE.format(count=0).replace(b"".decode() or 'b"]}"', 'b",".join([b"{}"] * 1_000_000) + b"]}"')
    megabytes, said = peak(code)
    assert said == ["limit_exceeded $.actions"]
    assert megabytes < 2_000


def test_a_hundred_thousand_that_depend_on_each_other(embedded):
    rt = embedded(binding("noop", noop))
    result = execute(
        rt, *[call("noop", f"n{i}", dependencies=[f"n{i - 1}"] if i else []) for i in range(20_000)], order="free"
    )
    assert set(statuses(result)) == {"succeeded"}


def test_a_database_that_is_locked_once_does_not_stop_who_is_writing(project, monkeypatch):
    """The lease is renewed long before it runs out: another try comes in time. Twice in a row is too often."""
    monkeypatch.setattr(engine_writing, "_TICK_S", 0.01)
    monkeypatch.setattr(engine_writing, "_RENEW_S", 0.0)
    locked = StoreError("locked", code="database_locked")
    answers = []

    def renew(self, doing=None, since_us=None):
        if answer := answers.pop(0) if answers else None:
            raise answer

    monkeypatch.setattr(engine_writing.WriteLease, "renew", renew)

    async def slow(parameters, ctx):
        while answers:
            await asyncio.sleep(0.005)

    rt = project.open(binding("slow", slow))
    answers += [locked, None, locked, None]
    assert execute(rt, call("slow")).ok
    answers += [locked, locked, None]
    with pytest.raises(StoreError) as caught:
        execute(rt, call("slow"))
    assert caught.value is locked
