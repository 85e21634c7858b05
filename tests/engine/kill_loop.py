"""Kill -9 a real process at random points of a plan, resume it, and check what was promised. `--rounds 1000` for the record.

Each round: a child runs a plan of file writes, appended marks, state writes and a compensated failure, and is killed after a
random time. Then this process resumes the run (a person answers `again` to what is not known) and checks:

- a mark whose outcome the journal had sealed is there exactly once; one whose outcome was unknown at most twice
- the run comes to its end, the state and the files are those of the finished plan, or of no plan at all
- what the caller was told (a line on standard output after the result) is never taken back
"""

import argparse
import asyncio
import collections
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from engine_world import Project, binding, call, expect, write

from interlock.engine.runs.resume import resume
from interlock.model.errors import UsageError

STEPS = 6
FILES = {f"f{i}": f"new {i}" for i in range(3)}


def actions(fails):
    """Marks (nobody knows how to take them back), files, state; at the end an assertion that holds, or does not."""
    made = []
    for i in range(STEPS):
        made.append(call("mark", f"m{i}", parameters={"name": f"m{i}"}))
        if i < len(FILES):
            made.append(call("fs.write", f"w{i}", parameters={"path": f"f{i}", "content": FILES[f"f{i}"]}))
        made.append(write(f"k{i}", i, f"s{i}"))
    return [*made, expect("k0", 99 if fails else 0, "end")]


def marker(path):
    """A tool that leaves a trace outside of everything that can be undone."""

    async def mark(parameters, ctx):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{parameters['name']}\n".encode())
        os.close(fd)
        await asyncio.sleep(0.001)
        return parameters["name"]

    return binding("mark", mark)


CHILD = """
    from kill_loop import actions, marker
    rt = project.open(marker(project.root.parent / "marks"))
    print("ready", flush=True)
    sys.stdin.readline()
    result = execute(rt, *actions(sys.argv[1] == "True"))
    print(result.status, flush=True)
    sys.stdin.readline()
"""


def one_round(directory, rng, figures):
    """One child, one kill, one resumption; raises AssertionError if a promise is broken."""
    fails = rng.random() < 0.3
    project = Project(directory, files=[("f0", "old 0")])
    marks = directory / "marks"
    child = project.script(CHILD, fails, stdin=-1)
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    child.stdin.write("go\n")
    child.stdin.flush()
    time.sleep(rng.random() * 0.06)
    os.kill(child.pid, signal.SIGKILL)
    told, _ = child.communicate(timeout=20)
    figures["told"] += bool(told)
    runs = project.runs() if (project.home / "runs").exists() else []
    if runs:
        settle(project, runs[0], fails, told.strip(), marks, figures)
    else:
        figures["before the run"] += 1
        assert not marks.exists()
    project.close()


def settle(project, run, fails, told, marks, figures):
    """Resume until it ends, and compare."""
    sealed = outcomes(project, run)
    result = refusal = None
    rt = project.open(marker(marks))
    unknown = set()
    try:
        (result,) = asyncio.run(resume(rt.services, run)) or [None]
        if result is not None and result.status == "held":
            unknown = {row.action_id for row in result.results if row.status == "held"}
            (result,) = asyncio.run(resume(rt.services, run, dict.fromkeys(unknown, "again"), by="me"))
        figures["resumed"] += 1
    except UsageError as error:
        refusal = error.code
        figures[refusal] += 1
    if refusal == "not_found":
        assert not marks.exists()
        assert not told
        return
    assert refusal in (None, "run_finished"), refusal
    figures["unknown outcomes"] += len(unknown)
    counts = collections.Counter(marks.read_text().split() if marks.exists() else [])
    for name, count in counts.items():
        assert count == 1 or (name in unknown and count == 2), (name, count, unknown)
        assert not (name in sealed and count != 1), f"{name} was finished and ran again"
    state = {key: entry.value for key, entry in rt.services.store.snapshot().items()}
    contents = {name: (project.root / name).read_text() for name in FILES if (project.root / name).exists()}
    done = {f"k{i}": i for i in range(STEPS)}
    if result is not None:
        assert result.status == ("failed" if fails else "succeeded"), result
    if told:
        assert told == ("failed" if fails else "succeeded")
    ended = result is not None or told or state
    if fails or not ended:
        assert (state, contents) == ({}, {"f0": "old 0"}), (state, contents)
    else:
        assert (state, contents) == (done, FILES), (state, contents)
        assert len(counts) == STEPS


def outcomes(project, run):
    """Actions whose success the journal had sealed when the process died."""
    path = project.run_directory(run) / "journal.ndjson"
    found, batch = set(), []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        if line.startswith(b'{"kind":"seal"') and line.endswith(b"\n"):
            found.update(e["action"] for e in batch if e["kind"] == "action_succeeded")
            batch = []
        elif line.endswith(b"\n"):
            batch.append(json.loads(line))
    return found


def rounds(count, seed):
    """So many rounds; returns what happened how often."""
    rng, figures = random.Random(seed), collections.Counter()
    for number in range(count):
        with tempfile.TemporaryDirectory() as directory:
            try:
                one_round(Path(directory), rng, figures)
            except BaseException:
                print(f"round {number} of seed {seed}", dict(figures), file=sys.stderr)
                raise
    return dict(figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else random.randrange(1 << 30)
    began = time.monotonic()
    print(f"seed {seed}:", rounds(chosen.rounds, seed), f"{time.monotonic() - began:.0f} s")
