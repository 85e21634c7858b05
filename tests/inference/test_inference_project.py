"""Models of a project: from its trusted file, with journals on disk, edited while the runtime is open, across processes."""

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from inference_world import KEY, SECRET, call, execute, infer, models
from model_server import serving

import interlock
from interlock.disk import Disk
from interlock.settings import TrustStore, gather
from interlock.workspace.registry import state_directory

TOML = """
agent = "coder"
[rules]
allow = ["*"]
[grants.coder]
tools = ["*"]
unscoped = ["*"]
[isolation]
profile = "none"
[workspace]
mode = "direct"
"""


def model_table(name, server, **more):
    one = models(server)["models"]["fast"] | more
    lines = [f'{key} = "{value}"' for key, value in one.items() if isinstance(value, str)]
    tools = ", ".join(f'"{tool}"' for tool in one["tools"])
    return "\n".join(
        [
            f"[models.{name}]",
            *lines,
            f"tools = [{tools}]",
            "output_tokens = 100",
            "prices = {input = 1.0, output = 2.0}",
            "",
        ]
    )


class Project:
    def __init__(self, directory: Path, monkeypatch):
        self.root = directory / "project"
        self.root.mkdir()
        monkeypatch.setenv("INTERLOCK_STATE_DIR", str(directory / "state"))
        self.state = directory / "state"

    def configure(self, text):
        (self.root / "interlock.toml").write_text(TOML + textwrap.dedent(text))
        store = TrustStore(state_directory({"INTERLOCK_STATE_DIR": str(self.state)}, Disk()), Disk())
        found = gather(self.root)
        store.record(found.root, found.files)

    def open(self):
        return interlock.Runtime.open(self.root / "interlock.toml")


@pytest.fixture
def project(tmp_path, monkeypatch):
    return Project(tmp_path, monkeypatch)


def test_no_file_of_the_record_holds_the_key_and_only_private_ones_hold_secrets(project):
    with serving(f"you said {SECRET}") as server:
        project.configure(model_table("fast", server))
        with project.open() as rt:
            assert call(rt, "infer", prompt=f"my token is {SECRET}").ok
    files = [path for path in project.state.rglob("*") if path.is_file()]
    assert any(path.name == "journal.ndjson" for path in files)
    for path in files:
        data = path.read_bytes()
        assert KEY.encode() not in data, path
        assert "private" in path.parts or SECRET.encode() not in data, path


def test_an_edited_and_trusted_configuration_changes_the_models(project):
    with serving("one") as one, serving("two") as two:
        project.configure(model_table("fast", one))
        with project.open() as rt:
            assert call(rt, "infer", prompt="x").output["text"] == "one"
            project.configure(model_table("slow", two))
            rt.refresh()
            assert call(rt, "infer", prompt="x").output["text"] == "two"
            assert call(rt, "infer", prompt="x", model="fast").reason == "invalid_parameters"
            project.configure("")
            rt.refresh()
            assert "infer" not in {tool.name for tool in rt.tools()}
            project.configure(model_table("fast", one))
            rt.refresh()
            assert call(rt, "infer", prompt="x").output["text"] == "one"


def test_what_is_asked_with_the_memory_follows_the_configuration_too(project):
    with serving("one") as one, serving("two") as two:
        project.configure(model_table("fast", one) + "[learning]\nmemory = true\n")
        with project.open() as rt:
            assert call(rt, "infer.grounded", prompt="x").output["text"] == "one"
            project.configure(model_table("slow", two) + "[learning]\nmemory = true\n")
            rt.refresh()
            assert call(rt, "infer.grounded", prompt="x").output["text"] == "two"
            project.configure("[learning]\nmemory = true\n")
            rt.refresh()
            assert "infer.grounded" not in {tool.name for tool in rt.tools()}


def test_a_budget_of_the_agent_counts_over_runtimes_and_runs(project):
    with serving("ok") as server:
        project.configure(model_table("fast", server) + "[budget.agent]\ntokens = 180\n")
        statuses = []
        for _ in range(5):
            with project.open() as rt:
                statuses.append(execute(rt, infer(parameters={"prompt": "x"})).status)
    # each takes 16, and may take 165: after the first one, too little is left
    assert statuses == ["succeeded", "failed", "failed", "failed", "failed"]


@pytest.mark.parametrize(("budget", "at_once"), [("tokens = 400", 2), ("cost = 0.0005", 1)], ids=["tokens", "money"])
def test_processes_at_once_never_reserve_more_than_the_budget(project, budget, at_once):
    """Each call reserves 165 tokens, 0.000265 in money, while it runs; the endpoint counts how many run."""
    inside, most, lock = [0], [0], threading.Lock()

    def answer(_handler):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.2)
        with lock:
            inside[0] -= 1
        return "ok"

    with serving(answer) as server:
        project.configure(model_table("fast", server) + f"[budget.agent]\n{budget}\n")
        command = [
            sys.executable,
            "-c",
            "from interlock.surfaces.cli.main import main; main()",
            "call",
            "infer",
            '{"prompt": "x"}',
            "--json",
        ]
        running = [
            subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            for _ in range(5)
        ]
        results = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    reasons = {(one["status"], one["reason"]) for one in results}
    assert reasons <= {("succeeded", None), ("skipped", "budget_exceeded")}
    assert ("succeeded", None) in reasons
    assert 1 <= most[0] <= at_once
    assert len(server.seen) == sum(one["status"] == "succeeded" for one in results)


def test_the_run_shows_what_was_spent_after_it_was_read_back(project):
    with serving("ok") as server:
        project.configure(model_table("fast", server))
        with project.open() as rt:
            result = asyncio.run(rt.execute({"actions": [infer(parameters={"prompt": "x"})]}))
        with project.open() as rt:
            (read,) = rt.runs.results(result.run_id)
    assert (result.cost.tokens, result.cost.cost) == (16, pytest.approx(21e-6))
    assert (read.cost.tokens, read.cost.cost) == (16, pytest.approx(21e-6))
