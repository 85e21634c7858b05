"""The Interlock side of the benchmarks: runtimes in memory and on disk, their input documents, and one checked call.

The time is measured from the bytes of the document to the result. The tool does nothing, has a schema, counts as one
that changes things (so its intent must be recorded before it runs), and is awaited.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import interlock
from interlock.disk import Disk
from interlock.engine.assemble import open_project
from interlock.engine.runs.run import Run
from interlock.model.tool import Binding, Tool
from interlock.settings import TrustStore, gather
from interlock.workspace.registry import state_directory

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}, "path": {"type": "string"}}}
SETTINGS = {"agent": "bench", "rules": {"allow": ["*"]}, "grants": {"bench": {"tools": ["*"], "unscoped": ["*"]}}}


async def noop(parameters, context):
    return None


async def pausing(parameters, context):
    await asyncio.sleep(0)
    return parameters["x"]


def action(number: int, tool: str = "noop", **fields: object) -> dict:
    return {"id": f"a{number}", "type": "tool_call", "tool": tool, "parameters": {"x": number}, **fields}


def document(count: int, tool: str = "noop", **fields: object) -> bytes:
    return json.dumps({"actions": [action(i, tool) for i in range(count)], **fields}).encode()


def chain(count: int) -> bytes:
    """Each action needs a key that the previous one promises to set: the only kind of dependency that car-runtime also has."""
    actions = [
        action(i, state_dependencies=[f"k{i - 1}"] if i else [], expected_effects={f"k{i}": 1}) for i in range(count)
    ]
    return json.dumps({"actions": actions}).encode()


def register(runtime: interlock.Runtime, names: Sequence[str] = ("noop",)) -> interlock.Runtime:
    for name in names:
        runtime.register(Binding(tool=Tool(name=name, parameters=SCHEMA), function=noop))
    runtime.register(Binding(tool=Tool(name="pausing", parameters=SCHEMA), function=pausing))
    return runtime


def in_memory() -> interlock.Runtime:
    return register(interlock.Runtime.open(settings=SETTINGS))


def make_project(root: Path, durability: str, policy: str | None = None) -> Path:
    """A trusted project below `root`, with its state beside it."""
    project = root / "project"
    project.mkdir(parents=True)
    rules = '[rules]\nallow = ["*"]' if policy is None else '[policy]\nfiles = ["policy/*.cedar"]'
    (project / "interlock.toml").write_text(
        f'agent = "bench"\n[journal]\ndurability = "{durability}"\n{rules}\n'
        '[grants.bench]\ntools = ["*"]\nunscoped = ["*"]\n'
        "[guard]\ncpu = 1.0\nmemory = 1.0\ndisk = 1.0\nzombies = 1000000\n"  # checked, but never exceeded
    )
    if policy is not None:
        (project / "policy").mkdir()
        (project / "policy" / "bench.cedar").write_text(policy)
    found = gather(project)
    TrustStore(state_directory(environment(root), Disk()), Disk()).record(found.root, found.files)
    return project


def environment(root: Path) -> dict[str, str]:
    return {"INTERLOCK_STATE_DIR": str(root / "state")}


@contextmanager
def on_disk(
    root: Path, durability: str, policy: str | None = None, names: Sequence[str] = ("noop",)
) -> Iterator[interlock.Runtime]:
    project = make_project(root, durability, policy)

    with register(interlock.Runtime(*open_project(project, env=environment(root))), names) as runtime:
        yield runtime


class Subject:
    """One runtime with one open run, and its event loop."""

    def __init__(self, runtime: interlock.Runtime) -> None:
        self.runtime = runtime
        self._runner = asyncio.Runner()
        self.run: Run = self._runner.run(self._start())

    async def _start(self) -> Run:
        return self.runtime.runs.start()

    def seconds(self, data: bytes, repeat: int = 1) -> float:
        """Time in seconds of a proposal, from its bytes to its result."""
        return self._runner.run(self._timed(data, repeat))

    async def _timed(self, data: bytes, repeat: int) -> float:
        began = time.perf_counter()
        results = [await self.run.execute(data) for _ in range(repeat)]
        took = time.perf_counter() - began
        for result in results:
            assert result.ok, (result.status, result.results[0])
            assert all(row.status == "succeeded" for row in result.results)
        return took / repeat

    def close(self) -> None:
        self._runner.run(self._finish())
        self._runner.close()

    async def _finish(self) -> None:
        self.run.finish()
