"""The resident gate comes and goes, however it ends, and no call is lost or made twice."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import time

import pytest
from resident_world import CONFIGURATION, WAIT_S, Answer, Project

from interlock.approvals import Approver
from interlock.engine.background_resume import Continuing
from interlock.engine.people.answers import Answering
from interlock.model.errors import UsageError
from interlock.surfaces.clients import hook_program
from interlock.surfaces.clients.client import HOOK_PROGRAM
from interlock.surfaces.clients.hook_program import Failure, Gate
from interlock.surfaces.resident import program, server
from interlock.surfaces.resident.projects import Projects
from interlock.surfaces.resident.server import Server

EDIT = {"file_path": "a.txt", "old_string": "old", "new_string": "new"}


def until(condition, what: str):
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def held(project: Project, **given: str):
    """A hook that waits for an answer, and the question."""
    (project.root / "a.txt").write_text("old")
    hook = project.begin(project.event("PreToolUse", "Edit", EDIT, "held"), wait="50", **given)
    until(lambda: waiting(project), "no call waits")
    with project.runtime() as runtime:
        [hold] = runtime.approvals.list()
    return hook, hold.id


def waiting(project: Project) -> int:
    status = project.world.status()
    return 0 if status is None else sum(one["waiting"] for one in status["projects"])


def approve(project: Project, hold: str) -> None:
    with project.runtime() as runtime:
        runtime.approvals.approve(hold)


def answer_of(hook) -> Answer:
    out, err = hook.communicate(timeout=WAIT_S)
    return Answer(hook, out, err)


def test_an_answer_from_elsewhere_lets_the_waiting_call_continue(project):
    hook, hold = held(project)
    approve(project, hold)
    assert answer_of(hook).decision == "allow"
    project.after("Edit", "held")
    assert [line.status for line in project.lines()] == ["succeeded"]


NEWER = b'client=claude-code\0version=__version__ = "99.0"\n\0'
"""The head of a request by the hook of a newer Interlock."""


def ask_as_newer(project: Project) -> bytes | None:
    request = b"interlock 1 hook\n" + len(NEWER).to_bytes(8, "big") + bytes(8) + NEWER
    return Gate(str(project.world.state), time.monotonic() + WAIT_S).ask_once(request)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_held_call_outlives_the_gate(project, end):
    """Killed, stopped, or replaced by that of a newer Interlock."""
    hook, hold = held(project)
    first = project.world.status()["pid"]
    if end is None:
        assert ask_as_newer(project) is None
    else:
        project.world.kill(end)
    until(lambda: (project.world.status() or {}).get("pid", first) != first, "there is no next gate")
    until(lambda: waiting(project), "it does not wait in the next gate")
    approve(project, hold)
    assert answer_of(hook).decision == "allow"
    project.after("Edit", "held")
    assert [line.status for line in project.lines()] == ["succeeded"]


def test_a_hook_that_is_ended_while_it_waits_leaves_nothing_running(project):
    hook, hold = held(project)
    hook.kill()
    hook.communicate()
    until(lambda: not waiting(project), "the call still waits")
    approve(project, hold)
    assert [line.status for line in project.lines() if line.status not in ("skipped", "held")] == []
    assert project.before("Edit", EDIT).decision == "allow", "the approved call continues when it is made again"


def test_only_its_client_continues_with_a_held_call(project):
    hook, hold = held(project)
    hook.kill()
    hook.communicate()
    until(lambda: not waiting(project), "the call still waits")
    with project.runtime() as runtime:
        [unfinished] = runtime.runs.recover()
        assert (unfinished.need, unfinished.then) == ("answer", None)
        # Answered over HTTP: the same store.
        shown = runtime.approvals.get(hold)
        outcome = Answering(runtime.approvals.desk, "rest").answer(
            hold, Approver(id="ann"), "approve", digest=shown.digest
        )
        assert outcome.code == "resolved"
        [unfinished] = runtime.runs.recover()
        assert unfinished.need == "nothing"
        run_id = shown.run
        with pytest.raises(UsageError) as caught:
            asyncio.run(runtime.runs.resume(run_id))
        assert caught.value.code == "client_call"
        reports: list[object] = []
        asyncio.run(Continuing(runtime, lambda *report: reports.append(report)).look())
        assert reports == []
    assert (project.root / "a.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("end", "failed", "status"),
    [
        (signal.SIGKILL, None, "succeeded"),
        (signal.SIGKILL, "Exit code 1", "failed"),
        (signal.SIGTERM, None, "succeeded"),
    ],
)
def test_a_report_that_comes_after_the_gate_was_killed_settles_the_call(project, end, failed, status):
    with project.runtime() as runtime:  # a person's answer would want a proof: this is not one
        runtime.approvals.desk.approvers.add("ann", pin="123456")
    project.before("Bash", {"command": "make"}, "u")
    project.world.kill(end)
    with project.runtime() as runtime:
        runtime.runs.recover()
        assert [hold.kind for hold in runtime.approvals.list()] == ["unknown_outcome"]
    assert project.after("Bash", "u", failed=failed).code == 0
    assert [line.status for line in project.lines()] == [status]
    with project.runtime() as runtime:
        assert list(runtime.approvals.list()) == []
    assert project.after("Bash", "u").code == 0, "a second report changes nothing"


def test_a_call_whose_end_is_never_reported_is_unknown(project):
    project.before("Bash", {"command": "make"}, "u")
    project.say(project.event("SessionEnd"))
    assert [line.status for line in project.lines()] == ["unknown_outcome"]
    project.before("Read", {"file_path": "interlock.toml"}, "r")
    project.world.kill()
    with project.runtime() as runtime:
        [unfinished] = runtime.runs.recover()
        results = asyncio.run(runtime.runs.resume(unfinished.run_id))
    assert results[0].results[0].status == "failed", "a read has no effect, so no person is asked"


def test_what_a_file_was_is_kept_although_the_gate_was_killed(project):
    path = project.root / "a.txt"
    path.write_text("old")
    project.before("Write", {"file_path": str(path), "content": "new"}, "u")
    project.world.kill()
    path.write_text("new")
    project.after("Write", "u")
    [line] = project.lines()
    with project.runtime() as runtime:
        refused = asyncio.run(runtime.runs.undo(line.run_id))
        assert refused.status == "failed", "what changed it is not known for sure"
        asyncio.run(runtime.runs.undo(line.run_id, force=True))
    assert path.read_text() == "old"


def test_one_gate_for_hooks_that_start_it_at_once(project):
    hooks = [
        project.begin(project.event("PreToolUse", "Read", {"file_path": "interlock.toml"}, f"u{i}")) for i in range(4)
    ]
    assert [answer_of(hook).decision for hook in hooks] == ["allow"] * 4
    assert project.world.status()["projects"][0]["open"] == 4


def test_two_projects_under_one_gate_have_their_own_rules(project):
    other = project.world.project("other", CONFIGURATION.replace('"shell"]\nask', "]\nask"))
    assert project.before("Bash", {"command": "ls"}).decision == "allow"
    assert other.before("Bash", {"command": "ls"}).decision == "deny"
    roots = [one["root"] for one in project.world.status()["projects"]]
    assert roots == [str(project.root), str(other.root)]
    assert [line.status for line in other.lines()] == ["rejected"]


def test_an_edit_of_the_rules_holds_once_it_is_trusted(project):
    assert project.before("Bash", {"command": "ls"}).decision == "allow"
    pid = project.world.status()["pid"]
    project.configure(CONFIGURATION.replace('allow = ["fs.read", ', "allow = ["), trusted=False)
    assert project.before("Read", {"file_path": "interlock.toml"}).decision == "allow"
    project.configure(CONFIGURATION.replace('allow = ["fs.read", ', "allow = ["))
    assert project.before("Read", {"file_path": "interlock.toml"}).decision == "deny"
    assert project.world.status()["pid"] == pid


def test_a_project_that_is_not_trusted_allows_nothing(world):
    project = world.project()
    world.kill()
    project.configure(CONFIGURATION + "\n# edited", trusted=False)
    answer = project.before("Read", {"file_path": "interlock.toml"})
    assert (answer.decision, "untrusted_configuration" in answer.reason) == ("deny", True)


def test_directories_that_are_gone_or_links(project, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    event = project.event(
        "PreToolUse", "Read", {"file_path": str(project.root / "interlock.toml")}, "u1", cwd=str(gone)
    )
    program = [*HOOK_PROGRAM, "claude-code", f"project={project.root}", f"state={project.world.state}"]
    script = ["sh", "-c", f"rmdir {gone}; exec {shlex.join(program)}"]
    done = subprocess.run(script, cwd=gone, env=project.world.env, input=event, capture_output=True, check=False)
    assert Answer(done, done.stdout, done.stderr).decision == "allow"
    link = tmp_path / "link"
    link.symlink_to(project.root)
    (tmp_path / "home").symlink_to(tmp_path)
    options = {"project": str(link), "state": str(tmp_path / "home/state")}
    linked = project.before("Read", {"file_path": f"{link}/interlock.toml"}, options=options, cwd=str(link))
    assert linked.decision == "allow"
    assert {line.about for line in project.lines()} == {"interlock.toml"}
    shutil.move(project.root, tmp_path / "moved")
    moved = project.say(project.event("PreToolUse", "Read", {"file_path": "interlock.toml"}, "u3"), cwd=tmp_path)
    assert (moved.decision, "interlock install" in moved.reason) == ("deny", True)


def test_where_there_is_no_gate_nothing_is_allowed(project, tmp_path):
    (tmp_path / "file").write_text("")
    event = project.event("PreToolUse", "Read", {"file_path": "interlock.toml"}, "u")
    assert project.say(event, state=str(tmp_path / "file")).code == 2
    open_to_all = tmp_path / "open"
    (open_to_all / "gate").mkdir(parents=True)
    os.chmod(open_to_all / "gate", 0o755)
    answer = project.say(event, state=str(open_to_all))
    assert (answer.code, "not a private directory" in answer.error) == (2, True)


def test_a_hook_gives_up_before_its_client_does(project):
    (project.root / "a.txt").write_text("old")
    project.before("Read", {"file_path": "a.txt"})  # the gate is there
    answer = project.say(project.event("PreToolUse", "Edit", EDIT, "u"), wait="50", seconds="3")
    assert (answer.code, "did not answer in time" in answer.error) == (2, True)
    assert (project.root / "a.txt").read_text() == "old"


def test_a_gate_makes_way_for_a_newer_interlock(project):
    project.before("Read", {"file_path": "interlock.toml"})
    first = project.world.status()["pid"]
    assert ask_as_newer(project) is None
    assert project.before("Read", {"file_path": "interlock.toml"}).decision == "allow"
    assert project.world.status()["pid"] != first


@pytest.mark.parametrize("why", ["idle", "gone"])
def test_a_gate_ends_when_it_is_idle_or_cannot_be_found(tmp_path, monkeypatch, why):
    monkeypatch.setattr(program, "LOOK_S", 0.01)
    monkeypatch.setattr(program, "IDLE_S", 0.01 if why == "idle" else WAIT_S * 10)
    found = True

    async def go() -> None:
        nonlocal found
        gate = Server(Projects(tmp_path, print), b"", print)
        busy = True
        monkeypatch.setattr(Server, "is_busy", property(lambda _: busy))
        end = asyncio.ensure_future(program._until_the_end(gate, lambda: found))
        done, _ = await asyncio.wait([end], timeout=0.1)
        assert not done
        if why == "idle":
            busy = False
        else:
            found = False
        await asyncio.wait_for(end, WAIT_S)

    asyncio.run(go())


def test_what_is_not_the_protocol_gets_a_refusal_and_ends_nothing(project):
    project.before("Read", {"file_path": "interlock.toml"})
    gate = Gate(str(project.world.state), time.monotonic() + WAIT_S)
    for request in (
        b"GET / HTTP/1.1\n" + bytes(16),
        b"interlock 1 approve\n" + bytes(16),
        b"interlock 1 hook\n" + (2**40).to_bytes(8, "big") + bytes(8),
        b"interlock 1 hook\n" + bytes(16),
    ):
        answer = gate.ask_once(request)
        assert answer is not None
        assert answer[0] == 2
    assert json.loads(gate.ask_once(b"interlock 1 status\n" + bytes(16))[17:])["pid"] == project.world.status()["pid"]


def test_a_client_that_is_gone_is_not_waited_for(project):
    hook, hold = held(project)
    hook.stdout.close()  # the client, which reads it, was killed
    until(lambda: not waiting(project), "the call still waits")
    hook.wait(WAIT_S)
    hook.stderr.close()
    approve(project, hold)
    assert [line.status for line in project.lines() if line.status == "succeeded"] == []


def test_what_a_client_did_not_hear_is_not_done(project):
    head = f"client=claude-code\0project={project.root}\0".encode()
    data = project.event("PreToolUse", "Bash", {"command": "ls"}, "u")
    project.before("Read", {"file_path": "interlock.toml"})
    gate = Gate(str(project.world.state), time.monotonic() + WAIT_S)

    def deliver(_: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(Failure):
        gate.ask(
            b"interlock 1 hook\n" + len(head).to_bytes(8, "big") + len(data).to_bytes(8, "big") + head + data, deliver
        )
    until(lambda: project.lines()[-1].status == "cancelled", "it is not on record that nothing was done")


def test_only_processes_of_this_user_are_answered(project, tmp_path, monkeypatch):
    other = os.geteuid() + 1

    async def go() -> bytes:
        gate = Server(Projects(tmp_path, print), b"", print)
        listening = await asyncio.start_unix_server(gate.serve, tmp_path / "socket")
        async with listening:
            monkeypatch.setattr(server.os, "geteuid", lambda: other)
            reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
            writer.write(b"interlock 1 status\n" + bytes(16))
            try:
                return await reader.read()
            except ConnectionResetError:  # closed with the request unread
                return b""
            finally:
                writer.close()

    assert asyncio.run(go()) == b""
    monkeypatch.undo()
    project.before("Read", {"file_path": "interlock.toml"})
    # The directory is this user's, and what listens in it is not.
    asked = iter([os.geteuid(), other])
    monkeypatch.setattr(hook_program.os, "geteuid", lambda: next(asked))
    with pytest.raises(Failure, match="another user"):
        Gate(str(project.world.state), time.monotonic() + WAIT_S).ask_once(b"interlock 1 status\n" + bytes(16))


def test_hooks_of_two_scopes_ask_one_question(project):
    hook, hold = held(project)
    second = project.begin(project.event("PreToolUse", "Edit", EDIT, "held"), wait="50", project="")
    approve(project, hold)
    assert [answer_of(hook).decision, answer_of(second).decision] == ["allow", "allow"]
    project.after("Edit", "held")
    project.after("Edit", "held")
    assert [line.status for line in project.lines()] == ["succeeded"]
