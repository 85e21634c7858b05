"""A disk that fails, or dies, at each operation of a small run: what is left is the truth, and the run can be finished."""

import asyncio
import contextlib

import pytest
from engine_world import Project, binding, call, change_services, execute, plan, write

from interlock.engine.runs.resume import resume
from interlock.model.errors import IntegrityError, StoreError, UsageError
from interlock.testing.disk import CrashingDisk, SimulatedCrash

STEP = {"crash": 1, "failed": 2, "full": 2}
"""Every so many operations in the suite: there are some twenty."""


class Small:
    """A plan with everything: a call that cannot be undone, a file, state."""

    def __init__(self, directory):
        directory.mkdir()
        self.project = Project(directory, files=[("f", "old")])
        self.project.open().close()
        self.marks = []

    async def mark(self, parameters, ctx):
        self.marks.append(parameters["n"])
        return parameters["n"]

    ACTIONS = (
        call("mark", "m1", parameters={"n": 1}),
        call("fs.write", "w", parameters={"path": "f", "content": "new"}),
        write("k", "$m1.output", "s"),
        call("mark", "m2", parameters={"n": 2}),
    )

    def run(self, disk):
        """Returns the result, or None if it was not acknowledged."""
        rt = self.project.open(binding("mark", self.mark))
        # journal and backups; the workspace's own files are another room's test
        change_services(rt, disk=disk)
        try:
            return asyncio.run(rt.execute(plan(*self.ACTIONS)))
        except (StoreError, SimulatedCrash):
            return None
        finally:
            with contextlib.suppress(StoreError, SimulatedCrash):
                rt.close()

    def settle(self, told):
        """Resume with a good disk, and look at what is there."""
        known = list(self.marks)
        rt = self.project.open(binding("mark", self.mark))
        result, refusal = told, None
        for run in self.project.runs() if (self.project.home / "runs").exists() else []:
            try:
                result = next(iter(asyncio.run(resume(rt.services, run))), told)
                if result is not None and result.status == "held":
                    unknown = {row.action_id for row in result.results if row.status == "held"}
                    (result,) = asyncio.run(resume(rt.services, run, dict.fromkeys(unknown, "again"), by="me"))
            except UsageError as error:
                refusal = error.code
        assert refusal in (None, "run_finished", "not_found")
        text, state = (self.project.root / "f").read_text(), rt.services.store.get("k")
        if told is not None:
            assert self.marks == known, "what was acknowledged is not done again"
        found = (text, None if state is None else state.value, self.marks)
        if told is not None and not told.ok:  # the file could not be backed up, so it was not written
            assert [row.reason for row in told.results if row.status == "failed"] == ["backup_failed"]
            assert found == ("old", None, [1])
        elif result is not None:
            assert result.ok, result
            assert found[:2] == ("new", 1)
            assert set(self.marks) == {1, 2}
            assert len(self.marks) <= 3, "only the one whose outcome was not known may have run twice"
        else:  # it never began, or it was finished and nobody heard of it
            assert found in (("old", None, []), ("new", 1, [1, 2]))
        assert execute(rt, call("mark", parameters={"n": 9})).ok, "the workspace can be worked in"
        rt.close()


def operations(tmp_path):
    """The numbers of the operations of one undisturbed run."""
    small, disk = Small(tmp_path / "whole"), CrashingDisk()
    assert small.run(disk).ok
    return range(len(disk.operations))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["crash", "failed", "full"])
@pytest.mark.parametrize("survives", [0, 0.5])
def test_a_fault_at_each_operation(tmp_path, fault, survives):
    first = {"crash": 0, "failed": 1, "full": 0}[fault] + int(survives * 2)
    for at in operations(tmp_path)[first % STEP[fault] :: STEP[fault]]:
        small, disk = Small(tmp_path / f"at{at}"), CrashingDisk(at=at, fault=fault)
        told = small.run(disk)
        if fault == "crash":
            disk.power_loss(survives=lambda unsynced: int(unsynced * survives))
        try:
            small.settle(told)
        except (AssertionError, IntegrityError, StoreError) as error:
            error.add_note(f"operation {at}: {disk.operations[at] if at < len(disk.operations) else '?'}, {fault}")
            raise
