"""`shell`, `exec` and the runner beneath them, on real processes."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import sys
import time

import pytest

from interlock.executors.enclosure import enclosure
from interlock.executors.environment import child_environment, requested_environment
from interlock.executors.exceeded import ProcessLimits
from interlock.executors.network import ENVIRONMENT
from interlock.executors.process import ProcessRunner, bindings
from interlock.isolation.probe import probe
from interlock.model.codes import REASONS
from interlock.model.errors import ToolError
from interlock.model.schema import Schema
from interlock.workspace import Workspace
from interlock.workspace.layer_mounts import LayerMounts
from interlock.workspace.layers import open_layer


@pytest.fixture
def runner(clock, walls):
    parent = {"PATH": os.environ["PATH"], "API_TOKEN": "secret", "LANG": "C"}
    made = ProcessRunner(clock, parent_environment=parent, enclose=walls)
    yield made
    made.close()


@pytest.fixture
def tools(runner):
    return {binding.tool.name: binding for binding in bindings(runner)}


@pytest.fixture
def call(tools, context):
    """Call a tool as the engine does: parameters checked against the schema, then the function."""

    def call(name, ctx=None, **parameters):
        assert Schema.compile(tools[name].tool.parameters).is_valid(parameters)
        return asyncio.run(tools[name].function(parameters, ctx or context()))

    return call


def refused(call, *arguments, **parameters):
    with pytest.raises(ToolError) as error:
        call(*arguments, **parameters)
    assert error.value.code in REASONS
    return error.value


PROGRAM = "import time; b = bytearray(b'x') * (60 << 20); time.sleep(60)"
HOLD_MEMORY = f'for i in 1 2 3 4; do {sys.executable} -I -S -c "{PROGRAM}" & done; wait'


def test_the_output_has_exactly_these_fields(call):
    output = call("shell", command="echo out; echo err >&2")
    assert output.pop("duration_ms") > 0
    assert output == {
        "exit_code": 0,
        "signal": None,
        "stdout": "out\n",
        "stdout_encoding": "utf-8",
        "stderr": "err\n",
        "stderr_encoding": "utf-8",
        "truncated": False,
        "strays_ended": 0,
    }


def test_processes_that_end_with_their_action_are_counted(call):
    assert call("shell", command="sleep 60 & setsid sleep 60 & echo up")["strays_ended"] == 2


def test_exec_takes_arguments_as_they_are(call):
    assert call("exec", argv=["printf", "%s|", "a b", "$HOME", "*", ""])["stdout"] == "a b|$HOME|*||"


def test_both_are_declared_with_every_caution(tools):
    for binding in tools.values():
        assert not binding.tool.read_only
        assert binding.tool.destructive
        assert binding.tool.reversibility == "irreversible"
        assert binding.tool.timeout_ms == 120_000


@pytest.mark.parametrize(
    "parameters",
    [{}, {"command": ""}, {"command": 1}, {"command": "true", "more": 1}, {"command": "true", "env": {"A": 1}}],
)
def test_the_schema_refuses(tools, parameters):
    assert not Schema.compile(tools["shell"].tool.parameters).is_valid(parameters)
    assert not Schema.compile(tools["exec"].tool.parameters).is_valid({"argv": []})


def test_a_non_zero_exit_fails_with_its_output(call):
    error = refused(call, "shell", command="echo partial; exit 7")
    assert error.code == "exit_code"
    assert (error.output["exit_code"], error.output["stdout"]) == (7, "partial\n")


def test_without_check_it_is_a_result(call):
    assert call("shell", command="exit 7", check=False)["exit_code"] == 7
    assert call("shell", command="kill -9 $$", check=False)["signal"] == "SIGKILL"


def test_a_signal_is_named(call):
    error = refused(call, "shell", command="kill -SEGV $$")
    assert error.code == "signalled"
    assert (error.output["exit_code"], error.output["signal"]) == (None, "SIGSEGV")


def test_what_could_not_be_started_is_distinguished_and_not_named(call, workspace):
    (workspace.root / "plain-7391").write_text("text")
    for argv, why in [
        (["no-such-program-7391"], "not_found"),
        (["./plain-7391"], "not_executable"),
        (["true", "7391" * 500_000], "too_long"),
    ]:
        error = refused(call, "exec", argv=argv)
        assert (error.code, error.output["why"], error.retryable) == ("spawn_failed", why, False)
        assert "7391" not in f"{error.message} {error.hint}"


def test_a_nul_character_is_an_error_of_the_caller(call):
    assert refused(call, "exec", argv=["echo", "a\0b"]).code == "invalid_parameters"
    assert refused(call, "shell", command="echo a\0b").code == "invalid_parameters"
    assert refused(call, "shell", command="true", env={"A": "a\0b"}).code == "invalid_parameters"


def test_the_working_directory_is_beneath_the_workspace(call, workspace):
    inner = workspace.root / "inner"
    inner.mkdir()
    (workspace.root / "out").symlink_to("/")
    assert call("shell", command="pwd")["stdout"] == f"{workspace.root}\n"
    assert call("shell", command="pwd", cwd="inner")["stdout"] == f"{inner}\n"
    assert refused_any(call, "shell", command="pwd", cwd="absent") == "not_found"
    assert refused_any(call, "shell", command="pwd", cwd="..") == "path_outside_workspace"
    assert refused_any(call, "shell", command="pwd", cwd="/") == "path_outside_workspace"
    assert refused_any(call, "shell", command="pwd", cwd="out") == "path_outside_workspace"


def refused_any(call, *arguments, **parameters):
    """For the workspace's own refusals, whose codes are the workspace's to document."""
    with pytest.raises(ToolError) as error:
        call(*arguments, **parameters)
    return error.value.code


def test_a_working_directory_whose_name_is_not_utf8(call, workspace):
    name = b"caf\xe9"
    os.mkdir(os.fsencode(workspace.root) + b"/" + name)
    cwd = {"b64": base64.b64encode(name).decode()}
    output = call("shell", command="pwd", cwd=cwd)
    assert output["stdout_encoding"] == "base64"
    assert base64.b64decode(output["stdout"]).endswith(name + b"\n")


def test_an_unreadable_working_directory(call, workspace):
    if os.geteuid() == 0:
        pytest.skip("root may enter any directory")
    (workspace.root / "closed").mkdir(mode=0)
    assert refused_any(call, "shell", command="pwd", cwd="closed") in ("access_denied", "spawn_failed")


def test_standard_input_is_utf8(call):
    assert call("exec", argv=["cat"], stdin="grüße\n")["stdout"] == "grüße\n"
    assert call("exec", argv=["cat"])["stdout"] == ""


def test_binary_output_is_base64_and_says_so(call):
    output = call("shell", command=r"printf '\377\000'; echo text >&2")
    assert (output["stdout"], output["stdout_encoding"]) == (base64.b64encode(b"\xff\0").decode(), "base64")
    assert (output["stderr"], output["stderr_encoding"]) == ("text\n", "utf-8")


def test_a_limit_in_the_middle_of_a_character_does_not_make_text_binary(call):
    output = call("shell", command="printf x; yes ü | tr -d '\\n' | head -c 3000000")
    assert output["truncated"]
    assert output["stdout_encoding"] == "utf-8"
    assert output["stdout"] == "x" + "ü" * ((1024 * 1024 - 1) // 2)


def test_output_that_ends_in_half_a_character_by_itself_is_binary(call):
    assert call("shell", command=r"printf 'x\303'")["stdout_encoding"] == "base64"


def test_the_environment_is_an_allow_list(call, monkeypatch, walls):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    lines = call("exec", argv=["env"], env={"WANTED": "1", "TERM": "xterm"})["stdout"].splitlines()
    seen = dict(line.split("=", 1) for line in lines)
    assert all(seen.pop(name) == value for name, value in walls().variables.items())  # where tool chains are
    assert all(seen.pop(name) == value for name, value in ENVIRONMENT.items())  # where the proxy is
    home = seen.pop("HOME")
    assert home.startswith("/tmp/")
    assert not os.path.exists(home)
    told = {
        name: seen.pop(name) for name in ("GRADLE_USER_HOME", "GRADLE_OPTS", "MAVEN_OPTS", "SBT_OPTS") if name in seen
    }
    assert all(home in value for value in told.values())
    assert seen == {"PATH": os.environ["PATH"], "LANG": "C", "TERM": "xterm", "WANTED": "1"}


def test_a_program_is_found_by_our_path_whatever_the_call_says(call, workspace):
    (workspace.root / "ls").write_text("#!/bin/sh\necho evil\n")
    (workspace.root / "ls").chmod(0o755)
    assert "evil" not in call("exec", argv=["ls"], env={"PATH": str(workspace.root)})["stdout"]


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "BASH_ENV", "ENV", "SHELLOPTS", "PS4", "GCONV_PATH"]
)
def test_variables_that_load_code_are_refused(call, name):
    assert refused(call, "exec", argv=["true"], env={name: "./evil.so"}).code == "environment_denied"


def test_a_program_without_a_name_is_refused_in_words(call):
    error = refused(call, "exec", argv=[""])
    assert (error.code, error.path) == ("invalid_parameters", "$.parameters")


@pytest.mark.parametrize("name", ["", "A=B", "A B", "1A", "BASH_FUNC_x%%"])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ToolError):
        requested_environment({name: "x"})


def test_path_entries_that_depend_on_the_current_directory_are_dropped():
    assert child_environment({"PATH": ":.:bin:/usr/bin:/bin:"})["PATH"] == "/usr/bin:/bin"
    assert child_environment({"PATH": "."})["PATH"].startswith("/")
    assert child_environment({})["LANG"] == "C.UTF-8"


def test_posture_undo_and_resources_are_reported(call, context):
    ctx = context()
    call("shell", ctx, command="true")
    assert ctx.undoable == ["a process ran in the workspace itself, where not every change is recorded"]
    active = {layer for layer, value in ctx.layers.items() if value == "active"}
    own = {"environment", "descriptors", "session", "no_new_privs", "limits", "tree"}
    assert active - {"cgroup"} == own | {"syscalls", "fs", "signals", "namespaces", "net", "configuration"}
    assert ctx.layers.pop("memory_tree").startswith("active(")
    assert all(value.startswith("absent(") for layer, value in ctx.layers.items() if layer not in active)
    assert {"fs", "net", "record", "disk", "cgroup"} <= ctx.layers.keys()
    assert ctx.used["cpu_ms"] > 0
    assert ctx.used["memory_bytes"] > 0
    assert {"read_bytes", "written_bytes"} <= ctx.used.keys()


def test_a_failed_start_changed_nothing(call, context):
    ctx = context()
    refused(call, "exec", ctx, argv=["no-such-program"])
    assert ctx.undoable == []


def test_a_failure_is_as_little_undoable_as_a_success(call, context):
    ctx = context()
    refused(call, "shell", ctx, command="exit 1")
    assert ctx.undoable
    assert ctx.used


def test_the_deadline_ends_it_with_its_partial_output(call, context):
    ctx = context(seconds=0.3)
    error = refused(call, "shell", ctx, command="echo partial; setsid sleep 791.5 & sleep 100")
    assert error.code == "timeout"
    assert error.output["stdout"] == "partial\n"
    assert ctx.undoable
    assert not running("791.5")


@pytest.mark.parametrize(("seconds", "code"), [(0.25, "timeout"), (20, "cancelled")])
def test_a_cancelled_call_raises_with_its_partial_output_when_the_tree_is_gone(tools, context, seconds, code):
    """The engine's watchdog cancels at the deadline too: whoever comes first, the reason is the same."""

    async def scene():
        ctx = context(seconds)
        # The supervisor is kept from seeing the deadline first.
        ctx.deadline_ns, deadline = ctx.deadline_ns + 10**10, ctx.deadline_ns
        task = asyncio.create_task(
            tools["shell"].function({"command": "echo partial; setsid sleep 792.5 & sleep 100"}, ctx)
        )
        while not running("792.5"):
            await asyncio.sleep(0.02)
        ctx.deadline_ns = min(deadline, time.monotonic_ns()) if code == "timeout" else deadline
        task.cancel()
        with pytest.raises(ToolError) as error:
            await task
        assert not running("792.5")
        return error.value, ctx

    error, ctx = asyncio.run(scene())
    assert error.code == code
    assert error.output["stdout"] == "partial\n"
    assert ctx.undoable


def test_too_many_processes(clock, context, walls):
    runner = ProcessRunner(clock, limits=ProcessLimits(processes=8), enclose=walls)
    try:
        shell = bindings(runner)[0]
        command = "echo partial; for i in $(seq 100); do sleep 793.5 & done; wait"
        with pytest.raises(ToolError) as error:
            asyncio.run(shell.function({"command": command}, context()))
    finally:
        runner.close()
    assert error.value.code == "process_limit"
    assert error.value.output["stdout"] == "partial\n"
    assert not running("793.5")


EXCEEDING = [
    ("processes", {"processes": 8}, "for i in $(seq 100); do sleep 60 & done; wait", "process_limit"),
    ("cpu", {"cpu_ms": 300}, "while :; do :; done", "cpu_limit"),
    ("file_size", {"file_bytes": 4 << 20}, "exec dd if=/dev/zero of=big bs=1M count=8", "file_size_limit"),
    ("memory", {"memory_bytes": 96 << 20}, HOLD_MEMORY, "memory_limit"),
]


@pytest.mark.parametrize(("name", "limits", "command", "code"), EXCEEDING)
def test_each_exceeded_limit_has_a_code_of_its_own(clock, context, walls, name, limits, command, code):
    runner = ProcessRunner(clock, limits=ProcessLimits(**limits), enclose=walls)
    try:
        with pytest.raises(ToolError) as error:
            asyncio.run(bindings(runner)[0].function({"command": f"echo partial; {command}"}, context()))
    finally:
        runner.close()
    assert error.value.code == code in REASONS
    assert f"`{name}`" in error.value.hint
    assert error.value.output["stdout"] == "partial\n"
    assert not error.value.retryable


def test_a_limit_that_a_program_survived_is_not_a_failure(clock, context, walls):
    runner = ProcessRunner(clock, limits=ProcessLimits(file_bytes=4 << 20), enclose=walls)
    try:
        call = bindings(runner)[0].function
        command = "dd if=/dev/zero of=big bs=1M count=8 || echo $?"
        assert asyncio.run(call({"command": command}, context()))["stdout"] == f"{128 + signal.SIGXFSZ}\n"
    finally:
        runner.close()


def test_a_layer_is_limited_in_disk_space(clock, workspace, context, walls, tmp_path):
    runner = ProcessRunner(clock, limits=ProcessLimits(layer_bytes=8 << 20), enclose=walls)
    mounts = LayerMounts()
    (tmp_path / "run").mkdir()
    try:
        layer = open_layer(tmp_path / "run", "proposal_1", workspace, mounts)
        with layer:
            ctx = context()
            ctx.workspace = layer.workspace
            call = bindings(runner)[0].function
            asyncio.run(call({"command": "dd if=/dev/zero of=small bs=1M count=4"}, ctx))
            for command in (
                "echo partial; dd if=/dev/zero of=big bs=1M count=16; sleep 60",
                "dd if=/dev/zero of=more bs=1M count=16",
                "rm big more; truncate -s 16M holes",  # each byte would be read to compare it
                "rm holes; seq 3000 | xargs touch",  # a file system has a limited number of files
            ):
                with pytest.raises(ToolError) as error:
                    asyncio.run(call({"command": command}, ctx))
                assert error.value.code == "disk_limit"
            assert ctx.layers["disk"].startswith("active(")
    finally:
        mounts.close()
        runner.close()


def test_the_runner_takes_a_descriptor_and_leaves_it_open(runner, context, tmp_path):
    fd = os.open(tmp_path / "workspace", os.O_PATH)
    try:
        result = asyncio.run(
            runner.run(["pwd"], ctx=context(), cwd=fd, env={"HOME": "/nowhere"}, output_bytes_max=4, read_only=True)
        )
        os.fstat(fd)
    finally:
        os.close(fd)
    assert result.exit_code == 0
    assert result.stdout == os.fsencode(tmp_path)[:4]
    assert result.truncated
    assert not result.timed_out


def test_reading_is_exactly_undoable(runner, context):
    ctx = context()
    asyncio.run(runner.run(["true"], ctx=ctx, read_only=True))
    assert ctx.undoable == []
    assert ctx.layers


def test_the_runners_own_time_out_is_a_result(runner, context):
    result = asyncio.run(runner.run(["sleep", "100"], ctx=context(), timeout_ms=100))
    assert result.timed_out
    assert result.signal == "SIGTERM"


def test_no_descriptor_is_left_behind(runner, context):
    asyncio.run(runner.run(["true"], ctx=context()))
    before = len(os.listdir("/proc/self/fd"))
    for argv in (["true"], ["sleep", "100"]):
        asyncio.run(runner.run(argv, ctx=context(), timeout_ms=100, stdin=b"x"))
    with pytest.raises(ToolError):
        asyncio.run(runner.run(["no-such-program"], ctx=context()))
    assert len(os.listdir("/proc/self/fd")) == before


def running(argument):
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if argument.encode() in file.read().split(b"\0"):
                        return True
            except OSError:
                continue
    return False


def test_named_variables_and_copies_of_named_files_reach_the_process(clock, context, tmp_path, walls):
    """`isolation.env` and `isolation.home`: who commits, for example. What the process does to its copy changes nothing."""
    (tmp_path / ".gitconfig").write_text("[user]\nname = Ann\nemail = ann@example.org\n")
    (tmp_path / "secret").write_text("not named")
    os.mkfifo(tmp_path / "fifo")
    parent = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PASSED": "yes", "OTHER": "no"}
    runner = ProcessRunner(
        clock,
        parent_environment=parent,
        passed=["PASSED", "MISSING"],
        home_files=[".gitconfig", "missing/x", "fifo"],
        enclose=walls,
    )
    try:
        command = "git config user.name; echo $PASSED$OTHER$MISSING; ls -A $HOME; echo x > $HOME/.gitconfig"
        (shell,) = (b for b in bindings(runner) if b.tool.name == "shell")
        output = asyncio.run(shell.function({"command": command}, context()))
    finally:
        runner.close()
    assert output["stdout"] == "Ann\nyes\n.gitconfig\n"
    assert "Ann" in (tmp_path / ".gitconfig").read_text()


class Scoped(Workspace):
    """A workspace whose action may read one directory and, of another, only some files."""

    @property
    def readable(self):
        return ("src/**", "secrets/*.txt", "secrets", "top/**")


@pytest.mark.parametrize("profile", ["ns", "nons"])
def test_the_grant_is_the_wall_around_what_is_read(tmp_path, clock, context, workspace, profile):
    """From `paths.read` of a grant, and `isolation.read`, to what a program can see."""
    for name in ("workspace/src", "workspace/secrets", "more"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file.txt").write_text(name.rpartition("/")[2])
    walls = enclosure(profile, probe(), environment=os.environ, read=(os.fspath(tmp_path / "more"),))
    runner = ProcessRunner(clock, enclose=lambda: walls)
    try:
        with Scoped(workspace.root) as scoped:
            ctx = context()
            ctx.workspace = scoped
            command = f"cat src/file.txt secrets/file.txt top {tmp_path}/more/file.txt; ls secrets"
            output = asyncio.run(bindings(runner)[0].function({"command": command, "check": False}, ctx))
    finally:
        runner.close()
    assert output["stdout"] == "srcmore"


@pytest.mark.parametrize("relative", [False, True])
def test_a_socket_of_another_program_in_the_workspace_is_hidden(clock, context, workspace, monkeypatch, relative):
    """A path leads to it from any network namespace, however the program that listens there has named it."""
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(workspace.root)
    try:
        server.bind("server.sock" if relative else os.fspath(workspace.root / "server.sock"))
        server.listen(1)
        walls = enclosure("ns", probe(), environment=os.environ)
        assert walls.around(workspace).hidden == (os.fspath(workspace.root / "server.sock"),)
        runner = ProcessRunner(clock, enclose=lambda: walls)
        try:
            code = "import socket; socket.socket(socket.AF_UNIX).connect('server.sock')"
            call = bindings(runner)[1].function
            output = asyncio.run(call({"argv": [sys.executable, "-I", "-S", "-c", code], "check": False}, context()))
        finally:
            runner.close()
    finally:
        server.close()
    assert output["exit_code"] == 1
    assert "Connection refused" in output["stderr"]


@pytest.mark.parametrize("entry", ["{}", "{}/", "{}/.", "{}/bin/..", "{}/../{name}", "{}/bin", "{}/..", "/", "link"])
def test_a_home_directory_is_never_shown_by_way_of_the_path(tmp_path, entry):
    """Also where it is a virtual environment itself."""
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    (home / "pyvenv.cfg").touch()
    (tmp_path / "link").symlink_to("home")
    path = os.fspath(tmp_path / entry.format(home, name=home.name))
    shown = enclosure("ns", {}, environment={"HOME": os.fspath(home), "PATH": path}).shown
    assert not [place for place in shown if home.is_relative_to(os.path.realpath(place))]
    assert (os.fspath(home / "bin") in shown) == (entry == "{}/bin")


def test_tool_chains_are_shown_without_the_credentials_beside_them(tmp_path):
    for name in (".local/share/uv/python/3.13", ".local/share/uv/credentials", ".cargo/bin"):
        (tmp_path / name).mkdir(parents=True)
    shown = enclosure("ns", {}, environment={"HOME": os.fspath(tmp_path)}).shown
    assert os.fspath(tmp_path / ".local/share/uv/python") in shown
    assert os.fspath(tmp_path / ".cargo/bin") in shown
    credentials = os.fspath(tmp_path / ".local/share/uv/credentials")
    assert not any(f"{credentials}/".startswith(f"{one}/") for one in shown)


@pytest.mark.parametrize("name", ["HOME", "PATH"])
def test_a_directory_of_the_environment_that_cannot_be_examined_is_not_shown(tmp_path, name):
    barred = tmp_path / ("x" * 300)  # for every user, root too, as another user's directory is for an ordinary one
    assert os.fspath(barred) not in enclosure("ns", {}, environment={name: os.fspath(barred)}).shown
