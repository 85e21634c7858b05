"""Learning: does it help, and what does it cost?

    python benchmarks/learning.py [--json] [--quick]

Twenty tasks in a scratch workspace, by a scripted planner that errs at a fixed rate (each action that it writes has a
one in five chance of being wrong; then the proposal fails and it writes all of it again). Ten tasks are repeated five
times, with different arguments each time, and a script approves the resulting skills; the other ten are held out: they
resemble the first ten, so that their skills are found, and are done once after all repetitions. With skills, an action
is a call that the planner writes (`skills.find` and `skills.run` are one each), and a failed use counts, together with
the steps of the fallback.

Goals (learning.md): by the fifth repetition a third fewer actions and failures; `build_context` over 100,000 facts
under 20 ms; distilling takes under 5 ms per proposal, outside of its critical path.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import interlock
from interlock.disk import Database
from interlock.learning.align import Step, Trace, bindings
from interlock.learning.context import render
from interlock.learning.facts import WORKSPACE, FactStore
from interlock.testing.clock import FakeClock

ERROR = 0.2
REPETITIONS = 5
TASKS = 10
FACTS = 100_000
TRIES_MAX = 50
SETTINGS = {"agent": "ann", "rules": {"allow": ["*"]}, "grants": {"ann": {"tools": ["*"], "unscoped": ["*"]}}}


def steps_of(number, argument, *, held_out=False):
    """The actions of a task: write a file, read it, search, write a summary; three to five, depending on its number."""
    name = f"task{number}-{argument}"
    found = [
        ("fs.write", {"path": f"{name}.txt", "content": f"report {number}\n"}),
        ("fs.read", {"path": f"{name}.txt"}),
        ("fs.write", {"path": f"{name}.copy", "content": f"copied {number}\n"}),
        ("fs.search", {"path": ".", "pattern": f"report {number}"}),
        ("fs.list", {"path": "."}),
    ][: 3 + number % 3]
    if held_out:  # the same words, but another last step
        found[-1] = ("fs.write", {"path": f"{name}.other", "content": "something else\n"})
    return found


def goal_of(number):
    return f"make report number{number}"


class Planner:
    """Writes proposals, and errs. Counts the actions that it writes, and the proposals and uses that fail."""

    def __init__(self, runtime, seed, *, skills):
        self.runtime, self.random, self.skills = runtime, random.Random(seed), skills

    def do(self, number, argument, *, held_out=False):
        """Do a task until it succeeds. Returns (actions, failures)."""
        wanted, actions, failures = steps_of(number, argument, held_out=held_out), 0, 0
        if self.skills:
            used, failed, done = self.use(goal_of(number), wanted)
            actions, failures = actions + used, failures + failed
            if done:
                return actions, failures
        for _ in range(TRIES_MAX):
            worded = [(tool, self.word(parameters)) for tool, parameters in wanted]
            actions += len(worded)
            if self.run([{"type": "tool_call", "tool": t, "parameters": p} for t, p in worded], goal_of(number)):
                return actions, failures
            failures += 1
        raise AssertionError("the task is never done")

    def use(self, goal, wanted):
        """Try a skill. Returns (actions, failures, done)."""
        items = self.call("skills.find", {"goal": goal, "limit": 1}).output["items"]
        if not items or goal.split()[-1] not in " ".join(items[0]["goals"]).split():
            return 1, 0, False  # searched, but none fits
        skill = self.runtime.skills.get(items[0]["name"])
        steps = [
            Step(type="tool_call", tool=tool, parameters=parameters, needs=(at - 1,) if at else ())
            for at, (tool, parameters) in enumerate(wanted)
        ]
        trace = Trace(order="declared", steps=tuple(steps))
        arguments = bindings(skill.content.template, trace)
        if (
            arguments is None
        ):  # it seems to fit but does not: the planner tries with its arguments, and notices at the end
            names = items[0]["parameters"]["properties"]
            arguments = dict.fromkeys(names, "wrong/../../way")
        actions, failures = 1, 0
        for _ in range(2):
            given = {name: self.spoil() or value for name, value in arguments.items()}
            actions += 1
            if self.call("skills.run", {"name": skill.name, "parameters": given}).ok:
                return actions, failures, True
            failures += 1
        return actions, failures, False

    def word(self, parameters):
        wrong = self.spoil()
        return parameters if wrong is None else {**parameters, "path": wrong}

    def spoil(self):
        """A wrong value, at the fixed rate."""
        return "nowhere/../../outside" if self.random.random() < ERROR else None

    def run(self, actions, goal):
        for at, action in enumerate(actions[1:], 1):
            action["dependencies"] = [f"a{at}"]
        return asyncio.run(self.runtime.execute({"actions": actions, "context": {"goal": goal}})).ok

    def call(self, tool, parameters):
        return asyncio.run(self.runtime.call(tool, parameters))


def approve_all(runtime):
    """Approve all skills, in place of the person who reviews them."""
    for one in runtime.skills.list():
        if one.state == "candidate":
            runtime.skills.approve(one.name, version=one.version, digest=one.digest, by="script", untested=True)


def repeated(root, *, skills, repetitions=REPETITIONS, tasks=TASKS):
    """(actions, failures) of each repetition, and of each held-out task after them."""
    root.mkdir()
    with interlock.Runtime.open(settings=SETTINGS, workspace=root) as runtime:
        runtime.with_learning(memory=False, auto_distill=skills)
        planner, found = Planner(runtime, 14, skills=skills), []
        for repetition in range(repetitions):
            counts = [planner.do(number, f"r{repetition}") for number in range(tasks)]
            found.append(tuple(map(sum, zip(*counts, strict=True))))
            if skills:
                runtime.skills.wait_learnt()
                approve_all(runtime)
        held_out = [planner.do(number, "held", held_out=True) for number in range(tasks)]
    return found, held_out


def whether_it_helps(root, **options):
    plain, plain_out = repeated(root / "plain", skills=False, **options)
    with_skills, skills_out = repeated(root / "skills", skills=True, **options)
    tasks = options.get("tasks", TASKS)
    for number, (theirs, ours) in enumerate(zip(plain, with_skills, strict=True), 1):
        goal = "0.67" if number == REPETITIONS else ""
        yield compared(f"repetition {number} of {tasks} tasks", theirs, ours) | {"to reach": goal}
    worse = [n for n, (theirs, ours) in enumerate(zip(plain_out, skills_out, strict=True)) if sum(ours) > sum(theirs)]
    totals = (tuple(map(sum, zip(*each, strict=True))) for each in (plain_out, skills_out))
    yield compared(f"held out ({len(worse)} of {tasks} got worse)", *totals)


def compared(work, theirs, ours):
    return {
        "work": work,
        "without skills": f"{theirs[0]} actions, {theirs[1]} failed",
        "with skills": f"{ours[0]} actions, {ours[1]} failed",
        "ratio": round(sum(ours) / sum(theirs), 2),
    }


def context_ms(root, facts=FACTS, rounds=15, *, vectors=False):
    """Time in milliseconds to build a context from this many facts: by words, or also by random `vectors` of 256 numbers."""
    root.mkdir(exist_ok=True)
    store = FactStore(Database(root / "facts.db"), "w", FakeClock())
    words = [f"word{n}" for n in range(2_000)]
    chance = random.Random(1)
    with store.db.transaction():
        for n in range(facts):
            store.note(f"mem_{n}", WORKSPACE, f"subject {n}", "", " ".join(chance.sample(words, 6)), author="agent:a")
    given = np.random.default_rng(1).normal(size=(facts if vectors else 0, 256)).astype("<f4")
    store.vectors.add("bench", list(enumerate(given, 1)))
    store.vectors.missing("bench", [WORKSPACE])  # this also reads the matrix, once per process
    store.vectors.nearest("bench", [1.0] * 256, [WORKSPACE])
    took = []
    for n in range(rounds):
        began = time.perf_counter()
        near = []
        if vectors:
            assert not store.vectors.missing("bench", [WORKSPACE])
            near = [number for number, _ in store.vectors.nearest("bench", given[n] + given[n + 1], [WORKSPACE])]
        query = f"what of word{n * 7} and word{n * 11}, subject {n}"
        found = render(store.search(query, [WORKSPACE], limit=50, near=near), 1_000)
        took.append((time.perf_counter() - began) * 1_000)
        assert found.pieces
    store.db.close()
    return statistics.median(took)


def distilling_ms(root, proposals=60):
    """Time in milliseconds to learn from one proposal, on its own thread."""
    root.mkdir()
    with interlock.Runtime.open(settings=SETTINGS, workspace=root) as runtime:
        runtime.with_learning(memory=False, auto_distill=True)
        planner = Planner(runtime, 1, skills=False)
        planner.spoil = lambda: None
        took = []
        for n in range(proposals):
            planner.do(n % TASKS, f"d{n}")
            began = time.perf_counter()
            runtime.skills.wait_learnt()
            took.append((time.perf_counter() - began) * 1_000)
        assert runtime.skills.list()
    return statistics.median(took)


def rows(root, *, quick=False):
    yield from whether_it_helps(root)
    facts = FACTS // 10 if quick else FACTS
    took = f"{context_ms(root / 'words', facts):.2f} ms"
    yield {"work": f"`build_context` over {facts:,} facts", "with skills": took, "to reach": "20 ms"}
    took = f"{context_ms(root / 'vectors', facts, vectors=True):.2f} ms"
    yield {"work": "the same, with vectors of 256 numbers", "with skills": took, "to reach": "20 ms"}
    took = f"{distilling_ms(root / 'd'):.2f} ms"
    yield {"work": "until a proposal is learnt, after its result", "with skills": took, "to reach": "5 ms"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        columns = ("work", "without skills", "with skills", "ratio", "to reach")
        found = [{name: row.get(name, "") for name in columns} for row in rows(Path(place), quick=options.quick)]
    if options.json:
        print(json.dumps(found))
        return
    for row in found:
        print(*row.values(), sep=" | ")


if __name__ == "__main__":
    main()
