"""The recorder needs no root: as an ordinary user, and under an imitation of Docker's default filter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from interlock.isolation.attack_range import NOBODY

ORDINARY_USER = str(Path(__file__).with_name("ordinary_user.py"))
SCRIPT = """
import json, os, sys
from pathlib import Path
from interlock.engine.inspect.history import History
from interlock.engine.measured.run import Options, measure_command
from interlock.engine.measured.spec import RunSpec
from interlock.isolation import seccomp, syscalls
if sys.argv[1] == "container":
    syscalls.forbid_new_privileges()
    syscalls.load_filter(seccomp.assemble(seccomp.container_program()))
root = Path.cwd() / "project"
root.mkdir()
(root / "interlock.toml").write_text('agent = "coder"\\n')
past, found = History.open(root, os.environ), {}
for profile in sys.argv[2:]:
    command = ("/bin/sh", "-c", f"echo x > {profile}; cat {profile} > /dev/null")
    done = measure_command(
        past, RunSpec(command=command), Options(profile=profile, recorder="notify"), directory=root, env=os.environ
    )
    touched = past.touched(done.run_id)["", "command"]
    made, read = str(root / profile) in touched.written, str(root / profile) in touched.read
    found[profile] = [done.exit_code, done.profile, done.record_whole, made, read, touched.refused]
print(json.dumps(found))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user already; the other tests of the recorder show it")
@pytest.mark.parametrize(("machine", "profiles"), [("plain", ["ns", "nons", "none"]), ("container", ["nons", "none"])])
def test_what_a_command_touches_is_recorded(machine, profiles):
    with tempfile.TemporaryDirectory(prefix="recorded-", dir="/var/tmp") as place:
        home = Path(place) / "home"
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        Path(place).chmod(0o755)
        done = subprocess.run(
            [sys.executable, ORDINARY_USER, str(NOBODY), str(home), sys.executable, "-c", SCRIPT, machine, *profiles],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == {profile: [0, profile, True, True, True, 0] for profile in profiles}
