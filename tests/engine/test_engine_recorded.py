"""`isolation.recorder`: what each action did is in the kernel layer under its name, and the journal has the digest of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from pathlib import Path

import pytest
from engine_world import execute, plan

from interlock.journal.kernel_layer import layer_files
from interlock.model.kernel_layer import KernelCall, RecorderEnded, decode_record

TOML = """
agent = "agent"
[rules]
allow = ["shell"]
[grants.agent]
tools = ["*"]
paths = { read = ["**"], write = ["**"] }
[isolation]
recorder = "%s"
require = [%s]
"""


def shell(action, command):
    return {"id": action, "type": "tool_call", "tool": "shell", "parameters": {"command": command}}


def lines_of(project, run_id):
    files = layer_files(project.run_directory(run_id))
    return [line for file in files for line in file.read_bytes().splitlines(keepends=True)]


def test_actions_at_the_same_time_have_records_of_their_own(new_project):
    project = new_project(toml=TOML % ("notify", '"record"'))
    result = execute(project.open(), *(shell(f"a{n}", f"echo {n} > out{n}") for n in range(32)))
    assert {(row.status, row.error) for row in result.results} == {("succeeded", None)}
    assert all(row.posture["record"].startswith("active") for row in result.results)
    lines = lines_of(project, result.run_id)
    records = [decode_record(line) for line in lines]
    assert [record.seq for record in records] == list(range(len(records)))
    assert {record.run_id for record in records} == {result.run_id}
    made = [(r.action, r.path) for r in records if isinstance(r, KernelCall) and "create" in r.flags]
    assert sorted(made) == sorted((f"a{n}", str(project.root / f"out{n}")) for n in range(32))
    events = [event for event in project.journal(result.run_id) if event["kind"] == "action_recorded"]
    assert sorted(event["action"] for event in events) == sorted(f"a{n}" for n in range(32))
    for event in events:
        own = [line for line, record in zip(lines, records, strict=True) if record.recorder == event["recorder"]]
        assert {record.action for record in map(decode_record, own)} == {event["action"]}
        assert (event["lines"], event["dropped"]) == (len(own), 0)
        assert event["digest"] == "sha256:" + hashlib.sha256(b"".join(own)).hexdigest()


def test_a_secret_in_the_arguments_of_a_program_is_in_no_file_of_the_layer(new_project):
    project = new_project(toml=TOML % ("notify", ""))
    token = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" + "k1L2m3N4o5P6q7R8"
    result = execute(project.open(), shell("a", f"true --token {token}; /bin/true {token}; cat /{token} || true"))
    data = b"".join(lines_of(project, result.run_id))
    assert b"/bin/true" in data
    assert token.encode() not in data


def test_without_the_setting_nothing_is_recorded_and_the_posture_says_so(new_project):
    project = new_project(toml=TOML % ("none", ""))
    result = execute(project.open(), shell("a", "true"))
    assert result.results[0].posture["record"] == "absent(not switched on: `isolation.recorder`)"
    assert lines_of(project, result.run_id) == []


def test_a_runtime_that_keeps_nothing_refuses_where_a_record_is_required(new_project):
    project = new_project(toml=TOML % ("notify", '"record"') + '[journal]\ndurability = "off"\n')
    result = execute(project.open(), shell("a", "true"))
    assert result.results[0].reason == "isolation_failed"


PROC_TOML = TOML.replace('["shell"]', '["shell", "proc.*"]')
SERVER = "touch made; echo ready; exec sleep 600"


def proc(tool, action, **parameters):
    mode = {"invocation_mode": parameters.pop("mode")} if "mode" in parameters else {}
    return {"id": action, "type": "tool_call", "tool": f"proc.{tool}", "parameters": parameters, **mode}


def ready(handle="$s.output.handle"):
    return proc("wait", "w", handle=handle, output="ready")


@pytest.mark.parametrize("how", ["run", "stop", "exit", "abort"])
def test_a_program_of_the_run_is_recorded_to_its_end_and_its_record_names_it(new_project, how):
    project = new_project(toml=PROC_TOML % ("notify", '"record"' if how != "abort" else ""))
    more = {
        "run": [ready()],
        "stop": [ready(), {**proc("stop", "x", handle="$s.output.handle"), "dependencies": ["w"]}],
        "exit": [proc("wait", "w", handle="$s.output.handle")],
        "abort": [ready(), {**shell("f", "exit 1"), "dependencies": ["w"]}],
    }[how]
    command = "touch made; sh -c 'echo > late'" if how == "exit" else SERVER
    result = execute(project.open(), proc("start", "s", command=command), *more)
    started = next(row for row in result.results if row.action_id == "s")
    assert started.posture["record"].startswith("active")
    journal = project.journal(result.run_id)
    (handle,) = [event["handle"] for event in journal if event["kind"] == "process_started"]
    (event,) = [event for event in journal if event["kind"] == "action_recorded" and "handle" in event]
    assert (event["action"], event["handle"], event["dropped"]) == ("s", handle, 0)
    own = [line for line in lines_of(project, result.run_id) if decode_record(line).recorder == event["recorder"]]
    assert event["digest"] == "sha256:" + hashlib.sha256(b"".join(own)).hexdigest()
    records = [decode_record(line) for line in own]
    assert isinstance(records[-1], RecorderEnded)
    made = {r.path for r in records if isinstance(r, KernelCall) and "create" in r.flags}
    assert made == {str(project.root / name) for name in (["made", "late"] if how == "exit" else ["made"])}
    assert {record.action for record in records} == {"s"}


def test_programs_beside_each_other_have_records_of_their_own(new_project):
    project = new_project(toml=PROC_TOML % ("notify", '"record"'))
    starts = [proc("start", f"s{n}", command=f"touch made{n}; echo ready; exec sleep 600") for n in range(4)]
    waits = [{**ready(f"$s{n}.output.handle"), "id": f"w{n}"} for n in range(4)]
    result = execute(project.open(), *starts, *waits)
    records = [decode_record(line) for line in lines_of(project, result.run_id)]
    made = sorted((r.action, r.path) for r in records if isinstance(r, KernelCall) and "create" in r.flags)
    assert made == [(f"s{n}", str(project.root / f"made{n}")) for n in range(4)]


def test_a_program_that_several_runs_can_use_is_not_recorded_and_refused_where_a_record_is_required(new_project):
    start = proc("start", "s", command=SERVER, mode="session")
    refused = execute(new_project(toml=PROC_TOML % ("notify", '"record"')).open(), start, session="night")
    assert (refused.results[0].reason, refused.results[0].status) == ("isolation_failed", "failed")
    project = new_project(toml=PROC_TOML % ("notify", ""))
    started = execute(project.open(), start, session="night")
    assert started.results[0].posture["record"].startswith("absent(what several runs can use is not recorded")
    assert lines_of(project, started.run_id) == []


def test_a_program_whose_recorder_is_killed_ends_and_its_end_says_so(new_project):
    project = new_project(toml=PROC_TOML % ("notify", ""))
    runtime = project.open()
    run = runtime.runs.start()
    first = asyncio.run(run.execute(plan(proc("start", "s", command=SERVER), ready())))
    handle = first.results[0].output["handle"]
    os.kill(_recorder_of(runtime), signal.SIGKILL)
    last = asyncio.run(run.execute(plan(proc("wait", "w", handle=handle))))
    assert not last.results[0].output["running"]
    run.finish()
    journal = project.journal(run.id)
    assert [event["why"] for event in journal if event["kind"] == "process_ended"] == ["recorder_lost"]
    (event,) = [event for event in journal if event["kind"] == "action_recorded"]
    assert (event["lost"], event["handle"]) == (True, handle)


def test_a_program_that_cannot_be_started_leaves_a_closed_record(new_project):
    project = new_project(toml=PROC_TOML % ("notify", ""))
    start = proc("start", "s", command="true", cwd="missing")
    result = execute(project.open(), start, shell("a", "true"))
    assert result.results[0].status == "failed"
    named = {decode_record(line).recorder for line in lines_of(project, result.run_id)}
    assert named == {e["recorder"] for e in project.journal(result.run_id) if e["kind"] == "action_recorded"}


def _recorder_of(runtime):
    """The child of the fork server that has no children."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
    server = runtime.services.runner._server.pid
    (recorder,) = [pid for pid, parent in parents.items() if parent == server and pid not in parents.values()]
    return recorder


MODULE = """
from pathlib import Path
from interlock.executors.python import tool

@tool()
def keep(text: str) -> int:
    "Writes a file."
    return Path("kept").write_text(text)
"""


def test_a_function_of_a_tool_module_is_recorded_too(new_project):
    toml = (
        TOML.replace('["shell"]', '["keep"]').replace('tools = ["*"]', 'tools = ["*"]\nunscoped = ["keep"]')
        + '[tools]\nmodules = ["own"]\n'
    )
    project = new_project(toml=toml % ("notify", '"record"'), files=[("own.py", MODULE)])
    result = execute(project.open(), {"id": "a", "type": "tool_call", "tool": "keep", "parameters": {"text": "x"}})
    assert (result.results[0].status, result.results[0].error) == ("succeeded", None)
    assert result.results[0].posture["record"].startswith("active")
    records = [decode_record(line) for line in lines_of(project, result.run_id)]
    made = {r.path for r in records if isinstance(r, KernelCall) and "create" in r.flags}
    assert str(project.root / "kept") in made


def test_a_run_that_keeps_nothing_says_that_nothing_is_recorded(new_project):
    project = new_project(toml=TOML % ("notify", "") + '[journal]\ndurability = "off"\n')
    result = execute(project.open(), shell("a", "true"))
    assert result.results[0].status == "succeeded"
    assert result.results[0].posture["record"].startswith("absent(this run keeps nothing")
