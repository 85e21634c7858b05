"""A measured run: its window, its end, its record, and the walls around it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest

from interlock.engine.local.clock import SystemClock
from interlock.engine.measured.run import exit_status, problem_of
from interlock.engine.runs.recover import recover_all
from interlock.journal import JournalWriter
from interlock.model import events as e
from interlock.model.errors import UsageError
from interlock.surfaces.cli import app

WALLED = ["ns", "nons"]


def kinds(events):
    return [type(event).__struct_config__.tag for event in events]


@pytest.mark.parametrize(
    ("script", "exit_code", "number", "status"),
    [("exit 0", 0, None, 0), ("exit 7", 7, None, 7), ("kill -TERM $$", None, 15, 143), ("kill -KILL $$", None, 9, 137)],
)
def test_the_end_is_recorded_as_it_was(project, script, exit_code, number, status):
    result = project.measure("sh", "-c", script)
    assert (result.exit_code, result.signal, result.success) == (exit_code, number, exit_code == 0)
    assert exit_status(result) == status
    events = project.events(result)
    assert kinds(events) == ["run_started", "command_started", "command_finished", "run_finished"]
    started, finished, last = events[1:]
    assert started.window_elapsed_ms == 0
    assert (finished.exit_code, finished.signal, finished.success) == (exit_code, number, exit_code == 0)
    assert finished.window_elapsed_ms == result.window_elapsed_ms
    assert last.status == ("succeeded" if exit_code == 0 else "failed")
    assert project.past.check(result.run_id).ok


@pytest.mark.parametrize("profile", ["none", *WALLED])
def test_a_command_that_cannot_be_started_leaves_a_record(project, profile):
    (project.root / "text").write_text("no program")
    for name, error, status in (("nowhere-to-be-found", "ENOENT", 127), ("./text", "EACCES", 126)):
        result = project.measure(name, profile=profile)
        assert (result.failed_step, result.error, result.success) == ("exec", error, False)
        assert exit_status(result) == status
        assert problem_of(result).code == "spawn_failed"
        events = project.events(result)
        assert kinds(events) == ["run_started", "command_started", "spawn_failed", "run_finished"]
        assert events[2].error == error
        assert project.past.check(result.run_id).ok


def test_variables_are_set_and_only_their_names_are_recorded(project):
    given = {"ZEBRA": "striped-value", "API_TOKEN": "correct-horse-battery"}
    script = 'test "$ZEBRA" = striped-value && test "$API_TOKEN" = "$1" && test -n "$PATH"'
    result = project.measure("sh", "-c", script, "sh", given["API_TOKEN"], "--password", "sesame-99", given=given)
    assert result.success
    started = project.events(result)[1]
    assert started.env_keys == ("API_TOKEN", "ZEBRA")
    assert started.command[:2] == ("sh", "-c")
    record = b"".join(path.read_bytes() for path in project.past.directory(result.run_id).rglob("*") if path.is_file())
    for secret in (b"correct-horse-battery", b"sesame-99"):
        assert secret not in record


def test_an_approvers_token_is_not_handed_on(project):
    project.env["INTERLOCK_APPROVER_TOKEN"] = "abc"
    assert project.measure("sh", "-c", 'test -z "$INTERLOCK_APPROVER_TOKEN"').success


def test_a_clean_environment_has_nothing_of_the_callers(project):
    project.env["CALLERS_OWN"] = "1"
    script = 'test -z "$CALLERS_OWN" && test -n "$PATH" && test "$HOME" != "$1"'
    assert project.measure("sh", "-c", script, "sh", project.env["HOME"], clean=True, profile="ns").success


def test_an_id_can_be_given_once(project):
    assert project.measure("true", run_id="nightly").run_id == "nightly"
    with pytest.raises(UsageError) as caught:
        project.measure("true", run_id="nightly")
    assert caught.value.code == "run_exists"
    with pytest.raises(UsageError) as caught:
        project.measure("true", run_id="night")
    assert caught.value.code == "run_id_ambiguous"
    assert project.past.find("nigh") == "nightly"


@pytest.mark.parametrize("profile", ["none", *WALLED])
def test_at_its_time_out_a_command_is_asked_to_end(project, profile):
    result = project.measure("sleep", "60", timeout_ms=200, profile=profile)
    assert (result.timed_out, result.signal) == (True, signal.SIGTERM)
    assert project.events(result)[2].timed_out


@pytest.mark.parametrize("profile", WALLED)
def test_behind_walls_what_a_command_leaves_ends_with_it(project, profile):
    result = project.measure("sh", "-c", "setsid sleep 60 & sleep 60 & exit 3", profile=profile)
    assert result.exit_code == 3
    assert project.events(result)[2].strays_ended >= 1


def test_the_walls_leave_project_and_home_and_hide_the_state(project):
    outside = project.root.parent / "outside"
    outside.write_text("x")
    script = """
    touch made "$HOME/made" /tmp/made || exit 1
    cat "$1" && exit 2
    echo broken > interlock.toml && exit 3
    test -z "$(ls -A "$INTERLOCK_STATE_DIR")" || exit 4
    kill -0 "$2" 2>/dev/null && exit 5
    touch /usr/made && exit 6
    exit 0
    """
    result = project.measure("sh", "-c", script, "sh", str(outside), str(os.getppid()), profile="ns")
    assert result.exit_code == 0
    assert (project.root / "made").exists()
    assert (project.root.parent / "home/made").exists()
    assert "broken" not in (project.root / "interlock.toml").read_text()
    started = project.events(result)[1]
    assert (started.profile, started.network) == ("ns", "none")
    assert started.posture["namespaces"] == "active"
    assert started.posture["record"].startswith("absent")


def test_without_namespaces_home_is_another_one(project):
    script = 'touch made && test "$HOME" != "$1" && touch "$HOME/x" && ! ls "$INTERLOCK_STATE_DIR"'
    result = project.measure("sh", "-c", script, "sh", project.env["HOME"], profile="nons")
    assert result.exit_code == 0


CONNECT = """
import socket, sys
s = socket.socket()
s.settimeout(5)
sys.exit(0 if s.connect_ex(("127.0.0.1", int(sys.argv[1]))) == 0 else 1)
"""


@pytest.mark.parametrize("profile", WALLED)
def test_behind_walls_the_network_has_to_be_asked_for(project, profile):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = (sys.executable, "-c", CONNECT, port)
        assert not project.measure(*command, profile=profile).success
        result = project.measure(*command, profile=profile, network="machine")
        assert result.success
        assert result.posture["net"].startswith("absent")
    if profile == "nons":  # with the machine's network too, no AF_UNIX: that is the way to docker and to agents of keys
        script = "import socket; socket.socket(socket.AF_UNIX)"
        assert not project.measure(sys.executable, "-c", script, profile=profile, network="machine").success


def test_a_directory_that_is_not_shown_is_refused_before_anything_runs(project, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    project.root, root = other, project.root
    with pytest.raises(UsageError) as caught:
        project.measure("true", profile="ns")
    project.root = root
    assert caught.value.code == "not_visible"
    assert project.past.runs() == []


def test_recovery_says_that_the_command_was_lost(project):
    """The measuring process is killed: its run ends as failed, and says that nothing is known of the end."""
    result = project.measure("true")
    directory = project.past.directory(result.run_id)
    lost = directory.with_name("run_" + "b" * 32)
    with JournalWriter.open(
        lost, run_id=lost.name, disk=project.past.disk, clock=SystemClock(), durability="full", create=True
    ) as writer:
        started, command = project.events(result)[:2]
        for event in (started, command):
            event.seq = event.ts = -1
            writer.append(event)
    recover_all(project.past.db, project.past.index, project.past.place.runs, project.past.disk, root=None)
    events = list(project.past.events(lost.name))
    assert kinds(events)[2:] == ["command_lost", "run_finished"]
    assert isinstance(events[-1], e.RunFinished)
    assert events[-1].status == project.past.run(lost.name).status == "failed"


def test_if_what_watches_is_killed_the_end_is_not_made_up(project):
    script = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    result = project.measure(sys.executable, "-c", script, profile="none")
    assert result.lost
    assert exit_status(result) == 125
    assert kinds(project.events(result))[2] == "command_lost"
    assert problem_of(result).code == "command_lost"


def test_signals_and_terminal_go_through(project, tmp_path):
    """One real command on a terminal: it is a terminal inside, Ctrl-C reaches the command alone, and a sent TERM is passed on."""
    code = "from interlock.surfaces.cli.main import main; main()"
    script = 'trap "echo int" INT; trap "echo term; exit 9" TERM; tty -s && stty size; echo ready; while :; do sleep 0.05; done'
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(project.root)
        os.execve(sys.executable, [sys.executable, "-c", code, "exec", "--", "sh", "-c", script], project.env)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 77, 0, 0))
    seen = ""

    def wait_for(text):
        nonlocal seen
        until = time.monotonic() + 20
        while text not in seen:
            assert time.monotonic() < until, seen
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 4096).decode()

    wait_for("ready")
    assert "31 77" in seen
    os.write(master, b"\x03")
    wait_for("int\r\n")
    os.kill(pid, signal.SIGTERM)
    wait_for("term")
    wait_for("exit code 9")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    os.close(master)


def test_the_command_line_keeps_the_exit_code_for_the_command(project, tmp_path):
    def real(*argv):
        code = "from interlock.surfaces.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, "exec", *argv],
            cwd=project.root,
            env=project.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    said = real("--profile", "none", "--json-to", "result.json", "--", "sh", "-c", "cat >&2; echo out; exit 2")
    assert (said.returncode, said.stdout) == (2, "out\n")
    assert '"exit_code": 2' in (project.root / "result.json").read_text()
    said = real("--profile", "none", "--json-to", "no/such/result.json", "--", "touch", "ran")
    assert (said.returncode, (project.root / "ran").exists()) == (125, False)
    assert "the result cannot be written" in said.stderr
    said = real("--profile", "none", "--", "no-such-program")
    assert (said.returncode, "no-such-program" in said.stderr) == (127, True)
    (project.root / "spec.json").write_text('{"command": ["sh", "-c", "exit 4"], "run_id": "from-file"}')
    said = real("--spec", "spec.json", "--profile", "none")
    assert said.returncode == 4
    assert "from-file" in said.stderr


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--bogus", "--", "true"], "usage"),
        (["--"], "empty_command"),
        (["--json", "--", "true"], "usage"),
        (["--run-id", "a:b", "--", "true"], "run_id_colon"),
        (["--agent-shim", "typo", "--", "true"], "unknown_shim"),
        (["--env", "novalue", "--", "true"], "bad_environment"),
        (["--timeout", "soon", "--", "true"], "usage"),
        (["--spec", "missing.json"], "malformed_spec"),
    ],
)
def test_what_is_interlocks_own_is_125(project, monkeypatch, capsys, argv, code):
    monkeypatch.chdir(project.root)
    for name in ("HOME", "INTERLOCK_STATE_DIR"):
        monkeypatch.setenv(name, project.env[name])
    assert app.run(["exec", *argv]) == 125
    said = capsys.readouterr()
    assert code in said.out + said.err
    assert project.past.runs() == []


def test_lists_and_reports_show_the_command(project, monkeypatch, capsys):
    project.measure("sh", "-c", "exit 0 # --password=hunter2secret99", run_id="nightly")
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", project.env["INTERLOCK_STATE_DIR"])
    assert app.run(["runs", "list"]) == 0
    assert "exec sh -c 'exit 0" in capsys.readouterr().out
    assert app.run(["runs", "show", "nightly"]) == 0
    shown = capsys.readouterr().out
    assert "command sh -c 'exit 0" in shown
    assert "hunter2" not in shown
    assert app.run(["runs", "show", "nightly", "--json"]) == 0
    assert '"command":"sh -c ' in capsys.readouterr().out
