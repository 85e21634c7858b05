"""An agent never writes what the loader reads, whatever it calls it."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.model.errors import ToolError
from interlock.settings.named import CLIENT_FILES
from interlock.workspace import Workspace, protect
from interlock.workspace.protect import fold, related


def protected(workspace, path):
    place = workspace.locate(path, follow=False)
    try:
        workspace.guard().check(place)
    except ToolError as error:
        return error.code == "path_protected"
    return False


@pytest.mark.parametrize(
    "path",
    [
        "interlock.toml",
        "./interlock.toml",
        "src/../interlock.toml",
        "interlock.lock",
        ".mcp.json",
        "policy",
        "policy/",
        "policy/new.cedar",
        "policy/deep/er.cedar",
        "POLICY/x.cedar",
        "Interlock.TOML",
        "interlock.toml.",
        "interlock.toml ",
        "inter\u200block.toml",
        "interloc\u212a.toml",
        "\u017foo/../interlock.toml",
        "policy /x",
        ".",
    ],
)
def test_loaded_files_in_any_spelling(workspace, root, path):
    (root / "src").mkdir()
    assert protected(workspace, path)


@pytest.mark.parametrize(
    "path", ["src/interlock.toml", "policy.md", "policies/x", "my-policy", "interlock.toml.bak", "a"]
)
def test_other_files_are_free(workspace, path):
    assert not protected(workspace, path)


def test_extra_paths_and_everything_above_them(root, access):
    (root / "capsules" / "hello").mkdir(parents=True)
    (root / "capsules" / "hello" / "capsule.toml").write_text("")
    with Workspace(root, protected=["capsules/hello/capsule.toml", "tools/agent.py"], access=access) as workspace:
        assert protected(workspace, "capsules/hello/capsule.toml")
        assert protected(workspace, "capsules/hello")
        assert protected(workspace, "capsules")
        assert protected(workspace, "tools")
        assert not protected(workspace, "capsules/hello/other")
        assert not protected(workspace, "capsules/other")


def test_through_a_link(workspace, root):
    (root / "policy").mkdir()
    (root / "docs").mkdir()
    (root / "docs" / "p").symlink_to("../policy")
    (root / "docs" / "config").symlink_to("../interlock.toml")
    assert protected(workspace, "docs/p/x.cedar")
    with pytest.raises(ToolError) as caught:
        workspace.guard().check(workspace.locate("docs/config"))
    assert caught.value.code == "path_protected"
    assert not protected(workspace, "docs/config")  # the link itself may go


def test_where_a_protected_name_is_itself_a_link(workspace, root):
    (root / "shared").mkdir()
    (root / "policy").symlink_to("shared")
    assert protected(workspace, "shared/x.cedar")
    assert protected(workspace, "shared")
    assert protected(workspace, "policy")


def test_a_file_that_is_loaded_through_a_link_protects_itself_and_nothing_else(root, access):
    (root / "shared").mkdir()
    (root / "shared" / "a.cedar").write_text("forbid")
    (root / "policy").symlink_to("shared")
    (root / "own").symlink_to(root.parent)
    os.link(root / "shared" / "a.cedar", root / "innocent")
    with Workspace(root, protected=["policy/a.cedar", "own/tools.py"], access=access) as workspace:
        for path in ("shared/a.cedar", "shared/new.cedar", "policy", "policy/a.cedar", "innocent", "own"):
            assert protected(workspace, path), path
        assert not protected(workspace, "other.txt")


def test_by_hard_link(workspace, root):
    (root / "policy").mkdir()
    (root / "policy" / "a.cedar").write_text("forbid")
    (root / "interlock.toml").write_text("x")
    os.link(root / "policy" / "a.cedar", root / "innocent")
    os.link(root / "interlock.toml", root / "other")
    (root / "f").write_text("x")
    os.link(root / "f", root / "g")
    assert protected(workspace, "innocent")
    assert protected(workspace, "other")
    assert not protected(workspace, "f")


@given(st.binary(min_size=1, max_size=8).filter(lambda n: b"/" not in n and b"\0" not in n))
def test_folding_is_stable_and_total(name):
    assert isinstance(fold(name), str)
    assert fold(name)
    assert related((name,), (name,))
    assert related((name, b"x"), (name,))


def test_a_directory_above_may_be_made_and_may_go_where_nothing_protected_is_in_it(root, access):
    """`.github/workflows` is an agent's to make although Interlock guards `.github/hooks`."""
    with Workspace(root, protected=[".github/hooks", ".github/mcp.json"], access=access) as workspace:

        def refused(path, after):
            try:
                workspace.guard().check(workspace.parse(path), after=after)
            except ToolError as error:
                return error.code == "path_protected"
            return False

        assert not refused(".github", "dir")
        assert not refused(".github", "absent")
        assert refused(".github", "symlink")
        assert refused(".github", "file")
        assert refused(".github", None)
        for after in ("dir", "absent", "file"):
            assert refused(".github/hooks", after)
            assert refused(".github/hooks/x", after)
            assert not refused(".github/workflows", after)
        (root / ".github").mkdir()
        (root / ".github" / "mcp.json").write_text("{}")
        for after in ("dir", "absent", "symlink", None):
            assert refused(".github", after)


@pytest.mark.parametrize(
    "path",
    [
        ".claude/agents/a.md",
        ".claude/skills/a/SKILL.md",
        ".Claude/Commands/a.md",
        ".claude/workflows/a.js",
        ".claude/plugins/a/plugin.json",
        ".claude/hooks/a.sh",
        ".claude",
        "packages/a/.claude/skills/a/SKILL.md",
        "packages/a/.claude/settings.json",
        "packages/a/.claude",
        ".cursor/agents/a.md",
        ".cursor/commands/a.md",
        ".github/skills/a/SKILL.md",
        ".github/extensions/a/extension.mjs",
        ".github/lsp.json",
        ".agents/skills/a/SKILL.md",
    ],
)
def test_what_starts_programs_in_a_client(root, access, path):
    (root / "packages/a").mkdir(parents=True)
    with Workspace(root, protected=CLIENT_FILES, access=access) as workspace:
        assert protected(workspace, path)


@pytest.mark.parametrize(
    "path",
    [
        "CLAUDE.md",
        "AGENTS.md",
        ".claude/CLAUDE.md",
        ".claude/rules/style.md",
        ".claude/agent-memory/a/MEMORY.md",
        ".claude/worktrees/a/src/x.py",
        ".cursor/rules/a.mdc",
        ".github/copilot-instructions.md",
        ".github/instructions/a.instructions.md",
        "docs/agents/a.md",
        "packages/a/.claude/rules/a.md",
        "packages/a/opencode.json",
    ],
)
def test_what_only_instructs_a_model_is_free(root, access, path):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    with Workspace(root, protected=CLIENT_FILES, access=access) as workspace:
        assert not protected(workspace, path)


def test_packages_that_a_process_installs_may_have_skills(root, access):
    """A layer holds them when it is committed; the process has not failed because of them."""
    path = "node_modules/a/.claude/skills/a/SKILL.md"
    with Workspace(root, protected=CLIENT_FILES, access=access) as workspace:
        workspace.guard().check(tuple(os.fsencode(path).split(b"/")), after="file")
        with pytest.raises(ToolError):
            workspace.guard().check((b".claude", b"skills", b"a"), after="file")


@given(
    st.lists(st.sampled_from(["a", "b", "a/x", "b/x", "a/y"]), unique=True),
    st.lists(st.sampled_from(["a", "b", "a/x", "b", "../out", "nowhere", "a/x/z"]), min_size=5, max_size=5),
    st.lists(st.sampled_from(["dir", "file", "link"]), min_size=5, max_size=5),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_what_is_found_at_once_is_what_is_found_step_by_step(tmp_path_factory, access, made, targets, kinds):
    root = tmp_path_factory.mktemp("project")
    for name, target, kind in zip(sorted(made), targets, kinds, strict=False):
        with contextlib.suppress(OSError):
            path = root / name
            if kind == "dir":
                path.mkdir(parents=True)
            elif kind == "file":
                path.write_text("")
            else:
                path.symlink_to(os.path.relpath(root / target, path.parent))
    names = [(b"a",), (b"a", b"x"), (b"b", b"x"), (b"a", b"y"), (b"a", b"x", b"z")]
    with Workspace(root, access=access) as workspace:
        slow = {there: workspace.lstat(there) for place in names for there in protect._without_links(workspace, place)}
        quick = protect._present(workspace, names)
        there = {place: (s.st_dev, s.st_ino) for place, s in slow.items() if s is not None}
        assert {place: (s.st_dev, s.st_ino) for place, s in quick.items() if s is not None} == there
        assert {*slow} | {*names} == {*quick} | {*names}
