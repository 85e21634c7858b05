"""After a crash: finished actions never run again, unknown outcomes are settled, undo continues where it stopped."""

import asyncio

import pytest
from engine_world import (
    AGENT,
    DIRECT,
    binding,
    call,
    change_services,
    execute,
    expect,
    nothing,
    plan,
    read,
    reasons,
    statuses,
    write,
)

import interlock
from interlock.disk import Database, Disk
from interlock.engine.inspect.history import History
from interlock.engine.proposals import proposal_run
from interlock.engine.record.replay import ReplayedRun
from interlock.engine.runs import recover as unfinished
from interlock.engine.runs.resume import resume
from interlock.engine.runs.write_lease import open_queue
from interlock.journal import TornIntent, scan
from interlock.model.errors import StoreError, UsageError
from interlock.workspace import EVERYTHING

CHILD = """
    marks = project.root.parent / "marks"
    def mark(name):
        with marks.open("a") as f:
            f.write(name + "\\n")
    async def step(parameters, ctx):
        mark(parameters["name"])
        if parameters.get("die"):
            os.kill(os.getpid(), 9)
        return {"name": parameters["name"]}
    async def wait(parameters, ctx):
        mark(parameters["name"])
        await asyncio.sleep(0.3)
        os.kill(os.getpid(), 9)
    rt = project.open()
"""


class Crash:
    """A child that dies in the middle of a plan, and the project as it left it."""

    def __init__(self, project):
        self.project = project
        self.marks = project.root.parent / "marks"
        self.log = []

    def run(self, body, *actions, **fields):
        project = self.project
        document = repr(plan(*actions, **fields))
        child = project.script(CHILD + body + f"\n    asyncio.run(rt.execute({document}))\n")
        _, errors = child.communicate(timeout=20)
        assert child.returncode == -9, errors
        (self.run_id,) = project.runs()

    def done(self):
        return self.marks.read_text().split() if self.marks.exists() else []

    def tool(self, name="step", output=None, error=None, **definition):
        async def tool(parameters, ctx):
            self.log.append((name, parameters.get("name")))
            if error:
                raise error
            return output if output is not None else {"name": parameters.get("name")}

        return binding(name, tool, **definition)

    def resume(self, *tools, answers=None):
        rt = self.project.open(*tools)
        (result,) = asyncio.run(resume(rt.services, self.run_id, answers, by="me"))
        return result


@pytest.fixture
def crash(project):
    return Crash(project)


def step(name, die=False, **fields):
    return call("step", name, parameters={"name": name} | ({"die": True} if die else {}), **fields)


def register(**definition):
    return f"    rt.register(binding('step', step, **{definition!r}))"


def test_finished_actions_do_not_run_again_and_the_rest_does(crash):
    actions = [step("a"), write("k", "$a.output.name"), step("b", die=True), step("c"), read("k")]
    crash.run(register(idempotent=True), *actions)
    assert crash.done() == ["a", "b"]
    result = crash.resume(crash.tool(idempotent=True))
    assert crash.log == [("step", "b"), ("step", "c")]
    assert statuses(result) == ["succeeded"] * 5
    assert result.results[4].output == "a"
    assert result["b"].attempts == 2
    with crash.project.open() as rt:
        assert rt.services.store.get("k").value == "a"
        assert rt.services.index.get(crash.run_id).status == "succeeded"


@pytest.mark.parametrize("definition", [{"read_only": True}, {"idempotent": True}])
def test_read_only_and_idempotent_actions_run_again(crash, definition):
    crash.run(f"    rt.register(binding('step', wait, **{definition!r}))", step("a"))
    result = crash.resume(crash.tool(**definition))
    assert (crash.log, result.ok) == ([("step", "a")], True)
    (settled,) = [e for e in crash.project.journal(crash.run_id) if e["kind"] == "outcome_settled"]
    assert (settled["decision"], settled["by"]) == ("again", next(iter(definition)))


def test_anything_else_waits_for_a_human_and_nothing_runs(crash):
    crash.run(register(), step("a"), step("b", die=True), step("c"))
    result = crash.resume(crash.tool())
    assert crash.log == []
    assert (result.status, statuses(result)) == ("held", ["succeeded", "held", "skipped"])
    assert result["b"].reason == "unknown_outcome"
    again = crash.resume(crash.tool())
    assert again.status == "held", "asked again as long as nobody answers"


@pytest.mark.parametrize(
    ("answer", "ran", "expected"),
    [
        ("again", ["b", "c"], ["succeeded", "succeeded", "succeeded"]),
        ("succeeded", ["c"], ["succeeded", "succeeded", "succeeded"]),
        ("failed", [], ["not_undone", "failed", "skipped"]),
        ("undo", [], ["not_undone", "failed", "skipped"]),
    ],
)
def test_the_answers_a_human_can_give(crash, answer, ran, expected):
    crash.run(register(), step("a"), step("b", die=True), step("c"))
    result = crash.resume(crash.tool(), answers={"b": answer})
    assert [name for _, name in crash.log] == ran
    assert statuses(result) == expected
    if answer in ("failed", "undo"):
        assert [n.action_id for n in result.not_undone] == ["a", "b"]
    with pytest.raises(interlock.UsageError) as caught:
        crash.resume(crash.tool())
    assert caught.value.code == "run_finished"


def test_failed_by_a_human_may_be_skipped(crash):
    crash.run(register(), step("a", die=True, failure_behavior="skip"), step("c"))
    result = crash.resume(crash.tool(), answers={"a": "failed"})
    assert (statuses(result), crash.log) == (["failed", "succeeded"], [("step", "c")])
    crash.marks.unlink()


@pytest.mark.parametrize(
    ("happened", "ran", "expected"),
    [(True, [], ["succeeded"]), (False, ["b"], ["succeeded"]), (None, [], ["held"]), ("yes", [], ["held"])],
)
def test_a_probe_is_asked(crash, happened, ran, expected):
    crash.run(register(probe="look"), step("b", die=True))
    probe = crash.tool("look", output={"happened": happened} if happened is not None else {}, read_only=True)
    result = crash.resume(crash.tool(probe="look"), probe)
    assert statuses(result) == expected
    assert crash.log == [("look", "b"), *(("step", name) for name in ran)]


def test_a_reversible_tool_is_put_back_and_runs_again(crash):
    (crash.project.root / "f").write_text("before")
    body = (
        register(read_only=True)
        + """
    found = rt.services.registry.find("fs.write")
    def dying(parameters, ctx):
        found.function(parameters, ctx)
        os.kill(os.getpid(), 9)
    assert found.mode != "async"
    rt.register(Binding(tool=found.tool, function=dying, mode=found.mode))
    """
    )
    crash.run(body, step("a"), call("fs.write", "w", parameters={"path": "f", "content": "after"}))
    assert (crash.project.root / "f").read_text() == "after"
    result = crash.resume(crash.tool(read_only=True))
    assert result.ok
    assert (crash.project.root / "f").read_text() == "after"
    (settled,) = [e for e in crash.project.journal(crash.run_id) if e["kind"] == "outcome_settled"]
    assert (settled["decision"], settled["by"]) == ("again", "reversible")


def test_files_are_put_back_only_by_who_may_write_there(new_project, monkeypatch):
    """Another proposal is writing in the workspace: the files of the interrupted action wait like everything else."""
    crash = Crash(new_project(toml=DIRECT % ""))
    body = """
    found = rt.services.registry.find("fs.write")
    def dying(parameters, ctx):
        found.function(parameters, ctx)
        os.kill(os.getpid(), 9)
    rt.register(Binding(tool=found.tool, function=dying, mode=found.mode))
    """
    crash.run(body, call("fs.write", "w", parameters={"path": "f", "content": "new"}))
    monkeypatch.setattr(proposal_run, "_deadline", lambda _proposal, clock: clock.mono_ns())
    rt = crash.project.open()
    services = rt.services
    services.bounds.lease_wait_ms = 30
    lease = open_queue(services).attempt(EVERYTHING, "somebody else")
    with pytest.raises(interlock.StoreError) as caught:
        asyncio.run(resume(services, crash.run_id))
    assert caught.value.code == "workspace_busy"
    assert (crash.project.root / "f").exists()
    assert "outcome_settled" not in crash.project.kinds(crash.run_id)
    lease.release()
    monkeypatch.undo()
    asyncio.run(resume(services, crash.run_id))
    assert "outcome_settled" in crash.project.kinds(crash.run_id)


def test_a_crash_while_another_action_fails_is_still_an_abort(crash):
    """One failed for good, another was in the middle: the proposal is undone, and nothing is started or asked for."""
    body = """
    async def fail(parameters, ctx):
        await asyncio.sleep(0.1)
        raise interlock.ToolError("no")
    async def stubborn(parameters, ctx):
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), 9)
    rt.register(binding("fail", fail))
    rt.register(binding("stubborn", stubborn))
    """
    crash.run(body, write("k", 1), call("fail", "f"), call("stubborn", "s"), order="free")
    result = crash.resume(crash.tool("fail"), crash.tool("stubborn"))
    assert crash.log == []
    assert result.status == "failed"
    assert statuses(result)[:2] == ["rolled_back", "failed"]
    assert result["s"].status in ("cancelled", "unknown_outcome")
    assert {n.action_id for n in result.not_undone} == {"f", "s"}


UNDO = """
    async def un(parameters, ctx):
        mark("un-" + parameters["name"])
        if parameters["name"] == "DIE":
            os.kill(os.getpid(), 9)
    rt.register(binding('step', step, reversibility="compensable"))
    rt.register(binding('un', un))
"""


def undone_by(name, as_name=None):
    return {"compensation": {"type": "tool", "tool": "un", "parameters": {"name": as_name or name}}}


def test_a_crash_between_two_compensations(crash):
    body = UNDO.replace('"DIE"', '"b"').replace('mark("un-"', 'parameters["name"] == "b" or mark("un-"')
    plan_ = [step("a", **undone_by("a")), step("b", **undone_by("b")), step("c", **undone_by("c")), expect("x", 1)]
    crash.run(body, *plan_)
    assert crash.done() == ["a", "b", "c", "un-c"]
    result = crash.resume(crash.tool(), crash.tool("un"))
    # nobody knows what the compensation of `b` did, so it is not made a second time
    assert crash.log == [("un", "a")]
    assert statuses(result) == ["compensated", "not_undone", "compensated", "failed"]
    assert [(n.action_id, n.reason) for n in result.not_undone] == [("b", "unknown_outcome")]


def test_an_idempotent_compensation_is_made_again(crash):
    crash.run(UNDO, step("a", **undone_by("a")), step("b", **undone_by("b", "DIE")), expect("x", 1))
    result = crash.resume(crash.tool(), crash.tool("un", idempotent=True))
    assert crash.log == [("un", "DIE"), ("un", "a")]
    assert statuses(result) == ["compensated", "compensated", "failed"]
    assert result.not_undone == []


def test_a_crash_while_files_are_put_back(crash):
    files = crash.project.root
    (files / "one").write_text("one")
    body = UNDO
    crash.run(
        body,
        call("fs.write", "w1", parameters={"path": "one", "content": "changed"}),
        step("s", **undone_by("s", "DIE")),
        call("fs.write", "w2", parameters={"path": "two", "content": "new"}),
        expect("x", 1),
    )
    assert not (files / "two").exists()
    assert (files / "one").read_text() == "changed"
    result = crash.resume(crash.tool(), crash.tool("un"))
    assert (files / "one").read_text() == "one"
    assert statuses(result) == ["rolled_back", "not_undone", "rolled_back", "failed"]
    assert [(n.action_id, n.reason) for n in result.not_undone] == [("s", "unknown_outcome")]


def cut_after(project, run_id, kind):
    """Take the journal back to the end of the batch with the first event of a kind: the process died right after."""
    path = project.run_directory(run_id) / "journal.ndjson"
    lines, seen = path.read_bytes().splitlines(keepends=True), False
    for number, line in enumerate(lines):
        seen = seen or b'"kind":"%b"' % kind.encode() in line
        if seen and line.startswith(b'{"kind":"seal"'):
            path.write_bytes(b"".join(lines[: number + 1]))
            return
    raise AssertionError(f"no {kind}")


def forget_end(project, run_id):
    """Make the database forget how the run ended, as it would not know after a crash."""
    database = Database(project.home / "interlock.db")
    for table in ("state", "state_transitions", "state_commits", "idempotency"):
        database.execute(f"delete from {table}")
    database.execute("update runs set status = 'running', finished_us = null, seq = null, seal = null")
    database.close()


def test_the_journal_decided_and_the_database_never_heard(project):
    """Between the line that commits and the transaction: the journal decides, once."""
    crash = Crash(project)
    rt = project.open(crash.tool(idempotent=True))
    reserved = step("r", compensation={"type": "action_ref", "action_id": "u"})
    result = execute(rt, write("k", 1), reserved, step("u"), step("i", idempotent=True), write("k", 2))
    assert result.ok
    rt.close()
    crash.run_id = result.run_id
    cut_after(project, result.run_id, "workspace_committed")
    forget_end(project, result.run_id)
    crash.log.clear()
    resumed = crash.resume(crash.tool(idempotent=True))
    assert crash.log == []
    with History.open(project.root, project.env) as history:
        assert history.check(result.run_id).problems == []
    assert (resumed.status, statuses(resumed)) == ("succeeded", statuses(result))
    assert [row.reason for row in resumed.results] == reasons(result)
    with project.open(crash.tool(idempotent=True)) as rt:
        assert rt.services.store.get("k").value == 2
        assert [t.version for t in rt.services.store.history("k")] == [1, 2]
        assert execute(rt, step("i", idempotent=True)).results[0].deduplicated_from, "its result was stored too"


def test_a_journal_cut_before_a_commit_is_refused_although_its_run_never_ended(project):
    """The proposal was committed, then the process was killed: what was cut off would be done again."""
    child = project.script(
        """
        from interlock.model.decode import proposal_from_builtins
        async def noop(parameters, ctx):
            return None
        async def main():
            run = project.open(binding("do", noop)).runs.start()
            await run.execute(proposal_from_builtins(plan(call("do"), write("k", 1))))
            os.kill(os.getpid(), 9)
        asyncio.run(main())
        """
    )
    child.communicate(timeout=20)
    (run_id,) = project.runs()
    path = project.run_directory(run_id) / "journal.ndjson"
    batches = path.read_bytes().split(b'{"kind":"workspace_committed"')[0]
    path.write_bytes(batches[: batches.rindex(b'{"kind":"seal"')].rpartition(b'{"kind":"action_succeeded"')[0])
    log = []

    async def do(parameters, ctx):
        log.append("again")

    rt = project.open(binding("do", do, idempotent=True))
    with pytest.raises(interlock.IntegrityError) as caught:
        asyncio.run(rt.runs.resume(run_id))
    assert (caught.value.code, log) == ("journal_truncated", [])


DIE_AT = """
    from interlock.model import events
    seen = []
    def die(_run_id, event):
        seen.append(event)
        if sum(isinstance(e, events.%s) for e in seen) == %d:
            next(iter(rt.services.hooks.runs)).recorder.writer.flush()
            os.kill(os.getpid(), 9)
    rt.services.hooks.events.append(die)
"""


@pytest.mark.parametrize("after", [1, 3])
def test_a_reached_budget_is_still_reached_after_a_crash(crash, after):
    actions = [step("a"), step("b"), step("c", dependencies=["b"]), step("d", dependencies=["c"]), write("k", 1)]
    crash.run(register() + DIE_AT % ("ActionSkipped", after), *actions, budget={"actions": 1})
    result = crash.resume(crash.tool())
    assert crash.log == []
    assert statuses(result) == ["succeeded"] + ["skipped"] * 4
    assert set(reasons(result)[1:]) == {"budget_exceeded"}


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("ActionIntent", 2),
        ("ActionSucceeded", 2),
        ("ActionFailed", 1),
        ("ActionFailed", 2),
        ("StateRolledBack", 1),
        ("UndoIntent", 2),
        ("UndoDone", 1),
    ],
)
def test_a_crash_right_after_each_kind_of_event(crash, kind, count):
    """A plan that fails at its end: whatever the last thing on disk is, it ends undone, and no file is left changed."""
    (crash.project.root / "one").write_text("one")
    actions = [
        call("fs.write", "w1", parameters={"path": "one", "content": "changed"}),
        call("fs.write", "w2", parameters={"path": "two", "content": "new"}),
        step("s", failure_behavior="skip"),
        write("k", 1),
        expect("k", 2, "e"),
    ]
    body = """
    async def fail(parameters, ctx):
        raise interlock.ToolError("no")
    rt.register(binding("step", fail, reversibility="reversible"))
    """
    crash.run(body + DIE_AT % (kind, count), *actions)
    result = crash.resume(crash.tool(error=interlock.ToolError("no"), reversibility="reversible"))
    assert result.status == "failed"
    assert (crash.project.root / "one").read_text() == "one"
    assert not (crash.project.root / "two").exists()
    assert result.not_undone == []
    with crash.project.open() as rt:
        assert rt.services.store.snapshot() == {}


def test_a_state_store_that_fails_at_the_commit_leaves_the_run_to_be_resumed(project):
    """The database is locked by somebody for too long: nothing is acknowledged, nothing is lost."""
    crash = Crash(project)
    rt = project.open(crash.tool())
    other = Database(project.home / "interlock.db")
    rt.services.db._connection.set_busy_timeout(50)

    async def lock(parameters, ctx):
        other._connection.execute("begin immediate")

    rt.register(binding("lock", lock, read_only=True))
    with pytest.raises(interlock.StoreError) as caught:
        execute(rt, write("k", 1), call("lock", dependencies=["a1"]))
    assert caught.value.code == "database_locked"
    other._connection.execute("rollback")
    other.close()
    rt.close()
    (crash.run_id,) = project.runs()
    assert "run_finished" not in project.kinds(crash.run_id)
    assert crash.resume(crash.tool("lock")).ok
    with project.open() as rt:
        assert rt.services.store.get("k").value == 1


def test_the_callers_cancellation_can_be_resumed(project):
    crash = Crash(project)
    began = asyncio.Event()

    async def long(parameters, ctx):
        began.set()
        await asyncio.sleep(20)

    rt = project.open(crash.tool(), binding("long", long, read_only=True))

    async def main():
        task = asyncio.ensure_future(rt.execute(plan(step("a"), call("long", "l", dependencies=["a"]), write("k", 1))))
        await began.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    rt.close()
    (crash.run_id,) = project.runs()
    crash.log.clear()
    result = crash.resume(crash.tool(), crash.tool("long", read_only=True))
    assert result.ok
    assert crash.log == [("long", None)]


def test_one_cancelled_proposal_does_not_unjournal_the_others_of_its_run(project):
    """A gateway's run: one caller goes away, the others continue, and everything stays recorded."""

    async def long(parameters, ctx):
        await asyncio.sleep(20)

    crash = Crash(project)
    rt = project.open(crash.tool(), binding("long", long, read_only=True))
    decode = interlock.model.decode.proposal_from_builtins

    async def main():
        run = rt.runs.start()
        task = asyncio.ensure_future(run.execute(decode(plan(call("long", "l"), id="p1"))))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        result = await run.execute(decode(plan(step("a"), write("k", 1), id="p2")))
        assert result.ok
        run.finish()
        return run.id

    run_id = asyncio.run(main())
    rt.close()
    events = project.journal(run_id)
    assert [e["kind"] for e in events if e.get("proposal") == "p2"][-1] == "proposal_finished"
    assert "run_finished" not in [e["kind"] for e in events], "p1 can be resumed"
    crash.run_id = run_id
    crash.log.clear()
    result = crash.resume(crash.tool(), crash.tool("long", read_only=True))
    assert (result.proposal_id, result.ok) == ("p1", True)
    assert crash.log == [("long", None)]


def test_the_library_says_what_is_unfinished_and_orders_it_before_a_new_run(crash):
    crash.run(register(), step("m1"), step("m2", die=True))
    journal = crash.project.home / "runs" / crash.run_id / "journal.ndjson"
    with journal.open("a") as file:
        file.write('{"kind":"action_in')
    rt = crash.project.open(binding("nothing", nothing))
    assert execute(rt, call("nothing")).ok
    assert scan(journal.parent).torn is None
    (one,) = rt.runs.recover()
    assert isinstance(one, interlock.Unfinished)
    assert (one.run_id, one.status, one.need, one.actions) == (crash.run_id, "interrupted", "settle", ["m2"])
    rt.close()


def test_an_unreadable_journal_is_reported_and_does_not_block_other_runs(crash, monkeypatch):
    crash.run(register(), step("m1", die=True))
    rt = crash.project.open(binding("nothing", nothing))

    def refused(*_arguments, **_options):
        raise StoreError("open journal.ndjson: Permission denied", code="permission_denied")

    monkeypatch.setattr(unfinished, "recover", refused)
    (one,) = rt.runs.recover()
    assert (one.need, one.detail) == ("repair", "open journal.ndjson: Permission denied")
    assert execute(rt, call("nothing")).ok
    rt.close()


def test_a_torn_tail_is_kept_aside_and_its_intents_are_unknown_outcomes(project):
    crash = Crash(project)
    rt = project.open(crash.tool())
    result = execute(rt, step("a"), step("b"))
    rt.close()
    crash.run_id = result.run_id
    path = project.run_directory(result.run_id) / "journal.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    intents = [n for n, line in enumerate(lines) if b"action_intent" in line]
    path.write_bytes(b"".join(lines[: intents[1] + 1]))  # the intent of `b` without its seal
    assert scan(path.parent).torn is not None
    forget_end(project, result.run_id)
    crash.log.clear()
    resumed = crash.resume(crash.tool())
    assert crash.log == []
    assert (resumed.status, resumed["b"].status) == ("held", "held")
    assert (path.parent / "journal.torn").exists()


def test_an_intent_in_the_torn_tail_is_asked_about_until_the_action_was_tried_again(project):
    async def fail(parameters, ctx):
        raise ValueError("again")

    async def main():
        run = rt.runs.start()
        action = call("fail", "a", failure_behavior="retry")
        task = asyncio.create_task(run.execute(interlock.model.decode.proposal_from_builtins(plan(action, id="p"))))
        while "action_retrying" not in project.kinds(run.id):
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        run.finish()
        return run.id

    rt = project.open(binding("fail", fail))
    change_services(rt, jitter=lambda: 1.0)
    replayed = ReplayedRun(project.run_directory(asyncio.run(main())))
    action = replayed.proposals["p"].action("a")
    attempts = action.attempts
    replayed.add_torn([TornIntent("p", "a", attempts)])
    assert not action.open
    replayed.add_torn([TornIntent("p", "a", attempts + 1)])
    assert (action.open, action.attempts) == (True, attempts + 1)


def test_a_run_in_which_nothing_began_is_over_once_its_journal_is_in_order(project):
    """It had no proposal, so there is nothing to resume: it was shown as interrupted, and could not be."""
    child = project.script("project.open().runs.start(); os._exit(9)")
    child.communicate(timeout=20)
    (run_id,) = project.runs()
    rt = project.open()
    assert rt.runs.recover() == []
    assert rt.services.index.get(run_id).status == "cancelled", "that is no success, and nothing to continue with"
    assert project.kinds(run_id)[-1] == "run_finished"
    with History.open(project.root, project.env) as past:
        assert past.check(run_id).ok
    with pytest.raises(UsageError) as caught:
        asyncio.run(rt.runs.resume(run_id))
    assert caught.value.code == "run_finished"


def test_a_run_in_which_nothing_began_can_be_resumed_without_a_look_first(project):
    child = project.script("project.open().runs.start(); os._exit(9)")
    child.communicate(timeout=20)
    (run_id,) = project.runs()
    rt = project.open()
    assert asyncio.run(rt.runs.resume(run_id)) == []
    assert rt.services.index.get(run_id).status == "cancelled"


@pytest.mark.parametrize("when", ["add", "update"])
def test_a_run_that_cannot_begin_lets_go_of_its_lock(project, monkeypatch, when):
    """The database was locked for a moment: the same process must be able to take the run up again."""
    rt = project.open(binding("step", nothing))
    services = rt.services
    begin = rt.runs.start
    if when == "update":
        run = rt.runs.start()
        run.leave()
        run.finish()

        def begin():
            return asyncio.run(rt.runs.resume(run.id))

    def locked(*_args, **_fields):
        raise StoreError("locked", code="database_locked")

    with monkeypatch.context() as patch:
        patch.setattr(services.index, when, locked)
        with pytest.raises(StoreError):
            begin()
    assert not services.hooks.runs
    (run_id,) = project.runs()
    assert asyncio.run(rt.runs.resume(run_id)) == []


def test_a_journal_that_ends_before_the_database_says_is_refused(project):
    crash = Crash(project)
    rt = project.open(crash.tool())
    result = execute(rt, write("k", 1), step("a"))
    rt.close()
    crash.run_id = result.run_id
    cut_after(project, result.run_id, "action_intent")
    with pytest.raises(interlock.IntegrityError) as caught:
        crash.resume(crash.tool())
    assert caught.value.code == "journal_truncated"


def test_resume_of_what_is_not_there(project):
    rt = project.open()
    with pytest.raises(interlock.UsageError) as caught:
        asyncio.run(resume(rt.services, "run_nope"))
    assert caught.value.code == "not_found"


def test_resume_of_a_live_run_is_refused(crash):
    body = """
    async def hang(parameters, ctx):
        print("in", flush=True)
        await asyncio.sleep(30)
    rt.register(binding("hang", hang, read_only=True))
    asyncio.run(rt.execute(plan(call("hang"))))
    """
    child = crash.project.script(CHILD + body)
    try:
        assert child.stdout.readline() == "in\n"
        (crash.run_id,) = crash.project.runs()
        with pytest.raises(interlock.StoreError) as caught:
            crash.resume(crash.tool("hang", read_only=True))
        assert caught.value.code == "run_locked"
        assert str(child.pid) in caught.value.message
    finally:
        child.kill()
        child.communicate()


def test_resume_under_a_changed_policy_refuses_what_is_not_allowed_any_more(crash):
    crash.run(register(idempotent=True), step("a"), step("b", die=True), step("c"))
    toml = (crash.project.root / "interlock.toml").read_text().replace("[grants", 'deny = ["step"]\n[grants', 1)
    (crash.project.root / "interlock.toml").write_text(toml)
    crash.project.trust()
    result = crash.resume(crash.tool(idempotent=True))
    assert crash.log == []
    assert statuses(result) == ["not_undone", "rejected", "skipped"]
    assert reasons(result) == ["irreversible", "policy_denied", "aborted"]


def test_a_run_whose_row_was_never_written_is_found_by_its_journal(new_project):
    project = new_project()
    rt = project.open()
    done = execute(rt, call("fs.write", parameters={"path": "a", "content": "b"}))
    rt.services.index.delete(done.run_id)
    with pytest.raises(UsageError) as caught:
        asyncio.run(rt.runs.resume(done.run_id))
    assert caught.value.code == "run_finished", "its journal says so"
    assert rt.services.index.get(done.run_id).agent == AGENT


def test_an_unreadable_directory_among_the_runs_does_not_block_other_runs(project):
    rt = project.open()
    (project.home / "runs" / "run_odd" / "journal.ndjson").mkdir(parents=True)
    assert execute(rt, write("k", 1)).status == "succeeded"


def test_a_run_waits_until_the_journals_are_in_order(project, monkeypatch):
    """The database was locked when they were looked at: the next run looks again, and does not begin beside them."""
    rt = project.open()
    looked = []

    def locked(*_args, **_options):
        looked.append(1)
        raise StoreError("locked", code="database_locked")

    monkeypatch.setattr("interlock.engine.runs.recover.recover_all", locked)
    for _ in range(2):
        with pytest.raises(StoreError):
            execute(rt, write("k", 1))
    monkeypatch.undo()
    assert (len(looked), execute(rt, write("k", 1)).status) == (2, "succeeded")


def test_a_search_for_lost_runs_does_not_block_other_runs(project, monkeypatch):
    """Another process is just beginning a run, or has entered it since we looked."""
    rt = project.open()
    index, runs = rt.services.index, project.home / "runs"
    execute(rt, write("k", 1))
    (run_id,) = project.runs()
    (runs / "run_beginning").mkdir()
    monkeypatch.setattr(index, "list_runs", lambda **_: [])
    unfinished.adopt_orphans(index, runs, Disk())
    assert index.get(run_id).status == "succeeded"
    assert not (runs / "run_beginning" / "lock").exists(), "its lock was taken from whoever begins it"
