"""Tool modules named in the configuration: in a process of their own, each call in its own fork of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import textwrap
import time

import pytest

from interlock.executors import modules
from interlock.executors.module_host import ProjectFinder
from interlock.executors.modules import ModuleTools
from interlock.model.errors import ConfigurationError, ToolError

TOOLS = """
import asyncio, os, sys, threading, time
from interlock.executors.python import tool
from interlock.model.errors import ToolError
from interlock.model.tool import Context

loaded_in = os.getpid()
count = 0

@tool(read_only=True)
def add(a: int, b: int = 2) -> int:
    '''Add two numbers.'''
    return a + b

@tool(timeout="5s", tags=["x"])
async def wait_and_say(text: str) -> dict:
    await asyncio.sleep(0.01)
    return {"text": text, "host": loaded_in, "here": os.getpid(), "cwd": os.getcwd()}

@tool
def counted() -> int:
    global count
    count += 1
    return count

@tool
def fails(kind: str) -> None:
    if kind == "tool":
        raise ToolError("no such city", code="no_city", retryable=False, output={"city": 1}, hint="another one")
    if kind == "value":
        raise ValueError("bad value\\nsecond line")
    if kind == "exit":
        sys.exit(3)
    if kind == "os_exit":
        os._exit(4)
    if kind == "signal":
        os.kill(os.getpid(), 9)

@tool
def hangs() -> None:
    os.system("setsid sleep 797.25 &")
    print("printed before", flush=True)
    while True:
        pass

@tool
def environment() -> dict:
    return dict(os.environ)

@tool
def large(size: int) -> str:
    return "x" * size

@tool
def talks(ctx: Context) -> str:
    print("to standard output")
    print("to standard error", file=sys.stderr)
    ctx.log("a line")
    ctx.progress(1, 2)
    ctx.report_cost(0.5)
    ctx.resources({"rows": 3})
    threads = [threading.Thread(target=ctx.log, args=("t" * 100_000,)) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    return f"{ctx.run_id} {ctx.action_id} {ctx.agent} {ctx.attempt}"

@tool
def touches_the_workspace(ctx: Context) -> None:
    ctx.workspace.open(())

@tool
def writes_garbage() -> str:
    os.write(3, b"not json\\n{}\\n[1]\\n{\\"log\\": 5}\\n")
    return "still"
"""


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / "agent_tools.py").write_text(TOOLS)
    return root


@pytest.fixture
def load(project, clock, walls):
    """Load modules of the project and return their tools by name."""
    made = []

    def load(*names, parent=None):
        tools = ModuleTools(names, project, clock, parent_environment=parent, enclose=walls)
        made.append(tools)
        bindings = asyncio.run(tools.load())
        return {binding.tool.name: binding for binding in bindings}

    yield load
    for tools in made:
        tools.close()


@pytest.fixture
def tools(load):
    return load("agent_tools")


def run(tools, name, ctx, **parameters):
    return asyncio.run(tools[name].function(parameters, ctx))


def test_definitions_arrive_whole(tools):
    add = tools["add"].tool
    assert (add.description, add.read_only, add.timeout_ms) == ("Add two numbers.", True, 30_000)
    assert add.parameters["required"] == ["a"]
    assert tools["wait_and_say"].tool.timeout_ms == 5_000
    assert tools["wait_and_say"].tool.tags == ("x",)


def test_a_call_runs_in_a_fork_of_the_host_never_here(tools, context, workspace):
    assert run(tools, "add", context(), a=40) == 42
    seen = run(tools, "wait_and_say", context(), text="grüße")
    assert seen["text"] == "grüße"
    assert seen["cwd"] == str(workspace.root)
    assert len({seen["host"], seen["here"], os.getpid()}) == 3
    assert "agent_tools" not in sys.modules


def test_calls_share_nothing(tools, context):
    assert [run(tools, "counted", context()) for _ in range(3)] == [1, 1, 1]


def test_many_calls_at_once(tools, context):
    async def scene():
        return await asyncio.gather(*(tools["add"].function({"a": i}, context()) for i in range(16)))

    assert asyncio.run(scene()) == [i + 2 for i in range(16)]


def test_the_secrets_of_the_parent_are_not_there(load, context, monkeypatch):
    monkeypatch.setenv("API_TOKEN", "do-not-leak")
    tools = load("agent_tools")
    seen = run(tools, "environment", context())
    assert "do-not-leak" not in str(seen)
    assert seen["HOME"].startswith("/tmp/")


def error_of(tools, name, ctx, **parameters):
    with pytest.raises(ToolError) as error:
        run(tools, name, ctx, **parameters)
    return error.value


def test_errors_come_back_as_what_they_were(tools, context):
    error = error_of(tools, "fails", context(), kind="tool")
    assert (error.code, error.message, error.retryable) == ("no_city", "no such city", False)
    assert (error.output, error.hint) == ({"city": 1}, "another one")
    ctx = context()
    error = error_of(tools, "fails", ctx, kind="value")
    assert (error.code, error.message) == ("tool_error", "ValueError: bad value\nsecond line")
    assert any("Traceback" in line for line in ctx.logged)


@pytest.mark.parametrize(("kind", "said"), [("os_exit", "exit code 4"), ("signal", "signal 9")])
def test_a_process_that_ends_without_an_answer(tools, context, kind, said):
    error = error_of(tools, "fails", context(), kind=kind)
    assert error.code == "tool_error"
    assert said in error.message


def test_sys_exit_is_a_failure_of_the_call(tools, context):
    error = error_of(tools, "fails", context(), kind="exit")
    assert (error.code, error.output) == ("tool_error", {"exit_code": 3})
    assert "exited with code 3" in error.message
    assert run(tools, "add", context(), a=1) == 3


def test_a_hanging_call_is_ended_with_its_tree(tools, context):
    ctx = context(seconds=0.7)
    assert error_of(tools, "hangs", ctx).code == "timeout"
    assert ctx.logged == ["printed before\n"]
    assert not _runs("797.25")
    assert run(tools, "add", context(), a=1) == 3


def test_a_cancelled_call_is_ended_with_its_tree(tools, context):
    async def scene():
        task = asyncio.create_task(tools["hangs"].function({}, context()))
        while not _runs("797.25"):
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(ToolError) as error:
            await task
        return error.value.code

    assert asyncio.run(scene()) == "cancelled"
    assert not _runs("797.25")


def test_the_context_reaches_the_runtimes_own(tools, context):
    ctx = context()
    assert run(tools, "talks", ctx) == "run_1 a1 coder 1"
    assert ctx.logged[0] == "a line"
    assert ctx.logged.count("t" * 100_000) == 8
    assert {"to standard output\n", "to standard error\n"} <= set(ctx.logged)
    assert (ctx.progressed, ctx.cost, ctx.used["rows"]) == ([(1.0, 2.0)], 0.5, 3)


def test_posture_and_undo(tools, context):
    ctx = context()
    run(tools, "add", ctx, a=1)
    assert ctx.layers["no_new_privs"] == "active"
    assert ctx.undoable == []
    assert ctx.used["cpu_ms"] > 0
    run(tools, "counted", ctx)
    assert ctx.undoable


def test_what_the_context_does_not_have_is_reported(tools, context):
    assert "ctx.workspace" in error_of(tools, "touches_the_workspace", context()).message


def test_a_large_result_passes_and_one_beyond_the_limit_is_refused(tools, context):
    assert len(run(tools, "large", context(), size=15_000_000)) == 15_000_000
    assert error_of(tools, "large", context(), size=18_000_000).code == "invalid_output"


def test_garbage_on_the_channel_is_ignored(tools, context):
    assert run(tools, "writes_garbage", context()) == "still"


def test_a_killed_host_is_started_again(tools, project, clock, context):
    host = run(tools, "wait_and_say", context(), text="")["host"]
    os.kill(host, 9)
    assert run(tools, "wait_and_say", context(), text="")["host"] != host


def test_a_definition_that_changed_meanwhile_does_not_run(tools, project, context):
    host = run(tools, "wait_and_say", context(), text="")["host"]
    (project / "agent_tools.py").write_text(TOOLS.replace("Add two numbers.", "Add three numbers."))
    later = time.time() + 5
    os.utime(project / "agent_tools.py", (later, later))
    os.kill(host, 9)
    assert error_of(tools, "add", context(), a=1).code == "tool_changed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module_here", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("from interlock.executors.python import tool\n@tool(timeout=5)\ndef f() -> None: ...", "needs a unit"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_a_clear_error(load, project, text, said):
    (project / "broken.py").write_text(text)
    with pytest.raises(ConfigurationError) as error:
        load("broken")
    assert "`broken`" in error.value.message
    assert said in error.value.message
    assert error.value.path == "$.tools.modules"


def test_a_module_that_does_not_exist(load):
    with pytest.raises(ConfigurationError, match="no_such_module"):
        load("no_such_module")


def test_a_module_that_ends_the_process(load, project):
    (project / "broken.py").write_text("import os; os._exit(1)")
    with pytest.raises(ConfigurationError, match="ended"):
        load("broken")


def test_a_module_whose_import_hangs(load, project, monkeypatch):
    monkeypatch.setattr(modules, "_IMPORT_S", 1)
    (project / "broken.py").write_text("while True: pass")
    with pytest.raises(ConfigurationError, match="longer than 1 s"):
        load("broken")


def test_two_tools_of_one_name(load, project):
    (project / "other.py").write_text(
        "from interlock.executors.python import tool\n@tool\ndef add() -> int:\n    return 1\n"
    )
    with pytest.raises(ConfigurationError, match="second tool"):
        load("agent_tools", "other")


def test_imported_tools_belong_to_their_own_module_but_a_package_offers_its_parts(load, project):
    package = project / "src" / "kit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from kit.part import one, same\nfrom agent_tools import add\n")
    (package / "part.py").write_text(
        textwrap.dedent("""
            from interlock.executors.python import tool
            @tool
            def one() -> int:
                return 1
            same = one
        """)
    )
    assert load("kit").keys() == {"one"}


def test_a_file_of_the_project_cannot_replace_a_library(load, project, context):
    (project / "msgspec.py").write_text("raise RuntimeError('the project runs as a library')")
    (project / "json.py").write_text("raise RuntimeError('the project runs as a library')")
    (project / "uses.py").write_text(
        "import json, msgspec\nfrom interlock.executors.python import tool\n@tool\ndef ok() -> str:\n    return json.__file__\n"
    )
    assert str(project) not in run(load("uses"), "ok", context())


def _runs(argument):
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if argument.encode() in file.read().split(b"\0"):
                    return True
        except OSError:
            continue
    return False


def trusted(project, *names):
    """What the settings hand over: each module's file and the digest of its bytes."""
    files = {name: project / f"{name}.py" for name in names}
    return {name: (str(file), hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in files.items()}


@pytest.fixture
def with_helper(project, clock, context):
    """Load a module that imports another file of the project, of which only `names` are trusted; and call its tool."""
    (project / "src").mkdir()
    (project / "src" / "helper.py").write_text("def greet(): return 'hi'\n")
    (project / "helper.py").write_text("def greet(): return 'hi'\n")
    (project / "greeter.py").write_text(
        "import colorsys\nimport helper\nfrom interlock.executors.python import tool\n"
        "@tool\ndef hi() -> str:\n    return helper.greet()\n"
    )

    def load(*names):
        tools = ModuleTools(names, project, clock, trusted=trusted(project, *names), parent_environment={})
        try:
            [binding] = asyncio.run(tools.load())
            return asyncio.run(binding.function({}, context()))
        finally:
            tools.close()

    return load


def test_a_file_of_the_project_that_is_not_trusted_is_not_imported(with_helper):
    with pytest.raises(ConfigurationError, match="`helper` is an untrusted file of the project"):
        with_helper("greeter")


def test_where_every_module_is_installed_no_file_of_the_project_is_trusted(project, clock):
    (project / "missing.py").write_text(
        "from interlock.executors.python import tool\n@tool\ndef hi() -> str:\n    return 'hi'\n"
    )
    tools = ModuleTools(["missing"], project, clock, trusted={}, parent_environment={})
    try:
        with pytest.raises(ConfigurationError, match="`missing` is an untrusted file of the project"):
            asyncio.run(tools.load())
    finally:
        tools.close()


def test_a_file_of_the_project_that_is_named_is_imported(with_helper):
    assert with_helper("helper", "greeter") == "hi"
    assert with_helper("greeter", "helper") == "hi"


def test_a_project_that_lies_beneath_site_packages_has_files_of_its_own(tmp_path):
    project = tmp_path / "site-packages" / "project"
    installed = project / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    for place in (project / "own_of_project.py", installed / "installed_there.py"):
        place.write_text("")
    finder = ProjectFinder(project)
    sys.meta_path.insert(0, finder)
    try:
        with pytest.raises(ImportError, match="untrusted"):
            finder.find_spec("own_of_project", [str(project)])
        assert finder.find_spec("installed_there", [str(installed)]) is not None
    finally:
        sys.meta_path.remove(finder)
