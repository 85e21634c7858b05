"""The benchmarks run, with as little work as they can have: what they measure is an interface that changes too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "engine": """
import engine, floor, subject
measured = subject.Subject(subject.in_memory())
seconds = [measured.seconds(subject.document(3)), measured.seconds(subject.chain(3))]
measured.close()
rows = [{"work": each} for each in (*seconds, floor.seconds(subject.document(3), record=True))]
""",
    "journal": """
import journal
journal.ACTIONS = 4
project = journal.subject.make_project(root / "t", "full")
rows = [*journal.sequential(root / "s", 1), *journal.snapshots(root / "n", 1)]
rows += journal.open_questions(root / "t", project, 1)
""",
    "policy": """
import policy
rows = [policy.measure(shape, 10, None) for shape in ("spread", "crowded")]
""",
    "files": """
import files
measured = files.Files(root / "f", 60)
rows = files.transfer(measured, 1)
assert len(measured.call("fs.search", pattern=files.NEEDLE)[1]["matches"]) == measured.found == 2
measured.close()
""",
    "capsules": """
import capsules
capsules.CALLS = 3
raw = capsules.Raw()
rows = [{"work": raw.seconds()}, {"work": raw.ours()}]
""",
    "evidence": """
import evidence
evidence.layer(root / "layer", 0.01)
rows = [{"work": part()} for part in evidence.parts(root / "layer", root).values()]
""",
    "learning": """
import learning
rows = [*learning.whether_it_helps(root, repetitions=3, tasks=3), learning.distilling_ms(root / "d", 4)]
assert learning.context_ms(root, 200, 1) > 0
assert rows[2]["ratio"] < 1
""",
    "workspace": """
import workspace
rows = [*workspace.open_question(root / "q", 1), *workspace.single(root / "s", 1)]
""",
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_measures(name: str, tmp_path: Path) -> None:
    script = (
        f"import json, sys\nfrom pathlib import Path\nroot = Path(sys.argv[1])\n{SMALL[name]}\nprint(json.dumps(rows))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=28,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    assert rows
    if name == "workspace":  # ADR 42: seven, and one more where the database moves its log into place
        assert float(rows[-1]["most"].removesuffix(" syncs")) < 8
