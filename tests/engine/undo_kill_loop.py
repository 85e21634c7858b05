"""Kill an undo at every point, undo again, let a person edit, continue with the dead one: nothing that the person made is lost.

Every operation of the disk is a point (`interlock.disk.Disk`). After the kill the second undo must end with every file as it
was before the run, whatever the first had done; after that, continuing with the first must change nothing at all. In a second
round the person edits before anybody undoes again, and the dead undo continues directly.
`--every N` takes each Nth point only.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from engine_world import Project, call, execute, write

from interlock.disk import Disk
from interlock.engine.runs.resume import resume
from interlock.model.errors import InterlockError

NAMES = (
    "write",
    "sync",
    "sync_data",
    "sync_directory",
    "rename",
    "rename_at",
    "swap_at",
    "sync_filesystem",
    "write_atomic",
)
DYING = """
    from undo_kill_loop import die_at
    rt = project.open()
    die_at(rt, sys.argv[3], int(sys.argv[2]))
    print("ready", flush=True)
    result = asyncio.run(rt.runs.undo(sys.argv[1], force=sys.argv[4] == "True"))
    print(result.status, flush=True)
"""
FILES = {"kept": "old kept", "gone": "old gone", "d/inner": "old inner"}
ACTIONS = [
    call("fs.write", "w", parameters={"path": "kept", "content": "new kept"}),
    call("fs.delete", "x", parameters={"path": "gone"}),
    call("fs.write", "n", parameters={"path": "made/deep", "content": "made"}),
    call("fs.move", "m", parameters={"source": "d/inner", "destination": "moved"}),
    write("k", 1, "k"),
]


def die_at(rt, name, at):
    """From here on this process dies before operation `at` (from 0) of that name (`any`: of all of them)."""
    count = 0

    def counted(method):
        def operation(self, *arguments, **options):
            nonlocal count
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return method(self, *arguments, **options)

        return operation

    for one in NAMES if name == "any" else (name,):
        setattr(Disk, one, counted(getattr(Disk, one)))


def tree(root):
    """Every file of the project, by name."""
    return {
        str(path.relative_to(root)): path.read_text()
        for path in root.rglob("*")
        if path.is_file() and path.name != "interlock.toml"
    }


class Case:
    """One project with a run that is to be undone, and an undo that dies at one point."""

    def __init__(self, directory, at):
        self.project = Project(directory, files=FILES.items())
        with self.project.open() as rt:
            done = execute(rt, *ACTIONS)
            assert done.status == "succeeded", done.results
        self.run = done.run_id
        before = set(self.project.runs())
        child = self.project.script(DYING, self.run, at, "any", False)
        told, errors = child.communicate(timeout=30)
        self.died = child.returncode == -signal.SIGKILL
        assert self.died or told == "ready\nsucceeded\n", (told, errors)
        self.dead = next(iter(set(self.project.runs()) - before), None)

    def resume_dead(self, rt):
        """Go on with the dead undo as a person would; what it answers, or the code of the refusal."""
        if self.dead is None:
            return None
        try:
            results = asyncio.run(resume(rt.services, self.dead))
        except InterlockError as error:
            return error.code
        return results[0].results[0].reason or results[0].status if results else "nothing began"

    def undo_again_then_edit(self):
        """The second undo succeeds or has nothing to do; whatever a person makes after it stays."""
        with self.project.open() as rt:
            again = asyncio.run(rt.runs.undo(self.run))
            assert again.status == "succeeded", again.results
            self.require(FILES, rt)
            edits = {"kept": "a person's", "gone": "old gone", "made/deep": "made", "d/inner": "a person's too"}
            for name, text in edits.items():
                (self.project.root / name).parent.mkdir(exist_ok=True)
                (self.project.root / name).write_text(text)
            assert execute(rt, write("k", 7)).status == "succeeded"
            answer = self.resume_dead(rt)
            assert answer in (None, "run_finished", "not_found", "undo_conflict", "nothing began", "succeeded"), answer
            self.require(edits, rt, 7)

    def edit_then_resume(self):
        """The dead undo meets an edit: it refuses or had nothing to do, and the edit stays."""
        (self.project.root / "kept").write_text("a person's")
        with self.project.open() as rt:
            assert execute(rt, write("k", 7)).status == "succeeded"
            self.resume_dead(rt)
            assert tree(self.project.root)["kept"] == "a person's"
            assert rt.services.store.get("k").value == 7
            assert not [name for name in tree(self.project.root) if ".interlock-" in name]

    def require(self, expected, rt, state=None):
        """The files are these and no others, no temporary among them, and the key has this value (None: it is absent)."""
        assert tree(self.project.root) == expected, (tree(self.project.root), expected)
        found = rt.services.store.get("k")
        assert (None if found is None else found.value) == state


def rounds(every=1, offset=0):
    """Kill at each `every`th point until the undo outlives it. Returns how many points were tried."""
    at, tried = offset, 0
    while True:
        for step in (Case.undo_again_then_edit, Case.edit_then_resume):
            with tempfile.TemporaryDirectory() as directory:
                case = Case(Path(directory), at)
                if not case.died:
                    return tried
                try:
                    step(case)
                except BaseException:
                    print(f"killed before operation {at}, then {step.__name__}", file=sys.stderr)
                    raise
                finally:
                    case.project.close()
        tried += 1
        at += every


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    chosen = parser.parse_args()
    began = time.monotonic()
    print(f"{rounds(chosen.every)} points, {time.monotonic() - began:.0f} s")
