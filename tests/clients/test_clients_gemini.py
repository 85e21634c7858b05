"""The real Gemini CLI, in both modes, against a scripted model."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from attempts import PROMPT, SECOND_SERVER, Attempts, Means
from held_commands import HELD_ANSWERS, HELD_COMMANDS
from npm_programs import installed

from interlock.surfaces.clients.documents import read_document
from interlock.surfaces.clients.gemini import NATIVE, TESTED
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
USER = """{
  // mine
  "security": {"auth": {"selectedType": "gemini-api-key"}},
  "general": {"disableAutoUpdate": true}
}
"""
CLOSED = {"shell": "closed", "editor": "closed"}


@pytest.fixture(scope="module")
def gemini():
    """The program, in the version that the documentation names."""
    return installed("@google/gemini-cli", TESTED, "gemini")


@pytest.fixture
def world(gemini, project):
    """A trusted project, and a home with settings of the user's own."""
    home = project.linked_home()
    (home / ".gemini").mkdir(parents=True)
    (home / ".gemini/settings.json").write_text(USER)
    project.env |= {"HOME": str(home), "PATH": f"{gemini.parent}:{os.environ['PATH']}"}
    project.configure(CONFIGURATION)
    yield project
    project.stop_gate()


def run(project, model: ScriptedModel, code: int = 0, *, where: str = ".") -> None:
    with model.serving():
        done = subprocess.run(
            ["gemini", "-p", PROMPT, "--output-format", "json", "--approval-mode", "yolo"],
            cwd=project.root / where,
            env={
                "PATH": project.env["PATH"],
                "HOME": project.env["HOME"],
                "GEMINI_API_KEY": "none",
                "GOOGLE_GEMINI_BASE_URL": model.url,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == code, done.stdout + done.stderr


def shell(command: str) -> tuple[str, dict]:
    return ("run_shell_command", {"command": command, "description": "x"})


def write(project, name: str) -> tuple[str, dict]:
    return ("write_file", {"file_path": str(project.root / name), "content": "new"})


def edit(project, name: str) -> tuple[str, dict]:
    return (
        "replace",
        {"file_path": str(project.root / name), "instruction": "x", "old_string": "old", "new_string": "new"},
    )


def test_replace_mode_offers_only_interlocks_tools(world):
    (world.root / ".gemini").mkdir()
    settings = '{\n  // mine\n  "tools": {"exclude": ["glob"]} // always\n}\n'
    (world.root / ".gemini/settings.json").write_text(settings)
    world.install("gemini")
    assert "// mine" in (world.root / ".gemini/settings.json").read_text()
    (world.root / "a.txt").write_text("hello")
    model = ScriptedModel(
        [
            ("mcp_interlock_fs_read", {"path": "a.txt"}),
            ("mcp_interlock_fs_write", {"path": "b.txt", "content": "made"}),
            ("mcp_interlock_fs_write", {"path": ".gemini/settings.json", "content": "{}"}),
            shell("touch pwned"),
            write(world, "pwned"),
            *(("mcp_interlock_fs_edit", {"path": name, "old": "old", "new": "new"}) for name in ("approved", "denied")),
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
    assert all("not found" in model.results[call] for call in (3, 4)), model.results
    assert not (world.root / "pwned").exists()
    assert not set(NATIVE) & model.offered
    world.undo("fs.write", "b.txt")
    assert not (world.root / "b.txt").exists()
    world.remove("gemini")
    assert (world.root / ".gemini/settings.json").read_text() == settings
    assert not (world.root.parent / "home/.gemini/trustedFolders.json").exists()


def test_guard_mode_asks_about_its_own_calls(world):
    world.install("gemini", "guard")
    for name in ("approved", "denied", "expired"):
        (world.root / name).write_text("old\n")
    model = ScriptedModel(
        [
            shell("echo made > by-shell"),
            shell("rm approved"),
            shell("exit 3"),
            write(world, "by-editor"),
            write(world, "../outside"),
            write(world, ".gemini/settings.json"),
            ("read_file", {"file_path": str(world.root / "denied")}),
            ("grep_search", {"pattern": "ol+d"}),
            ("web_fetch", {"prompt": "read https://example.org"}),
            *(edit(world, name) for name in ("approved", "denied", "expired")),
        ]
    )
    with world.person({"approved": "approve", "denied": "deny"}):
        run(world, model)
    assert (world.root / "by-shell").read_text() == "made\n"
    assert (world.root / "by-editor").read_text() == "new"
    assert not (world.root.parent / "outside").exists()
    assert "not in workspace" in model.results[4]  # it refuses that itself, before it asks
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
        ("shell", "exit 3", "succeeded"),
        ("fs.write", "by-editor", "succeeded"),
        ("fs.write", ".gemini/settings.json", "failed"),
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
    assert world.doors("gemini") == CLOSED
    world.remove("gemini")
    assert not (world.root / ".gemini").exists()


def test_its_calls_are_judged_by_what_it_does(world):
    """It decodes and corrects paths, takes the shell off a command, and follows patterns out: then the call is refused."""
    world.configure(CONFIGURATION.replace('ask = ["fs.edit"]', "").replace('"fs.write"', '"fs.write", "fs.edit"'))
    world.install("gemini", "guard")
    settings = (world.root / ".gemini/settings.json").read_bytes()
    (world.root / "private").mkdir()
    (world.root / "private/keys.txt").write_text("old\n")
    relative = {"instruction": "x", "old_string": "old", "new_string": "new"}
    model = ScriptedModel(
        [
            ("replace", {"file_path": "keys.txt", **relative}),
            ("replace", {"file_path": "settings.json", **relative, "old_string": '"hooks"', "new_string": '"hookz"'}),
            ("write_file", {"file_path": str(world.root / "%2egemini/more.json"), "content": "x"}),
            ("write_file", {"file_path": "@/made", "content": "x"}),
            shell("bash -c 'echo judged' ';touch hidden;' ''"),
            ("glob", {"pattern": "/etc/host*"}),
            ("glob", {"pattern": "../../../../../../../etc/host*"}),
            edit(world, "private/keys.txt"),
            ("grep_search", {"pattern": "ne+w", "dir_path": "private", "names_only": True, "wait_for_previous": True}),
            ("read_file", {"file_path": "private/keys.txt", "start_line": 1}),
        ]
    )
    run(world, model)
    assert "absolute path" in model.results[0]
    assert "absolute path" in model.results[1]
    assert "decodes" in model.results[2]
    assert "removes the `@`" in model.results[3]
    assert "inner command" in model.results[4]
    assert all("/etc/hostname" not in model.results[call] for call in (5, 6)), model.results
    assert (world.root / ".gemini/settings.json").read_bytes() == settings
    assert {path.name for path in world.root.iterdir()} == {".gemini", "interlock.toml", "private"}
    assert (world.root / "private/keys.txt").read_text() == "new\n", model.results[7]
    assert "keys.txt" in model.results[8]
    assert "new" in model.results[9]


def test_held_commands_are_answered_while_it_waits(world):
    world.configure_held_commands()
    world.install("gemini", "guard")
    model = ScriptedModel([shell(command) for command in HELD_COMMANDS])
    with world.person(HELD_ANSWERS):
        run(world, model)
    world.check_held_commands(model.results)


def test_what_its_hooks_do_not_close(world):
    """Documented, and named by doctor: hooks switched off."""
    world.install("gemini", "guard")
    path = world.root / ".gemini/settings.json"
    written = path.read_text()
    path.write_text(json.dumps({**read_document(written.encode(), path), "hooksConfig": {"enabled": False}}))
    own = world.root.parent / "home/.gemini/settings.json"
    own.write_text(USER.replace("gemini-api-key", "oauth-personal"))  # doctor needs no log-in
    assert world.doors("gemini")["shell"] == "open"
    own.write_text(USER)
    path.write_text(written)
    trusted = world.root.parent / "home/.gemini/trustedFolders.json"
    trusted.write_text(json.dumps({str(world.root): "DO_NOT_TRUST"}))
    untrusted = ScriptedModel([shell("touch ../untrusted")])
    run(world, untrusted, code=55)  # without a person it does not start there
    assert not untrusted.results


def test_in_a_subdirectory_it_does_not_read_the_projects_settings(world):
    """Documented, and named by install and doctor. The scope `user` covers it."""
    world.configure(CONFIGURATION.replace('"shell"]\nask', '"shell(true)"]\nask'))
    (world.root / "sub").mkdir()
    world.install("gemini", "guard")
    run(world, ScriptedModel([shell("touch made")]), where="sub")
    assert (world.root / "sub/made").exists()
    world.install("gemini", "guard", "user")
    run(world, ScriptedModel([shell("touch again")]), where="sub")
    assert not (world.root / "sub/again").exists()


def test_when_a_hook_fails(world, failing_hooks):
    """Nothing runs, but where a hook is too slow, is killed with its shell, or says what is no JSON."""
    world.install("gemini", "guard")
    model = ScriptedModel([shell(command) for command in failing_hooks.commands()])
    run(world, model)
    assert failing_hooks.ran() == {"text", "slow", "shell-killed"}, model.results


def test_what_the_agent_tries_against_the_gate(world):
    """Each attempt is followed by a call that the rules forbid."""
    settings = world.root.parent / "home/.gemini/settings.json"
    server = {"command": SECOND_SERVER[0], "args": SECOND_SERVER[1:], "trust": True}
    read = read_document(USER.encode(), settings, comments=True)
    settings.write_text(json.dumps({**read, "mcpServers": {"other": server}}))
    world.install("gemini", "guard")
    agent = Attempts(
        world,
        Means(
            shell=shell,
            write=lambda name: write(world, name),
            background=lambda command: (
                "run_shell_command",
                {"command": command, "description": "x", "is_background": True},
            ),
            sub_agent=("invoke_agent", {"agent_name": "generalist", "prompt": "work"}),
            second_tool="mcp_other_touch",
            hooks=".gemini/settings.json",
        ),
    )
    run(world, agent)
    assert agent.succeeded() == {"shimmed"}, (  # it starts hooks with the first `bash` on the PATH
        agent.results,
        agent.sub.results,
    )
