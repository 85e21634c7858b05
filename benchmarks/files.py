"""The file tools compared with ripgrep, grep and plain reads and writes; and delays of the event loop.

    python benchmarks/files.py [--quick] [--json]

Goals: `fs.search` within five times ripgrep; 5 ms per MB read; three times a synced write; and no other action of the
process waits longer than 10 ms meanwhile.
"""

import asyncio
import json
import os
import random
import subprocess
import time
from pathlib import Path

from measuring import alternate, options, row, scratch, table

from workspace import Project

FILES = 10_000
NEEDLE = "needle_in_the_hay"
TOML = """
agent = "coder"
[rules]
allow = ["fs.*"]
[grants.coder]
tools = ["*"]
paths = { read = ["**"], write = ["**"] }
"""


class Files:
    """A project with many small text files, of which one in fifty has the needle, and a runtime for it."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir()
        project = Project(directory, toml=TOML)
        self.root = project.root
        self.found = 0
        words = random.Random(1)
        vocabulary = ["".join(words.choices("abcdefghijklmnop", k=words.randint(3, 9))) for _ in range(3_000)]
        for number in range(count):
            place = self.root / f"d{number % 100}"
            place.mkdir(exist_ok=True)
            lines = [" ".join(words.choices(vocabulary, k=9)) for _ in range(50)]
            if number % 50 == 0:
                lines.append(f"a {NEEDLE} here")
                self.found += 1
            (place / f"f{number}.txt").write_text("\n".join(lines))
        self.loop = asyncio.new_event_loop()
        self.rt = project.open()
        self.gaps: list[float] = []

    def call(self, tool: str, **parameters: object) -> tuple[float, dict]:
        """Time in seconds of one call, and its output."""
        action = {"type": "tool_call", "tool": tool, "parameters": parameters}
        return self.loop.run_until_complete(self._call({"actions": [action]}))

    async def _call(self, plan: dict) -> tuple[float, dict]:
        over = asyncio.Event()
        watch = asyncio.create_task(_longest_gap(over))
        begun = time.perf_counter()
        result = await self.rt.execute(plan)
        took = time.perf_counter() - begun
        over.set()
        self.gaps.append(await watch)
        if not result.ok:
            raise SystemExit(f"a call did not succeed: {result}")
        return took, result.results[0].output

    def close(self) -> None:
        self.rt.close()
        self.loop.close()


async def _longest_gap(over: asyncio.Event) -> float:
    """The longest time in seconds for which the loop was blocked."""
    longest, last = 0.0, time.perf_counter()
    while not over.is_set():
        await asyncio.sleep(0.0005)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def search(files: Files, rounds: int) -> list[dict]:
    """Search all files for one pattern."""

    def ours() -> float:
        took, output = files.call("fs.search", pattern=NEEDLE, max_matches=2_000)
        if len(output["matches"]) != files.found:
            raise SystemExit(f"fs.search found {len(output['matches'])} of {files.found}")
        return took

    def theirs(*command: str) -> float:
        begun = time.perf_counter()
        done = subprocess.run([*command, NEEDLE, files.root], capture_output=True, check=True)
        took = time.perf_counter() - begun
        lines = done.stdout.count(b"\n")
        if lines != files.found:
            raise SystemExit(f"{command[0]} found {lines} of {files.found}")
        return took

    contenders = {"ours": ours, "rg": lambda: theirs("rg", "-n"), "grep": lambda: theirs("grep", "-rn")}
    took = alternate(contenders, rounds)
    count = len(list(files.root.glob("d*/*")))
    work = f"`fs.search`, {count:,} files"
    return [
        row(work, took["ours"], "rg", took["rg"], "5", 1e3),
        row(work, took["ours"], "grep -r", took["grep"], "", 1e3),
    ]


def transfer(files: Files, rounds: int) -> list[dict]:
    """Read and write text without secrets."""
    rows = []
    for size in (100_000, 900_000):
        text = ("the quick brown fox jumps over the lazy dog\n" * (size // 44 + 1))[:size]
        path = files.root / f"text-{size}"
        path.write_text(text)
        files.gaps.clear()
        took = alternate(
            {
                "read": lambda path=path: files.call("fs.read", path=path.name)[0],
                "plain read": lambda path=path: _timed(path.read_bytes),
                "write": lambda text=text: files.call("fs.write", path="written", content=text)[0],
                "synced write": lambda text=text: _timed(lambda: _write(files.root / "plain", text)),
            },
            rounds,
        )
        shown = f"{size // 1000} KB"
        rows += [
            row(f"`fs.read`, {shown}", took["read"], "a plain read", took["plain read"], "5 ms/MB", 1e3),
            row(f"`fs.write`, {shown}", took["write"], "a synced write", took["synced write"], "3", 1e3),
            row(f"the longest block of the loop meanwhile, {shown}", max(files.gaps), "the goal", 0.010, "1", 1e3),
        ]
    return rows


def _timed(work: object) -> float:
    begun = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - begun


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    chosen = options(__doc__ or "")
    with scratch() as room:
        files = Files(room / "files", 1_000 if chosen.quick else FILES)
        rounds = 3 if chosen.quick else 11
        rows = [*search(files, rounds), *transfer(files, rounds)]
        files.close()
    print(json.dumps(rows) if chosen.json else table(rows))


if __name__ == "__main__":
    main()
