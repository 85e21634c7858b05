"""What a command says on a file system without any space left."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    mount -t tmpfs -o size=8m none .
    cd "$PWD"
    mkdir project state && cd project
    export INTERLOCK_STATE_DIR=$PWD/../state
    printf '[rules]\\nask = ["shell"]\\n[grants.agent]\\ntools = ["*"]\\n' > interlock.toml
    echo '{"actions": [{"type": "tool_call", "tool": "shell", "parameters": {"command": "true"}}]}' > plan.json
    "$INTERLOCK" trust --yes > ../out 2>&1
    "$INTERLOCK" run plan.json > ../out 2>&1 &
    until grep -q waiting ../out; do sleep 0.1; done
    kill -9 $!; wait $! 2> /dev/null
    dd if=/dev/zero of=../fill bs=4k 2> /dev/null
    "$INTERLOCK" recover; echo "exit code $?"
    rm ../fill
    "$INTERLOCK" recover; echo "exit code $?"
"""


@pytest.mark.timeout(60)
def test_recover_names_the_run_that_it_has_no_space_for_and_recovers_it_later(tmp_path):
    script = (
        "cd "
        + str(tmp_path)
        + "\nset -u\nINTERLOCK="
        + str(Path(sys.executable).with_name("interlock"))
        + "\n"
        + textwrap.dedent(SCRIPT)
    )
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "bash",
        "-c",
        script,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=58, check=False)
    full, _, later = done.stdout.partition("exit code 5\n")
    assert full == "", done
    assert "there is no space to put it in order" in done.stderr
    assert "the disk of the state directory is full (disk_full)" in done.stderr
    assert "interlock approvals show hold_" in later
    assert later.endswith("exit code 0\n")
