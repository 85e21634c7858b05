"""What users of other sandboxes complain of, each as a test, with the real programs, in `ns` and in `nons`.

In `nons` there are no sockets at all and no private `/tmp`: what needs them is refused there, at once, with an errno. The cases,
with the complaint in brackets, and their tests (of this file, unless a file is named):

- Go's TLS behind CONNECT, never somebody in the middle (claude-code 26466):
  egress/test_egress_programs.py::test_a_go_program_speaks_tls_with_the_server_itself
- git over ssh to a named `host:22` (claude-code 70684):
  egress/test_egress_programs.py::test_git_clones_over_ssh_from_a_named_host_and_port
- Node's `fetch`, with proxy variables and without (agent-sdk 396): egress/test_egress_programs.py::test_node_fetches
- Gradle: a JVM, which knows no proxy variables, with a daemon on loopback (claude-code 16222):
  test_a_jvm_talks_to_itself_as_gradle_does, test_builds_of_a_jvm_have_a_home, test_gradle_builds,
  egress/test_egress_programs.py::test_a_jvm_fetches
- `send` without an address, asyncio (codex 33793): test_asyncio_works_and_a_send_without_an_address_is_not_denied
- AF_UNIX sockets of its own (39140): test_sockets_of_its_own_by_path_and_by_name
- semaphores, `/dev/shm`, `/tmp` (7251): test_semaphores_and_shared_memory_are_its_own,
  isolation/test_isolation_walls.py::test_temporary_files_do_not_outlive_the_action
- caches of uv, pip and npm, in the home and in the workspace (uv 16820): test_package_managers_have_their_caches
- git worktrees (claude-code 33615, codex 19786): test_a_linked_worktree_in_the_workspace_is_committed_to,
  workspace/test_workspace_layers.py::test_git_worktrees_work_in_a_layer
- git's configuration is read by all, and protected at commit (80278): test_gits_configuration_is_read_by_every_program,
  workspace/test_workspace_layers.py::test_what_runs_later_is_held_until_it_is_named
- nothing is left in the workspace after SIGKILL (sandbox-runtime 139): test_no_placeholder_is_left_after_a_kill
- AppArmor, refused mounts: each step is probed, weaker walls stand, the fix is named (codex 15057, 23468):
  engine/test_engine_walls.py::test_where_namespaces_are_refused_the_next_weaker_walls_stand_and_it_is_reported,
  cli/test_cli_machine.py::test_doctor_says_in_one_line_what_is_absent
- a dev server ends with its action, which says so, and `proc.start` keeps it (35986):
  test_a_server_in_the_background_ends_with_its_action_and_is_counted,
  executors/test_executors_background.py::test_a_server_outlives_its_action_and_each_event_loop
- `localhost:5432` by name (28018): egress/test_egress_walls.py::test_a_local_service_by_name_is_a_stated_exception
- nested mounts (apptainer 1914):
  workspace/test_workspace_layer_traps.py::test_what_is_mounted_inside_the_workspace_is_seen_in_a_copy_and_stays_mounted
- Docker's socket (nono 781): test_a_socket_of_the_machine_is_not_reached
- ssh and git never ask on a terminal: test_nothing_asks_on_the_terminal_that_the_runtime_was_started_from
- pnpm's hard links (6338): engine/test_engine_layer_links.py::test_a_file_tool_changes_the_name_that_it_is_given_and_no_other
- sqlite's WAL, mmap, inotify: test_sqlite_mmap_and_inotify_work,
  workspace/test_workspace_layers.py::test_sqlite_wal_mmap_and_inotify_work_in_a_layer
- programs without a terminal: test_programs_without_a_terminal_know_it, test_a_program_can_have_a_terminal_of_its_own
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from interlock.isolation.client import ForkServer
from interlock.isolation.spec import WallSpec
from interlock.model.errors import ToolError

PYTHON = os.path.realpath(sys.executable)
GIT = "git -c user.name=n -c user.email=e@example.org"
LIMITS = {"memory_bytes": 8 << 30, "file_bytes": 1 << 32, "open_files": 65536, "processes": 256, "cpu_ms": None}
PATH = "/usr/local/bin:/usr/bin:/bin"

pytestmark = pytest.mark.timeout(120)


class Place:
    """A workspace, and programs behind the walls of one profile, from one fork server for all tests."""

    def __init__(self, server: ForkServer, root: Path, profile: str):
        self.server, self.root, self.profile = server, root, profile

    async def start(self, *argv, env=None, **spec):
        # Bound too, so that it is seen beneath the private /tmp, where a checkout may lie.
        binds = ({"path": sys.prefix, "writable": False},)
        walls = WallSpec(profile=self.profile, workspace=os.fspath(self.root), binds=binds, **spec)
        request = {
            "argv": list(argv), "search": PATH, "environment": {"PATH": PATH, "LANG": "C.UTF-8", **(env or {})},
            "home": True, "home_files": {}, "timeout_ms": 60_000, "grace_ms": 300, "keep_bytes": 1 << 20,
            "keep_last": False, "limits": LIMITS, "call": None, "walls": walls.wire(), "directory": "", "descriptors": [],
        }  # fmt: skip
        cwd = os.open(self.root, os.O_PATH)
        try:
            outcome = await self.server.run(request, cwd=cwd)
        finally:
            os.close(cwd)
        assert outcome.report["failure"] is None, outcome.report
        return outcome

    def sh(self, script, **options):
        """What a script printed; it must end well."""
        return self.run("/bin/sh", "-ec", script, **options)

    def python(self, code, **options):
        return self.run(PYTHON, "-I", "-c", code, **options)

    def run(self, *argv, **options):
        outcome = asyncio.run(self.start(*argv, **options))
        assert outcome.report["exit_code"] == 0, outcome
        return outcome.stdout.decode()


def server_of(profile):
    return ForkServer(launch=lambda: {"namespaces": profile == "ns", "shown": [sys.base_prefix, sys.prefix]})


@pytest.fixture(scope="module")
def servers():
    made = {profile: server_of(profile) for profile in ("ns", "nons")}
    yield made
    for server in made.values():
        server.close()


@pytest.fixture(params=["ns", "nons"])
def place(request, servers, tmp_path):
    (tmp_path / "work").mkdir()
    return Place(servers[request.param], tmp_path / "work", request.param)


def test_each_case_above_names_tests_that_exist():
    assert __doc__ is not None
    elsewhere = re.findall(r"(\w+/test_\w+\.py)::(test_\w+)", __doc__)
    here = set(re.findall(r"(?<!:)\b(test_\w+)\b(?!\.py)", __doc__)) - {name for _, name in elsewhere}
    assert len(here) >= 12
    assert len(elsewhere) >= 10
    assert not [name for name in here if name not in globals()]
    for file, name in elsewhere:
        assert f"def {name}(" in (Path(__file__).parent.parent / file).read_text(), f"{file}::{name}"


# -- sockets and memory of its own

SENDS = """
import asyncio, os, socket
a, b = socket.socketpair()
a.send(b"x"); assert b.recv(1) == b"x"
a.sendmsg([b"z"]); assert b.recv(1) == b"z"

async def main():
    process = await asyncio.create_subprocess_exec("/bin/echo", "child", stdout=-1)
    print((await process.communicate())[0].decode().strip(), await asyncio.to_thread(os.getpid) == os.getpid())

asyncio.run(main())
"""


def test_asyncio_works_and_a_send_without_an_address_is_not_denied(place):
    assert place.python(SENDS) == "child True\n"


OWN = """
import errno, os, socket
for name in ("./socket", os.environ["HOME"] + "/socket", "\\0name"):
    try:
        server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        server.bind(name); server.listen(); client.connect(name); client.send(b"x"); print(server.accept()[0].recv(1))
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_sockets_of_its_own_by_path_and_by_name(place):
    assert place.python(OWN).split() == (["b'x'"] if place.profile == "ns" else ["EAFNOSUPPORT"]) * 3


MEMORY = """
import errno, multiprocessing, tempfile
from multiprocessing import shared_memory
mp = multiprocessing.get_context("fork")

def work(gate, block):
    with gate:
        block.buf[0] += 1

try:
    gate, block = mp.Semaphore(1), shared_memory.SharedMemory(create=True, size=64)
    block.buf[0] = 0
    children = [mp.Process(target=work, args=(gate, block)) for _ in range(3)]
    for one in children: one.start()
    for one in children: one.join()
    print(block.buf[0])
    block.close(); block.unlink()
except OSError as error:
    print(errno.errorcode[error.errno])
with tempfile.NamedTemporaryFile() as file:
    print(file.write(b"abcd"))
"""


def test_semaphores_and_shared_memory_are_its_own(place):
    before = set(os.listdir("/dev/shm"))
    assert place.python(MEMORY).split() == (["3", "4"] if place.profile == "ns" else ["EACCES", "4"])
    assert set(os.listdir("/dev/shm")) - before == set()


def test_a_socket_of_the_machine_is_not_reached(place, tmp_path):
    """As Docker's: neither where it lies outside of the workspace, nor where it lies in it."""
    with contextlib.ExitStack() as stack:
        for path in (tmp_path / "docker.sock", place.root / "docker.sock"):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(os.fspath(path))
            server.listen()
        code = f"""
import errno, socket
for path in ({os.fspath(tmp_path / "docker.sock")!r}, "docker.sock"):
    try: socket.socket(socket.AF_UNIX).connect(path); print("CONNECTED")
    except OSError as error: print(errno.errorcode[error.errno])
"""
        hidden = (os.fspath(place.root / "docker.sock"),) if place.profile == "ns" else ()
        said = place.python(code, hidden=hidden).split()
    assert len(said) == 2
    assert set(said) <= ({"ENOENT", "EACCES", "ECONNREFUSED"} if place.profile == "ns" else {"EAFNOSUPPORT"})


JVM = """
import java.net.*;
public class Own {
    public static void main(String[] a) throws Exception {
        InetAddress here = InetAddress.getLoopbackAddress();
        try (ServerSocket daemon = new ServerSocket(0, 5, here); DatagramSocket lock = new DatagramSocket(0, here);
             DatagramSocket other = new DatagramSocket(0, here)) {
            new Thread(() -> {
                try (Socket s = daemon.accept()) { s.getOutputStream().write(42); } catch (Exception e) { }
            }).start();
            try (Socket s = new Socket(here, daemon.getLocalPort())) { System.out.println(s.getInputStream().read()); }
            other.send(new DatagramPacket(new byte[] {7}, 1, here, lock.getLocalPort()));
            DatagramPacket got = new DatagramPacket(new byte[1], 1);
            lock.receive(got);
            System.out.println(got.getData()[0]);
        } catch (SocketException e) { System.out.println("refused"); }
        Process child = new ProcessBuilder("/bin/echo", "child").start();
        System.out.print(new String(child.getInputStream().readAllBytes()));
    }
}
"""


def test_a_jvm_talks_to_itself_as_gradle_does(place):
    """A daemon and its client over loopback, and UDP for the lock of the build's files."""
    (place.root / "Own.java").write_text(JVM)
    said = place.sh("javac Own.java; java -Xmx256m Own").split()
    assert said == (["42", "7", "child"] if place.profile == "ns" else ["refused", "child"])


HOME_OF_A_JVM = """
import java.nio.file.*;
public class Home {
    public static void main(String[] a) throws Exception {
        Path home = Path.of(System.getProperty("user.home"));
        Files.createDirectories(home.resolve(".m2/repository"));
        System.out.println(home.equals(Path.of(System.getenv("HOME"))));
    }
}
"""


def test_builds_of_a_jvm_have_a_home(place):
    """A JVM asks for its user's entry in /etc/passwd, whose directory is not there; so Gradle, Maven and sbt are told."""
    (place.root / "Home.java").write_text(HOME_OF_A_JVM)
    assert place.sh(
        'javac Home.java; java $MAVEN_OPTS Home; java $GRADLE_OPTS Home; echo "${GRADLE_USER_HOME#$HOME}"'
    ).split() == [
        "true",
        "true",
        "/.gradle",
    ]
    assert place.sh("echo $MAVEN_OPTS", env={"MAVEN_OPTS": "-Xmx1g"}) == "-Xmx1g\n"


def test_gradle_builds(place):
    """The real one, whose daemon ends with the action. Without namespaces there are no sockets, which it needs."""
    (place.root / "build.gradle").write_text("task hello { doLast { println 'built' } }")
    outcome = asyncio.run(place.start("gradle", "--offline", "--console=plain", "hello"))
    assert (b"built" in outcome.stdout) is (place.profile == "ns")


SQLITE = """
import ctypes, mmap, select, sqlite3
c = sqlite3.connect("db"); assert c.execute("pragma journal_mode = wal").fetchone() == ("wal",)
c.execute("create table t (x)"); c.execute("insert into t values (1)"); c.commit(); c.close()
f = open("m", "w+b"); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); m[0:2] = b"ok"; m.flush()
libc = ctypes.CDLL(None); i = libc.inotify_init(); assert libc.inotify_add_watch(i, b".", 0x100) >= 0
open("seen", "w").close(); assert select.select([i], [], [], 5)[0]
"""


def test_sqlite_mmap_and_inotify_work(place):
    place.python(SQLITE)
    assert (place.root / "m").read_bytes()[:2] == b"ok"


# -- package managers


def test_package_managers_have_their_caches(place):
    """pip, uv and npm put something into their caches, in the home and in the workspace."""
    (place.root / "package.json").write_text('{"name": "greetings", "version": "1.0.0"}')
    with tarfile.open(place.root / "greetings.tgz", "w:gz") as archive:
        archive.add(place.root / "package.json", "package/package.json")
    uv = Path(sys.prefix) / "bin" / "uv"
    assert uv.exists(), "the tests need uv, which requirements/dev.txt names"
    pip, venv = f"{sys.executable} -m pip cache dir", f"{uv} -q venv --python {sys.executable}"
    said = place.sh(
        f"""
        {pip}; {venv} one; npm cache add ./greetings.tgz; ls -d $HOME/.cache/uv $HOME/.npm/_cacache
        export PIP_CACHE_DIR=$PWD/.cache/pip UV_CACHE_DIR=$PWD/.cache/uv npm_config_cache=$PWD/.cache/npm
        {pip}; {venv} two; npm cache add ./greetings.tgz; ls .cache
        """,
        env={"PATH": f"{PATH}:{os.path.dirname(program('node'))}"},
    ).split()
    home = said[0].removesuffix("/.cache/pip")
    assert said == [
        *(f"{home}/{p}" for p in (".cache/pip", ".cache/uv", ".npm/_cacache")),
        f"{place.root}/.cache/pip",
        "npm",
        "uv",
    ]
    assert home not in (os.environ["HOME"], os.fspath(place.root))


# -- git


def git(*arguments, cwd):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_linked_worktree_in_the_workspace_is_committed_to(place):
    """Its `.git` is a file that leads to `gitdir`, and that to `commondir`."""
    git("init", "-q", "-b", "main", cwd=place.root)
    git("commit", "-q", "--allow-empty", "-m", "one", cwd=place.root)
    git("worktree", "add", "-q", os.fspath(place.root / "linked"), "-b", "side", cwd=place.root)
    place.sh(f"cd linked; echo 2 > f; git add f; {GIT} commit -qm two; {GIT} worktree add -q ../third main -b third")
    assert git("log", "--format=%s", "side", cwd=place.root).split() == ["two", "one"]
    assert git("log", "--format=%s", "third", "--", cwd=place.root).split() == ["one"]
    git("fsck", "--strict", cwd=place.root)


def test_gits_configuration_is_read_by_every_program(place):
    """What is held at commit, and what is never written, is hidden from nobody."""
    git("init", "-q", cwd=place.root)
    git("config", "user.name", "Ada", cwd=place.root)
    (place.root / ".git" / "hooks" / "pre-commit").write_text("#!/bin/sh\n")
    script = "git config user.name; grep -c name .git/config; cat .git/hooks/pre-commit"
    assert place.sh(script, protected=(".git/config",)).split("\n") == ["Ada", "1", "#!/bin/sh", ""]


# -- what is left


def test_no_placeholder_is_left_after_a_kill(place):
    """Of protected files that do not exist, and of hidden ones: whoever is killed, the workspace is as it was."""
    (place.root / "interlock.toml").write_text("")
    killed = Place(server_of(place.profile), place.root, place.profile)
    protected = ("interlock.toml", "policy", "deep/er/mod.py", ".interlock-lock")
    hidden = (f"{place.root}/.state",) if place.profile == "ns" else ()

    async def main():
        script = "echo up > here; sleep 60"
        task = asyncio.ensure_future(killed.start("/bin/sh", "-c", script, protected=protected, hidden=hidden))
        while not (place.root / "here").exists():
            await asyncio.sleep(0.01)
        for pid in (killed.server.pid, *children(killed.server.pid)):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ToolError, match="killed"):
            await task

    asyncio.run(main())
    killed.server.close()
    assert sorted(os.listdir(place.root)) == ["here", "interlock.toml"]


def processes():
    """Pid, parent and arguments of each process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                yield int(entry.name), parent, (entry / "cmdline").read_bytes().split(b"\0")


def children(pid):
    return [child for child, parent, _ in processes() if parent == pid]


def test_a_server_in_the_background_ends_with_its_action_and_is_counted(place):
    seconds = f"7{os.getpid()}.5"
    outcome = asyncio.run(
        place.start("/bin/sh", "-c", f"setsid sleep {seconds} > /dev/null 2>&1 & echo started; sleep 0.2")
    )
    assert outcome.stdout == b"started\n"
    assert outcome.report["strays_killed"] == 1
    assert [one for one in processes() if seconds.encode() in one[2]] == []


# -- terminals


def test_programs_without_a_terminal_know_it(place):
    git("init", "-q", cwd=place.root)
    git("commit", "-q", "--allow-empty", "-m", "one", cwd=place.root)
    said = place.sh(
        "for n in 0 1 2; do test -t $n || echo none; done; git -c core.pager='sleep 60' log --format=%s;"
        " (exec < /dev/tty) 2> /dev/null || echo no tty; read line || echo end"
    )
    assert said.split("\n") == ["none", "none", "none", "one", "no tty", "end", ""]


TERMINAL = """
import errno, os, pty
try:
    pid, fd = pty.fork()
except OSError as error:
    print("none"); raise SystemExit
if pid == 0: os.execv("/bin/sh", ["sh", "-c", "test -t 0 && tty"])
print(os.read(fd, 100).decode().strip())
"""


def test_a_program_can_have_a_terminal_of_its_own(place):
    said = place.python(TERMINAL).strip()
    assert said == "none" if place.profile == "nons" else said.startswith("/dev/pts/")


DRIVER = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
from test_isolation_acceptance import Path, Place, server_of
assert os.isatty(0) and os.open("/dev/tty", os.O_RDWR), "no terminal to ask on"
place = Place(server_of(sys.argv[3]), Path(sys.argv[2]), sys.argv[3])
ended = asyncio.run(place.start("/bin/sh", "-c", sys.argv[4]))
place.server.close()
print("ENDED", ended.stdout, ended.stderr, flush=True)
"""
ASKS = """
printf 'protocol=https\\nhost=example.org\\n\\n' | git credential fill; echo git $?
ssh-keygen -q -t ed25519 -N secret -f key; ssh-keygen -y -f key > /dev/null; echo ssh $?
"""


def test_nothing_asks_on_the_terminal_that_the_runtime_was_started_from(place):
    """Interlock in a terminal: git and ssh, which want a password and look for a terminal, end at once."""
    here = os.path.dirname(os.path.abspath(__file__))
    said = in_a_terminal([sys.executable, "-c", DRIVER, here, os.fspath(place.root), place.profile, ASKS])
    assert "ENDED" in said, said
    asked, _, ended = said.partition("ENDED")
    assert "git 128" in ended
    assert "ssh 255" in ended
    assert "could not read Username" in ended
    assert asked == "", "something was written to the terminal"


def in_a_terminal(command):
    """Run a program with a terminal of its own; what was written there, within half a minute."""
    master, terminal = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command], stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    killer = threading.Timer(30, process.kill)
    killer.start()
    said = b""
    with contextlib.suppress(OSError):  # EIO: nobody has it open any more
        while data := os.read(master, 65536):
            said += data
    process.wait()
    killer.cancel()
    os.close(master)
    return said.decode()


def program(name: str) -> str:
    """The path of a program that these tests need; they never pass without it."""
    found = shutil.which(name)
    assert found is not None, f"the tests need `{name}`: see scripts/test"
    return found
