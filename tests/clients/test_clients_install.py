"""`interlock install claude-code` in a real project."""

from __future__ import annotations

import json
import os

import pytest

import interlock
from interlock.engine.assemble import open_project

pytest_plugins = ["clients_world"]


def files(project) -> dict[str, bytes | None]:
    names = (".mcp.json", ".claude/settings.json")
    return {name: (project.root / name).read_bytes() if (project.root / name).exists() else None for name in names}


def test_installed_and_removed_again(project):
    nothing = files(project)
    shown = project.interlock("install", "claude-code", "--dry-run")
    assert '+      "Bash",' in shown
    assert files(project) == nothing
    project.interlock("install", "claude-code", "--agent", "coder")
    server = json.loads((project.root / ".mcp.json").read_text())["mcpServers"]["interlock"]
    assert os.path.isabs(server["command"])
    assert server["args"] == ["gateway", "--agent", "coder"]
    settings = json.loads((project.root / ".claude/settings.json").read_text())
    assert {"Bash", "Write", "Edit", "WebFetch"} <= set(settings["permissions"]["deny"])
    again = json.loads(project.interlock("install", "claude-code", "--agent", "coder", "--json"))
    assert [file["outcome"] for file in again["files"]] == ["unchanged", "unchanged"]
    project.interlock("install", "claude-code", "--agent", "other")
    project.interlock("install", "claude-code", "--remove")
    assert files(project) == nothing
    assert not (project.root / ".claude").exists()
    assert project.fails("install", "claude-code", "--remove")["code"] == "not_found"


def test_it_says_what_of_the_project_is_not_as_expected(project):
    done = project._run("install", "claude-code", "--dry-run")
    assert "undo does not cover what commands do" in done.stderr
    assert "undo does not cover" not in project._run("install", "claude-code", "--dry-run", "--mode", "guard").stderr
    path = project.root / "interlock.toml"
    path.write_text(path.read_text() + '[workspace]\nmode = "layer"\n')
    said = project._run("install", "claude-code", "--dry-run").stderr
    assert "not trusted" in said
    assert "interlock trust" in said
    project.interlock("trust", "--yes")
    assert project._run("install", "claude-code", "--dry-run").stderr.count("warning: the gateway") == 0


def test_it_says_that_the_agent_has_no_grant(project):
    assert "grant" not in project._run("install", "claude-code", "--agent", "coder", "--dry-run").stderr
    for mode in ("replace", "guard"):
        said = project._run("install", "claude-code", "--agent", "stranger", "--mode", mode, "--dry-run").stderr
        assert "`stranger` has no grant" in said
        assert "`[grants.stranger]`" in said


def test_it_names_the_servers_that_the_client_still_starts(project):
    (project.root / ".mcp.json").write_text(
        '{"mcpServers": {"memory": {"command": "x"}, "files": {"url": "http://x"}}}'
    )
    said = project._run("install", "claude-code", "--dry-run").stderr
    assert ".mcp.json also starts `memory`, `files`" in said
    assert "`[mcp] files`" in said
    (project.root / ".mcp.json").unlink()
    project.interlock("install", "claude-code")
    assert "also starts" not in project._run("install", "claude-code", "--dry-run").stderr


def test_removal_restores_the_bytes(project):
    (project.root / ".claude").mkdir()
    (project.root / ".mcp.json").write_bytes(b'{"mcpServers":\t{"other": {"command": "x"}}}')
    (project.root / ".claude/settings.json").write_bytes(b'{ "permissions": {"deny": ["Bash"]}, "hooks": {} }\r\n')
    before = files(project)
    project.interlock("install", "claude-code")
    assert files(project) != before
    assert json.loads((project.root / ".mcp.json").read_text())["mcpServers"]["other"] == {"command": "x"}
    project.interlock("install", "claude-code", "--remove")
    assert files(project) == before


def test_a_directory_that_others_use_by_now_stays(project):
    project.interlock("install", "claude-code")
    (project.root / ".claude/CLAUDE.md").write_text("mine")
    project.interlock("install", "claude-code", "--remove")
    assert os.listdir(project.root / ".claude") == ["CLAUDE.md"]


def test_what_was_edited_since_stays(project):
    project.interlock("install", "claude-code")
    path = project.root / ".claude/settings.json"
    settings = json.loads(path.read_text())
    settings["model"] = "mine"
    path.write_text(json.dumps(settings))
    removed = json.loads(project.interlock("install", "claude-code", "--remove", "--json"))
    assert [file["outcome"] for file in removed["files"]] == ["restored", "edited"]
    assert json.loads(path.read_text()) == {"model": "mine"}
    assert not (project.root / ".mcp.json").exists()


@pytest.mark.parametrize("content", [b"{ // comment\n}", b"[]", b"\xff"])
def test_a_file_that_is_not_understood_is_left_alone(project, content):
    (project.root / ".mcp.json").write_bytes(content)
    error = project.fails("install", "claude-code")
    assert error["code"] == "client_file"
    assert (project.root / ".mcp.json").read_bytes() == content
    assert not (project.root / ".claude").exists()


def test_a_file_where_the_client_has_a_directory_is_left_alone(project):
    (project.root / ".claude").write_text("mine")
    error = project.fails("install", "claude-code")
    assert (error["code"], error["path"]) == ("client_file", str(project.root / ".claude"))
    assert not (project.root / ".mcp.json").exists()


def test_links_and_unknown_clients_are_refused(project, tmp_path):
    (tmp_path / "elsewhere").write_text("{}")
    (project.root / ".mcp.json").symlink_to(tmp_path / "elsewhere")
    assert project.fails("install", "claude-code")["code"] == "client_file"
    assert (tmp_path / "elsewhere").read_text() == "{}"
    error = project.fails("install", "emacs")
    assert (error["code"], "claude-code" in error["hint"]) == ("client_unknown", True)


def test_an_agent_cannot_edit_what_a_client_starts(project):
    names = (
        ".mcp.json", ".claude/settings.json", ".claude/settings.local.json", ".codex/hooks.json", ".copilot/config.json",
        ".cursor/hooks.json", ".cursor/mcp.json", ".gemini/settings.json", ".github/hooks/x.json", ".github/mcp.json",
        ".github/copilot/settings.json", ".opencode/plugin/x.js", ".vscode/mcp.json", ".vscode/settings.json", "opencode.json",
    )  # fmt: skip
    with interlock.Runtime(*open_project(project.root, env=project.env)) as runtime:
        for name in names:
            result = runtime.call_sync("fs.write", {"path": name, "content": "{}"})
            assert result.reason in ("path_denied", "path_protected"), name
            assert not (project.root / name).exists()
