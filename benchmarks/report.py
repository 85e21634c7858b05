"""Runs benchmarks one after the other and prints their tables; with `--write`, puts them into `docs/benchmarks.md`.

    python benchmarks/report.py [NAME ...] [--quick] [--write]

The text of the document is kept: only what is between `<!-- results: NAME -->` and `<!-- end -->` is replaced.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from measuring import ROOT, machine, table

NAMES = (
    "engine",
    "journal",
    "policy",
    "approvals",
    "workspace",
    "files",
    "isolation",
    "layers",
    "recorder",
    "evidence",
    "egress",
    "hooks",
    "gateway",
    "capsules",
    "learning",
)
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def rows_of(name: str, *, quick: bool) -> list[dict]:
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--json"]
    if quick:
        command += {
            "engine": ["--quick"],
            "journal": ["--quick"],
            "workspace": ["--quick"],
            "files": ["--quick"],
            "egress": ["--quick"],
            "hooks": ["--quick"],
            "gateway": ["--quick"],
            "capsules": ["--quick"],
            "learning": ["--quick"],
            "isolation": ["--quick"],
            "layers": ["--quick"],
            "recorder": ["--quick"],
            "evidence": ["--quick"],
            "policy": ["--no-toolkit"],
        }.get(name, [])
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT)
    found = json.loads(done.stdout)
    return {"policy": policy_rows, "approvals": approvals_rows, "layers": layers_rows}.get(name, lambda rows: rows)(
        found
    )


def policy_rows(found: list[dict]) -> list[dict]:
    rows = []
    for one in found:
        shown = {"shape": one["shape"], "policies": one["policies"], "interlock": f"{one['interlock']:.2f} us"}
        for peer in ("cedarpy", "toolkit, Cedar", "toolkit, own rules"):
            if peer in one:
                shown[peer] = f"{one[peer]:,.1f} us ({one[peer] / one['interlock']:,.1f} x)"
        shown |= {"loading": f"{one['load_ms']:.0f} ms", "first decision": f"{one['first_us']:.0f} us"}
        rows.append(shown)
    return rows


def approvals_rows(found: dict) -> list[dict]:
    rows = [
        {"work": name, "p50": f"{one['p50_ms']:.3f} ms", "most": f"{one['max_ms']:.3f} ms", "rounds": one["rounds"]}
        for name, one in found["rows"].items()
    ]
    cpu = found["waiter_cpu_ms_per_round"]
    return [*rows, {"work": "CPU of the waiting process, a round", "p50": f"{cpu:.3f} ms", "most": "", "rounds": ""}]


def layers_rows(found: dict[str, dict[str, float]]) -> list[dict]:
    """A row for each step of each way. Only similar steps can be compared, and none of the others is durable."""
    return [
        {"way": way, "step": step, "median": f"{ms:,.1f} ms"}
        for way, steps in found.items()
        for step, ms in steps.items()
    ]


def write(name: str, text: str) -> None:
    document = DOCUMENT.read_text()
    place = re.compile(rf"(<!-- results: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(document):
        raise SystemExit(f"{DOCUMENT.name} has no place for the results of `{name}`")
    DOCUMENT.write_text(place.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", document))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Benchmarks, side by side with others.")
    parser.add_argument("names", nargs="*", metavar="|".join(NAMES), help="all of them if none")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; not for publishing")
    parser.add_argument("--write", action="store_true", help="put the results into docs/benchmarks.md")
    chosen = parser.parse_args()
    for name in chosen.names or NAMES:
        if name not in NAMES:
            parser.error(f"there is no benchmark `{name}`; there are {', '.join(NAMES)}")
    if chosen.quick and chosen.write:
        parser.error("a quick run is not published")
    for name in chosen.names or NAMES:
        text = f"Measured on: {machine()}.\n\n{table(rows_of(name, quick=chosen.quick))}"
        print(f"\n{name}\n\n{text}", flush=True)
        if chosen.write:
            write(name, text)


if __name__ == "__main__":
    main()
