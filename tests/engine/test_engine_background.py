"""Programs that live on after their action, through the gate: on record, in scope, and gone at the end whatever happens."""

import asyncio
import os
import signal
import time

import pytest
from engine_world import AGENT, TOML, binding, call, execute, plan, statuses

MARK = f"60.{time.monotonic_ns()}"
SERVER = f"echo ready; exec sleep {MARK}"


def start(name="s", command=SERVER, **fields):
    return call("proc.start", name, parameters={"command": command}, **fields)


def wait(name="w", handle="$s.output.handle", output="\n", **fields):
    return call("proc.wait", name, parameters={"handle": handle, "output": output}, **fields)


def gone():
    """True if no process of these tests lives. Their pids, as they see them, say nothing out here."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if MARK.encode() in file.read():
                        return False
            except (FileNotFoundError, ProcessLookupError):
                continue
    return True


def wait_gone():
    until = time.monotonic() + 10
    while not gone():
        assert time.monotonic() < until
        time.sleep(0.01)


def ends(project, run_id):
    return [e for e in project.journal(run_id) if e["kind"] == "process_ended"]


def test_it_serves_later_proposals_of_its_run_and_ends_with_it(project):
    rt = project.open()
    run = rt.runs.start()
    first = asyncio.run(run.execute(plan(start(), wait(dependencies=["s"]))))
    assert first.ok
    handle = first.results[0].output["handle"]
    assert not gone()
    later = asyncio.run(run.execute(plan(call("proc.output", parameters={"handle": handle}))))
    assert later.results[0].output["running"]
    run.finish()
    assert gone()
    (started,) = [e for e in project.journal(run.id) if e["kind"] == "process_started"]
    assert (started["handle"], started["agent"], started["until"]) == (handle, AGENT, "run")
    assert (started["action"], started["step"]) == ("s", 9)
    (ended,) = ends(project, run.id)
    assert (ended["handle"], ended["why"], ended["signal"]) == (handle, "run_ended", "SIGTERM")
    assert project.kinds(run.id)[-1] == "run_finished"


def test_who_stops_it_is_on_record(project):
    rt = project.open()
    result = execute(rt, start(), call("proc.stop", "x", parameters={"handle": "$s.output.handle"}))
    assert result.ok
    (ended,) = ends(project, result.run_id)
    assert (ended["why"], ended["agent"], ended["action"]) == ("stopped", AGENT, "x")


def test_as_long_as_the_session_in_one_runtime(project):
    rt = project.open()
    first = execute(rt, start(invocation_mode="session"), wait(dependencies=["s"]), session="night")
    assert first.ok
    handle = first.results[0].output["handle"]
    assert not gone()
    again = execute(rt, call("proc.output", parameters={"handle": handle}), session="night")
    assert again.results[0].output["running"]
    other = execute(rt, call("proc.output", parameters={"handle": handle}), session="day")
    assert other.results[0].reason == "process_unknown"
    rt.close()
    assert gone()
    found = [row for run in project.runs() for row in ends(project, run)]
    assert [(row["handle"], row["why"]) for row in found] == [(handle, "session_ended")]


def test_an_aborted_proposal_takes_its_programs_with_it_and_says_what_is_left(project):
    rt = project.open()
    run = rt.runs.start()
    fails = call("shell", "f", parameters={"command": "exit 1"}, dependencies=["w"])
    result = asyncio.run(run.execute(plan(start(), wait(dependencies=["s"]), fails)))
    assert result.status == "failed"
    wait_gone()
    assert [row["why"] for row in ends(project, run.id)] == ["proposal_aborted"]
    assert "s" in [left.action_id for left in result.not_undone if left.reason == "not_exactly_undoable"]
    run.finish()
    assert len(ends(project, run.id)) == 1


def test_what_it_tried_on_the_network_is_added_to_the_action_that_started_it(new_project):
    """Nobody asked about it before its run ended: it is in the journal, and in the rows that are read from that."""
    rt = new_project(toml=TOML % '[isolation]\nprofile = "ns"\n').open()
    tries = start(command="getent hosts evil.test; touch done; exec sleep 60")
    result = execute(rt, tries, call("shell", "w", parameters={"command": "until test -e done; do sleep 0.05; done"}))
    assert result.ok, result
    assert result["s"].hosts is None
    (use,) = rt.runs.results(result.run_id)[0]["s"].hosts
    assert (use.host, use.outcome, use.reason) == ("evil.test", "refused", "host_denied")


@pytest.mark.parametrize("session", [None, "night"])
def test_killing_the_runtime_kills_what_it_started(project, session):
    project.open().close()
    mode = "one_shot" if session is None else "session"
    child = project.script(
        f"""
        rt = project.open()
        run = rt.runs.start(session={session!r})
        async def main():
            actions = [
                call("proc.start", "s", parameters={{"command": {f"echo ready; trap '' TERM HUP; sleep {MARK} & wait; wait"!r}}},
                     invocation_mode={mode!r}),
                call("proc.wait", "w", parameters={{"handle": "$s.output.handle", "output": chr(10)}}),
            ]
            result = await run.execute(plan(*actions))
            print(result.results[1].output["stdout"].strip(), flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
        """
    )
    assert child.stdout.readline() == "ready\n"
    assert not gone()
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    wait_gone()


def test_rules_know_the_command(project):
    rules = f"""
agent = "{AGENT}"
[rules]
allow = ["proc.start(npm run dev)", "proc.wait", "proc.stop"]
[grants.{AGENT}]
tools = ["*"]
"""
    (project.root / "interlock.toml").write_text(rules)
    project.trust()
    rt = project.open()
    for command in ("npm run other", "npm run dev; rm -r .", "sleep 60"):
        assert execute(rt, start(command=command)).results[0].reason == "policy_denied"
    assert execute(rt, start(command="npm run dev")).results[0].status == "succeeded"


def test_an_invocation_mode_that_a_tool_does_not_have_is_refused_before_anything_runs(project):
    rt = project.open()
    for action in (
        call("shell", parameters={"command": "touch made"}, invocation_mode="session"),
        call("fs.read", parameters={"path": "interlock.toml"}, invocation_mode="run"),
        {"type": "state_read", "parameters": {"key": "k"}, "invocation_mode": "run"},
    ):
        result = execute(rt, start(), action)
        assert statuses(result) == ["skipped", "rejected"]
        assert result.results[1].reason == "unsupported_invocation_mode"
    assert not (project.root / "made").exists()


def test_a_finished_run_is_undone_as_far_as_that_goes(project):
    rt = project.open()
    result = execute(rt, start(command="echo x > made; exec sleep 60"))
    undone = asyncio.run(rt.runs.undo(result.run_id))
    assert [left.reason for left in undone.not_undone] == ["not_exactly_undoable"]


def test_a_tool_of_the_program_sees_the_mode(project):
    async def tell(parameters, ctx):
        return ctx.invocation_mode

    rt = project.open(binding("tell", tell, invocation_modes=("one_shot", "session")))
    result = execute(rt, call("tell"), call("tell", invocation_mode="session"))
    assert [row.output for row in result.results] == ["one_shot", "session"]
