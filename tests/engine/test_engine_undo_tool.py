"""The undo tool: what an earlier run did is undone exactly, or it is said what is not; and an undo can be undone."""

import asyncio
import os

import pytest
from engine_world import binding, call, execute, statuses, write

from interlock.engine.inspect.actions import run_lines
from interlock.engine.record.replay import ReplayedRun
from interlock.model.tool import CompensationTemplate


@pytest.fixture
def root(project):
    (project.root / "old").write_text("old text")
    os.chmod(project.root / "old", 0o640)
    (project.root / "gone").write_text("to be deleted")
    return project.root


@pytest.fixture
def ledger():
    """Bookings that can be cancelled, and cancellations that can be cancelled again."""
    return []


@pytest.fixture
def rt(project, root, ledger):
    async def book(parameters, ctx):
        ledger.append(("book", parameters["what"]))
        return {"id": len(ledger)}

    async def cancel(parameters, ctx):
        ledger.append(("cancel", parameters["what"]))
        return {"id": len(ledger)}

    async def wild(parameters, ctx):
        ledger.append(("wild",))

    def with_undo(name, function, undoer):
        template = CompensationTemplate(tool=undoer, parameters={"what": "$parameters.what"})
        return binding(name, function, reversibility="compensable", compensation=template, idempotent=True)

    return project.open(with_undo("book", book, "cancel"), with_undo("cancel", cancel, "book"), binding("wild", wild))


ACTIONS = [
    call("fs.write", "w", parameters={"path": "old", "content": "new text"}),
    call("fs.write", "n", parameters={"path": "made/deep/new", "content": "new file"}),
    call("fs.delete", "d", parameters={"path": "gone"}),
    call("fs.move", "m", parameters={"source": "old", "destination": "moved"}),
    write("k", 1, "k1"),
    write("k", 2, "k2"),
    call("book", "b", parameters={"what": "table"}, idempotent=True),
]


def tree(root):
    return {
        str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mode) if p.is_file() else None for p in root.rglob("*")
    }


def undo(rt, run, **more):
    return execute(rt, call("undo", "u", parameters={"run": run, **more})).results[0]


def test_everything_comes_back_exactly_and_again(rt, root, ledger):
    before = tree(root)
    execute(rt, write("k", 0))
    done = execute(rt, *ACTIONS)
    assert done.ok
    after = tree(root)
    row = undo(rt, done.run_id)
    assert (row.status, row.output["not_undone"]) == ("succeeded", [])
    assert tree(root) == before
    assert rt.services.store.get("k").value == 0
    assert ledger == [("book", "table"), ("cancel", "table")]
    # undo of the undo
    again = undo(rt, execute_id(rt))
    assert (again.status, again.output["not_undone"]) == ("succeeded", [])
    assert tree(root) == after
    assert rt.services.store.get("k").value == 2
    assert ledger == [("book", "table"), ("cancel", "table"), ("book", "table")]
    # and undo of that
    undo(rt, execute_id(rt))
    assert tree(root) == before
    assert rt.services.store.get("k").value == 0


def execute_id(rt):
    """The id of the newest run."""
    return rt.services.index.list_runs()[0].run_id


def parts(project, run_id):
    """The undo events of a run: kind, part, and the action that is undone."""
    found = [event for event in project.journal(run_id) if event["kind"] in ("undo_intent", "undo_done")]
    assert {event["step"] for event in found} == {10}
    return [(event["kind"], event["how"], event.get("of", "own").rpartition("/")[2]) for event in found]


def both(*pairs):
    return [(kind, *pair) for pair in pairs for kind in ("undo_intent", "undo_done")]


def test_an_undo_records_each_part_with_the_action_that_it_undoes(rt, project):
    done = execute(rt, *ACTIONS)
    undo(rt, done.run_id)
    first = rt.services.index.list_runs()[0]
    assert parts(project, first.run_id) == both(
        ("compensation", "b"), ("files", "m"), ("files", "d"), ("files", "n"), ("files", "w")
    )
    directory = project.home / "runs" / first.run_id
    assert [line.shown_status for line in run_lines(directory, first)] == ["succeeded"]
    known = next(iter(ReplayedRun(directory).proposals.values())).actions["u"]
    assert (known.undone, known.undo_open, known.row.status) == ({}, None, "succeeded")
    undo(rt, first.run_id)
    assert parts(project, execute_id(rt)) == both(("compensation", "u"), ("files", "u"))
    assert parts(project, first.run_id)[-2:] == both(("compensation", "own"))


def test_one_action_of_a_run(rt, root):
    done = execute(rt, *ACTIONS[:3])
    row = undo(rt, done.run_id, action="d")
    assert row.status == "succeeded"
    assert (root / "gone").read_text() == "to be deleted"
    assert (root / "old").read_text() == "new text"


def test_a_file_that_others_changed_is_a_conflict_and_force_keeps_a_backup(rt, root):
    done = execute(rt, *ACTIONS[:1])
    (root / "old").write_text("edited by hand")
    row = undo(rt, done.run_id)
    assert (row.status, row.reason) == ("failed", "undo_conflict")
    assert (root / "old").read_text() == "edited by hand"
    forced = asyncio.run(rt.runs.undo(done.run_id, force=True))
    assert forced.status == "succeeded"
    assert (root / "old").read_text() == "old text"
    assert asyncio.run(rt.runs.undo(forced.run_id)).status == "succeeded"
    assert (root / "old").read_text() == "edited by hand", "what was overwritten was kept"


def test_what_others_changed_is_left_on_request_and_named_and_the_rest_is_undone(rt, root):
    done = execute(rt, *ACTIONS[:3], write("k", 1, "k1"), write("own", 1, "k2"))
    (root / "old").write_text("edited by hand")
    execute(rt, write("k", "theirs"))
    result = asyncio.run(rt.runs.undo(done.run_id, skip_changed=True))
    assert result.status == "succeeded", "it did what was asked of it"
    left = {(one.action_id, one.reason): one.detail for one in result.not_undone}
    assert left.keys() == {("w", "undo_conflict"), ("k1", "state_conflict")}
    assert left["w", "undo_conflict"] == "`old` was left as it is: others have changed it since"
    assert (root / "old").read_text() == "edited by hand"
    assert not (root / "made").exists()
    assert (root / "gone").read_text() == "to be deleted"
    assert (rt.services.store.get("k").value, rt.services.store.get("own")) == ("theirs", None)
    assert asyncio.run(rt.runs.undo(done.run_id, force=True)).status == "succeeded"
    assert (root / "old").read_text() == "old text"


def test_what_others_changed_between_two_actions_comes_back(rt, root):
    done = execute(rt, *ACTIONS[:1])
    (root / "old").write_text("edited by hand")
    again = execute(rt, *ACTIONS[:1])
    assert asyncio.run(rt.runs.undo(again.run_id, skip_changed=True)).ok
    assert (root / "old").read_text() == "edited by hand"
    left = asyncio.run(rt.runs.undo(done.run_id, skip_changed=True)).not_undone
    assert [one.reason for one in left] == ["undo_conflict"]
    assert (root / "old").read_text() == "edited by hand"


def test_to_overwrite_and_to_leave_what_others_changed_contradict_each_other(rt, root):
    done = execute(rt, *ACTIONS[:1])
    (row,) = asyncio.run(rt.runs.undo(done.run_id, force=True, skip_changed=True)).results
    assert (row.status, row.reason) == ("failed", "usage")
    assert (root / "old").read_text() == "new text"


def test_state_that_others_changed_is_a_conflict(rt):
    done = execute(rt, write("k", 1))
    execute(rt, write("k", "theirs"))
    row = undo(rt, done.run_id)
    assert row.status == "failed"
    assert rt.services.store.get("k").value == "theirs"
    assert asyncio.run(rt.runs.undo(done.run_id, force=True)).status == "succeeded"
    assert rt.services.store.get("k") is None


def test_a_key_that_was_not_there_is_gone_again(rt):
    done = execute(rt, write("fresh", 1), write("fresh", 2))
    assert undo(rt, done.run_id).status == "succeeded"
    assert rt.services.store.get("fresh") is None


def test_stored_results_are_forgotten(rt, ledger):
    done = execute(rt, ACTIONS[-1])
    assert execute(rt, ACTIONS[-1]).results[0].deduplicated_from
    undo(rt, done.run_id)
    execute(rt, ACTIONS[-1])
    assert [entry[0] for entry in ledger] == ["book", "cancel", "book"]


def test_a_deduplicated_call_is_not_undone_by_the_run_that_did_not_make_it(rt, ledger):
    execute(rt, ACTIONS[-1])
    second = execute(rt, ACTIONS[-1], write("k", 1))
    undo(rt, second.run_id)
    assert ledger == [("book", "table")]


def test_what_cannot_be_undone_is_reported(rt, root, ledger):
    done = execute(rt, call("wild", "x"), *ACTIONS[:1])
    row = undo(rt, done.run_id)
    assert row.status == "succeeded"
    assert [(n["action"], n["reason"]) for n in row.output["not_undone"]] == [("x", "irreversible")]
    assert (root / "old").read_text() == "old text"


def test_twice_is_harmless_for_files(rt, root):
    before = tree(root)
    done = execute(rt, *ACTIONS[:4])
    undo(rt, done.run_id)
    undo(rt, done.run_id)
    assert tree(root) == before


@pytest.mark.parametrize("parameters", [{"run": "run_nope"}, {"run": "../../etc"}])
def test_a_run_that_is_not_there(rt, parameters):
    row = execute(rt, call("undo", parameters=parameters)).results[0]
    assert (row.status, row.reason) == ("failed", "not_found")


def test_an_action_that_is_not_there(rt):
    done = execute(rt, write("k", 1))
    assert undo(rt, done.run_id, action="zz").status == "failed"


def test_an_undo_in_a_proposal_that_fails_is_undone_itself(rt, root):
    done = execute(rt, *ACTIONS[:3])
    after = tree(root)
    failed = execute(
        rt,
        call("undo", "u", parameters={"run": done.run_id}),
        {"type": "assertion", "parameters": {"key": "no", "expected": 1}},
    )
    assert statuses(failed) == ["rolled_back", "failed"]
    assert tree(root) == after
