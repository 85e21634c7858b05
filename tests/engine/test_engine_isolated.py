"""`@interlock.tool(isolation="process")`: a function of the program, in a process behind the walls."""

import subprocess
import sys
import textwrap

import engine_world
import isolated_tools
import pytest
from engine_world import SETTINGS, TOML, call, execute, living, reasons, statuses, unique_seconds

import interlock
from interlock.executors.callables import InvalidToolError
from interlock.model.errors import UsageError
from interlock.model.tool import Tool


@pytest.fixture
def rt(new_project):
    runtime = new_project(toml=TOML % "").open()
    for name in ("where", "hang", "write", "end"):
        runtime.register(getattr(isolated_tools, name))
    return runtime


@pytest.fixture
def root(rt):
    return rt.services.workspace.root


def test_a_call_is_a_process_behind_the_walls_and_nothing_of_the_program_is_in_it(rt, root, tmp_path, monkeypatch):
    monkeypatch.setenv("INTERLOCK_TEST_SECRET", "x")
    (tmp_path / "secret").write_text("secret")
    done = execute(rt, *(call("where", name, parameters={"secret": f"{tmp_path}/secret"}) for name in "ab"))
    assert statuses(done) == ["succeeded"] * 2
    for row in done.results:
        assert row.output["cwd"] == str(root)
        assert row.output["read"] == "FileNotFoundError"
        assert row.output["network"] == "ConnectionRefusedError"
        assert row.output["calls"] == 1
        assert not row.output["environment"]
        assert row.posture["namespaces"] == "active"
    assert isolated_tools.SEEN == []


def test_it_works_in_the_workspace(rt, root):
    assert execute(rt, call("write", parameters={"path": "made", "text": "by it"})).ok
    assert (root / "made").read_text() == "by it"
    before = (root / "interlock.toml").read_text()
    done = execute(rt, call("write", parameters={"path": "interlock.toml", "text": "x"}))
    assert statuses(done) == ["failed"]
    assert (root / "interlock.toml").read_text() == before


def test_at_its_time_out_it_is_killed_with_all_that_it_started(rt):
    seconds = unique_seconds()
    done = execute(rt, call("hang", parameters={"seconds": seconds}))
    assert reasons(done) == ["timeout"]
    assert living(seconds) == []


def test_a_call_that_ends_its_process_ends_nothing_else(rt):
    done = execute(rt, call("end", "a"))
    assert reasons(done) == ["tool_error"]
    assert "exit code 3" in done.results[0].error
    assert execute(rt, call("where", parameters={"secret": "/"})).ok


def test_one_that_is_registered_later_is_found_too(rt):
    assert execute(rt, call("where", parameters={"secret": "/"})).ok
    rt.register(engine_world.unique_seconds, Tool(name="later", isolation="process"))
    done = execute(rt, call("later"), call("where", parameters={"secret": "/"}))
    assert statuses(done) == ["succeeded"] * 2
    assert done.results[0].output.startswith("1000.")


def test_the_program_itself_may_hold_the_function(tmp_path):
    """What is beneath `if __name__ == "__main__"` is not done again in the process of a call."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import os
            import interlock

            @interlock.tool(isolation="process")
            def where() -> int:
                return os.getppid()

            if __name__ == "__main__":
                with interlock.Runtime.open(settings={SETTINGS!r}, workspace=".") as runtime:
                    runtime.register(where)
                    plan = {{"actions": [{{"type": "tool_call", "tool": "where"}}]}}
                    print(runtime.execute_sync(plan).results[0].output)
            """
        )
    )
    (tmp_path / "work").mkdir()
    done = subprocess.run([sys.executable, program], cwd=tmp_path / "work", capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_function_that_no_other_process_can_find_is_refused_at_once(rt):
    @interlock.tool(isolation="process")
    def inner() -> None:
        """Nothing."""

    with pytest.raises(InvalidToolError, match="its module has no function"):
        rt.register(inner)
    with pytest.raises(UsageError, match="no workspace"), interlock.Runtime.open(settings=SETTINGS) as bare:
        bare.register(isolated_tools.where)
    with pytest.raises(InvalidToolError, match="must be `process`"):
        interlock.tool(isolation="container")(print)


def test_a_module_that_cannot_be_imported_there_says_so(rt, monkeypatch):
    def gone() -> None:
        """Nothing."""

    gone.__module__, gone.__qualname__ = "isolated_tools", "gone"
    monkeypatch.setattr(isolated_tools, "gone", gone, raising=False)
    rt.register(gone, Tool(name="gone", isolation="process"))
    done = execute(rt, call("gone"))
    assert reasons(done) == ["tool_error"]
    assert "isolated_tools" in done.results[0].error
