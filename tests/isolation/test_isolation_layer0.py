"""What every process gets: nothing of the runtime but what the request names, and limits that it cannot raise."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys

import pytest

from interlock.isolation.client import ForkServer, fork_server_command
from interlock.model.errors import ToolError

PROBE = """
import json, os, resource, signal
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "environment": dict(os.environ),
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")),
    "no_new_privs": status["NoNewPrivs"],
    "ignored": status["SigIgn"],
    "blocked": status["SigBlk"],
    "session": os.getsid(0) == os.getpid(),
    "cwd": os.getcwd(),
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in
               ("RLIMIT_CORE", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_NPROC")},
}))
"""


def probe(bench, **changes):
    outcome = bench.run("/bin/sh", "-c", f"exec {sys.executable} -I -S -c '{PROBE}'", **changes)
    assert outcome.report["exit_code"] == 0, outcome.stderr
    return json.loads(outcome.stdout)


def test_the_environment_is_the_requests_and_no_other(bench, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-leak")
    seen = probe(bench, environment={"PATH": "/usr/bin:/bin", "WANTED": "1"})["environment"]
    assert {k: v for k, v in seen.items() if k not in ("PWD", "LC_CTYPE", "SHLVL", "_", "OLDPWD")} == {
        "PATH": "/usr/bin:/bin",
        "WANTED": "1",
    }


def test_no_process_in_between_holds_the_runtimes_environment(bench, monkeypatch):
    """The fork server's own memory and /proc are what its children share or can read."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-leak")
    outcome = bench.sh('cat /proc/$PPID/environ /proc/$(ps -o ppid= $PPID | tr -d " ")/environ /proc/self/environ')
    assert outcome.report["exit_code"] == 0
    assert b"PATH" in outcome.stdout
    assert b"do-not-leak" not in outcome.stdout


def test_only_the_three_standard_descriptors_are_open(bench):
    leak, other = os.pipe()
    os.set_inheritable(leak, True)
    os.set_inheritable(other, True)
    try:
        # The listing itself is the fourth, and gone when its name is looked at.
        assert probe(bench, stdin=b"x")["descriptors"] == [0, 1, 2]
    finally:
        os.close(leak)
        os.close(other)


def test_privileges_session_and_signals(bench):
    seen = probe(bench)
    assert seen["no_new_privs"] == "1"
    assert seen["session"]
    assert int(seen["blocked"], 16) == 0
    python_ignores = {signal.SIGPIPE, signal.SIGXFSZ}  # the probe itself is Python
    ignored = {n for n in range(1, 65) if int(seen["ignored"], 16) >> (n - 1) & 1}
    assert ignored & signal.valid_signals() <= python_ignores


def test_limits_are_hard(bench):
    limits = probe(bench, limits={"memory_bytes": 1 << 29, "file_bytes": 1 << 20, "open_files": 300})["limits"]
    assert limits["RLIMIT_CORE"] == [0, 0]
    assert limits["RLIMIT_DATA"] == [1 << 29, 1 << 29]
    assert limits["RLIMIT_FSIZE"] == [1 << 20, 1 << 20]
    assert limits["RLIMIT_NOFILE"] == [300, 300]
    assert 0 < limits["RLIMIT_NPROC"][1] < 1 << 20


def test_memory_beyond_the_limit_is_refused(bench):
    program = "b = bytearray(300 << 20)"
    assert bench.run(sys.executable, "-c", program, limits={"memory_bytes": 1 << 30}).report["exit_code"] == 0
    outcome = bench.run(sys.executable, "-c", program, limits={"memory_bytes": 1 << 27})
    assert outcome.report["exit_code"] == 1
    assert b"MemoryError" in outcome.stderr


def test_a_file_beyond_the_limit_ends_its_writer(bench):
    outcome = bench.run("head", "-c", "2000000", "/dev/zero", limits={"file_bytes": 1 << 20})
    assert outcome.report["exit_code"] == 0  # a pipe is no file
    outcome = bench.run("dd", "if=/dev/zero", "of=big", "bs=100000", "count=20", limits={"file_bytes": 1 << 20})
    assert outcome.report["signal"] == signal.SIGXFSZ
    assert (bench.root / "big").stat().st_size == 1 << 20


def test_a_home_of_its_own_that_is_gone_afterwards(bench):
    script = 'test -z "$(ls -A $HOME)" && echo $HOME && mkdir -p $HOME/a/b && touch $HOME/a/b/c && chmod 0 $HOME/a'
    outcome = bench.sh(script, home=True)
    home = outcome.stdout.decode().strip()
    assert home.startswith("/tmp/interlock-action-home-")
    assert not os.path.lexists(home)


def test_no_room_for_a_home_is_a_clear_error(bench):
    full = "\nfrom interlock.isolation import supervisor\nsupervisor.Home = lambda files: os.mkdir('/proc/x')\n"
    boot = "import os\n" + fork_server_command()[-1].replace("\nmain()", f"{full}main()")
    bench.server.close()
    bench.server = ForkServer([*fork_server_command()[:-1], boot])
    assert bench.run("true", home=True).report["failure"] == {"step": "home", "errno": errno.ENOENT}


def test_a_link_in_the_home_is_removed_and_not_followed(bench):
    victim = bench.root / "victim"
    victim.mkdir(mode=0o500)
    (bench.root / "kept").write_text("kept")
    outcome = bench.sh(f"ln -s {victim} $HOME/link; ln -s {bench.root} $HOME/other; echo $HOME", home=True)
    assert not os.path.lexists(outcome.stdout.decode().strip())
    assert stat.S_IMODE(victim.stat().st_mode) == 0o500
    assert (bench.root / "kept").read_text() == "kept"


def test_a_home_that_became_a_link_is_removed_and_not_followed(bench):
    (bench.root / "sub").mkdir(mode=0o500)
    outcome = bench.sh(f"rmdir $HOME; ln -s {bench.root} $HOME; echo $HOME", home=True)
    assert not os.path.lexists(outcome.stdout.decode().strip())
    assert stat.S_IMODE((bench.root / "sub").stat().st_mode) == 0o500


def test_the_working_directory_is_the_one_that_was_opened(bench):
    """By descriptor, so renaming it in between changes nothing."""
    here = bench.root / "here"
    here.mkdir()
    bench.root = here
    assert probe(bench)["cwd"] == str(here)


def failure(outcome):
    assert "exit_code" not in outcome.report
    return outcome.report["failure"]["step"], outcome.report["failure"]["errno"]


def test_why_nothing_was_started_is_distinguished(bench):
    (bench.root / "plain").write_text("text")
    (bench.root / "script").write_text("#!/nonexistent/interpreter\n")
    (bench.root / "garbage").write_bytes(b"\x7fELFnot really")
    for name in ("script", "garbage"):
        (bench.root / name).chmod(0o755)
    assert failure(bench.run("no-such-program")) == ("exec", errno.ENOENT)
    assert failure(bench.run("./absent")) == ("exec", errno.ENOENT)
    assert failure(bench.run("./plain")) == ("exec", errno.EACCES)
    assert failure(bench.run("/")) == ("exec", errno.EACCES)
    assert failure(bench.run("./script")) == ("exec", errno.ENOENT)
    assert failure(bench.run("./garbage")) == ("exec", errno.ENOEXEC)
    assert failure(bench.run("./plain/x")) == ("exec", errno.ENOENT)
    assert failure(bench.run("true", "x" * 3_000_000)) == ("exec", errno.E2BIG)


def test_a_program_is_never_taken_from_the_current_directory(bench):
    (bench.root / "ls").write_text("#!/bin/sh\necho evil\n")
    (bench.root / "ls").chmod(0o755)
    assert bench.run("ls", search=".:/usr/bin:/bin").stdout == b"ls\n"
    assert bench.run("ls", search="::/usr/bin:/bin").stdout == b"ls\n"


def test_a_file_without_execute_permission_does_not_hide_the_next_one_in_the_path(bench):
    (bench.root / "true").write_text("text")
    assert bench.run("true", search=f"{bench.root}:/usr/bin:/bin").report["exit_code"] == 0


def test_a_directory_that_is_not_a_directory(bench):
    bench.root = bench.root / "file"
    bench.root.write_text("")
    assert failure(bench.run("true")) == ("cwd", errno.ENOTDIR)


@pytest.mark.parametrize(
    ("argv", "environment"),
    [([""], {}), (["a\0b"], {}), (["true", "\ud800"], {}), (["true"], {"A=B": "x"}), (["true"], {"A": "\0"})],
)
def test_what_no_kernel_takes_is_a_report_and_no_traceback(bench, capfd, argv, environment):
    outcome = bench.run(*argv, environment=environment)
    assert outcome.report["failure"] == {"step": "exec", "errno": errno.EINVAL}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, 40])
def test_a_signalled_program_says_so(bench, number):
    report = bench.sh(f"kill -{int(number)} $$").report
    assert (report["exit_code"], report["signal"], report["stopped"]) == (None, number, None)


def test_what_it_used_is_measured_for_the_whole_tree(bench):
    burn = (
        "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nb = bytearray(50 << 20)"
    )
    report = bench.sh(f"{sys.executable} -c '{burn}' & wait").report
    assert 150 < report["cpu_user_ms"] + report["cpu_system_ms"] < 10_000
    assert report["memory_bytes"] > 50 << 20


CLOSED = """
import asyncio, os, sys
sys.path[:0] = {path!r}
from interlock.isolation.client import ForkServer
os.set_inheritable(1, True)
for fd in {closed!r}:
    os.close(fd)
server, cwd = ForkServer(), os.open("/", os.O_PATH)
outcome = asyncio.run(server.run({request!r}, cwd=cwd))
server.close()
os.write({say!r}, outcome.stdout + outcome.stderr)
"""


@pytest.mark.parametrize("closed", [(0,), (2,), (0, 2)])
def test_a_runtime_without_standard_streams(bench, closed):
    request = bench.request("/bin/sh", "-c", "cat; echo out; echo err >&2")
    program = CLOSED.format(path=sys.path, closed=closed, request=request, say=1)
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"out\nerr\n"


def test_many_descriptors_of_the_server_and_a_low_limit(bench):
    """The server has room for more actions than the runtime's soft limit of open files would give it."""

    async def scene():
        return await asyncio.gather(*(bench.start("sleep", "0.5") for _ in range(40)))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 16, hard))
    try:
        bench.run("true")
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        outcomes = asyncio.run(scene())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {outcome.report["exit_code"] for outcome in outcomes} == {0}


def test_no_descriptors_left_is_a_clear_error(bench):
    bench.run("true")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scene():
        cwd = os.open("/", os.O_PATH)
        resource.setrlimit(resource.RLIMIT_NOFILE, (cwd + 2, hard))
        try:
            with pytest.raises(ToolError) as error:
                await bench.server.run(bench.request("true"), cwd=cwd)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.close(cwd)
        return error.value

    assert asyncio.run(scene()).code == "spawn_failed"
    assert bench.run("echo", "again").stdout == b"again\n"


def test_the_server_imports_nothing_of_the_runtime(bench):
    """Its memory is its children's: no keys, no third-party code."""
    maps = bench.sh("cat /proc/$PPID/maps").stdout
    assert b"site-packages" not in maps
    assert b"libcrypto" not in maps
