"""`isolation.recorder`: what each action did is in the kernel layer under its name, and the journal has the digest of it."""

from __future__ import annotations

import hashlib

from engine_world import execute

from interlock.journal.kernel_layer import layer_files
from interlock.model.kernel_layer import KernelCall, decode_record

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


def test_a_program_that_lives_on_is_refused_where_a_record_is_required_and_else_said_to_be_unrecorded(new_project):
    toml = TOML.replace('["shell"]', '["shell", "proc.*"]')
    start = {"id": "s", "type": "tool_call", "tool": "proc.start", "parameters": {"command": "true"}}
    refused = execute(new_project(toml=toml % ("notify", '"record"')).open(), start)
    assert refused.results[0].reason == "isolation_failed"
    started = execute(new_project(toml=toml % ("notify", "")).open(), start)
    assert started.results[0].posture["record"].startswith("absent(")


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
