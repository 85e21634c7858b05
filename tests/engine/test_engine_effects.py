"""Approving the effect: a held process runs in a throw-away layer, the question shows what it did, approval makes that so."""

import asyncio
import os

import pytest
from engine_world import TOML, call, plan, reasons, statuses

BASE = (TOML % "").replace(
    '[rules]\nallow = ["*", "state_read", "state_write", "assert"]\n', '[rules]\nallow = ["fs.*"]\nask = ["shell"]\n'
)
NS = '[approvals]\npreview = true\n[isolation]\nprofile = "ns"\n'


@pytest.fixture(params=["layer", "direct"])
def project(request, new_project):
    return new_project(toml=BASE + NS + f'[workspace]\nmode = "{request.param}"\n', files=[("a", "one\ntwo\n")])


def shell(command, name="shell", **fields):
    return call("shell", name, parameters={"command": command}, **fields)


def asked(rt, *actions, answer=True):
    """Run a plan, and answer each question; the result and the questions."""
    questions = []

    def reply(hold):
        questions.append(hold)
        return answer(hold) if callable(answer) else answer

    return asyncio.run(rt.execute(plan(*actions), on_question=reply)), questions


def test_the_question_shows_what_the_call_did_and_approval_makes_it_so_without_running_it_again(project):
    command = "echo ran; sed -i s/two/2/ a; date +%N%s > stamp; mkdir d; rm -f gone"
    seen = []

    def look(hold):
        seen.append(sorted(path.name for path in project.root.iterdir()))
        return True

    result, (hold,) = asked(project.open(), shell(command), answer=look)
    assert result.ok, result.results
    assert seen == [["a", "interlock.toml"]]
    shown = {change.path: change for change in hold.changes}
    assert [line for line in shown["a"].lines if line[0] in "+-"] == ["-two", "+2"]
    assert shown["d"].note == "nothing becomes a directory"
    assert f"+{(project.root / 'stamp').read_text().strip()}" in shown["stamp"].lines
    assert "ended with exit code 0: 3 paths differ" in hold.reason
    assert (project.root / "a").read_text() == "one\n2\n"
    assert result["shell"].output["stdout"] == "ran\n"
    assert result["shell"].output["exit_code"] == 0
    undone = asyncio.run(project.open().runs.undo(result.run_id))
    assert undone.ok, undone.results
    assert sorted(path.name for path in project.root.iterdir()) == ["a", "interlock.toml"]
    assert (project.root / "a").read_text() == "one\ntwo\n"


def test_a_denied_effect_leaves_no_trace(project):
    result, _ = asked(project.open(), shell("rm a; echo 1 > b"), answer=False)
    assert reasons(result) == ["approval_denied"]
    assert sorted(path.name for path in project.root.iterdir()) == ["a", "interlock.toml"]
    assert not list((project.home / "runs" / result.run_id).glob("workspace/preview-*"))


def test_it_sees_what_earlier_actions_of_the_proposal_did(project):
    write = call("fs.write", "write", parameters={"path": "a", "content": "agent\n"})
    result, (hold,) = asked(project.open(), write, shell("cat a > b", dependencies=["write"]))
    assert result.ok, result.results
    assert hold.changes[0].lines[-1] == "+agent"
    assert (project.root / "b").read_text() == "agent\n"


def test_what_has_changed_meanwhile_is_not_overwritten_and_the_call_is_asked_about_again(project):
    def edit(hold):
        if "not what was approved" not in hold.reason:
            (project.root / "a").write_text("person\n")
        return True

    result, questions = asked(project.open(), shell("sed -i s/one/1/ a; wc -c < a > size"), answer=edit)
    assert [("not what was approved" in hold.reason) for hold in questions] == [False, True]
    assert len({hold.digest for hold in questions}) == 2
    assert result.ok, result.results
    assert (project.root / "a").read_text() == "person\n"
    assert (project.root / "size").read_text().strip() == "7"


def test_attributes_and_access_control_lists_are_part_of_what_is_shown_and_approved(new_project):
    """A list can let another user write a file whose mode and content look harmless."""
    project = new_project(toml=BASE + NS + '[workspace]\nmode = "direct"\n', files=[("a", "one\n"), ("tool", "1\n")])
    attribute = "python3 -c \"import os; [os.setxattr(name, 'user.x', b'1') for name in ('a', 'new', 'tool')]\""

    def edit(hold):
        if "not what was approved" not in hold.reason:
            os.setxattr(project.root / "a", "user.mine", b"1")
        return True

    result, questions = asked(
        project.open(), shell(f"echo 3 >> a; echo 1 > new; chmod 755 tool; {attribute}"), answer=edit
    )
    assert result.ok, result.results
    assert len(questions) == 2
    for hold in questions:
        shown = {change.path: f"{change.note}; {change.permissions}" for change in hold.changes}
        assert all("access control lists change" in text for text in shown.values()), shown
        assert "permissions 644 become 755" in shown["tool"]
    assert sorted(os.listxattr(project.root / "a")) == ["user.mine", "user.x"]


def test_it_names_the_hosts_that_were_tried(project):
    _, (hold,) = asked(project.open(), shell("curl -s -m 5 http://example.org/ || echo no > out"))
    assert "it tried to reach example.org:80, and could not" in hold.reason


def test_an_answer_is_found_again_by_a_resumed_run_and_bound_to_the_same_effect(project):
    rt = project.open()
    held = asyncio.run(rt.execute(plan(shell("date +%N%s > stamp; cat a > b")), wait=False))
    assert statuses(held) == ["held"]
    hold = rt.approvals.get(held["shell"].output["approval"])
    rt.close()
    rt = project.open()
    rt.approvals.approve(hold.id)
    (result,) = asyncio.run(rt.runs.resume(held.run_id))
    assert result.ok, result.results
    (stamp,) = (change for change in hold.changes if change.path == "stamp")
    assert f"+{(project.root / 'stamp').read_text().strip()}" in stamp.lines


def test_a_call_that_a_wider_answer_covers_runs_on_the_files_as_they_are_then(project):
    rt = project.open()
    held = asyncio.run(rt.execute(plan(shell("cat a > b")), wait=False))
    other = asyncio.run(rt.execute(plan(shell("true")), wait=False))
    rt.approvals.approve(other["shell"].output["approval"], scope="always")
    (project.root / "a").write_text("person\n")
    rt.close()
    (result,) = asyncio.run(project.open().runs.resume(held.run_id))
    assert result.ok, result.results
    assert (project.root / "b").read_text() == "person\n"
    assert not list((project.home / "runs" / held.run_id).glob("workspace/preview-*"))


def test_an_edited_call_is_made_as_it_was_edited(project):
    result, _ = asked(project.open(), shell("echo 1 > b"), answer={"command": "echo 2 > c"})
    assert result.ok, result.results
    assert (project.root / "c").read_text() == "2\n"
    assert not (project.root / "b").exists()


@pytest.mark.parametrize(
    ("toml", "command", "why"),
    [
        ('[approvals]\npreview = true\n[isolation]\nprofile = "none"\n', "echo 1 > b", "without walls"),
        (NS, "exec sleep 60", "its time-out"),
        (NS, "mkfifo pipe; echo 1 > b", "more than can be shown"),
        (NS, "echo 1 > b; exit 3", "the call failed"),
    ],
)
def test_where_the_effect_cannot_be_shown_the_question_says_so_and_the_call_is_made_after_it(
    new_project, toml, command, why
):
    project = new_project(toml=BASE + toml + '[tools."shell"]\ntimeout = "2s"\n')
    _, (hold,) = asked(project.open(), shell(command), answer=lambda hold: "sleep" not in command)
    assert "its effect could not be previewed" in hold.reason
    assert why in hold.reason, hold.reason
    assert hold.changes == ()


def test_an_open_host_means_that_nothing_is_run_before_the_answer(new_project):
    toml = BASE.replace('unscoped = ["*"]', 'unscoped = ["*"]\nhosts = ["example.org:443"]')
    project = new_project(toml=toml + NS)
    _, (hold,) = asked(project.open(), shell("echo 1 > b"))
    assert "the grant opens hosts to it" in hold.reason
    assert (project.root / "b").exists()


@pytest.mark.parametrize("by", ["a person", "the caller"])
def test_a_call_that_is_stopped_while_it_is_previewed_is_not_asked_about(new_project, by):
    project, questions = new_project(toml=BASE + NS), []

    def previews():
        return list(project.state.glob("*/runs/*/workspace/preview-*"))

    async def scenario(rt):
        work = asyncio.ensure_future(rt.execute(plan(shell("exec sleep 60")), on_question=questions.append))
        while not previews():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        if by == "a person":
            await rt.runs.stop()
        else:
            work.cancel()
        await asyncio.wait([work], timeout=20)
        assert work.done()
        if by == "a person":
            assert [row.reason for row in work.result().results] == ["stopped"]
        else:
            assert work.cancelled()

    with project.open() as rt:
        asyncio.run(scenario(rt))
    assert questions == []
    assert previews() == []
