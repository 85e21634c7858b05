"""Real programs behind real walls, in both profiles."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.isolation.client import ForkServer
from interlock.isolation.spec import WallSpec


class Room:
    """A workspace, and programs behind the walls of one profile."""

    def __init__(self, bench, root: Path, profile: str):
        self.bench = bench
        self.root = root
        self.profile = profile
        bench.server = ForkServer(launch=lambda: {"namespaces": profile == "ns", "shown": [sys.base_prefix]})

    def outcome(self, *argv, descriptors=None, cwd=None, request=None, **spec):
        walls = WallSpec(profile=self.profile, workspace=os.fspath(self.root), **spec)
        asked = self.bench.request(*argv, walls=walls.wire(), home=True, **(request or {}))
        opened = os.open(cwd or self.root, os.O_PATH)
        try:
            given = {**walls.descriptors(), **(descriptors or {})}
            return asyncio.run(self.bench.server.run(asked, cwd=opened, descriptors=given))
        finally:
            os.close(opened)

    def sh(self, script, **spec):
        """What a script printed; it must end well."""
        outcome = self.outcome("/bin/sh", "-c", script, **spec)
        assert outcome.report["failure"] is None, outcome.report
        assert outcome.report["exit_code"] == 0, outcome
        return outcome.stdout.decode()


@pytest.fixture(params=["ns", "nons"])
def room(request, bench, tmp_path):
    (tmp_path / "work").mkdir()
    return Room(bench, tmp_path / "work", request.param)


@pytest.fixture
def inside(bench, tmp_path):
    """A room with namespaces of its own."""
    (tmp_path / "work").mkdir()
    return Room(bench, tmp_path / "work", "ns")


def test_the_workspace_is_read_and_written(room):
    (room.root / "a").write_text("before\n")
    assert room.sh("cat a; echo after > b; mkdir -p d/e; mv b d/e/c; pwd") == f"before\n{room.root}\n"
    assert (room.root / "d/e/c").read_text() == "after\n"


def test_nothing_else_of_the_machine_is_written(room, tmp_path):
    (tmp_path / "other").write_text("mine")
    loaded = "! true >> /etc/ld.so.cache; ! true >> $(command -v sh)"
    done = room.sh(
        f"! echo x > {tmp_path}/other; ! touch /usr/x /etc/x; ! rm -f {tmp_path}/other; {loaded} && echo held"
    )
    assert done == "held\n"
    assert (tmp_path / "other").read_text() == "mine"


def test_other_files_of_the_user_are_not_read(room, tmp_path):
    (tmp_path / "key").write_text("secret")
    assert "secret" not in room.sh(f"cat {tmp_path}/key ../key 2>/dev/null; ls -a /root /home 2>/dev/null; true")


def test_passwords_are_not_in_etc(room):
    assert room.sh("cat /etc/shadow /etc/gshadow 2>/dev/null; true") == ""
    assert "root:" in room.sh("cat /etc/passwd")


def test_a_link_in_the_workspace_does_not_lead_out(room, tmp_path):
    (tmp_path / "key").write_text("secret")
    (room.root / "link").symlink_to(tmp_path / "key")
    assert "secret" not in room.sh("cat link 2>/dev/null; true")


def test_home_is_private_and_can_be_written(room):
    assert room.sh("touch $HOME/x && ls $HOME") == "x\n"


def test_files_of_the_users_home_that_are_named_are_copied(room, tmp_path):
    (tmp_path / "gitconfig").write_text("[user]")
    request = {"home_files": {".config/git": os.fspath(tmp_path / "gitconfig")}}
    assert room.sh("cat $HOME/.config/git", request=request) == "[user]"


def test_there_is_no_network(room):
    code = "import socket\ntry:\n socket.create_connection(('127.0.0.1', 9), 2)\nexcept OSError: print('none')"
    assert room.outcome(os.path.realpath(sys.executable), "-I", "-c", code).stdout == b"none\n"


def test_a_user_is_who_they_were_without_any_capability(room):
    none = "".join(f"Cap{kind}:\t{0:016x}\n" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    assert room.sh("id -u; grep -h ^Cap /proc/self/status") == f"{os.getuid()}\n{none}"


def test_nothing_of_the_machines_processes_is_read(room):
    environment = room.sh(f"cat /proc/{os.getpid()}/environ /proc/{os.getppid()}/environ 2>/dev/null; true")
    assert environment == ""


def test_the_tree_is_gone_when_the_program_is(room):
    room.sh(room.bench.script("setsid $MARK & ($MARK &) ; true"))
    room.bench.wait_marked(0)


def test_a_time_out_ends_it_and_keeps_what_it_printed(room):
    script = room.bench.script("echo first; trap '' TERM; $MARK & wait; $MARK")
    outcome = room.outcome("/bin/sh", "-c", script, request={"timeout_ms": 300})
    assert (outcome.report["stopped"], outcome.stdout) == ("timeout", b"first\n")
    room.bench.wait_marked(0)


def test_a_program_that_is_not_there_says_so(room):
    assert room.outcome("nothing-of-that-name").report["failure"] == {"step": "exec", "errno": 2}


def test_the_working_directory_is_reached_anew(room):
    (room.root / "sub").mkdir()
    assert room.sh("pwd; cd ..; pwd; ls", cwd=room.root / "sub") == f"{room.root}/sub\n{room.root}\nsub\n"


def test_only_what_is_configured_as_writable_is(inside):
    for name in ("src", "docs"):
        (inside.root / name).mkdir()
    inside.sh("touch src/a; ! touch docs/b c; ! rmdir src", writable=("src",))
    assert sorted(p.name for p in inside.root.rglob("*")) == ["a", "docs", "src"]


def test_what_the_loader_reads_is_never_written(inside):
    (inside.root / "tools" / "deep").mkdir(parents=True)
    (inside.root / "tools" / "deep" / "mod.py").write_text("trusted")
    (inside.root / "interlock.toml").write_text("trusted")
    tricks = (
        "echo x > interlock.toml; rm -f interlock.toml; mv interlock.toml y; ln -f /etc/passwd interlock.toml;"
        "echo x > tools/deep/mod.py; mv tools other; mv tools/deep tools/other; rm -rf tools; chmod 777 interlock.toml; true"
    )
    inside.outcome("/bin/sh", "-c", tricks, protected=("interlock.toml", "tools/deep/mod.py", "not/there"))
    assert (inside.root / "interlock.toml").read_text() == "trusted"
    assert (inside.root / "tools" / "deep" / "mod.py").read_text() == "trusted"


def test_without_namespaces_it_is_never_written_either_where_that_is_asked_for(bench, tmp_path):
    """At a price: nothing is made, renamed or removed beside it. All else is written as ever."""
    (tmp_path / "work").mkdir()
    alone = Room(bench, tmp_path / "work", "nons")
    for path in ("interlock.toml", "tools/deep/mod.py", "tools/other/free", "free", "src/a"):
        (alone.root / path).parent.mkdir(parents=True, exist_ok=True)
        (alone.root / path).write_text("as it was")
    (alone.root / "way").symlink_to("interlock.toml")
    kept = ("interlock.toml", "tools/deep/mod.py", "policy/not-there.cedar")
    tricks = (
        "echo x > interlock.toml", "echo x > way", "rm -f interlock.toml", "mv interlock.toml y", "mv free interlock.toml",
        "ln interlock.toml src/link && echo x > src/link", "ln -f free interlock.toml", "truncate -s0 interlock.toml",
        "echo x >> tools/deep/mod.py", "mv tools src/tools", "mv tools/deep src/deep", "rm tools/deep/mod.py",
        "mkdir policy", "mkdir src/policy && mv src/policy policy", "echo x >> src/../interlock.toml",
        "exec 3<>tools/deep/mod.py && echo x >&3", "cp src/a tools/deep/mod.py", "rmdir tools/deep",
    )  # fmt: skip
    done = alone.sh(
        "; ".join(f"( {trick} ) 2>/dev/null && echo '{trick}'" for trick in tricks) + "; true",
        protected=kept,
        guarded=True,
    )
    assert done == ""
    assert (alone.root / "interlock.toml").read_text() == (alone.root / "tools/deep/mod.py").read_text() == "as it was"
    others = "echo new > src/b && mkdir -p src/d && mv src/b src/d/b && rm src/a tools/other/free && echo x > free && cat src/d/b"
    assert alone.sh(others, protected=kept, guarded=True) == "new\n"


CUT = """
import ctypes, os, sys
from interlock.isolation import landlock, seccomp, syscalls
landlock.confine(read=["/usr", "/lib"], write=[], devices=[], ports=[], version=2)
syscalls.forbid_new_privileges()
syscalls.load_filter(seccomp.assemble(seccomp.program("pairs", truncation=sys.argv[1] == "free")))
for way in (lambda: os.truncate(sys.argv[2], 1), lambda: os.open(sys.argv[3], os.O_TRUNC | 3)):
    try: way()
    except OSError as error: print(error.errno)
"""


@pytest.mark.parametrize(("filtered", "sizes"), [("free", [1, 0]), ("filtered", [4, 4])])
def test_an_old_landlock_lets_files_be_cut_and_the_filter_does_not(tmp_path, filtered, sizes):
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text("mine")
    subprocess.run([sys.executable, "-c", CUT, filtered, *files], check=True)
    assert [file.stat().st_size for file in files] == sizes


def test_a_state_directory_in_the_workspace_is_not_seen(inside):
    (inside.root / ".state").mkdir()
    (inside.root / ".state" / "key").write_text("secret")
    hidden = (os.fspath(inside.root / ".state"),)
    assert inside.sh("cat .state/key 2>/dev/null; ls -A .state; ! touch .state/x", hidden=hidden) == ""


def test_more_of_the_machine_is_seen_where_the_caller_says(inside, tmp_path):
    for name in ("read", "write"):
        (tmp_path / name).mkdir()
    binds = tuple({"path": os.fspath(tmp_path / n), "writable": n == "write"} for n in ("read", "write"))
    inside.sh("! touch ../read/a; touch ../write/b", binds=binds)
    assert [p.name for p in (tmp_path / "write").iterdir()] == ["b"]
    assert list((tmp_path / "read").iterdir()) == []


def test_pid_1_cannot_be_traced_or_ended_from_within(inside):
    said = inside.sh("kill -9 1; kill -STOP 1; cat /proc/1/environ /proc/1/maps 2>/dev/null; echo alive")
    assert said == "alive\n"


def test_temporary_files_do_not_outlive_the_action(inside):
    inside.sh("touch /tmp/x /dev/shm/x /var/tmp/y")
    assert inside.sh("ls -d /tmp/x /dev/shm/x /var/tmp/y 2>/dev/null; true") == ""


def test_a_large_input_and_binary_output_pass(room):
    data = os.urandom(1 << 20) * 20
    opened = os.open(room.root, os.O_PATH)
    walls = WallSpec(profile=room.profile, workspace=os.fspath(room.root)).wire()
    try:
        request = room.bench.request("sha256sum", walls=walls)
        outcome = asyncio.run(room.bench.server.run(request, cwd=opened, stdin=data))
        request = room.bench.request("head", "-c", "100000", walls=walls)
        echoed = asyncio.run(room.bench.server.run(request, cwd=opened, stdin=data))
    finally:
        os.close(opened)
    expected = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout
    assert outcome.stdout == expected
    assert echoed.stdout == data[:100_000]


def test_a_directory_is_shown_whole_although_something_in_it_is_named_first(bench, tmp_path):
    """Interlock's own Python is beneath `.pyenv`, which has other programs too."""
    room = Room(bench, tmp_path, "ns")
    bench.server.close()
    shown = [f"{sys.base_prefix}/lib", sys.base_prefix]
    bench.server = ForkServer(launch=lambda: {"namespaces": True, "shown": shown})
    assert set(room.sh(f"ls -A {sys.base_prefix}").split()) == set(os.listdir(sys.base_prefix))
