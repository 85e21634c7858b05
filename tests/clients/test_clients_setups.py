"""Several set-ups, set-ups that were killed, and projects that were moved: nothing of one is lost, and nothing stays behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import tomllib
from pathlib import Path

import pytest

from interlock.surfaces.clients import codex
from interlock.surfaces.clients.installation import Installation

pytest_plugins = ["clients_world"]
USER = "# mine\nmodel = 'gpt-5.5'\n"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def home(project, monkeypatch) -> Path:
    """The home of the project's user, with settings of Codex, which needs not be installed here."""
    monkeypatch.setattr(codex, "hook_hashes", lambda *_: {":pre_tool_use:0:0": "sha256:1"})
    found = project.root.parent / "home"
    (found / ".codex").mkdir(parents=True)
    (found / ".codex/config.toml").write_text(USER)
    project.env["HOME"] = str(found)
    return found


def second(project):
    """Another project of the same user."""
    found = type(project)(project.root.parent / "second", project.root.parent / "state")
    found.env["HOME"] = project.env["HOME"]
    return found


SETUPS = ["project", "second", "user"]


@pytest.mark.parametrize("installed", list(itertools.permutations(SETUPS)))
def test_what_another_set_up_needs_stays_until_that_is_removed(project, home, installed):
    """All of them need the setting by which a command gets no terminal, in the same file."""
    places = {"project": (project, "project"), "second": (second(project), "project"), "user": (project, "user")}
    settings = home / ".codex/config.toml"
    for removed in itertools.permutations(SETUPS):
        for name in installed:
            place, scope = places[name]
            place.install("codex", "guard", scope)
        for name in removed:
            found = tomllib.loads(settings.read_text())
            assert found["features"] == {"unified_exec_tty": False}, (removed, name)
            assert len(found["hooks"]["state"]) == len(removed) - removed.index(name)
            place, scope = places[name]
            place.remove("codex", scope)
        assert settings.read_text() == USER, removed


def test_a_set_up_whose_project_is_gone_needs_nothing(project, home):
    project.install("codex", "guard")
    other = second(project)
    other.install("codex", "guard")
    (other.root / ".codex/hooks.json").unlink()
    project.remove("codex")
    assert "features" not in tomllib.loads((home / ".codex/config.toml").read_text())


@pytest.mark.parametrize("client", ["claude-code", "gemini", "opencode", "codex"])
@pytest.mark.parametrize("again", [("guard", "other"), ("replace", None)])
@pytest.mark.parametrize("written", [0, 1])
def test_a_set_up_that_is_killed_while_it_writes_is_removed_as_a_whole(
    project, home, monkeypatch, client, again, written
):
    mine = {
        ".claude/settings.json": b'{"model": "mine"}\n',
        ".gemini/settings.json": b'// mine\n{"a": 1}\n',
        "opencode.json": b"{}\n",
    }
    for name, content in mine.items():
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).write_bytes(content)
    before = {path: path.read_bytes() for path in [*project.root.rglob("*"), *home.rglob("*")] if path.is_file()}
    project.install(client, "guard", agent="first")
    write, calls = Installation._write, itertools.count()

    def killed(self, change):
        if next(calls) == written:
            raise Killed
        write(self, change)

    with monkeypatch.context() as patched:
        patched.setattr(Installation, "_write", killed)
        with contextlib.suppress(Killed):  # some have only one file
            project.install(client, again[0], agent=again[1])
    project.remove(client)
    after = {path: path.read_bytes() for path in [*project.root.rglob("*"), *home.rglob("*")] if path.is_file()}
    assert {
        path: content for path, content in after.items() if b"nterlock" in content and path.name != "interlock.toml"
    } == {}
    assert after.keys() == before.keys()


@pytest.mark.parametrize("client", ["claude-code", "gemini", "opencode", "codex", "copilot", "cursor", "vscode"])
def test_a_moved_project_is_set_up_again_and_removed(project, home, client):
    """Its hooks name the place where it was, and refuse everything."""
    before = sorted(project.root.rglob("*"))
    project.install(client, "guard")
    moved = project.root.with_name("moved")
    old = project.root
    old.rename(moved)
    project.root = moved
    project.install(client, "guard")
    written = [path for path in [*moved.rglob("*"), *home.rglob("*")] if path.is_file()]
    assert not [path for path in written if f"{old}" in path.read_text()], "nothing names the old place"
    project.remove(client)
    assert sorted(moved.rglob("*")) == [moved / path.relative_to(old) for path in before]
    assert (home / ".codex/config.toml").read_text() == USER


def test_a_byte_order_mark_stays(project, home):
    path = project.root / ".gemini/settings.json"
    path.parent.mkdir()
    path.write_bytes(b'\xef\xbb\xbf// mine\n{"a": 1}\n')
    project.install("gemini", "guard")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf// mine\n")
    path.write_bytes(path.read_bytes() + b"// more\n")
    project.remove("gemini")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf// mine\n")
    assert json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf// mine\n").removesuffix(b"// more\n")) == {"a": 1}
