"""Turns at writing: a wait keeps nobody from writing, writers of different files do not wait, and undo stays exact."""

import asyncio
import contextlib

import pytest
from engine_world import DIRECT as TOML
from engine_world import binding, call, change_services, execute, plan, reasons, statuses

from interlock.approvals import Approver
from interlock.engine.runs.write_lease import open_queue
from interlock.model.errors import ToolError
from interlock.model.tool import Binding, Tool
from interlock.workspace import EVERYTHING, Claim

ANN = Approver(id="ann")
ASKING = TOML % 'ask = ["shell", "slow"]\n'
PATH = {"path": {"type": "string", "x-interlock": "path.write"}}
ONE_PATH = {"type": "object", "properties": PATH, "required": ["path"]}


def put(name, path, content="x", **fields):
    return call("fs.write", name, parameters={"path": path, "content": content}, **fields)


def marked(name, function):
    """A tool that writes the path that it names, and nothing else."""
    return Binding(tool=Tool(name=name, parameters=ONE_PATH), function=function, writes="marked")


def at(rt):
    """Who has or wants the lease, and of what."""
    return [turn.claim for turn in open_queue(rt.services).turns()]


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def pending(rt):
    return rt.services.desk.store.list_holds("pending")


def answer(rt, decision, patch=None):
    (hold, *_) = pending(rt)
    rt.services.desk.store.vote(hold.id, ANN, "cli", decision, digest=hold.digest, patch=patch)


async def noop(parameters, ctx):
    return "done"


@pytest.fixture
def project(new_project):
    return new_project(toml=TOML % "")


@pytest.fixture
def asking(new_project):
    return new_project(toml=ASKING)


@contextlib.asynccontextmanager
async def background(work):
    task = asyncio.create_task(work)
    try:
        async with asyncio.timeout(30):
            yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


# -- a wait gives the turn back


def test_an_open_question_keeps_nobody_from_writing(asking):
    rt = asking.open()

    async def main():
        waiting = plan(put("w", "f", "A"), call("shell", "s", parameters={"command": "cat f"}))
        async with background(rt.execute(waiting)) as first:
            await until(lambda: pending(rt) and at(rt) == [])
            assert (await rt.execute(plan(put("w", "f", "B")))).ok
            answer(rt, "approve")
            result = await first
            assert result["s"].output["stdout"] == "B"
            assert result["s"].waited_ms > 0

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["async", "thread"])
def test_while_all_that_a_tool_has_proposed_waits_others_may_write(asking, mode):
    rt = asking.open()
    inner = [plan(put("n", f"{name}", "A"), call("shell", "s", parameters={"command": "true"})) for name in "gh"]

    def claims():
        return [claim.everything for claim in at(rt)]

    async def outer(parameters, ctx):
        results = await asyncio.gather(*map(rt.execute, inner))
        return [[result.status for result in results], claims()]

    def plain(parameters, ctx):
        return [[rt.execute_sync(one).status for one in inner], claims()]

    rt.register(binding("outer", outer if mode == "async" else plain, mode=mode))

    async def main():
        asked = 2 if mode == "async" else 1
        async with background(rt.execute(plan(call("outer", "o")))) as waiting:
            await until(lambda: len(pending(rt)) == asked and at(rt) == [])
            assert (await rt.execute(plan(put("w", "g", "B")))).ok
            answer(rt, "approve")
            await until(lambda: len(pending(rt)) == 1)
            answer(rt, "approve")
            result = await waiting
            assert result["o"].output == [["succeeded", "succeeded"], [True]], "the tool continues in its turn"
        assert at(rt) == []

    asyncio.run(main())


def test_a_tool_that_is_stopped_while_its_proposal_waits_leaves_no_turn_behind(asking):
    rt = asking.open()

    async def outer(parameters, ctx):
        await rt.execute(plan(call("shell", "s", parameters={"command": "true"})))

    rt.register(binding("outer", outer))

    async def main():
        async with background(rt.execute(plan(call("outer", "o"), put("w", "f"), order="free"))) as waiting:
            await until(lambda: pending(rt) and at(rt) == [])
            waiting.cancel()
            await asyncio.wait([waiting])
        assert at(rt) == []
        assert (await rt.execute(plan(put("w", "f")))).ok

    asyncio.run(main())


@pytest.mark.parametrize("fields", [{}, {"deadline_ms": 60_000}])
def test_an_action_waits_for_its_turn_no_longer_than_its_own_time_out(project, fields):
    rt = project.open()

    async def main():
        lease = open_queue(rt.services).attempt(EVERYTHING, "a long build")
        result = await rt.execute(plan(put("w", "f", timeout_ms=150), **fields))
        lease.release()
        return result["w"]

    row = asyncio.run(main())
    assert (row.status, row.reason) == ("rejected", "workspace_busy")
    assert "a long build" in row.error


def test_a_question_is_asked_behind_a_long_action(asking):
    """The turn is taken after the answer: the person need not wait for it too."""
    rt = asking.open()

    async def main():
        lease = open_queue(rt.services).attempt(EVERYTHING, "a long build")
        async with background(rt.execute(plan(call("shell", "s", parameters={"command": "true"})))) as waiting:
            await until(lambda: pending(rt))
            answer(rt, "approve")
            await until(lambda: len(at(rt)) == 2)
            lease.release()
            assert (await waiting).ok

    asyncio.run(main())


def test_what_was_shown_is_compared_once_it_is_ones_turn(new_project):
    """Another run writes the file after the approval, while the approved action stands in the queue."""
    project = new_project(toml=TOML % 'ask = ["fs.edit"]\n')
    (project.root / "f").write_text("shown")
    rt = project.open()
    edit = call("fs.edit", "e", parameters={"path": "f", "old": "shown", "new": "edited"})

    async def main():
        lease = open_queue(rt.services).attempt(EVERYTHING, "another")
        async with background(rt.execute(plan(edit))) as first:
            await until(lambda: pending(rt))
            (question,) = pending(rt)
            answer(rt, "approve")
            await until(lambda: len(at(rt)) == 2)
            (project.root / "f").write_text("shown, and more")
            lease.release()
            await until(lambda: pending(rt))
            (again,) = pending(rt)
            assert again.id != question.id
            assert "`f` has changed since it was approved" in again.reason
            answer(rt, "deny")
            assert reasons(await first) == ["approval_denied"]

    asyncio.run(main())
    assert (project.root / "f").read_text() == "shown, and more"


def test_a_file_that_another_changes_during_the_back_off_is_asked_about_again(new_project):
    project = new_project(toml=TOML % 'ask = ["flaky"]\n')
    (project.root / "f").write_text("shown")
    rt = project.open()
    change_services(rt, jitter=lambda: 1.0)
    tries = []

    async def flaky(parameters, ctx):
        tries.append(at(rt))
        raise ToolError("not yet")

    rt.register(marked("flaky", flaky))

    async def main():
        work = rt.execute(plan(call("flaky", "a", parameters={"path": "f"}, failure_behavior="retry", max_retries=5)))
        async with background(work) as first:
            await until(lambda: pending(rt))
            answer(rt, "approve")
            await until(lambda: len(tries) == 2 and at(rt) == [])
            (project.root / "f").write_text("another")
            await until(lambda: pending(rt))
            answer(rt, "deny")
            assert (await first)["a"].reason == "approval_denied"

    asyncio.run(main())
    assert len(tries) == 2
    assert all(claims == [Claim.of([(b"f",)])] for claims in tries)


def test_rate_limit_and_guard_give_the_turn_back(project):
    rt = project.open(binding("do", noop))
    rt.set_rate_limit("do", calls=1, per_ms=400)

    async def main():
        async with background(rt.execute(plan(put("w", "f"), call("do", "a"), call("do", "b")))) as first:
            rt.subscribe(waits=lambda waiting: seen.append(waiting.cause))
            seen = []
            await until(lambda: "rate_limit" in seen)
            assert at(rt) == []
            assert (await rt.execute(plan(put("w", "f")))).ok
            assert not first.done()
            assert (await first).ok

    asyncio.run(main())


def test_who_still_writes_keeps_the_turn_while_another_action_waits(asking):
    go, began = asyncio.Event(), asyncio.Event()

    async def busy(parameters, ctx):
        began.set()
        await go.wait()

    rt = asking.open(binding("busy", busy), binding("slow", noop))

    async def main():
        async with background(rt.execute(plan(call("busy", "b"), call("slow", "s"), order="free"))) as first:
            await began.wait()
            await until(lambda: pending(rt))
            assert at(rt) == [EVERYTHING]
            go.set()
            await until(lambda: at(rt) == [])
            answer(rt, "approve")
            assert (await first).ok

    asyncio.run(main())


def test_a_reader_takes_no_turn_away_from_a_wait(asking):
    """A later read of the same proposal takes the turn, and gives it back when it is done."""
    (asking.root / "f").write_text("text")
    rt = asking.open(binding("slow", noop))

    async def main():
        look = call("fs.read", "r", parameters={"path": "f"})
        async with background(rt.execute(plan(look, call("slow", "s"), order="free"))) as first:
            await until(lambda: pending(rt))
            await until(lambda: at(rt) == [])
            answer(rt, "approve")
            assert (await first).ok

    asyncio.run(main())


# -- writers of different files


def meeting(parties):
    """A tool that comes back once so many calls of it run at the same time."""
    barrier = asyncio.Barrier(parties)

    async def meet(parameters, ctx):
        async with asyncio.timeout(20):
            await barrier.wait()

    return marked("meet", meet)


def test_writers_of_different_files_work_side_by_side(project):
    async def main():
        rt = project.open(meeting(3))
        plans = [plan(call("meet", parameters={"path": path})) for path in ("a/b", "a/c", "d")]
        (project.root / "a").mkdir()
        assert all(result.ok for result in await asyncio.gather(*map(rt.execute, plans)))
        assert at(rt) == []

    asyncio.run(main())


@pytest.mark.parametrize("other", ["a", "a/b", "a/b/c", "link"])
def test_writers_of_the_same_files_take_turns(project, other):
    (project.root / "a").mkdir()
    (project.root / "link").symlink_to("a/b")

    async def main():
        go, running = asyncio.Event(), []

        async def busy(parameters, ctx):
            running.append(parameters["path"])
            await go.wait()

        rt = project.open(marked("busy", busy))
        async with background(rt.execute(plan(call("busy", parameters={"path": "a/b"})))) as first:
            await until(lambda: running)
            async with background(rt.execute(plan(call("busy", parameters={"path": other})))) as second:
                await until(lambda: len(at(rt)) == 2)
                assert len(running) == 1
                go.set()
                assert (await first).ok
                assert (await second).ok

    asyncio.run(main())


@pytest.mark.parametrize("tool", ["shell", "git.add", "undo", "own"])
def test_what_may_write_anywhere_takes_everything(project, tool):
    rt = project.open(binding("own", noop))
    registered = rt.services.registry.find(tool)
    assert registered.writes == "anywhere"
    for reader in ("fs.read", "fs.search", "git.status", "proc.output", "http.fetch"):
        found = rt.services.registry.find(reader)
        assert found is None or found.writes == "nothing"


def test_a_path_that_is_not_known_yet_is_a_claim_of_everything(project):
    rt = project.open()

    async def where(parameters, ctx):
        return "f"

    rt.register(Binding(tool=Tool(name="where", read_only=True), function=where, writes="nothing"))
    seen = []

    async def look(parameters, ctx):
        seen.append(at(rt))

    rt.register(marked("look", look))
    assert execute(rt, call("where", "a"), call("look", "b", parameters={"path": "$a.output"})).ok
    assert seen == [[EVERYTHING]]


def test_an_edit_by_an_approver_is_claimed_before_it_is_written(new_project):
    """The approver's path is not one that the proposal named."""
    project = new_project(toml=TOML % 'ask = ["look"]\n')
    rt = project.open()
    seen = []

    async def look(parameters, ctx):
        seen.append((parameters["path"], at(rt)))

    async def busy(parameters, ctx):
        began.set()
        await go.wait()

    go, began = asyncio.Event(), asyncio.Event()
    rt.register(marked("look", look))
    rt.register(marked("busy", busy))

    async def main():
        both = plan(
            call("busy", "b", parameters={"path": "x"}), call("look", "l", parameters={"path": "y"}), order="free"
        )
        async with background(rt.execute(both)) as first:
            await began.wait()
            await until(lambda: pending(rt))
            answer(rt, "edit", {"path": "z"})
            await until(lambda: not pending(rt))
            assert seen == []
            go.set()
            assert (await first).ok

    asyncio.run(main())
    ((path, (claim,)),) = seen
    assert path == "z"
    assert claim.covers(Claim.of([(b"z",)]))


def test_where_an_own_action_has_led_the_path_is_claimed_too(project):
    """The first action moves a link to where the second writes through it."""
    (project.root / "t").mkdir()
    (project.root / "l").symlink_to("t")
    rt = project.open()
    seen = []

    async def look(parameters, ctx):
        seen.extend(at(rt))

    rt.register(marked("look", look))
    move = call("fs.move", "m", parameters={"source": "l", "destination": "n"})
    assert execute(rt, move, call("look", "w", parameters={"path": "n/x"})).ok
    (claim,) = seen
    assert claim.covers(Claim.of([(b"t", b"x")]))


# -- undo stays exact


def test_a_rollback_after_a_wait_leaves_what_another_has_made_since(asking):
    rt = asking.open()

    async def main():
        waiting = plan(put("w", "f", "A"), put("v", "g", "A"), call("shell", "s", parameters={"command": "true"}))
        async with background(rt.execute(waiting)) as first:
            await until(lambda: pending(rt))
            assert (await rt.execute(plan(put("w", "f", "B")))).ok
            answer(rt, "deny")
            return await first

    result = asyncio.run(main())
    assert statuses(result) == ["not_undone", "rolled_back", "rejected"]
    assert [(one.action_id, one.reason) for one in result.not_undone] == [("w", "undo_conflict")]
    assert (asking.root / "f").read_text() == "B"
    assert not (asking.root / "g").exists()


def test_a_rollback_waits_for_its_turn(asking):
    rt = asking.open()

    async def main():
        waiting = plan(put("w", "f", "A"), call("shell", "s", parameters={"command": "true"}))
        async with background(rt.execute(waiting)) as first:
            await until(lambda: pending(rt))
            lease = open_queue(rt.services).attempt(EVERYTHING, "a long build")
            rt.services.bounds.lease_wait_ms = 1  # no limit for this: what was done must be undone
            answer(rt, "deny")
            await until(lambda: len(at(rt)) == 2)
            assert (asking.root / "f").exists()
            lease.release()
            return await first

    assert asyncio.run(main())["w"].status == "rolled_back"
    assert not (asking.root / "f").exists()


def test_another_runs_writes_are_not_those_of_a_process(project):
    """A process may write anywhere, so nobody else of Interlock writes while it runs, whatever the paths."""
    rt = project.open()
    assert execute(rt, put("w", "mine")).ok

    async def main():
        wait = call("shell", "s", parameters={"command": "touch began; while [ ! -e go ]; do sleep 0.01; done"})
        async with background(rt.execute(plan(put("w", "d/a"), wait))) as first:
            await until((project.root / "began").exists)
            async with background(rt.execute(plan(put("w", "other", "B")))) as second:
                await until(lambda: len(at(rt)) == 2)
                assert not (project.root / "other").exists()
                (project.root / "go").touch()
                result = await first
                assert (await second).ok
                return result

    result = asyncio.run(main())
    assert result.ok
    assert asyncio.run(rt.runs.undo(result.run_id)).ok
    assert (project.root / "other").read_text() == "B"


def test_a_rollback_keeps_its_turn_while_a_compensation_waits_for_its_rate_limit(project):
    rt = project.open()
    claims = []

    async def un(parameters, ctx):
        claims.append([claim.everything for claim in at(rt)])

    rt.register(binding("do", noop))
    rt.register(binding("un", un))
    rt.set_rate_limit("un", calls=1, per_ms=100)
    compensated = [call("do", name, compensation={"type": "tool", "tool": "un"}) for name in "ab"]
    result = execute(rt, put("w", "f"), *compensated, call("shell", "s", parameters={"command": "false"}))
    assert statuses(result) == ["rolled_back", "compensated", "compensated", "failed"]
    assert claims == [[True], [True]]
    assert not (project.root / "f").exists()
