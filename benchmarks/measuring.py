"""Shared by the benchmarks: alternating rounds, medians, peers in separate processes, a description of the machine.

A measurement is in seconds. `alternate` calls every contender once per round, in an order that rotates from round to
round, so that noise of the machine affects all of them alike. The reported numbers are medians over the rounds, and
ratios of medians. Nothing here asserts a time. Every contender checks its own results and raises if one is wrong.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "build" / "bench"
"""The peers' environments, created by `scripts/bench`, and scratch space on the project's disk."""
ROUNDS = 7


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds by name. The first call of each is not counted."""
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        contenders[name]()
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(contenders[name]())
    return {name: statistics.median(values) for name, values in samples.items()}


class Peer:
    """Another system in its own environment: `peer_NAME.py` answers each JSON line with another."""

    def __init__(self, name: str) -> None:
        python = PEERS / name / "bin" / "python"
        if not python.exists():
            raise SystemExit(f"there is no environment for {name}: run scripts/bench, which creates it")
        script = Path(__file__).with_name(f"peer_{name}.py")
        self._process = subprocess.Popen(
            [python, "-W", "ignore", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **question: object) -> dict:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer ended with {self._process.wait()}: {self._process.args}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the project's disk. A temporary directory may be in memory, where syncing costs nothing."""
    PEERS.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="scratch-", dir=PEERS))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def row(work: str, ours: float, other: str, theirs: float, target: str, unit: float = 1e6) -> dict:
    """One line of a table. `ours` and `theirs` are seconds per action; `ratio` is ours divided by theirs."""
    shown = {1e6: "us", 1e3: "ms"}[unit]
    return {
        "work": work,
        "interlock": f"{ours * unit:,.2f} {shown}",
        "compared with": other,
        "it": f"{theirs * unit:,.2f} {shown}",
        "ratio": float(f"{ours / theirs:.3g}"),
        "to reach": target,
    }


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table, with padded cells so that it is also readable in a terminal."""
    heads = list(rows[0])
    cells = [heads, *([str(r.get(head, "")) for head in heads] for r in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def machine() -> str:
    """The machine in general terms, without a name or path."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    kind = names[0] if names else platform.machine()
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{kind}, {os.cpu_count()} cores, {system}, {python}, {datetime.now(UTC):%Y-%m-%d}"


def options(text: str) -> argparse.Namespace:
    """The options common to all benchmarks."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds, and less of what takes long")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    return parser.parse_args()


def show(rows: list[dict], *, as_json: bool) -> None:
    if as_json:
        json.dump(rows, sys.stdout)
    else:
        print(machine(), table(rows), sep="\n\n")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
