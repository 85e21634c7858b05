"""What a program can read, in both profiles: what the grant and the settings say, and nothing else of the user's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.isolation import system_files
from interlock.isolation.client import ForkServer
from interlock.isolation.spec import WallSpec

PYTHON = os.path.realpath(sys.executable)


class Room:
    """A workspace with some directories, and programs behind the walls of one profile."""

    def __init__(self, bench, root: Path, profile: str):
        self.bench = bench
        self.root = root
        self.profile = profile
        self.shown = [sys.base_prefix]
        bench.server = ForkServer(launch=lambda: {"namespaces": profile == "ns", "shown": self.shown})
        for name in ("src", "secrets", "build"):
            (root / name).mkdir()
            (root / name / "file").write_text(name)

    def outcome(self, script, *, descriptors=None, request=None, **spec):
        walls = WallSpec(profile=self.profile, workspace=os.fspath(self.root), **spec)
        asked = self.bench.request("/bin/sh", "-c", script, walls=walls.wire(), home=True, **(request or {}))
        cwd = os.open(self.root, os.O_PATH)
        try:
            outcome = asyncio.run(self.bench.server.run(asked, cwd=cwd, descriptors=descriptors or {}))
        finally:
            os.close(cwd)
        return outcome

    def sh(self, script, **spec):
        """What a script printed."""
        outcome = self.outcome(script, **spec)
        assert outcome.report["failure"] is None, outcome.report
        return outcome.stdout.decode()


@pytest.fixture(params=["ns", "nons"])
def room(request, bench, tmp_path):
    (tmp_path / "work").mkdir()
    return Room(bench, tmp_path / "work", request.param)


ONLY_SRC = {"readable": ("src",), "writable": ("build",)}


def test_a_program_reads_what_it_may_and_no_other_file_of_the_workspace(room):
    assert room.sh("cat src/file", **ONLY_SRC) == "src"
    assert room.sh("cat secrets/file build/file; ls . secrets; cat < build/file", **ONLY_SRC) == ""


def test_the_system_and_a_private_home_are_there_as_ever(room):
    said = room.sh(
        "touch $HOME/x && ls $HOME; mktemp >/dev/null && echo temporary; ls /usr >/dev/null && echo usr", **ONLY_SRC
    )
    assert said == "x\ntemporary\nusr\n"
    assert room.sh("cat /etc/passwd | head -c 4; cat /etc/shadow", **ONLY_SRC) == "root"


def test_what_may_only_be_written_cannot_be_read_back(room):
    room.sh("echo made > build/new; cat build/new build/file", **ONLY_SRC)
    assert (room.root / "build/new").read_text() == "made\n"
    assert room.sh("cat build/new", **ONLY_SRC) == ""


@pytest.mark.parametrize(
    "trick",
    [
        "cp secrets/file src/copy",
        "ln secrets/file src/link",
        "ln -s ../secrets/file src/symbolic",
        "mv secrets/file src/moved",
        "mv secrets src/directory",
        "tar cf src/all secrets",
        "cat /proc/self/cwd/secrets/file > src/through",
        "cat /proc/self/root$PWD/secrets/file > src/root",
        "exec 3< secrets; cat /proc/self/fd/3/file > src/descriptor",
    ],
)
def test_no_trick_reads_what_is_not_readable(room, trick):
    """All of it may be written, so only reading stands in the way of these."""
    room.sh(f"{trick}; true", readable=("src",), writable=("",))
    said = room.sh("cat src/* src/*/* 2>/dev/null", readable=("src",), writable=("",))
    assert "secrets" not in said


def test_a_place_that_a_program_made_a_link_leads_nowhere(room, tmp_path):
    """An earlier action replaced a directory that may be read and written by a link: the walls must not follow it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "key").write_text("secret")
    (room.root / "src" / "file").unlink()
    (room.root / "src").rmdir()
    (room.root / "src").symlink_to(tmp_path / "mine")
    for spec in ({"readable": ("src",), "writable": ("src",)}, {"writable": ("src",)}):
        assert room.sh("cat src/key ../mine/key; echo x > src/new; ls src/", **spec) == ""
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["key"]


def test_more_is_read_where_the_caller_says(room, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set").write_text("data")
    binds = ({"path": os.fspath(tmp_path / "data"), "writable": False},)
    assert room.sh("cat ../data/set; echo x > ../data/set", binds=binds, **ONLY_SRC) == "data"
    assert (tmp_path / "data" / "set").read_text() == "data"


def test_a_state_directory_in_what_may_be_read_is_hidden_or_nothing_runs(room, tmp_path):
    state = tmp_path / "share" / "state"
    state.mkdir(parents=True)
    (state / "key").write_text("secret")
    spec = {"binds": ({"path": os.fspath(tmp_path / "share"), "writable": False},), "hidden": (os.fspath(state),)}
    outcome = room.outcome("cat ../share/state/key; ls ../share", **spec)
    if room.profile == "ns":
        assert (outcome.stdout, outcome.report["failure"]) == (b"state\n", None)
    else:
        assert outcome.report["failure"]["step"] == "hidden"


def test_the_state_directory_its_keys_and_other_runs_are_not_reachable(room, tmp_path):
    state = tmp_path / "state"
    for name in ("keys/ed25519.pem", "project/interlock.db", "project/runs/other/private/data", "trust.json"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("SECRET")
    script = (
        f"cat {state}/*/* {state}/keys/ed25519.pem {state}/project/runs/other/private/data; ls -R {state}; find {state}"
    )
    said = room.sh(f"{script} 2>/dev/null; echo done", hidden=(os.fspath(state),))
    assert "SECRET" not in said
    assert "ed25519" not in said.replace(str(state), "")
    room.sh(f"echo x > {state}/keys/ed25519.pem; rm -rf {state}", hidden=(os.fspath(state),))
    assert (state / "keys/ed25519.pem").read_text() == "SECRET"


PROC = """
import os, sys
for pid in sys.argv[1].split(","):
    for name in ("environ", "mem", "maps", "smaps", "io", "auxv", "stack", "syscall", "pagemap", "personality", "clear_refs",
                 "fd", "fdinfo", "map_files", "root/", "cwd/", "exe", "ns/mnt", "task/%s/environ" % pid, "attr/current"):
        path = "/proc/%s/%s" % (pid, name)
        try:
            if name in ("fd", "fdinfo", "map_files", "root/", "cwd/"): os.listdir(path)
            elif name == "exe": os.readlink(path)
            elif name == "ns/mnt": os.close(os.open(path, os.O_RDONLY))
            else:
                with open(path, "rb") as file: file.read(1) if name != "mem" else None
            print(pid, name)
        except OSError:
            pass
"""


def test_the_processes_of_the_machine_show_nothing(room):
    """The runtime, its parent, the fork server and a process that has nothing to do with it."""
    sleeper = subprocess.Popen(["sleep", "60"], env={"TOKEN": "secret"})
    try:
        room.sh("true")  # the fork server runs from here on
        pids = [os.getpid(), os.getppid(), room.bench.server.pid, sleeper.pid]
        said = room.sh(f"{PYTHON} -I -S -c '{PROC.replace(chr(39), chr(34))}' {','.join(map(str, pids))}")
    finally:
        sleeper.kill()
        sleeper.wait()
    assert {line.split()[1] for line in said.splitlines()} <= {
        "attr/current",
        "fd",
    }  # a label, and numbers of descriptors


def test_secrets_among_the_systems_files_are_left_out_and_all_else_is_not(tmp_path):
    """Root could read files of mode 0600 in /etc and /usr/local/etc: without namespaces only Landlock's list prevents it."""
    for name, mode in (("etc/open/a", 0o644), ("etc/open/key", 0o600), ("etc/plain", 0o644), ("lib/b", 0o644)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    secrets = set(system_files.secret_files(os.fspath(tmp_path / "etc")))
    assert secrets == {f"{tmp_path}/etc/open/key"}
    assert sorted(system_files.without(os.fspath(tmp_path), secrets)) == [
        f"{tmp_path}/{name}" for name in ("etc/open/a", "etc/plain", "lib")
    ]
    (tmp_path / "etc").chmod(0o700)
    assert set(system_files.secret_files(os.fspath(tmp_path / "etc"))) == {f"{tmp_path}/etc"}


REPLACED = """
import os, sys
from pathlib import Path
from interlock.isolation import root, syscalls

etc = Path(sys.argv[1]) / "etc"
etc.mkdir()
etc.chmod(0o755)
files = {"passwd": 0o644, "shadow": 0o600, "open/certificate": 0o644, "open/key": 0o600, "closed/file": 0o644}
for name, mode in files.items():
    (etc / name).parent.mkdir(mode=0o755, exist_ok=True)
    (etc / name).write_text(name)
    (etc / name).chmod(mode)
(etc / "large").write_bytes(b"x" * 100_000)
(etc / "link").symlink_to("open/certificate")
(etc / "closed").chmod(0o700)
syscalls.mount(None, "/", None, syscalls.MS_REC | 1 << 18)
syscalls.mount(str(etc), "/etc", None, syscalls.MS_BIND)
ready, go = os.pipe(), os.pipe()
if os.fork() == 0:
    root.prepare([])
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    for path in sorted(Path("/sys/etc").rglob("*")):
        if path.is_file():
            text = path.read_text()
            print(path.relative_to("/sys/etc"), len(text) if len(text) > 100 else text, flush=True)
    os._exit(0)
os.read(ready[0], 1)
for name in ("shadow", "open/key", "large"):
    (etc / "new").write_text("new secret")
    (etc / "new").chmod(0o600)
    (etc / "new").rename(etc / name)
(etc / "open/other.key").write_text("new secret")
(etc / "open/other.key").chmod(0o600)
(etc / "closed").chmod(0o755)
os.write(go[1], b"x")
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read the passwords of /etc, and replace them")
def test_a_secret_of_the_system_stays_hidden_when_it_is_replaced_or_made_while_the_launcher_lives(tmp_path):
    """`passwd` replaces /etc/shadow by a rename, which ends a mount over it; a gateway's launcher lives for days."""
    shown = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", REPLACED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert shown.splitlines() == [
        "large 100000",
        "link open/certificate",
        "open/certificate open/certificate",
        "passwd passwd",
    ]
