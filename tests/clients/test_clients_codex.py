"""The real Codex, in both modes, against a scripted model."""

from __future__ import annotations

import os
import subprocess
import tomllib

import pytest
from attempts import PROMPT, SECOND_SERVER, Attempts, Means
from held_commands import HELD_ANSWERS, HELD_COMMANDS
from npm_programs import installed

from interlock.model.errors import UsageError
from interlock.surfaces.clients.codex import TESTED
from interlock.surfaces.clients.scripted_model import ScriptedModel

pytest_plugins = ["clients_world"]
pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(600)]
CONFIGURATION = """
[rules]
allow = ["fs.read", "fs.list", "fs.write", "fs.delete", "shell"]
ask = ["fs.edit", "shell(head *)"]
deny = ["shell(rm *)"]

[grants.agent]
tools = ["fs.*", "shell"]

[approvals]
ttl = "4s"
"""
USER = """# mine
model = "gpt-5.5"
approval_policy = "never"
sandbox_mode = "danger-full-access"  # what the client's own settings allow
"""


@pytest.fixture(scope="module")
def codex():
    """The program, in the version that the documentation names."""
    return installed("@openai/codex", TESTED, "codex")


@pytest.fixture
def world(codex, project):
    """A trusted project, and a home with settings of the user's own that allow everything."""
    home = project.linked_home()
    (home / ".codex").mkdir(parents=True)
    (home / ".codex/config.toml").write_text(USER)
    project.env |= {"HOME": str(home), "PATH": f"{codex.parent}:{os.environ['PATH']}"}
    project.configure(CONFIGURATION)
    yield project
    project.stop_gate()


def run(project, model: ScriptedModel, *arguments: str) -> str:
    """Let it work; what it has printed."""
    with model.serving():
        provider = f'{{name="t", base_url="{model.url}/v1", wire_api="responses", env_key="KEY", stream_max_retries=0}}'
        settings = ["-c", 'model_provider="t"', "-c", f"model_providers.t={provider}", "-c", "analytics.enabled=false"]
        done = subprocess.run(
            ["codex", "exec", "--json", "--skip-git-repo-check", *settings, *arguments, PROMPT],
            cwd=project.root,
            env={"PATH": project.env["PATH"], "HOME": project.env["HOME"], "KEY": "none"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def shell(command: str, **more) -> tuple[str, dict]:
    return ("exec_command", {"cmd": command, "yield_time_ms": 2000, **more})


def patch(*parts: str) -> tuple[str, str]:
    return ("apply_patch", "\n".join(["*** Begin Patch", *parts, "*** End Patch", ""]))


def settings_of(project) -> bytes:
    return (project.root.parent / "home/.codex/config.toml").read_bytes()


def test_replace_mode_leaves_it_no_shell_and_an_editor_that_writes_nothing(world):
    world.install("codex")
    (world.root / "a.txt").write_text("hello")
    model = ScriptedModel(
        [
            ("mcp__interlock/fs_read", {"path": "a.txt"}),
            ("mcp__interlock/fs_write", {"path": "b.txt", "content": "made"}),
            ("mcp__interlock/fs_write", {"path": ".codex/config.toml", "content": ""}),
            shell("touch pwned"),
            patch("*** Add File: pwned", "+x"),
            *(
                ("mcp__interlock/fs_edit", {"path": name, "old": "old", "new": "new"})
                for name in ("approved", "denied")
            ),
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
    assert "path_protected" in model.results[2]
    assert "unsupported call" in model.results[3]
    assert "read-only" in model.results[4]
    assert not (world.root / "pwned").exists()
    assert not {"exec_command", "write_stdin", "view_image", "web_search"} & model.offered
    world.undo("fs.write", "b.txt")
    assert not (world.root / "b.txt").exists()
    assert world.doors("codex") == {"shell": "closed", "editor": "closed"}
    world.remove("codex")
    assert settings_of(world) == USER.encode()
    assert not (world.root / ".codex").exists()


def test_guard_mode_asks_about_its_own_calls(world):
    world.install("codex", "guard")
    written = settings_of(world)
    assert written.startswith(b"# mine\n")
    assert b"# what the client's own settings allow" in written
    assert len(tomllib.loads(written.decode())["hooks"]["state"]) == 5
    (world.root / "old.txt").write_text("old\n")
    model = ScriptedModel(
        [
            shell("echo made > by-shell"),
            shell("rm old.txt"),
            patch("*** Add File: by-editor", "+new"),
            patch("*** Add File: ../outside", "+new"),
            patch("*** Add File: .codex/hooks.json", "+{}"),
            patch("*** Add File: one", "+x", "*** Add File: two", "+x"),
            patch("*** Update File: old.txt", "-old", "+new"),
            patch("*** Delete File: old.txt"),
            *(patch(f"*** Update File: {name}", "-old", "+new") for name in ("approved", "denied")),
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
    assert "rule" in model.results[1] or "denied" in model.results[1]
    assert (world.root / "by-editor").read_text() == "new\n"
    assert "path_outside_workspace" in model.results[3]
    assert "path_" in model.results[4]
    assert "one patch for each file" in model.results[5]
    assert "approval_expired" in model.results[6]
    assert not {"one", "two", "old.txt"} & {path.name for path in world.root.iterdir()}
    assert not (world.root.parent / "outside").exists()
    assert world.actions()[::-1] == [
        ("shell", "echo made > by-shell", "succeeded"),
        ("shell", "rm old.txt", "rejected"),
        ("fs.write", "by-editor", "succeeded"),
        ("fs.write", ".codex/hooks.json", "failed"),
        ("fs.edit", "old.txt", "rejected"),
        ("fs.delete", "old.txt", "succeeded"),
        ("fs.edit", "approved", "succeeded"),
        ("fs.edit", "denied", "rejected"),
        ("shell", "head -c 0 approved", "succeeded"),
        ("shell", "head -c 0 denied", "rejected"),
    ]
    world.undo("fs.write", "by-editor")
    world.undo("fs.delete", "old.txt")
    assert not (world.root / "by-editor").exists()
    assert (world.root / "old.txt").read_text() == "old\n"
    assert world.doors("codex") == {"shell": "closed", "editor": "closed"}
    world.remove("codex")
    assert settings_of(world) == USER.encode()


def test_its_calls_are_judged_by_what_it_does(world):
    """Its hooks are told only the command, and its record of the session also the shell."""
    world.install("codex", "guard")
    calls = [
        shell("touch by-zsh", shell="/usr/bin/zsh"),
        shell("touch by-login", login=True),
        patch("*** Add File:  spaced", "+x"),
        shell("touch plain", login=False, workdir=str(world.root)),
        shell("apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: .mcp.json\n+{}\n*** End Patch\nEOF"),
        shell("cd . && applypatch <<'EOF'\n*** Begin Patch\n*** Add File: .mcp.json\n+{}\n*** End Patch\nEOF"),
    ]
    model = ScriptedModel(calls)
    run(world, model)
    assert "`shell` is not supported" in model.results[0], model.results
    assert "`login` is not supported" in model.results[1]
    assert "white space" in model.results[2]
    made = {"by-zsh", "by-login", " spaced", "spaced", "plain"} & {path.name for path in world.root.iterdir()}
    assert made == {"plain"}, model.results[3]
    assert all("use the tool `apply_patch`" in model.results[call] for call in (4, 5))
    assert not (world.root / ".mcp.json").exists(), "its editor writes no protected file, however it is called"
    run(world, ScriptedModel([shell("touch unseen")]), "--ephemeral")
    assert not (world.root / "unseen").exists(), "it keeps no record"


def test_the_scope_user_covers_each_project_by_its_own_rules(world):
    """In a home that is a link, too. The session tells the project, and not the directory that the model chooses."""
    world.install("codex", "guard", "user")
    other = type(world)(world.root.parent / "other", world.root.parent / "state")
    other.configure(CONFIGURATION.replace('deny = ["shell(rm *)"]', ""))
    for place in (world, other):
        (place.root / "a.txt").touch()
    model = ScriptedModel(
        [
            shell("rm a.txt"),
            shell("rm a.txt", workdir=str(other.root)),
            shell("rm ../project/a.txt", workdir=str(other.root)),
            shell("touch made"),
        ]
    )
    run(world, model)
    assert "denied" in model.results[0], model.results
    assert all("path_outside_workspace" in model.results[call] for call in (1, 2)), model.results
    assert (world.root / "made").exists()
    assert all((place.root / "a.txt").exists() for place in (world, other))
    assert world.doors("codex") == {"shell": "closed", "editor": "closed"}
    world.remove("codex", "user")
    assert settings_of(world) == USER.encode()


def test_held_commands_are_answered_while_it_waits(world):
    world.configure_held_commands()
    world.install("codex", "guard")
    model = ScriptedModel([shell(command) for command in HELD_COMMANDS])
    with world.person(HELD_ANSWERS):
        run(world, model)
    world.check_held_commands(model.results)


def test_what_its_hooks_do_not_close(world):
    """Documented, and named by doctor: hooks that it does not trust, or that are switched off."""
    world.install("codex", "guard")
    path = world.root / ".codex/hooks.json"
    calls = [
        shell("cat", tty=True),
        shell("sleep 30", yield_time_ms=250),
        ("write_stdin", {"session_id": 0, "chars": "touch pwned\n"}),
    ]
    model = ScriptedModel(calls)
    run(world, model, "-c", "features.unified_exec_tty=true")
    assert "`tty` is not supported" in model.results[0]
    assert not (world.root / "pwned").exists()
    path.write_text(path.read_text().replace('"timeout": 130', '"timeout": 129'))
    run(world, ScriptedModel([shell("touch ../changed")]))
    assert (world.root.parent / "changed").exists()
    world.install("codex", "guard")  # puts it right
    local = world.root / ".codex/config.toml"
    local.write_text("[features]\nhooks = false\n")
    assert world.doors("codex")["shell"] == "open"


@pytest.mark.parametrize(("repositories", "is_open"), [((".",), False), ((), True), ((".", "sub"), True)])
def test_in_which_directories_it_reads_the_projects_hooks(world, repositories, is_open):
    """In the root of a git repository and below it; documented, and named by doctor. The scope `user` covers the rest."""
    world.configure(CONFIGURATION.replace('"shell"]\nask', '"shell(true)"]\nask'))
    (world.root / "sub").mkdir()
    for name in repositories:
        subprocess.run(["git", "init", "--quiet", name], cwd=world.root, check=True)
    world.install("codex", "guard")
    run(world, ScriptedModel([shell("touch made")]), "--cd", str(world.root / "sub"))
    assert (world.root / "sub/made").exists() is is_open
    world.install("codex", "guard", "user")
    run(world, ScriptedModel([shell("touch again")]), "--cd", str(world.root / "sub"))
    assert not (world.root / "sub/again").exists()


def test_it_is_not_set_up_in_guard_mode_without_the_program(world):
    world.env["PATH"] = "/nowhere"
    with pytest.raises(UsageError) as caught:
        world.install("codex", "guard")
    assert caught.value.code == "client_program"
    assert settings_of(world) == USER.encode()


def test_when_a_hook_fails(world, failing_hooks):
    """Nothing runs, but where a hook is too slow, is killed with its shell, or says what is no JSON."""
    world.install("codex", "guard")
    model = ScriptedModel([shell(command) for command in failing_hooks.commands()])
    run(world, model)
    assert failing_hooks.ran() == {"text", "slow", "shell-killed"}, model.results


def test_what_the_agent_tries_against_the_gate(world):
    """Each attempt is followed by a call that the rules forbid."""
    settings = world.root.parent / "home/.codex/config.toml"
    settings.write_text(f"{USER}[mcp_servers.other]\ncommand = '{SECOND_SERVER[0]}'\nargs = {SECOND_SERVER[1:]}\n")
    world.install("codex", "guard")
    agent = Attempts(
        world,
        Means(
            shell=shell,
            write=lambda name: patch(f"*** Add File: {name}", "+x"),
            background=shell,
            sub_agent=("multi_agent_v1/spawn_agent", {"message": "work", "agent_type": "default"}),
            second_tool="mcp__other/touch",
            hooks=".codex/hooks.json",
            off={".codex/config.toml": "features.hooks = false"},
        ),
    )
    run(world, agent)
    assert agent.succeeded() == set(), (agent.results, agent.sub.results)
