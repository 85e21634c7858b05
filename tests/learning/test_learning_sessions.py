"""Calls that come one by one, as at a door: a task done three times is one skill, and the next time takes one call."""

import asyncio
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_learning_skills import approve, rt  # noqa: F401 - a fixture

from interlock.learning.episodes import SessionCalls


def task(rt, month, session="s"):  # noqa: F811
    """Write a file, read it, and write a copy: three calls."""
    done = [
        asyncio.run(rt.call(tool, parameters, session=session))
        for tool, parameters in (
            ("fs.write", {"path": f"{month}.txt", "content": "total: 1\n"}),
            ("fs.read", {"path": f"{month}.txt"}),
            ("fs.write", {"path": f"copy-{month}.txt", "content": "total: 1\n"}),
        )
    ]
    assert [one.status for one in done] == ["succeeded"] * 3
    rt.skills.wait_learnt()
    return [one.run_id for one in done]


def test_a_task_that_is_done_three_times_in_one_session_is_one_skill(rt, project):  # noqa: F811
    task(rt, "jan")
    assert rt.skills.list() == []
    task(rt, "feb")
    task(rt, "mar")
    (skill,) = rt.skills.list()
    assert [step.tool for step in skill.content.template.steps] == ["fs.write", "fs.read", "fs.write"]
    assert (sorted(skill.content.template.parameters), len(rt.skills.evidence(skill))) == (["path", "path_2"], 3)
    approve(rt, skill.name)
    given = {"name": skill.name, "parameters": {"path": "apr.txt", "path_2": "copy-apr.txt"}}
    result = asyncio.run(rt.call("skills.run", given, session="s"))
    assert result.status == "succeeded"
    assert (project.root / "copy-apr.txt").read_text() == "total: 1\n"


def test_sessions_that_did_the_same_are_evidence_once_they_are_over(rt):  # noqa: F811
    for n, month in enumerate(("jan", "feb", "mar")):
        task(rt, month, session=f"s{n}")
    (skill,) = rt.skills.list()
    assert len(rt.skills.evidence(skill)) == 2  # the third session is not over
    rt.skills.distiller.close()
    assert len(rt.skills.evidence(skill)) == 3


def test_undo_of_any_call_of_the_task_withdraws_it(rt):  # noqa: F811
    first = task(rt, "jan")
    task(rt, "feb")
    (skill,) = rt.skills.list()
    asyncio.run(rt.runs.undo(first[0]))
    assert rt.skills.list() == []
    assert skill.state == "candidate"


def test_a_call_that_is_undone_before_its_session_is_over_is_not_learnt(rt):  # noqa: F811
    asyncio.run(rt.call("fs.write", {"path": "x.txt", "content": "x"}, session="s"))
    wrong = asyncio.run(rt.call("fs.write", {"path": "wrong.txt", "content": "x"}, session="s"))
    asyncio.run(rt.runs.undo(wrong.run_id))
    rt.skills.distiller.close()
    assert rt.services.db.execute("select count(*) from skill_traces")[0][0] == 0


def test_failures_and_reads_of_the_memory_are_not_part_of_a_task(rt):  # noqa: F811
    for month in ("jan", "feb"):
        asyncio.run(rt.call("memory.read", {"query": "report"}, session="s"))
        asyncio.run(rt.call("fs.read", {"path": "nowhere"}, session="s"))
        task(rt, month)
    (skill,) = rt.skills.list()
    assert len(skill.content.template.steps) == 3


def test_calls_without_a_session_are_not_put_together(rt):  # noqa: F811
    for month in ("jan", "feb", "mar"):
        task(rt, month, session=None)
    rt.skills.distiller.close()
    assert rt.skills.list() == []


def add(calls, text):
    return ["".join(part) for letter in text for part in calls.add(None if letter == "-" else letter, letter)]


@pytest.mark.parametrize(
    ("text", "found", "rest"),
    [
        ("abcabcabc", ["abc", "abc", "abc"], ""),
        ("xyabcabc", ["abc", "abc"], ""),
        ("aaaaaa", [], "aaaaaa"),
        ("ababcd", ["ab", "ab"], "cd"),
        ("abc", [], "abc"),
        ("ab-cd", [], "cd"),
        ("ab-ab", [], "ab"),
        ("a", [], ""),
    ],
)
def test_what_is_repeated_is_a_task_and_so_is_the_rest(text, found, rest):
    calls = SessionCalls(shortest=2, longest=10)
    assert (add(calls, text), "".join(calls.rest())) == (found, rest)


@given(st.text("abc-", max_size=60))
def test_no_call_belongs_to_two_tasks(text):
    calls = SessionCalls(shortest=2, longest=5)
    given_ = [
        index
        for number, letter in enumerate(text)
        for part in calls.add(letter if letter != "-" else None, number)
        for index in part
    ]
    given_ += calls.rest()
    assert len(set(given_)) == len(given_)
    assert all(text[index] != "-" for index in given_)


KILLED = """
import asyncio, os, signal
rt = project.open()
for tool, parameters in (
    ("fs.write", {"path": "MONTH.txt", "content": "total: 1\\n"}),
    ("fs.read", {"path": "MONTH.txt"}),
    ("fs.write", {"path": "copy-MONTH.txt", "content": "total: 1\\n"}),
):
    assert asyncio.run(rt.call(tool, parameters, session="s")).status == "succeeded"
rt.skills.wait_learnt()
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(project, month):
    process = project.script(KILLED.replace("MONTH", month))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_a_session_whose_process_was_killed_is_learnt_from_by_the_next(rt, project):  # noqa: F811
    for month in ("jan", "feb"):
        killed(project, month)
    assert rt.skills.list() == []
    runs = [row.run_id for row in rt.runs.list()]
    asyncio.run(rt.call("fs.read", {"path": "jan.txt"}, session="other"))
    rt.skills.wait_learnt()
    (skill,) = rt.skills.list()
    assert len(rt.skills.evidence(skill)) == 2
    assert [step.tool for step in skill.content.template.steps] == ["fs.write", "fs.read", "fs.write"]
    another = project.open()  # nothing of it is learnt from again
    asyncio.run(another.call("fs.read", {"path": "jan.txt"}, session="third"))
    another.skills.wait_learnt()
    assert len(another.skills.evidence(skill)) == 2
    asyncio.run(rt.runs.undo(runs[0]))
    assert rt.skills.list() == []


def test_a_call_of_a_killed_session_that_was_undone_is_not_learnt_from(rt, project):  # noqa: F811
    for month in ("jan", "feb"):
        killed(project, month)
    asyncio.run(rt.runs.undo(rt.runs.list()[0].run_id))
    asyncio.run(rt.call("fs.read", {"path": "jan.txt"}, session="other"))
    rt.skills.wait_learnt()
    assert rt.skills.list() == []


def test_an_open_session_of_a_living_process_is_left_to_it(rt, project):  # noqa: F811
    task(rt, "jan")
    another = project.open()
    asyncio.run(another.call("fs.read", {"path": "jan.txt"}, session="other"))
    another.skills.wait_learnt()
    task(rt, "feb")
    (skill,) = rt.skills.list()
    assert len(rt.skills.evidence(skill)) == 2
    rt.skills.distiller.close()
    assert rt.services.db.execute("select count(*) from skill_calls where session = 's'") == [(0,)]
