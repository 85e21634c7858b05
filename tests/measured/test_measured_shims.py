"""Agent shims: what the real SDKs call is on record, in every way of calling them; what is forged is refused."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
import shim_model

from interlock import verify_archive
from interlock.detect import Redactor
from interlock.engine.measured.run import Options, measure_command
from interlock.engine.measured.sdk import SdkCollector
from interlock.engine.measured.spec import RunSpec
from interlock.model.errors import StoreError
from interlock.signing import DEFAULT_NAME, Signer
from interlock.surfaces.clients.scripted_model import ScriptedModel
from interlock.surfaces.evidence.archives import export_run
from interlock.testing.clock import FakeClock
from interlock.testing.disk import CrashingDisk

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))
from pypi_programs import python_with

HERE = Path(__file__).parent
REQUIREMENTS = HERE.parents[1] / "requirements" / "agents.txt"


@pytest.fixture(scope="session")
def python():
    """The Python of an environment with the three SDKs."""
    return python_with(REQUIREMENTS)


class Reported:
    """A measured run with a shim, and what was reported."""

    def __init__(self, project, shim, *command, profile="none", env=None, given=None):
        spec = RunSpec(command=tuple(map(str, command)), agent_shim=shim, env=given or {})
        options = Options(profile=profile, network="machine")
        env = {**project.env, **(env or {})}
        self.result = measure_command(project.past, spec, options, directory=project.root, env=env)
        self.events = list(project.past.events(self.result.run_id))
        (self.closed,) = [event for event in self.events if type(event).__name__ == "SdkRecorded"]
        layer = project.past.directory(self.result.run_id) / "layers/sdk.ndjson"
        self.lines = [json.loads(line) for line in layer.read_text().splitlines()] if layer.exists() else []

    def story(self):
        """What was reported, in short."""
        return [
            " ".join(
                filter(None, (line["kind"], line.get("tool"), line.get("status"), line.get("error", "").split(":")[0]))
            )
            for line in self.lines
        ]


def two_calls(error):
    return [
        "tool_call_started add",
        "tool_call_completed add succeeded",
        "tool_call_started divide",
        f"tool_call_completed divide failed {error}",
    ]


@pytest.mark.clients
@pytest.mark.timeout(200)
def test_openai_agents_report_in_every_way_of_running(project, python, capfd):
    with shim_model.serving() as url:
        found = Reported(project, "openai-agents", python, HERE / "agents/openai_agent.py", url)
    printed = capfd.readouterr().out.splitlines()
    ends = ["async done", "chat done", "sync done", "stream done", "late done", "boom UserError"]
    assert [line for line in printed if not line.startswith("own")] == ends
    assert printed.count("own hook: add") == printed.count("own hook: divide") == 4, "the program's own hooks stay"
    once = [*two_calls("ZeroDivisionError"), "run_finished"]
    late = ["tool_call_started sleep", "tool_call_completed sleep failed ToolTimeoutError", "run_finished"]
    story = found.story()
    assert story[:20] == once * 4
    assert story[20:23] == late
    assert story[23:25] == ["tool_call_started explode", "tool_call_completed explode failed RuntimeError"]
    assert story[25].startswith("run_failed ")
    assert len(story) == 26
    assert {line["call_id_source"] for line in found.lines if "tool" in line} == {"provider"}
    assert found.lines[0]["arguments"] == {"a": 1, "b": 2}
    assert (found.closed.shim, found.closed.hooked, found.closed.records) == ("openai-agents", 1, 26)
    assert (found.closed.dropped, found.closed.rejected, found.closed.problems) == (0, 0, ())
    assert found.result.success


@pytest.mark.clients
@pytest.mark.timeout(200)
def test_google_genai_reports_in_every_way_of_asking(project, python, capfd):
    with shim_model.serving() as url:
        found = Reported(project, "gemini-google-genai", python, HERE / "agents/google_agent.py", url)
    ways = ["sync", "stream", "chat", "async", "async stream", "async chat", "awake"]
    assert capfd.readouterr().out.splitlines() == [f"{way} done" for way in ways]
    awake = ["tool_call_started sleep", "tool_call_completed sleep succeeded"]
    assert found.story() == two_calls("Failed to invoke function divide with converted arguments {'a'") * 6 + awake
    assert {line["call_id_source"] for line in found.lines} == {"shim"}, "the provider gave no ids"
    assert len({line["tool_call_id"] for line in found.lines}) == 13
    assert (found.closed.hooked, found.closed.rejected) == (1, 0)


@pytest.mark.clients
@pytest.mark.timeout(200)
@pytest.mark.parametrize("way", ["query", "client"])
def test_the_claude_agent_sdk_reports(project, python, capfd, way):
    model = ScriptedModel([("Bash", {"command": "echo hi"}), ("Read", {"file_path": "/nowhere/to/be/found"})])
    with model.serving():
        env = {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "none", "IS_SANDBOX": "1"}
        env |= {"CLAUDE_CONFIG_DIR": str(project.root / ".claude"), "DISABLE_AUTOUPDATER": "1"}
        found = Reported(project, "claude-agent-sdk", python, HERE / "agents/claude_agent.py", way, env=env)
    assert capfd.readouterr().out.splitlines() == ["own hook: Bash", "own hook: Read", "done"]
    story = found.story()
    assert story[:3] == ["tool_call_started Bash", "tool_call_completed Bash succeeded", "tool_call_started Read"]
    assert story[3].startswith("tool_call_completed Read failed")
    assert story[4:] == ["run_finished"]
    assert {line.get("call_id_source", "provider") for line in found.lines} == {"provider"}


FORGER = """
import json, os, socket, sys
number = int(os.environ["INTERLOCK_AGENT_SHIM_SOCKET"].partition(":")[0])
run = os.environ["INTERLOCK_AGENT_SHIM_RUN"]
end = socket.socket(fileno=number)
def line(**fields):
    end.send(json.dumps({"run_id": run, "writer": "w", **fields}).encode())
call = {"tool_call_id": "c", "call_id_source": "provider", "tool": "t"}
end.send(b"")
end.send(b"garbage")
end.send(b'{"kind": "tool_call_st')
end.send(b"[" * 50000)
end.send(b"x" * 100000)
line(kind="run_finished", seq=0, run_id="run_of_another")
line(kind="tool_call_started", seq=0, **call, surprise=1)
line(kind="tool_call_started", seq=0, **{**call, "tool": ""})
line(kind="tool_call_started", seq=0, **call, redacted=True)
line(kind="sdk_recorded", seq=0)
line(kind="tool_call_started", seq=0, **call, arguments={"key": "ghp_" + "A1b2C3d4E" * 4})
line(kind="run_finished", seq=5)
line(kind="run_finished", seq=1)
"""


@pytest.mark.parametrize("profile", ["none", "ns", "nons"])
def test_what_is_not_of_the_format_is_rejected_and_counted(project, profile):
    found = Reported(project, "openai-agents", sys.executable, "-S", "-c", FORGER, profile=profile)
    assert found.story() == ["tool_call_started t", "run_finished"]
    assert "ghp_" not in json.dumps(found.lines), "redacted before it is written"
    assert (found.closed.records, found.closed.rejected, found.closed.hooked) == (2, 11, 0)
    assert (found.result.reported_lines, found.result.unreported_lines) == (2, 11)
    told = " ".join(found.closed.problems)
    for part in ("another run - at `$.run_id`", "`surprise`", "$.tool", "`$.redacted`", "`$.seq`", "longer than"):
        assert part in told
    assert project.past.check(found.result.run_id).ok
    archive = project.root / "run.tar.gz"
    signer = Signer.named(project.past.place.state / "keys", DEFAULT_NAME, project.past.disk)
    export_run(project.past, found.result.run_id, archive, signers=[signer])
    verdict = verify_archive(archive, keys=[signer.keyid])
    assert (verdict.valid, verdict.layers["sdk"]) == (True, "partial")
    assert {"sdk_rejected", "shim_not_hooked"} <= set(verdict.notes)


FORKER = """
import os, sys, interlock_agent_shim.channel as channel
mine = channel.Channel.inherited(os.environ)
mine.finish_run()
for _ in range(3):
    if os.fork() == 0:
        mine.end_call(mine.start_call(None, "t", float("nan")), "\\udcff")
        os._exit(0)
    os.wait()
mine.finish_run("x" * 10000)
mine.start_call("i" * 5000, "n" * 5000, "{" * 5000)
"""


def test_each_process_is_a_writer_of_its_own(project):
    found = Reported(project, "openai-agents", sys.executable, "-c", FORKER)
    assert found.closed.problems == ()
    assert (found.closed.writers, found.closed.records) == (4, 9)
    for writer in {line["writer"] for line in found.lines}:
        own = [line["writer_seq"] for line in found.lines if line["writer"] == writer]
        assert own == list(range(len(own)))
    times = [line["ts"] for line in found.lines]
    assert times == sorted(set(times))
    assert len(found.lines[-2]["error"]) == 4096
    layer = project.past.directory(found.result.run_id) / "layers/sdk.ndjson"
    layer.write_bytes(layer.read_bytes().replace(b'"t"', b'"u"', 1))
    (problem,) = project.past.check(found.result.run_id).problems
    assert problem["code"] == "layer_mismatch"


def test_an_sdk_of_another_shape_is_named_and_the_program_continues(project, capfd):
    (project.root / "agents").mkdir()
    (project.root / "agents/__init__.py").write_text("")
    (project.root / "agents/run.py").write_text("AgentRunner = 1\n")
    script = "import sys; sys.path.insert(0, '.'); import agents.run; print('ran', agents.run.AgentRunner)"
    found = Reported(project, "openai-agents", sys.executable, "-c", script)
    assert capfd.readouterr().out == "ran 1\n"
    assert (found.closed.hooked, found.lines) == (0, [])
    assert "the shim could not hook in" in found.closed.problems[0]


def test_the_programs_own_sitecustomize_and_path_stay(project, capfd):
    own = project.root / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("print('own sitecustomize')\n")
    (own / "helper.py").write_text("")
    script = "import helper, sitecustomize; print(sitecustomize.__file__)"
    env = {"PYTHONPATH": str(own)}
    found = Reported(project, "claude-agent-sdk", sys.executable, "-c", script, env=env)
    assert found.result.success
    assert capfd.readouterr().out.splitlines() == ["own sitecustomize", str(own / "sitecustomize.py")]


def test_a_process_with_another_file_under_the_number_writes_nothing_there(project):
    script = """
import os, subprocess, sys
number = int(os.environ["INTERLOCK_AGENT_SHIM_SOCKET"].partition(":")[0])
here = os.open("victim", os.O_RDWR | os.O_CREAT)
os.dup2(here, number)
import importlib, interlock_agent_shim.channel as channel
assert channel.Channel.inherited(os.environ) is None
"""
    assert Reported(project, "openai-agents", sys.executable, "-c", script).result.success
    assert (project.root / "victim").read_bytes() == b""


LARGE = """
import os, interlock_agent_shim.channel as channel
mine = channel.Channel.inherited(os.environ)
for number in (2**53 + 1, 7):
    mine.end_call(mine.start_call("c%d" % number, "t", {"id": number}))
mine.finish_run()
"""


def test_a_call_whose_arguments_have_no_canonical_form_is_recorded_without_them(project):
    found = Reported(project, "openai-agents", sys.executable, "-c", LARGE)
    started = [line for line in found.lines if line["kind"] == "tool_call_started"]
    assert [line.get("arguments") for line in started] == [None, {"id": 7}]
    assert (found.closed.records, found.closed.rejected) == (5, 0)
    assert "no canonical form" in found.closed.problems[0]


class Collected:
    """A collector without a command."""

    def __init__(self, tmp_path, disk, **options):
        self.directory = tmp_path / "run_00000000000000000000000000000001"
        self.directory.mkdir()
        self.collector = SdkCollector(
            self.directory, "openai-agents", Redactor(b"k" * 32), disk, FakeClock(), **options
        )
        self.end = socket.socket(fileno=os.dup(self.collector.descriptor))
        self.collector.start()

    def finish(self):
        self.end.close()
        return self.collector.finish()

    def send(self, count):
        for seq in range(count):
            message = {"kind": "run_finished", "run_id": self.directory.name, "writer": "w", "seq": seq}
            self.end.send(json.dumps(message).encode())


def test_the_layer_has_a_bound_and_what_is_over_it_is_counted(tmp_path):
    made = Collected(tmp_path, CrashingDisk(), layer_bytes=1000)
    made.send(500)
    closed = made.finish()
    layer = (made.directory / "layers/sdk.ndjson").read_bytes()
    assert closed.records == layer.count(b"\n")
    assert (closed.records + closed.dropped, closed.rejected) == (500, 0)
    assert 0 < len(layer) <= 1000


def test_a_defect_of_the_collector_is_an_error_and_holds_no_sender_up(tmp_path, monkeypatch):
    def broken(*_arguments, **_options):
        raise KeyError("x")

    made = Collected(tmp_path, CrashingDisk())
    monkeypatch.setattr(made.collector, "_write", broken)
    made.send(2_000)
    with pytest.raises(StoreError, match="KeyError"):
        made.finish()


def test_a_layer_that_cannot_be_written_is_an_error(tmp_path):
    made = Collected(tmp_path, CrashingDisk(at=2, fault="full"))
    made.send(3)
    with pytest.raises(StoreError, match="No space left"):
        made.finish()
