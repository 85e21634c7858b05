"""A run looked back at: proposal by proposal, whatever its length, with what later undos made of it."""

import asyncio
import json
import tracemalloc

import pytest
from engine_world import binding, call, plan, write

from interlock.disk import Disk
from interlock.engine.inspect.history import History
from interlock.journal.private import delete_private
from interlock.model.errors import IntegrityError
from interlock.model.tool import CompensationTemplate

BIG = 200_000


async def big(parameters, ctx):
    return {"text": "x" * BIG}


@pytest.fixture
def past(project):
    """Takes several plans in one run, and opens the history of the project."""
    opened = []

    def make(*plans, tools=()):
        rt = project.open(*tools)
        run = rt.runs.start()
        for one in plans:
            asyncio.run(run.execute(one))
        run.finish()
        history = History.open(project.root, project.env)
        opened.append(history)
        return history, rt, rt.services.index.list_runs()[0].run_id

    yield make
    for history in opened:
        history.db.close()


def outputs(shown):
    return [one.with_output(row.result).output for one in shown for row in one.rows]


def test_each_proposal_with_its_rows_and_what_they_were_about(past):
    history, _, run_id = past(plan(call("fs.list", "l"), id="p1"), plan(write("k", 1, "w"), id="p2"))
    first, second = history.proposals(run_id)
    assert (first.result.proposal_id, second.result.proposal_id) == ("p1", "p2")
    (listed,), (written,) = first.rows, second.rows
    assert listed.line.tool == "fs.list"
    assert written.line.about == "k"
    assert written.result.status == "succeeded"
    assert set(first.with_output(listed.result).output) >= {"entries"}


def test_a_proposal_is_given_before_the_rest_of_the_journal_is_read(past, project):
    history, _, run_id = past(*(plan(write("k", n), id=f"p{n}") for n in range(4)))
    path = project.run_directory(run_id) / "journal.ndjson"
    data = bytearray(path.read_bytes())
    data[data.index(b'"p2"')] ^= 1
    path.write_bytes(data)
    found = iter(history.proposals(run_id))
    assert next(found).result.proposal_id == "p0"
    assert next(found).result.proposal_id == "p1"
    with pytest.raises(IntegrityError):
        list(found)


def test_outputs_are_not_in_memory_together(past):
    actions = [call("big", f"a{n}") for n in range(40)]
    history, _, run_id = past(plan(*actions, id="p"), tools=[binding("big", big, read_only=True)])
    tracemalloc.start()
    (shown,) = history.proposals(run_id)
    sizes = [len(shown.with_output(row.result).output["text"]) for row in shown.rows]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes == [BIG] * 40
    assert peak < 20 * BIG


def test_a_compensation_that_came_later_is_in_the_rows(past):
    async def book(parameters, ctx):
        return {}

    template = CompensationTemplate(tool="cancel", parameters={})
    tools = [
        binding("book", book, reversibility="compensable", compensation=template),
        binding("cancel", book),
    ]
    history, rt, run_id = past(plan(call("book", "b"), id="p1"), plan(write("k", 1, "w"), id="p2"), tools=tools)
    asyncio.run(rt.runs.undo(run_id))
    first, second = history.proposals(run_id)
    (booked,), (written,) = first.rows, second.rows
    assert booked.result.status == "compensated"
    assert (booked.line.undone, written.line.undone) == ("compensated", "rolled_back")


def test_a_proposal_whose_original_was_deleted_is_shown_redacted(past, project):
    secret = "AKIA" + "QWERTYUIOPASDFGH"
    history, _, run_id = past(plan(write("k", secret, "w"), call("fs.list", "l"), id="p"))
    delete_private(project.run_directory(run_id), Disk())
    (shown,) = history.proposals(run_id)
    found = [(row.result.action_id, shown.with_output(row.result).output) for row in shown.rows]
    assert [action_id for action_id, _ in found] == ["w", "l"]
    assert secret not in json.dumps(found)


def rows(shown):
    return [(one.result.proposal_id, row.result.action_id, row.result.status) for one in shown for row in one.rows]


def test_the_first_rows_are_those_of_all_of_them_and_the_total_is_known(past):
    plans = [plan(*(write("k", n, f"w{n}") for n in range(3)), id=f"p{m}") for m in range(4)]
    failing = plan(write("k", 1, "a"), call("nothing", "b"), id="p4")
    history, _, run_id = past(*plans, failing)
    whole = rows(history.proposals(run_id))
    for limit in (1, 3, 4, 9, 13, 14, 15):
        found = history.proposals(run_id, limit=limit)
        assert rows(found) == whole[:limit]
        assert found.total == len(whole) == 14


def test_a_limit_counts_rows_of_a_proposal_that_has_not_ended(past, project):
    changes = binding("big", big)  # its intent is on disk before it runs
    history, _, run_id = past(plan(write("k", 1, "a"), write("k", 2, "b"), call("big", "c"), id="p"), tools=[changes])
    path = project.run_directory(run_id) / "journal.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    intent = next(at for at, line in enumerate(lines) if b'"tool":"big"' in line and b'"kind":"action_intent"' in line)
    seal = next(at for at, line in enumerate(lines) if at > intent and b'"kind":"seal"' in line)
    path.write_bytes(b"".join(lines[: seal + 1]))  # as it was before the proposal ended
    whole = rows(history.proposals(run_id))
    assert len(whole) == 3
    assert rows(history.proposals(run_id, limit=2)) == whole[:2]


def test_one_action_of_all_proposals(past):
    history, _, run_id = past(*(plan(write("k", m, "w"), call("fs.list", "l"), id=f"p{m}") for m in range(2)))
    assert rows(history.proposals(run_id, action="l")) == [("p0", "l", "succeeded"), ("p1", "l", "succeeded")]
    found = list(history.proposals(run_id, action="l"))
    assert [row.line.tool for one in found for row in one.rows] == ["fs.list"] * 2
    whole = [one.result for one in history.proposals(run_id)]
    assert [one.result.cost for one in found] == [one.cost for one in whole]


def test_damage_behind_the_limit_is_reported(past, project):
    history, _, run_id = past(*(plan(write("k", n), id=f"p{n}") for n in range(4)))
    path = project.run_directory(run_id) / "journal.ndjson"
    data = bytearray(path.read_bytes())
    data[data.index(b'"p2"')] ^= 1
    path.write_bytes(data)
    found = iter(history.proposals(run_id, limit=1))
    assert next(found).result.proposal_id == "p0"
    with pytest.raises(IntegrityError):
        next(found)


def test_a_limit_bounds_the_memory(past):
    history, _, run_id = past(plan(*(write("k", n, f"w{n}") for n in range(3000)), id="p"))

    def peak(limit):
        tracemalloc.start()
        count = len(rows(history.proposals(run_id, limit=limit)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return count, most

    (_, whole), (count, cut) = peak(None), peak(10)
    assert count == 10
    assert cut < whole / 3
