"""The real Copilot CLI, in both modes, against a scripted model."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from attempts import PROMPT, SECOND_SERVER, Attempts, Means
from held_commands import HELD_ANSWERS, HELD_COMMANDS
from npm_programs import installed

from interlock.surfaces.clients.copilot import TESTED
from interlock.surfaces.clients.copilot_trial import offline
from interlock.surfaces.clients.documents import read_document
from interlock.surfaces.clients.scripted_model import ScriptedModel

pytest_plugins = ["clients_world"]
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(600)]
CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "fs.search", "fs.write", "shell"]
ask = ["fs.edit"]
deny = ["shell(rm *)"]

[grants.agent]
tools = ["fs.*", "shell"]

[approvals]
ttl = "4s"
"""
USER = '// mine\n{\n  "firstLaunchAt": "2026-11-27T20:00:00.000Z"\n}\n'
CLOSED = {"shell": "closed", "editor": "closed"}


@pytest.fixture(scope="module")
def copilot():
    """The program, in the version that the documentation names."""
    return installed("@github/copilot", TESTED, "copilot")


@pytest.fixture
def world(copilot, project):
    """A trusted project, and a home with settings of the user's own. What the program unpacks is kept beside it."""
    home = project.linked_home()
    (home / ".copilot").mkdir(parents=True)
    (home / ".copilot/config.json").write_text(USER)
    (home / ".cache").mkdir()
    unpacked = copilot.parents[2] / "unpacked"
    unpacked.mkdir(exist_ok=True)
    (home / ".cache/copilot").symlink_to(unpacked)
    project.env |= {"HOME": str(home), "PATH": f"{copilot.parent}:{os.environ['PATH']}"}
    project.configure(CONFIGURATION)
    yield project
    project.stop_gate()


def run(project, model: ScriptedModel, *, where: str = ".", **env: str) -> None:
    with model.serving():
        done = subprocess.run(
            ["copilot", "-p", PROMPT, "--output-format", "json", "--allow-all-tools", "--allow-all-paths"],
            cwd=project.root / where,
            env={
                "PATH": project.env["PATH"],
                "HOME": project.env["HOME"],
                **offline(model.url, Path(project.env["HOME"])),
                **env,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr


def shell(command: str) -> tuple[str, dict]:
    return ("bash", {"command": command, "description": "x"})


def write(project, name: str) -> tuple[str, dict]:
    return ("create", {"path": str(project.root / name), "file_text": "new"})


def edit(project, name: str) -> tuple[str, dict]:
    return ("edit", {"path": str(project.root / name), "old_str": "old", "new_str": "new"})


def settings_of(project) -> dict:
    path = project.root.parent / "home/.copilot/config.json"
    return read_document(path.read_bytes(), path, comments=True)


def test_replace_mode_refuses_its_own_tools(world):
    world.install("copilot")
    assert settings_of(world)["trustedFolders"] == [str(world.root)]
    (world.root / "a.txt").write_text("hello")
    model = ScriptedModel(
        [
            ("interlock-fs_read", {"path": "a.txt"}),
            ("interlock-fs_write", {"path": "b.txt", "content": "made"}),
            ("interlock-fs_write", {"path": ".github/hooks/interlock-copilot.json", "content": "{}"}),
            shell("touch pwned"),
            write(world, "pwned"),
            ("view", {"path": str(world.root / "a.txt")}),
            *(("interlock-fs_edit", {"path": name, "old": "old", "new": "new"}) for name in ("approved", "denied")),
        ]
    )
    for name in ("approved", "denied"):
        (world.root / name).write_text("old")
    with world.person({"approved": "approve", "denied": "deny"}):
        run(world, model)
    assert [(world.root / name).read_text() for name in ("approved", "denied")] == ["new", "old"], model.results
    assert "approval_denied" in model.results[max(model.results)]
    assert "hello" in model.results[0]
    assert (world.root / "b.txt").read_text() == "made"
    assert "path_" in model.results[2]
    assert all("use the tools of the MCP server" in model.results[call] for call in (3, 4, 5)), model.results
    assert not (world.root / "pwned").exists()
    world.undo("fs.write", "b.txt")
    assert not (world.root / "b.txt").exists()
    world.remove("copilot")
    assert not settings_of(world).get("trustedFolders")
    assert not (world.root / ".github").exists()


def test_it_waits_for_as_long_as_the_gateway_does(world):
    """45 seconds, after which the model is told that the call waits: no limit of the client's ends it before."""
    world.configure(CONFIGURATION.replace("4s", "1h"))
    world.install("copilot")
    (world.root / "a.txt").write_text("old")
    model = ScriptedModel([("interlock-fs_edit", {"path": "a.txt", "old": "old", "new": "new"})])
    run(world, model)
    assert "[HELD]" in model.results[0]
    assert (world.root / "a.txt").read_text() == "old"


def test_guard_mode_asks_about_its_own_calls(world):
    """Also with the hooks of the clients set up whose files it reads too: a call is asked about and recorded once."""
    for client in ("copilot", "claude-code", "vscode"):
        world.install(client, "guard")
    for name in ("approved", "denied", "expired"):
        (world.root / name).write_text("old\n")
    model = ScriptedModel(
        [
            shell("echo made > by-shell"),
            shell("rm approved"),
            shell("exit 3"),
            write(world, "by-editor"),
            write(world, "../outside"),
            write(world, ".github/hooks/more.json"),
            ("view", {"path": str(world.root / "denied")}),
            ("grep", {"pattern": "ol+d"}),
            ("sql", {"query": "select 1", "description": "x"}),
            *(edit(world, name) for name in ("approved", "denied", "expired")),
        ]
    )
    with world.person({"approved": "approve", "denied": "deny"}):
        run(world, model)
    assert (world.root / "by-shell").read_text() == "made\n"
    assert "Created" in model.results[3], model.results
    assert (world.root / "by-editor").read_text() == "new"
    assert not (world.root.parent / "outside").exists()
    assert "path_outside_workspace" in model.results[4]
    assert "path_" in model.results[5]
    assert "does not know" in model.results[8]
    assert [(world.root / name).read_text() for name in ("approved", "denied", "expired")] == [
        "new\n",
        "old\n",
        "old\n",
    ]
    assert "approval_denied" in model.results[10]
    assert "approval_expired" in model.results[11]
    assert world.actions()[::-1] == [
        ("shell", "echo made > by-shell", "succeeded"),
        ("shell", "rm approved", "rejected"),
        ("shell", "exit 3", "failed"),
        ("fs.write", "by-editor", "succeeded"),
        ("fs.write", ".github/hooks/more.json", "failed"),
        ("fs.read", "denied", "succeeded"),
        ("fs.search", ".", "succeeded"),
        ("fs.edit", "approved", "succeeded"),
        ("fs.edit", "denied", "rejected"),
        ("fs.edit", "expired", "rejected"),
    ]
    world.undo("fs.write", "by-editor")
    world.undo("fs.edit", "approved")
    assert not (world.root / "by-editor").exists()
    assert (world.root / "approved").read_text() == "old\n"


def test_its_calls_are_judged_by_what_it_does(world):
    """It ignores a member, takes another name for a directory, cuts off spaces: then the call is refused."""
    world.install("copilot", "guard")
    for name in ("secret", "harmless"):
        (world.root / name).write_text("old\n")
    both = {
        **edit(world, "secret")[1],
        "patch": "*** Begin Patch\n*** Update File: harmless\n-old\n+new\n*** End Patch",
    }
    model = ScriptedModel(
        [
            ("edit", both),
            ("glob", {"pattern": "host*", "paths": "/etc"}),
            ("grep", {"pattern": "root", "paths": ["/etc/passwd"], "output_mode": "content"}),
            ("glob", {"pattern": "*", "paths": str(world.root)}),
            ("grep", {"pattern": "ol+d", "paths": [str(world.root)], "-n": True, "output_mode": "content"}),
            ("view", {"path": str(world.root / "secret"), "view_range": [1, 1]}),
            ("bash", {"command": "echo made > by-shell", "description": "x", "mode": "sync", "initial_wait": 5}),
        ]
    )
    run(world, model)
    assert (world.root / "secret").read_text() == "old\n"
    assert all(word not in json.dumps(model.results) for word in ("hostname", "root:x"))
    assert "`patch`" in model.results[0]
    assert "harmless" in model.results[3], "a directory in the name that it offers"
    assert "old" in model.results[4]
    assert "old" in model.results[5]
    assert (world.root / "by-shell").read_text() == "made\n"
    heads = (
        "Add File:  outside-1",
        "Add File: outside-2 ",
        "Add File:  ../outside-3",
        "Update File:  secret",
        "Delete File:  secret",
    )
    bodies = {"Add": "\n+x", "Update": "\n-old\n+new", "Delete": ""}
    patched = ScriptedModel(
        [
            ("apply_patch", {"input": f"*** Begin Patch\n*** {head}{bodies[head.split()[0]]}\n*** End Patch\n"})
            for head in heads
        ]
    )
    run(world, patched, COPILOT_MODEL="gpt-5.5")
    assert all("white space" in patched.results[call] for call in range(len(heads))), patched.results
    assert (world.root / "secret").read_text() == "old\n"
    assert not [path for path in (*world.root.iterdir(), *world.root.parent.iterdir()) if "outside" in path.name]


def test_held_commands_are_answered_while_it_waits(world):
    world.configure_held_commands()
    world.install("copilot", "guard")
    model = ScriptedModel([shell(command) for command in HELD_COMMANDS])
    with world.person(HELD_ANSWERS):
        run(world, model)
    world.check_held_commands(model.results)


def test_what_its_hooks_do_not_close(world):
    """Documented, and named by doctor: hooks switched off, a directory that is not trusted."""
    world.install("copilot", "guard")
    patch = "*** Begin Patch\n*** Add File: ../outside\n+x\n*** End Patch\n"
    patched = ScriptedModel([("apply_patch", {"input": patch})])
    run(world, patched, COPILOT_MODEL="gpt-5.5")  # for such models it has an editor that takes patches
    assert "path_outside_workspace" in patched.results[0]
    assert world.doors("copilot") == CLOSED
    (world.root / ".github/copilot").mkdir()
    (world.root / ".github/copilot/settings.json").write_text('{"disableAllHooks": true}')
    assert world.doors("copilot")["shell"] == "open"
    (world.root / ".github/copilot/settings.json").unlink()
    (world.root.parent / "home/.copilot/config.json").write_text(USER)
    run(world, ScriptedModel([shell("touch ../untrusted")]))
    assert (world.root.parent / "untrusted").exists()


@pytest.mark.parametrize(("repositories", "is_open"), [((".",), False), ((), True), ((".", "sub"), True)])
def test_in_which_directories_it_reads_the_projects_hooks(world, repositories, is_open):
    """In the root of a git repository and below it; documented, and named by doctor. The scope `user` covers the rest."""
    world.configure(CONFIGURATION.replace('"shell"]\nask', '"shell(true)"]\nask'))
    (world.root / "sub").mkdir()
    for name in repositories:
        subprocess.run(["git", "init", "--quiet", name], cwd=world.root, check=True)
    world.install("copilot", "guard")
    run(world, ScriptedModel([shell("touch made")]), where="sub")
    assert (world.root / "sub/made").exists() is is_open
    world.install("copilot", "guard", "user")
    run(world, ScriptedModel([shell("touch again")]), where="sub")
    assert not (world.root / "sub/again").exists()


def test_when_a_hook_fails(world, failing_hooks):
    """Nothing runs, but where a hook is too slow, or says what is no JSON."""
    world.install("copilot", "guard")
    model = ScriptedModel([shell(command) for command in failing_hooks.commands()])
    run(world, model)
    assert failing_hooks.ran() == {"text", "slow"}, model.results


def test_what_the_agent_tries_against_the_gate(world):
    """Each attempt is followed by a call that the rules forbid."""
    server = {"type": "local", "command": SECOND_SERVER[0], "args": SECOND_SERVER[1:], "tools": ["*"]}
    servers = world.root.parent / "home/.copilot/mcp-config.json"
    servers.write_text(json.dumps({"mcpServers": {"other": server}}))
    world.install("copilot", "guard")
    agent = Attempts(
        world,
        Means(
            shell=shell,
            write=lambda name: write(world, name),
            background=lambda command: ("bash", {"command": command, "description": "x", "mode": "async"}),
            sub_agent=(
                "task",
                {"agent_type": "general-purpose", "name": "sub", "description": "x", "prompt": "work", "mode": "sync"},
            ),
            second_tool="other-touch",
            hooks=".github/hooks/interlock-copilot.json",
            off={".github/copilot/settings.json": '{"disableAllHooks": true}'},
        ),
    )
    run(world, agent)
    assert agent.succeeded() == set(), (agent.results, agent.sub.results)
