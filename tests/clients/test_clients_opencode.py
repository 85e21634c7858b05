"""The real opencode, in both modes, against a scripted model."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from attempts import PROMPT, SECOND_SERVER, Attempts, Means
from held_commands import HELD_ANSWERS, HELD_COMMANDS
from npm_programs import installed

from interlock.surfaces.clients.documents import read_document
from interlock.surfaces.clients.opencode import TESTED
from interlock.surfaces.clients.opencode_trial import OFFLINE, provider, skip_install
from interlock.surfaces.clients.scripted_model import ScriptedModel

pytest_plugins = ["clients_world"]
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(600)]
CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "fs.write", "shell"]
ask = ["fs.edit", "shell(head *)"]
deny = ["shell(rm *)"]

[grants.agent]
tools = ["fs.*", "shell"]

[approvals]
ttl = "4s"
"""
CLOSED = {"shell": "closed", "editor": "closed"}


@pytest.fixture(scope="module")
def opencode():
    """The program, in the version that the documentation names."""
    return installed("opencode-ai", TESTED, "opencode")


@pytest.fixture
def world(opencode, project):
    """A trusted project, and a home of its own."""
    home = project.linked_home()
    project.env |= {"HOME": str(home), "PATH": f"{opencode.parent}:{os.environ['PATH']}"}
    project.configure(CONFIGURATION)
    yield project
    project.stop_gate()


def run(project, model: ScriptedModel, *arguments: str, name: str = "probe", where: str = ".") -> None:
    """`name` is the model's, by which the program chooses its editor."""
    home = project.root.parent / "home"
    for settings in (home / ".config/opencode", project.root / ".opencode"):
        skip_install(settings)
    with model.serving():
        allowed = {"permission": {"bash": "allow", "edit": "allow", "external_directory": "allow"}}
        settings = json.dumps({**provider(model.url), **allowed})
        settings = settings.replace('"probe/probe"', f'"probe/{name}"').replace(
            '{"probe": {"name"', f'{{"{name}": {{"name"'
        )
        (home / "settings.json").write_text(settings)
        done = subprocess.run(
            ["opencode", "run", "--format", "json", *arguments, PROMPT],
            cwd=project.root / where,
            env={
                "PATH": project.env["PATH"],
                "HOME": str(home),
                "OPENCODE_CONFIG": str(home / "settings.json"),
                **OFFLINE,
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
    return ("write", {"filePath": str(project.root / name), "content": "new"})


def read(project, name: str) -> tuple[str, dict]:
    return ("read", {"filePath": str(project.root / name)})


def edit(project, name: str) -> tuple[str, dict]:
    return ("edit", {"filePath": str(project.root / name), "oldString": "old", "newString": "new"})


def test_replace_mode_offers_only_interlocks_tools(world):
    settings = '{\n  // mine\n  "theme": "dark", // always\n}\n'
    (world.root / "opencode.jsonc").write_text(settings)
    world.install("opencode")
    assert "// mine" in (world.root / "opencode.jsonc").read_text()
    (world.root / "a.txt").write_text("hello")
    model = ScriptedModel(
        [
            ("interlock_fs_read", {"path": "a.txt"}),
            ("interlock_fs_write", {"path": "b.txt", "content": "made"}),
            ("interlock_fs_write", {"path": "opencode.jsonc", "content": "{}"}),
            shell("touch pwned"),
            write(world, "pwned"),
            *(("interlock_fs_edit", {"path": name, "old": "old", "new": "new"}) for name in ("approved", "denied")),
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
    assert "unavailable tool" in model.results[3]
    assert "unavailable tool" in model.results[4]
    assert not {"bash", "edit", "write", "read", "glob", "grep", "webfetch", "apply_patch"} & model.offered
    world.undo("fs.write", "b.txt")
    assert not (world.root / "b.txt").exists()
    world.remove("opencode")
    left = (world.root / "opencode.jsonc").read_text()  # it has put a line of its own into the file meanwhile
    assert "// mine\n" in left
    assert set(read_document(left.encode(), world.root, comments=True)) == {"$schema", "theme"}


def test_guard_mode_asks_about_its_own_calls(world):
    world.install("opencode", "guard")
    (world.root / "old.txt").write_text("old\n")
    old = str(world.root / "old.txt")
    model = ScriptedModel(
        [
            shell("echo made > by-shell"),
            shell("rm old.txt"),
            write(world, "by-editor"),
            write(world, "../outside"),
            write(world, ".opencode/plugin/interlock.js"),
            ("read", {"filePath": old}),
            ("edit", {"filePath": old, "oldString": "old", "newString": "new"}),
            ("webfetch", {"url": "https://example.org", "format": "text"}),
            *(read(world, name) for name in ("approved", "denied")),
            *(edit(world, name) for name in ("approved", "denied")),
            shell("head -c 0 approved"),
            shell("head -c 0 denied"),
        ]
    )
    for name in ("approved", "denied"):
        (world.root / name).write_text("old\n")
    answers = {"approved": "approve", "denied": "deny"}
    with world.person({**answers, **{f"head -c 0 {name}": answer for name, answer in answers.items()}}):
        run(world, model)
    assert [(world.root / name).read_text() for name in ("approved", "denied")] == ["new\n", "old\n"], model.results
    assert (world.root / "by-shell").read_text() == "made\n"
    assert (world.root / "by-editor").read_text() == "new"
    assert "path_outside_workspace" in model.results[3]
    assert "path_" in model.results[4]
    assert "old" in model.results[5]
    assert "approval_expired" in model.results[6]
    assert "redirect" in model.results[7]
    assert (world.root / "old.txt").read_text() == "old\n"
    assert not (world.root.parent / "outside").exists()
    assert [row for row in world.actions() if row[2] == "succeeded"][::-1] == [
        ("shell", "echo made > by-shell", "succeeded"),
        ("fs.write", "by-editor", "succeeded"),
        ("fs.read", "old.txt", "succeeded"),
        ("fs.read", "approved", "succeeded"),
        ("fs.read", "denied", "succeeded"),
        ("fs.edit", "approved", "succeeded"),
        ("shell", "head -c 0 approved", "succeeded"),
    ]
    world.undo("fs.write", "by-editor")
    assert not (world.root / "by-editor").exists()
    assert world.doors("opencode") == CLOSED


def test_its_calls_are_judged_by_what_it_does(world):
    """It cuts off the spaces around a path in a patch: then the call is refused."""
    world.configure(
        CONFIGURATION.replace('ask = ["fs.edit", ', "ask = [").replace('"fs.write"', '"fs.write", "fs.edit"')
    )
    world.install("opencode", "guard")
    (world.root / "secret").write_text("old\n")
    patches = [
        f"*** Begin Patch\n*** {head}\n*** End Patch\n"
        for head in (
            "Add File:  outside-1\n+x",
            "Add File:  ../outside-2\n+x",
            "Update File: secret \n@@\n-old\n+new",
            "Delete File:  secret",
            "Update File: secret\n@@\n-old\n+new\n *** End Patch\n *** Add File: outside-3\n+x",
            "Add File: made\n+x",
        )
    ]
    model = ScriptedModel([("apply_patch", {"patchText": text}) for text in patches])
    run(world, model, name="gpt-5-x")
    assert all("white space" in model.results[call] for call in range(4)), model.results
    assert "one patch for each file" in model.results[4]
    assert (world.root / "secret").read_text() == "old\n"
    assert not [path for path in (*world.root.iterdir(), *world.root.parent.iterdir()) if "outside" in path.name]
    assert (world.root / "made").read_text() == "x\n", model.results[5]


def test_held_commands_are_answered_while_it_waits(world):
    world.configure_held_commands()
    world.install("opencode", "guard")
    model = ScriptedModel([shell(command) for command in HELD_COMMANDS])
    with world.person(HELD_ANSWERS):
        run(world, model)
    world.check_held_commands(model.results)


def test_what_its_plug_in_does_not_close(world):
    """Documented: it is started without plug-ins."""
    world.install("opencode", "guard")
    run(world, ScriptedModel([shell("touch ../pure")]), "--pure")
    assert (world.root.parent / "pure").exists()


@pytest.mark.parametrize(("repository", "is_open"), [(".", False), ("sub", True)])
def test_in_which_directories_it_reads_the_projects_plug_in(world, repository, is_open):
    """Not in a git repository inside of the project; documented, and named by install and doctor."""
    world.configure(CONFIGURATION.replace('"shell"]\nask', '"shell(true)"]\nask'))
    (world.root / "sub").mkdir()
    subprocess.run(["git", "init", "--quiet", repository], cwd=world.root, check=True)
    world.install("opencode", "guard")
    run(world, ScriptedModel([shell("touch made")]), where="sub")
    assert (world.root / "sub/made").exists() is is_open


def test_when_a_hook_fails(world, failing_hooks):
    """Nothing runs."""
    world.install("opencode", "guard")
    model = ScriptedModel([shell(command) for command in failing_hooks.commands()])
    run(world, model)
    assert failing_hooks.ran() == set(), model.results


def test_what_the_agent_tries_against_the_gate(world):
    """Each attempt is followed by a call that the rules forbid."""
    server = {"type": "local", "command": SECOND_SERVER, "enabled": True}
    (world.root / "opencode.json").write_text(json.dumps({"mcp": {"other": server}}))
    world.install("opencode", "guard")
    agent = Attempts(
        world,
        Means(
            shell=shell,
            write=lambda name: write(world, name),
            background=shell,
            sub_agent=("task", {"subagent_type": "general", "description": "x", "prompt": "work"}),
            second_tool="other_touch",
            hooks=".opencode/plugin/interlock.js",
        ),
    )
    run(world, agent)
    assert agent.succeeded() == set(), (agent.results, agent.sub.results)
