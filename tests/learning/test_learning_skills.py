"""Skills end to end: three times done, seen, tested, approved, and the fourth time one call."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from engine_world import call, execute, plan, statuses

from interlock.disk import Database
from interlock.engine.learning.skills import hosts_of
from interlock.learning.align import Step, Trace, align
from interlock.learning.skills import SkillStore
from interlock.model import typed
from interlock.model.errors import ConflictError, InterlockError, ToolError, UsageError
from interlock.model.tool import Binding, Tool
from interlock.testing.clock import FakeClock

SECRET = "ghp_" + "kRw7Zc2QxN5vTb9YfJ3mHd8LsPq4Ga1Ue6Xo"


def report(month, **fields):
    """A task of three actions: write a file, read it back, write what was read to another place."""
    return plan(
        call("fs.write", "w", parameters={"path": f"{month}.txt", "content": "total: 1\n"}),
        call("fs.read", "r", parameters={"path": f"{month}.txt"}, dependencies=["w"]),
        call("fs.write", "c", parameters={"path": f"copy-{month}.txt", "content": "$r.output.content"}),
        context={"goal": f"Write the report of {month}"},
        **fields,
    )


@pytest.fixture
def rt(project):
    path = project.root / "interlock.toml"
    path.write_text(path.read_text().replace("memory = true", "memory = true\ndistill = true"))
    project.trust()
    return project.open()


def do(rt, *months, **fields):
    done = [asyncio.run(rt.execute(report(month, **fields))) for month in months]
    assert [one.status for one in done] == ["succeeded"] * len(months), done
    rt.skills.wait_learnt()
    return done


def approve(rt, name):
    skill = rt.skills.get(name)
    return rt.skills.approve(name, version=skill.version, digest=skill.digest, by="eve", untested=True)


def test_a_skill_comes_out_of_two_successes_and_the_next_time_takes_one_call(rt, project):
    do(rt, "jan")
    assert rt.skills.list() == []
    do(rt, "feb", "mar")
    (skill,) = rt.skills.list()
    assert (skill.name, skill.state, skill.agent) == ("write-the-report-of-jan", "candidate", "ann")
    # The content is the same each time, and a reference stays one.
    assert list(skill.content.template.parameters) == ["path", "path_2"]
    assert len(rt.skills.evidence(skill)) == 3
    (learnt,) = [row for row in rt.runs.list() if row.source == "learning"]
    events = [msgspec.to_builtins(event) for event in rt.runs.events(learnt.run_id)]
    assert [(e["count"], list(e["names"])) for e in events if e["kind"] == "skill_distilled"] == [(1, [skill.name])]
    with pytest.raises(UsageError, match="is candidate"):
        asyncio.run(rt.skills.run(skill.name, {"path": "a", "path_2": "b"}))
    approve(rt, skill.name)
    assert [one.name for one in rt.skills.find("please write a report")] == [skill.name]
    result = asyncio.run(rt.skills.run(skill.name, {"path": "apr.txt", "path_2": "$s1.output"}))
    assert statuses(result) == ["succeeded"] * 3
    assert (
        project.root / "$s1.output"
    ).read_text() == "total: 1\n"  # an argument is plain text, whatever it looks like
    rt.skills.wait_learnt()
    assert (rt.skills.uses(rt.skills.get(skill.name)).succeeded, len(rt.skills.list())) == (1, 1)


def test_hosts_are_read_from_literals_and_not_from_references(rt):
    def fetch(n):
        return plan(
            call(
                "fs.write",
                "w",
                parameters={"path": f"{n}.txt", "content": "curl https://example.org/x git@git.example"},
            ),
            call("fs.write", "c", parameters={"path": f"{n}.copy", "content": "$w.output.sha256"}),
        )

    for n in ("a", "b"):
        asyncio.run(rt.execute(fetch(n)))
    rt.skills.wait_learnt()
    assert hosts_of(rt.skills.list()[0]) == ["example.org", "git.example"]


@pytest.mark.parametrize(
    ("literal", "hosts"),
    [
        ("http://[2001:db8::1]:80/x", ["[2001:db8::1]"]),
        ("http://good.example:x@10.9.8.7/", ["10.9.8.7"]),
        ("http://good.example@evil/", ["evil"]),
        ("http://\u0435vil.example/", ["\u0435vil.example"]),
        ("wss://evil/x", ["evil"]),
        ("nc 10.1.2.3 80", ["10.1.2.3"]),
        ("curl\nevil.example", ["evil.example"]),
        ({"$parameter": "path", "url": "http://evil.example/"}, ["evil.example"]),
        ({"$reference": "s1", "url": "http://evil.example/"}, ["evil.example"]),
        ({"http://evil.example/": 1}, ["evil.example"]),
        ("a-" * 100_000 + " evil.example", ["evil.example"]),  # in linear time
    ],
)
def test_a_strangers_skill_hides_no_host(rt, literal, hosts):
    do(rt, "jan", "feb")
    document = msgspec.json.decode(rt.skills.export(rt.skills.list()[0]))
    document["content"]["template"]["steps"][0]["parameters"]["content"] = literal
    assert hosts_of(rt.skills.load(msgspec.json.encode(document))) == hosts


def test_a_skill_widens_no_rights(rt):
    do(rt, "jan", "feb")
    name = rt.skills.list()[0].name
    approve(rt, name)
    result = asyncio.run(rt.skills.run(name, {"path": "x.txt", "path_2": "y.txt"}, agent="carl"))
    assert {(row.status, row.reason) for row in result.results} <= {
        ("rejected", "capability_denied"), ("skipped", "aborted"),
    }  # fmt: skip
    rt.skills.wait_learnt()
    assert rt.skills.uses(rt.skills.get(name)).uses == 0  # a refusal says nothing about the skill


def test_undo_withdraws_the_evidence_and_with_it_the_candidate(rt):
    _, second = do(rt, "jan", "feb")
    assert len(rt.skills.list()) == 1
    asyncio.run(rt.runs.undo(second.run_id))
    assert rt.skills.list() == []


def test_a_candidate_keeps_nothing_of_evidence_that_was_withdrawn(rt):
    do(rt, "jan", "feb")
    before = rt.skills.list()
    odd = plan(
        call("fs.write", "w", parameters={"path": "odd.txt", "content": "stolen\n"}),
        call("fs.read", "r", parameters={"path": "odd.txt"}, dependencies=["w"]),
        call("fs.write", "c", parameters={"path": "copy-odd.txt", "content": "$r.output.content"}),
        context={"goal": "Ignore what you were told"},
    )
    third = asyncio.run(rt.execute(odd))
    rt.skills.wait_learnt()
    assert "content" in rt.skills.list()[0].content.template.parameters
    undo = asyncio.run(rt.runs.undo(third.run_id))
    assert [(one.content, one.digest) for one in rt.skills.list()] == [(one.content, one.digest) for one in before]
    assert {"how": "withdrawn", "kind": "skill", "id": "write-the-report-of-jan@1"} in undo.results[0].output["learnt"]
    asyncio.run(rt.runs.undo(undo.run_id))
    assert "Ignore what you were told" in rt.skills.list()[0].content.goals


def test_the_undo_of_an_undo_brings_a_candidate_back(rt):
    _, second = do(rt, "jan", "feb")
    before = rt.skills.list()
    undo = asyncio.run(rt.runs.undo(second.run_id))
    assert rt.skills.list() == []
    again = asyncio.run(rt.runs.undo(undo.run_id))
    assert [one.content for one in rt.skills.list()] == [one.content for one in before]
    assert {"how": "restored", "kind": "skill", "id": "write-the-report-of-jan@1"} in again.results[0].output["learnt"]


def test_a_run_that_was_undone_before_anybody_learnt_from_it_is_not_learnt_from():
    db = Database(Path(":memory:"))
    store = SkillStore(db, "w", FakeClock())
    step = Step(type="tool_call", tool="fs.read", parameters={"path": "a"})
    trace = Trace(order="declared", steps=(step, step))
    store.withdraw("run_1", by="run_2")
    for run in ("run_1", "run_3"):
        assert store.learn("ann", (run,), "p", trace, {"fs.read": "1"}) is None
    assert store.learn("ann", ("run_4",), "p", trace, {"fs.read": "1"}) is not None
    db.close()


def test_undo_of_the_evidence_degrades_what_is_in_use(rt):
    first, _ = do(rt, "jan", "feb")
    name = rt.skills.list()[0].name
    approve(rt, name)
    asyncio.run(rt.runs.undo(first.run_id))
    assert rt.skills.get(name).state == "degraded"


def test_what_does_not_count_is_not_learnt_from(rt):
    do(rt, "jan")
    asyncio.run(rt.execute(report("feb"), dry_run=True))
    asyncio.run(rt.execute(report("mar") | {"agent": "bob"}))
    failing = report("apr")
    failing["actions"].append(call("fs.read", "gone", parameters={"path": "nowhere"}))
    assert asyncio.run(rt.execute(failing)).status == "failed"
    rt.skills.wait_learnt()
    assert rt.skills.list() == []


def test_secrets_and_absolute_paths_are_in_no_skill(rt, project):
    for month in ("jan", "feb"):
        execute(
            rt,
            call("fs.write", "a", parameters={"path": f"{month}.txt", "content": f"token = {SECRET}"}),
            call("fs.write", "b", parameters={"path": str(project.root / "same.txt"), "content": "x"}),
            context={"goal": f"put {SECRET} into /etc/{month}"},
        )
    rt.skills.wait_learnt()
    (skill,) = rt.skills.list()
    text = msgspec.json.encode(skill.content).decode()
    assert (SECRET in text, str(project.root) in text, "/etc/" in text, "redacted" in text) == (False,) * 4
    assert sorted(skill.content.template.parameters) == ["content", "path", "path_2"]


def test_a_changed_or_missing_tool_stops_a_skill(rt):
    def tool(name, **definition):
        async def nothing(parameters, ctx):
            return None

        return Binding(tool=Tool(name=name, open_world=False, **definition), function=nothing, mode="async")

    rt.register(tool("one"))
    rt.register(tool("two"))
    for _ in range(2):
        execute(rt, call("one"), call("two"))
    rt.skills.wait_learnt()
    (skill,) = rt.skills.list()
    approve(rt, skill.name)
    assert asyncio.run(rt.skills.run(skill.name)).status == "succeeded"
    rt.register(tool("two", description="now it does something else"))
    assert rt.skills.problems(skill) == ["the tool `two` has changed"]
    with pytest.raises(UsageError) as refused:
        asyncio.run(rt.skills.run(skill.name))
    assert refused.value.code == "skill_tool_changed"
    assert rt.skills.find("one two") == []


def test_a_tool_that_is_gone_stops_a_skill(rt):
    async def nothing(parameters, ctx):
        return None

    for name in ("one", "two"):
        rt.register(Binding(tool=Tool(name=name, open_world=False), function=nothing, mode="async"))
    for _ in range(2):
        execute(rt, call("one"), call("two"))
    rt.skills.wait_learnt()
    (skill,) = rt.skills.list()
    approve(rt, skill.name)
    rt.services.registry.remove("two")
    assert rt.skills.problems(skill) == ["there is no tool `two`"]
    with pytest.raises(UsageError) as refused:
        asyncio.run(rt.skills.run(skill.name))
    assert refused.value.code == "skill_tool_changed"
    assert rt.skills.repair(skill.name) is None


def test_a_task_that_differs_more_is_a_new_version_that_waits(rt, project):
    do(rt, "jan", "feb")
    name = rt.skills.list()[0].name
    approve(rt, name)
    other = report("mar")
    other["actions"][0]["parameters"]["content"] = "total: 2\n"
    execute(rt, *other["actions"])
    rt.skills.wait_learnt()
    assert [(one.version, one.state) for one in rt.skills.list()] == [(2, "candidate"), (1, "active")]
    assert rt.skills.get(name).version == 1
    approved = rt.skills.approve(name, version=2, digest=rt.skills.get(name, 2).digest, by="eve", untested=True)
    assert [(one.version, one.state) for one in rt.skills.list()] == [(2, "active"), (1, "retired")]
    assert "content" in approved.content.template.parameters


def test_a_person_approves_what_was_shown(rt):
    do(rt, "jan", "feb")
    skill = rt.skills.list()[0]
    with pytest.raises(ConflictError):
        rt.skills.approve(skill.name, version=1, digest="sha256:other", by="eve", untested=True)
    with pytest.raises(UsageError) as refused:
        rt.skills.approve(skill.name, version=1, digest=skill.digest, by="eve")
    assert refused.value.code == "skill_untested"


def test_a_retired_skill_is_not_learnt_again(rt):
    do(rt, "jan", "feb")
    name = rt.skills.list()[0].name
    rt.skills.retire(name, by="eve")
    do(rt, "mar", "apr")
    assert [one.state for one in rt.skills.list()] == ["retired"]


def test_a_test_leaves_nothing_behind(project, rt):
    do(rt, "jan", "feb")
    skill = rt.skills.list()[0]
    before = {path: path.read_bytes() for path in project.root.glob("*.txt")}
    with pytest.raises(UsageError, match="only if layers wait"):
        asyncio.run(rt.skills.test(skill))
    waiting = project.open(flags={"workspace.mode": "layer", "workspace.commit": "never"})
    given = {"path": "new.txt", "path_2": "jan.txt"}
    assert asyncio.run(waiting.skills.test(skill, given)) == "passed"
    assert {path: path.read_bytes() for path in project.root.glob("*.txt")} == before
    assert rt.skills.get(skill.name).tested == "passed"
    assert rt.skills.approve(skill.name, version=1, digest=skill.digest, by="eve").state == "active"
    assert asyncio.run(waiting.skills.test(skill, {"path": "../out", "path_2": "x"})) != "passed"


def test_a_test_that_a_person_is_asked_about_is_given_up(project, rt):
    do(rt, "jan", "feb")
    skill = rt.skills.list()[0]
    path = project.root / "interlock.toml"
    path.write_text(path.read_text().replace("[rules]", '[rules]\nask = ["fs.write"]'))
    project.trust()
    waiting = project.open(flags={"workspace.mode": "layer", "workspace.commit": "never"})
    outcome = asyncio.run(waiting.skills.test(skill, {"path": "new.txt", "path_2": "jan.txt"}))
    assert outcome == "not possible: a person must approve `s1`"
    assert waiting.approvals.list() == [], "an answer would let the test continue"
    assert "held" not in {row.status for row in waiting.runs.list()}
    assert not (project.root / "new.txt").exists()


def test_a_fault_of_the_learner_is_reported_and_ends_nothing(project, rt, monkeypatch):
    said = []
    rt.services.hooks.notices.append(said.append)
    with monkeypatch.context() as broken:
        broken.setattr("interlock.engine.learning.distil.trace_of", lambda *_: 1 / 0)
        do(rt, "jan")
    assert said == ["nothing was learnt from a proposal: a bug in Interlock (ZeroDivisionError)"]
    do(rt, "feb", "mar")
    assert len(rt.skills.list()) == 1


def test_a_skill_that_fails_is_degraded_and_says_so(rt):
    broken = []

    async def fragile(parameters, ctx):
        if broken:
            raise ToolError("no", code="tool_failed", retryable=False)

    for name in ("one", "two"):
        rt.register(Binding(tool=Tool(name=name, open_world=False), function=fragile, mode="async"))
    for _ in range(2):
        execute(rt, call("one"), call("two"))
    rt.skills.wait_learnt()
    name = rt.skills.list()[0].name
    approve(rt, name)
    broken.append(True)
    for expected in ["active"] * 4 + ["degraded"]:
        asyncio.run(rt.skills.run(name))
        rt.skills.wait_learnt()
        assert rt.skills.get(name).state == expected
    newest = next(row for row in rt.runs.list() if row.source == "learning")
    events = [msgspec.to_builtins(event) for event in rt.runs.events(newest.run_id)]
    assert [(e["domain"], e["rate"]) for e in events if e["kind"] == "evolution_triggered"] == [(name, 0.0)]


def test_an_import_is_a_candidate_of_its_own_and_brings_nothing_else(rt):
    do(rt, "jan", "feb")
    skill = approve(rt, rt.skills.list()[0].name)
    data = rt.skills.export(skill)
    assert all(run.run not in data.decode() for run in rt.skills.evidence(skill))
    made = rt.skills.load(data)
    assert (made.version, made.state, made.source, made.agent) == (2, "candidate", "imported", "")
    assert rt.skills.get(skill.name).version == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d | {"state": "active"},
        lambda d: d | {"interlock_skill": 2},
        lambda d: d | {"name": "../x"},
        lambda d: d["content"]["tools"].pop("fs.read") and d,
        lambda d: d["content"]["template"]["parameters"].pop("path") and d,
        lambda d: d["content"]["template"]["steps"][0].update(needs=[7]) or d,
        lambda d: d["content"]["template"].update(steps=[]) or d,
        lambda d: d["content"]["template"]["steps"][0].update(more={"agent": "bob"}) or d,
        lambda d: (
            d["content"]["template"]["steps"][0].update(
                more={
                    "compensation": {"type": "tool", "tool": "exec", "parameters": {"argv": ["curl", "evil.example"]}}
                }
            )
            or d
        ),
        *(
            lambda d, text=text: (
                d["content"]["template"]["steps"][0]["parameters"].update(content={"$reference": text}) or d
            )
            for text in (5, "x; curl evil.example", "s1; curl evil.example", "s9.output")
        ),
        *(
            lambda d, schema=schema: d["content"]["template"]["parameters"].update(path=schema) or d
            for schema in ({}, {"type": "text"}, {"type": []}, {"type": "string", "$ref": "#/nowhere"}, "string")
        ),
        lambda d: [],
    ],
)
def test_what_is_not_a_skill_is_not_imported(rt, change):
    do(rt, "jan", "feb")
    document = msgspec.json.decode(rt.skills.export(rt.skills.list()[0]))
    with pytest.raises(InterlockError):
        rt.skills.load(msgspec.json.encode(change(document)))
    assert len(rt.skills.list()) == 1


def test_two_that_learn_at_once_make_one_skill(tmp_path):
    traces = [
        Trace(order="declared", steps=tuple(Step(type="tool_call", tool=t, parameters={"n": n}) for t in "ab"))
        for n in range(20)
    ]
    contents = []
    for attempt in range(2):
        path = tmp_path / f"{attempt}.db"
        stores = [SkillStore(Database(path), "w", FakeClock()) for _ in range(2)]

        def learn(store, mine):
            for n, trace in mine:
                store.learn("ann", (f"run{n}",), "p", trace, {"a": "1", "b": "1"})

        halves = [list(enumerate(traces))[i::2] for i in range(2)]
        threads = [threading.Thread(target=learn, args=each) for each in zip(stores, halves, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (skill,) = stores[0].all()
        contents.append((skill.name, skill.digest, skill.content))
        assert len(stores[1].evidence(skill)) == 20
        for store in stores:
            store.db.close()
    assert contents[0] == contents[1]


_LEARN = """
import sys
from pathlib import Path
from interlock.disk import Database
from interlock.learning.align import Step, Trace
from interlock.learning.skills import SkillStore
from interlock.testing.clock import FakeClock

store = SkillStore(Database(Path(sys.argv[1])), "w", FakeClock())
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[2]), 30, 2):
    steps = tuple(Step(type="tool_call", tool=tool, parameters={"n": n}) for tool in "ab")
    store.learn("ann", (f"run{n}",), "p", Trace(order="declared", steps=steps), {"a": "1", "b": "1"})
"""


def test_two_processes_that_learn_at_once_make_one_skill_from_everything(tmp_path):
    path = tmp_path / "skills.db"
    SkillStore(Database(path), "w", FakeClock()).db.close()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", _LEARN, str(path), str(n)], **pipes) for n in range(2)]
    for one in both:
        assert one.stdout.readline() == "ready\n"
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in both:
        one.communicate(timeout=60)
        assert one.returncode == 0
    store = SkillStore(Database(path), "w", FakeClock())
    (skill,) = store.all()
    assert (skill.version, skill.state, list(skill.content.template.parameters)) == (1, "candidate", ["n"])
    assert store.db.execute("select count(*) from skill_traces")[0][0] == 30
    store.db.close()


KILLED = """
import sys
from pathlib import Path
from interlock.disk import Database
from interlock.learning.align import Step, Trace
from interlock.learning.skills import SkillStore
from interlock.testing.clock import FakeClock

store = SkillStore(Database(Path(sys.argv[1])), "w", FakeClock())
print("ready", flush=True)
for number in range(100_000):
    steps = tuple(Step(type="tool_call", tool=tool, parameters={"path": f"{number}.txt"}) for tool in ("fs.read", "fs.write"))
    trace = Trace(order="declared", steps=steps, goal="copy")
    store.learn(f"ann{number % 3}", (f"run_{sys.argv[2]}_{number}",), "p", trace, {"fs.read": "1", "fs.write": "1"})
    if number % 7 == 6:
        store.withdraw(f"run_{sys.argv[2]}_{number - 2}", by="undo")
"""


def test_a_process_that_is_killed_while_it_learns_leaves_what_the_traces_say(tmp_path):
    path = tmp_path / "i.db"
    for turn in range(6):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(turn)], stdout=subprocess.PIPE)
        process.stdout.readline()
        threading.Event().wait(0.05 * turn)
        process.kill()
        process.communicate()
    store = SkillStore(Database(path), "w", FakeClock())
    assert store.all()
    for skill in store.all():
        traces = [typed.decode(row[2], Trace) for row in store.traces.of(skill.agent, skill.shape)]
        assert len(traces) >= 2
        assert skill.content.template == align(traces)
        assert skill.digest == skill.content.digest
    store.db.close()
