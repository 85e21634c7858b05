"""`interlock stop`: from another terminal, by any beginning of an id, with exit codes that say whether all has stopped."""

from __future__ import annotations

import signal
import time

import pytest
from cli_driving import Said, call, work_directly

SLOW = call("shell", command="echo $$ > pid; exec sleep 1000")


@pytest.fixture
def cli(cli):
    return work_directly(cli)


@pytest.fixture
def running(cli):
    """A run under way in a process of its own, and the id of that run."""
    process = cli.start("run", cli.plan(call("fs.write", path="made", content=""), SLOW), "--json")
    while not (cli.root / "pid").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    [row] = cli("runs", "list", "--json").json
    yield process, row["run_id"]
    if process.poll() is None:
        process.kill()
    process.communicate()


def ended(process) -> Said:
    out, err = process.communicate(timeout=25)
    return Said(process.returncode, out.decode(), err.decode())


def test_a_run_is_stopped_from_another_terminal(cli, running):
    process, run_id = running
    said = cli.real("stop", run_id.removeprefix("run_")[:8], "--reason", "wrong branch")
    run = ended(process)
    assert said.code == 0
    assert said.out.startswith(f"{run_id}  stopped: `a2` (shell) was cancelled")
    assert "interlock undo" in said.err
    assert run.code == 1
    assert [row["status"] for row in run.json["results"]] == ["succeeded", "cancelled"]
    assert "wrong branch" in run.json["results"][1]["error"]
    shown = cli("runs", "show", "last").out
    assert "wrong branch" in shown
    assert (cli.root / "made").exists()
    assert cli("undo", run_id).code == 1, "the cancelled command is not undone"
    assert not (cli.root / "made").exists()


def test_all_runs_are_stopped_whatever_the_configuration_is(cli, running):
    process, run_id = running
    (cli.root / "interlock.toml").write_text("not toml")
    [report] = cli.real("stop", "--all", "--json").json
    assert (report["run_id"], report["outcome"]) == (run_id, "stopped")
    assert report["actions"] == [{"action": "a2", "tool": "shell", "status": "cancelled"}]
    assert ended(process).code == 1


def test_a_process_that_hangs_is_reported_and_killed_on_request(cli, running):
    process, run_id = running
    process.send_signal(signal.SIGSTOP)
    said = cli("stop", "last", "--wait", "50ms")
    assert said.code == 1
    assert f"{run_id}  not stopped: process {process.pid} does not answer; `--kill` ends it" in said.out
    said = cli("stop", "last", "--wait", "50ms", "--kill")
    assert (said.code, said.out) == (0, f"{run_id}  killed: process {process.pid} was killed\n")
    assert cli("runs", "list", "--json").json[0]["status"] == "cancelled"


def test_a_run_that_waits_for_an_answer_is_stopped_without_its_process(cli):
    held = cli("run", cli.plan(call("fs.move", source="a", destination="b")), "--no-wait", "--json")
    assert held.code == 3
    said = cli("stop", "--all")
    assert (said.code, "no process carried it" in said.out) == (0, True)
    assert cli("approvals", "list", "--json").json == []
    assert cli("resume", "last", "--json").error["code"] == "run_finished"


def test_nothing_to_stop_is_not_a_failure_but_a_finished_run_is_an_error(cli):
    assert cli("stop", "--all").out == "nothing is running\n"
    cli.run(call("fs.list"))
    assert cli("stop", "last", "--json").error["code"] == "run_finished"
    for wrong in ([], ["last", "--all"], ["last", "--wait", "soon"]):
        assert cli("stop", *wrong, "--json").code == 2


def test_completion_offers_the_runs_that_can_be_stopped(cli, running):
    _, run_id = running
    said = cli.real(COMP_WORDS="interlock stop run_", COMP_CWORD="2", _INTERLOCK_COMPLETE="bash_complete")
    assert run_id in said.out
    cli("stop", run_id)
    said = cli.real(COMP_WORDS="interlock stop run_", COMP_CWORD="2", _INTERLOCK_COMPLETE="bash_complete")
    assert run_id not in said.out
