"""An undo whose process died: another undo settles it, and continuing with it never takes what a person has made since."""

import asyncio

import pytest
from engine_world import call, execute, reasons, statuses, write
from undo_kill_loop import DYING

from interlock.engine.runs.recover import recover_all
from interlock.engine.runs.resume import resume
from interlock.model.errors import UsageError

FILES = 6
CHANGES = [call("fs.write", f"w{i}", parameters={"path": f"f{i}", "content": f"new {i}"}) for i in range(FILES)]


@pytest.fixture
def world(project):
    for i in range(FILES):
        (project.root / f"f{i}").write_text(f"old {i}")
        (project.root / f"f{i}").chmod(0o600)
    return project


def contents(world):
    return [(world.root / f"f{i}").read_text() for i in range(FILES)]


def temporaries(world):
    return [path.name for path in world.root.rglob(".interlock-*.tmp")]


def kill_undo(world, run, after, force=False):
    """Undo in a process that dies after so many renames; returns the id of its run."""
    before = set(world.runs())
    child = world.script(DYING, run, after, "swap_at", force)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == -9, errors
    (dead,) = set(world.runs()) - before
    return dead


def open_runs(rt):
    services = rt.services
    found = recover_all(services.db, services.index, services.state_dir / "runs", services.disk, root=None)
    return [one.run_id for one in found]


OLD = [f"old {i}" for i in range(FILES)]


def test_an_undo_that_succeeds_settles_the_dead_one_of_the_same_run(world):
    rt = world.open()
    done = execute(rt, *CHANGES)
    dead = kill_undo(world, done.run_id, 3)
    assert contents(world) not in (OLD, [f"new {i}" for i in range(FILES)])
    assert temporaries(world), "the process died with a temporary file beside its target"

    second = asyncio.run(rt.runs.undo(done.run_id))
    assert second.status == "succeeded"
    assert contents(world) == OLD
    assert temporaries(world) == []
    (world.root / "f5").write_text("a person's")

    assert open_runs(rt) == [], "nothing advises to resume it"
    with pytest.raises(UsageError) as refused:
        asyncio.run(resume(rt.services, dead))
    assert refused.value.code == "run_finished"
    assert contents(world) == [*OLD[:5], "a person's"]
    assert rt.services.index.get(dead).status == "cancelled"
    of_the_dead = asyncio.run(rt.runs.undo(dead)).results[0]
    assert of_the_dead.reason == "nothing_to_undo", "its work is that of the second one now"
    assert contents(world) == [*OLD[:5], "a person's"]


def test_a_dead_undo_that_continues_puts_nothing_back_first(world):
    """It looks at every path, refuses as a whole, and what it has restored stays restored."""
    rt = world.open()
    done = execute(rt, *CHANGES)
    dead = kill_undo(world, done.run_id, 3)
    half = contents(world)
    (world.root / "f0").write_text("a person's")

    (result,) = asyncio.run(resume(rt.services, dead))
    assert reasons(result) == ["undo_conflict"]
    assert "nothing was restored" not in result.results[0].error
    assert contents(world) == ["a person's", *half[1:]]
    assert temporaries(world) == []


def test_a_dead_undo_continues_where_it_was(world):
    rt = world.open()
    done = execute(rt, *CHANGES)
    dead = kill_undo(world, done.run_id, 3)
    (result,) = asyncio.run(resume(rt.services, dead))
    assert statuses(result) == ["succeeded"]
    assert contents(world) == OLD
    assert temporaries(world) == []


def test_force_was_said_about_what_lay_there_then(world):
    rt = world.open()
    done = execute(rt, *CHANGES)
    (world.root / "f1").write_text("seen, and given up")
    dead = kill_undo(world, done.run_id, 3, force=True)
    (world.root / "f0").write_text("a person's, made since")
    (result,) = asyncio.run(resume(rt.services, dead))
    assert reasons(result) == ["undo_conflict"]
    assert contents(world)[0] == "a person's, made since"


def test_an_undo_of_the_whole_run_settles_a_dead_one_of_an_action_and_not_the_other_way_round(world):
    rt = world.open()
    done = execute(rt, *CHANGES)
    dead = kill_undo(world, done.run_id, 3)
    one = execute(rt, call("undo", "u", parameters={"run": done.run_id, "action": "w5"}))
    assert one.status == "succeeded"
    assert open_runs(rt) == [dead]
    assert asyncio.run(rt.runs.undo(done.run_id)).status == "succeeded"
    assert open_runs(rt) == []


def test_a_later_run_that_wanted_the_same_content_keeps_it(world):
    """The states are known to the dead undo, but they are another run's now."""
    rt = world.open()
    done = execute(rt, *CHANGES)
    dead = kill_undo(world, done.run_id, 3)
    later = execute(rt, call("fs.write", "w", parameters={"path": "f5", "content": "old 5"}),
                    call("fs.write", "v", parameters={"path": "f5", "content": "new 5"}))  # fmt: skip
    assert later.status == "succeeded", later.results
    now = contents(world)
    (result,) = asyncio.run(resume(rt.services, dead))
    assert reasons(result) == ["undo_conflict"]
    assert later.run_id in result.results[0].error
    assert contents(world) == now


AGENT = """
    from undo_kill_loop import die_at
    rt = project.open()
    die_at(rt, "swap_at", 3)
    execute(rt, call("undo", "u", parameters={"run": sys.argv[1]}), write("k", 1, "k"), expect("k", 2, "e"))
"""


def test_an_agents_plan_continues_without_the_undo_that_is_settled_and_does_not_undo_it(world):
    """Its last action fails, so all is undone: but the undo is the person's by now."""
    rt = world.open()
    done = execute(rt, *CHANGES)
    child = world.script(AGENT, done.run_id)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == -9, errors
    assert asyncio.run(rt.runs.undo(done.run_id)).status == "succeeded"
    (dead,) = open_runs(rt)
    (result,) = asyncio.run(resume(rt.services, dead))
    assert statuses(result) == ["rolled_back", "rolled_back", "failed"]
    assert contents(world) == OLD


def test_state_that_a_dead_undo_wrote_is_written_once(world):
    rt = world.open()
    done = execute(rt, write("k", 1, "k"), *CHANGES)
    dead = kill_undo(world, done.run_id, 5)
    (result,) = asyncio.run(resume(rt.services, dead))
    assert statuses(result) == ["succeeded"]
    assert rt.services.store.snapshot() == {}


BOOKING = """
    from interlock.model.tool import CompensationTemplate
    ledger = project.root.parent / "ledger"
    def note(word):
        with ledger.open("a") as f:
            f.write(word + "\\n")
    async def book(parameters, ctx):
        note("book " + parameters["what"])
    async def cancel(parameters, ctx):
        note("cancel " + parameters["what"])
        if parameters["what"] == sys.argv[2]:
            os.kill(os.getpid(), 9)
    template = CompensationTemplate(tool="cancel", parameters={"what": "$parameters.what"})
    rt = project.open(binding("book", book, compensation=template), binding("cancel", cancel))
"""


def test_what_a_dead_undo_compensated_is_not_compensated_twice(project):
    """And the call in which it died is not known: it is said, and done again only by force."""
    names = ("a", "b", "c")
    plan = [call("book", name, parameters={"what": name}) for name in names]
    child = project.script(BOOKING + f"    execute(rt, *{plan!r})\n", "-", "-")
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 0, errors
    (run,) = project.runs()
    again = (
        BOOKING
        + """
    result = asyncio.run(rt.runs.undo(sys.argv[1], force=sys.argv[3] == "force"))
    print([(one.action_id, one.reason) for one in result.not_undone])
    """
    )

    def undo(die="-", force="-"):
        child = project.script(again, run, die, force)
        told, errors = child.communicate(timeout=20)
        assert child.returncode in (0, -9), errors
        return told.strip(), (project.root.parent / "ledger").read_text().splitlines()[3:]

    assert undo(die="b") == ("", ["cancel c", "cancel b"])
    assert undo() == ("[('b', 'unknown_outcome')]", ["cancel c", "cancel b", "cancel a"])
    assert undo(force="force") == ("[]", ["cancel c", "cancel b", "cancel a", "cancel b"])
