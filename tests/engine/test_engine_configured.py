"""What the configuration says reaches every tool and every policy file, or is an error: nothing is left out silently."""

import pytest
from engine_world import TOML, binding, call, execute, nothing, reasons

from interlock.engine.inspect.policy_check import read_policies
from interlock.model.errors import StoreError

LIMITS = '[tools."%s"]\ntimeout = "5s"\nrate_limit = { calls = 3, per = "1h" }\n'
MODULE = """
import interlock

@interlock.tool(read_only=True)
def counted(x: int) -> int:
    return x
"""


def limits(rt, name):
    (tool,) = (tool for tool in rt.tools() if tool.name == name)
    return tool.timeout_ms, tool.rate_limit and (tool.rate_limit.calls, tool.rate_limit.per_ms)


def test_a_built_in_tool_is_limited(new_project):
    assert limits(new_project(toml=TOML % LIMITS % "shell").open(), "shell") == (5_000, (3, 3_600_000))


def test_a_tool_of_a_module_is_limited(new_project):
    toml = TOML % ('[tools]\nmodules = ["own"]\n' + LIMITS % "counted")
    rt = new_project(toml=toml, files=[("own.py", MODULE)]).open()
    assert execute(rt, call("counted", parameters={"x": 1})).ok
    assert limits(rt, "counted") == (5_000, (3, 3_600_000))


def test_a_tool_registered_in_python_is_limited_and_code_may_say_otherwise(new_project):
    rt = new_project(toml=TOML % LIMITS % "mine").open()
    rt.register(binding("mine", nothing))
    assert limits(rt, "mine") == (5_000, (3, 3_600_000))
    rt.set_rate_limit("mine", calls=7, per_ms=1000)
    assert limits(rt, "mine") == (5_000, (7, 1000))
    rt.register_name("mine")
    assert limits(rt, "mine") == (5_000, (3, 3_600_000))


def test_a_limit_on_a_tool_that_does_not_exist_is_a_warning(new_project):
    rt = new_project(toml=TOML % LIMITS % "shel").open()
    assert execute(rt, call("fs.list", parameters={})).ok
    assert "tools.shel: no tool is named `shel`; did you mean `shell`?" in rt.warnings


def test_a_policy_file_is_in_force_whatever_it_is_called(new_project):
    forbid = 'forbid (principal, action == Action::"fs.list", resource);'
    rt = new_project(toml=TOML % '[policy]\nfiles = ["rules.txt"]\n', files=[("rules.txt", forbid)]).open()
    assert reasons(execute(rt, call("fs.list", parameters={}))) == ["policy_denied"]


def test_an_edited_tool_module_that_has_limits_does_not_keep_the_policies_from_being_checked(new_project):
    toml = TOML % ('[tools]\nmodules = ["own"]\n' + LIMITS % "counted")
    project = new_project(toml=toml, files=[("own.py", MODULE)])
    assert not read_policies(project.root, project.env).left_out
    (project.root / "own.py").write_text(MODULE + "# edited\n")
    assert list(read_policies(project.root, project.env).left_out) == ["own"]


@pytest.fixture
def regrouped(new_project):
    """A runtime that has run nothing yet, and an edit that says who is in a group of approvers."""
    toml = TOML % ('[tools]\nmodules = ["own"]\n' + LIMITS % "counted" + "[approvals.groups]\nops = ['ann']\n")
    project = new_project(toml=toml, files=[("own.py", MODULE)])
    rt = project.open()
    (project.root / "interlock.toml").write_text(toml.replace("ann", "bob"))
    project.trust()
    return rt


def test_who_may_answer_changes_with_the_file_although_no_tool_module_is_loaded_yet(regrouped):
    """The server that takes answers runs nothing: a limit on a tool of a module must not keep the old groups in force."""
    said = []
    regrouped.services.hooks.notices.append(said.append)
    regrouped.services.refresh()
    assert said == ["the edited configuration is in force"]
    assert regrouped.services.desk.approvers.configured == {"ops": ("bob",)}
    assert execute(regrouped, call("counted", parameters={"x": 1})).ok


@pytest.mark.parametrize("code", ["database_locked", "disk_error"])
def test_an_edit_that_could_not_be_read_is_read_before_the_next_action(regrouped, monkeypatch, code):
    issued = regrouped.services.desk.issued

    def locked(_grants):
        raise StoreError("locked", code=code)

    monkeypatch.setattr(issued, "count", locked)
    regrouped.services.refresh()
    assert regrouped.services.desk.approvers.configured == {"ops": ("ann",)}
    monkeypatch.undo()
    regrouped.services.refresh_if_due()
    assert regrouped.services.desk.approvers.configured == {"ops": ("bob",)}


def test_every_built_in_tool_can_be_compiled(project):
    """They are compiled when they are first used, so that a start is quick."""
    registry = project.open().services.registry
    names = [tool.name for tool in registry.definitions()]
    assert {"fs.read", "git.commit", "http.fetch", "shell", "proc.start", "undo"} <= set(names)
    assert [registry.require(name).version for name in names] == [registry.by_name[name].version for name in names]
