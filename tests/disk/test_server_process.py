"""Helper processes: what they import, that a dead one is replaced, and that closing ends them."""

import json
import os
import signal
import subprocess

import pytest

from interlock.server_process import ServerProcess, bare_environment, module_command

_ECHO = """
import json, os, socket, sys
channel = socket.socket(fileno=os.dup(0))
while data := channel.recv(4096):
    channel.send(json.dumps([os.getpid(), sys.argv[1:], dict(os.environ)]).encode())
raise SystemExit
"""


@pytest.fixture
def echo():
    made = ServerProcess(
        module_command("interlock.isolation.reachable", first=_ECHO), {"A": "1"}, arguments=lambda: ("one", "two")
    )
    yield made
    made.close(5_000)


def _ask(server):
    channel = server.connect()
    channel.settimeout(20)
    channel.send(b"?")
    return json.loads(channel.recv(4096))


@pytest.mark.parametrize(
    "module", ["interlock.isolation.server", "interlock.isolation.probe", "interlock.workspace.layer_server"]
)
def test_a_helper_imports_its_module_and_not_the_runtime(module):
    code = f"import {module} as own, json, sys\nown.main = lambda: print(json.dumps(list(sys.modules)))"
    command = module_command(module, first=code)
    done = subprocess.run(command, capture_output=True, check=True, env=bare_environment())
    names = {name for name in json.loads(done.stdout) if name.startswith("interlock")}
    assert module in names
    assert not {"interlock.engine", "interlock.signing", "interlock.disk", "interlock.approvals"} & names


def test_the_process_gets_the_arguments_and_the_environment_alone(echo, monkeypatch):
    monkeypatch.setenv("INTERLOCK_SECRET_OF_THE_RUNTIME", "x")
    pid, arguments, environment = _ask(echo)
    assert (pid, arguments) == (echo.pid, ["one", "two"])
    assert set(environment) <= {"A", "LD_LIBRARY_PATH", "LC_CTYPE"}


def test_one_that_died_is_replaced(echo):
    pid, _, _ = _ask(echo)
    os.kill(pid, signal.SIGKILL)
    echo.forget(echo.connect())
    assert echo.pid is None
    second, _, _ = _ask(echo)
    assert second != pid


def test_forgetting_a_channel_twice_keeps_the_new_process(echo):
    _ask(echo)
    old = echo.connect()
    echo.forget(old)
    pid, _, _ = _ask(echo)
    echo.forget(old)
    assert echo.pid == pid


def test_closing_ends_and_collects_the_process(echo):
    pid, _, _ = _ask(echo)
    echo.close(5_000)
    assert echo.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_does_not_end_is_killed():
    made = ServerProcess(module_command("interlock.model", first="import time\nwhile True: time.sleep(60)"))
    made.connect()
    pid = made.pid
    made.close(1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_that_is_not_there_leaves_no_process():
    made = ServerProcess(["/nonexistent/python"])
    with pytest.raises(FileNotFoundError):
        made.connect()
    assert made.pid is None
