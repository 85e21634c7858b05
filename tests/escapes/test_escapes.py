"""The escape suite: every attack succeeds natively, and behind the walls none does; as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from interlock.isolation import attack_range, attack_report
from interlock.isolation.attack_range import ESCAPED, HUNG, NOBODY, STOPPED
from interlock.isolation.attacks import ATTACKS, BATCH, PRELUDE

ORDINARY_USER = str(Path(__file__).with_name("ordinary_user.py"))
USERS = [None, NOBODY] if os.getuid() == 0 else [None]
VOID_SOMEWHERE = {
    "load a program into the kernel",  # kernel.unprivileged_bpf_disabled
    "call the kernel by x32 numbers",  # CONFIG_X86_X32
    "call the kernel by int 0x80",  # CONFIG_IA32_EMULATION
    "make a socket of the kernel's ciphers",
    "make a socket to the hypervisor",
    "connect by MPTCP",
    "connect by TCP fast open",
    "connect by IPv6",
    "type into a terminal",  # dev.tty.legacy_tiocsti
    "trace another process",  # kernel.yama.ptrace_scope
    "read another process's memory",
    "take a descriptor of another process",
    "read the memory of the supervisor",
    "use io_uring",
    "use userfaultfd",
    "watch the machine's performance counters",
    "make a user namespace",
    "make a user namespace by clone",
    "make a user namespace by clone3",
    "mount in a namespace of its own",
    "use the new mount calls",
    "find a file's handle",
    "give another file an attribute",
    "open a message queue of another process",
    "change the flags of a file that may be read",  # file systems
    "give a file that may be read a project",
    "give a file that may be read an attribute by its descriptor",
    "hear of all files by fanotify",
    "ask the kernel for the machine's sockets",  # CONFIG_INET_DIAG
    "list the user's keys",  # CONFIG_KEYS
    "see the user's keyrings",
    "see what another process waits in",
}
"""What a kernel may refuse by itself; the rest succeeds on every machine, or the test of it is broken."""

pytestmark = pytest.mark.timeout(600)


def test_there_are_enough_attacks_and_each_has_its_own_name():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 40
    assert {attack.layer for attack in ATTACKS} >= {"fs", "syscalls", "namespaces", "net", "signals", "tree", "limits"}


@pytest.mark.parametrize("user", USERS)
def test_under_an_imitation_of_dockers_filter_none_does(user):
    """But for those that a profile cannot stop, which are named in the data and in the guide."""
    found = attack_report.try_attacks("container", user=user)
    losses = {attack.name for attack in ATTACKS if "nons" in attack.losses}
    assert {name: result for name, result in found.items() if result != STOPPED and name not in losses} == {}


@pytest.fixture
def doctor():
    """Runs `interlock doctor --attack` as a command: what it printed. `user` is whom root becomes for it."""
    home = Path(tempfile.mkdtemp(prefix="doctor-", dir="/var/tmp"))
    program = [sys.executable, "-c", "from interlock.surfaces.cli.main import main; main()"]

    def run(*options, user=None):
        command = [*program, "doctor", "--attack", *options]
        if user is not None:
            home.chmod(0o755)
            (home / "own").mkdir()
            os.chown(home / "own", user, user)
            command = [sys.executable, ORDINARY_USER, str(user), str(home / "own"), *command]
        environment = os.environ | {"INTERLOCK_STATE_DIR": str(home / "state")}
        done = subprocess.run(command, capture_output=True, cwd=home, env=environment, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    yield run
    shutil.rmtree(home)


def test_the_doctor_shows_that_none_does_and_leaves_the_machine_as_it_was(doctor):
    before = machine()
    said = json.loads(doctor("--json"))
    assert said["ok"]
    for profile in ("ns", "nons"):
        rows = {row["attack"]: row for row in said["attacks"] if row["profile"] == profile}
        assert set(rows) == {attack.name for attack in ATTACKS}
        # Natively every attack succeeds; what a profile stops is shown to need stopping.
        assert {name for name, row in rows.items() if not row["native"]} <= VOID_SOMEWHERE
        losses = {attack.name for attack in ATTACKS if profile in attack.losses}
        assert {name for name, row in rows.items() if row["result"] not in ("stopped", "void")} <= losses
        assert profile != "ns" or not losses
    assert machine() == before


def test_the_doctor_shows_it_to_an_ordinary_user_as_a_table(doctor):
    head, *lines, last = doctor(user=USERS[-1]).splitlines()
    assert head.split() == ["attack", "layer", "ns", "nons"]
    for attack, line in zip(ATTACKS, lines, strict=True):
        assert line.startswith(f"  {attack.name} ")
        layer, ns, nons = line[2 + len(attack.name) :].split(maxsplit=2)
        assert layer == attack.layer
        assert ns in ("stopped", "void")
        assert nons in ("stopped", "void") or attack.losses
    assert " 0 escaped" in last


def machine():
    """What an attack that is not held back would change."""
    settings = [Path(f"/proc/sys/kernel/{name}").read_text() for name in ("core_pattern", "hostname", "domainname")]
    mounts = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if "interlock" in line or " /tmp " in line
    ]
    state = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[0]
    return settings, mounts, state == "T"


def test_an_attack_that_succeeds_is_seen(monkeypatch):
    """The judge is not blind: without walls around it the same range reports an escape."""
    assert attack_report.try_attacks("native", only=["read another file"]) == {"read another file": ESCAPED}


def test_of_attacks_that_share_an_action_each_has_its_own_result(tmp_path):
    """One that hangs, fails or ends all of them hides nothing: what was not tried has no result, and counts as an escape."""
    cases = {
        "hangs": "time.sleep(60)",
        "leaves a child that hangs": "os.fork() or time.sleep(5)",
        "prints for ever": "while True: print('x' * 1000)",
        "fails": "raise ValueError",
        "succeeds": "escaped()",
        "succeeds with its last breath": "escaped(); os.kill(os.getpid(), 9)",
        "is refused": "open('/nonexistent')",
        "runs a program that succeeds": "os.execv('/bin/echo', ['echo', 'ESCAPED'])",
        "ends all of them": "os.kill(os.getppid(), 9)",
        "comes too late": "escaped()",
    }
    arguments = json.dumps({"workspace": str(tmp_path)}), json.dumps([0.5, list(cases.items())])
    program = [sys.executable, "-I", "-S", "-c", PRELUDE + BATCH, *arguments]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    assert attack_range._judge_each(done.stdout) == {
        "hangs": HUNG,
        "leaves a child that hangs": HUNG,
        "prints for ever": HUNG,
        "fails": STOPPED,
        "succeeds": ESCAPED,
        "succeeds with its last breath": ESCAPED,
        "is refused": STOPPED,
        "runs a program that succeeds": ESCAPED,
    }
