"""Files that execute later, outside of every wall: hooks, CI, editor, shell and package manager start-up files.

A program that an agent may not run could be put into one of them, and run when a person opens the project. A commit holds them
until a person commits them by name.
"""

from __future__ import annotations

from typing import Final

from interlock.workspace.names import Rel
from interlock.workspace.protect import fold

_NAMES: Final = frozenset(
    {
        ".envrc", ".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".zshrc", ".zshenv", ".zprofile",
        ".zlogin", ".zlogout", ".kshrc", ".cshrc", ".tcshrc", ".login", ".inputrc", ".vimrc", ".nvimrc", ".exrc", ".gvimrc",
        ".ideavimrc", ".dir-locals.el", ".gdbinit", ".lldbinit", ".pythonstartup", ".pdbrc", ".irbrc", ".rprofile",
        ".gitconfig", ".gitmodules", ".lfsconfig", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", ".mise.toml",
        "mise.toml", ".tool-versions", ".pre-commit-config.yaml", "lefthook.yml", ".lefthook.yml", ".gitlab-ci.yml",
        ".travis.yml", "azure-pipelines.yml", "jenkinsfile", "bitbucket-pipelines.yml", ".drone.yml", ".woodpecker.yml",
        "appveyor.yml", ".cirrus.yml", "sitecustomize.py", "usercustomize.py", ".nvim.lua", ".projectile",
    }
)  # fmt: skip
"""Names, wherever they lie."""
_DIRECTORIES: Final = frozenset(
    {
        ".github", ".gitlab", ".circleci", ".buildkite", ".forgejo", ".gitea", ".woodpecker", ".husky", ".githooks",
        ".vscode", ".idea", ".devcontainer", ".zed", ".fleet", ".nvim", ".claude", ".cursor", ".codex", ".gemini",
        ".config", ".ssh", ".gnupg",
    }
)  # fmt: skip
"""Everything in directories of these names."""
_GIT: Final = frozenset({"hooks", "config", "config.worktree", "attributes"})
"""What git itself runs or obeys in its own directory; `info/attributes` names filters."""


def runs_later(path: Rel) -> bool:
    """True if a file at this path may be executed, or decide what is executed, by another program later."""
    names = [fold(name) for name in path]
    if not names or (len(names) > 1 and names[-2] == "hooks" and names[-1].endswith(".sample")):
        return False  # git runs no sample
    if names[-1] in _NAMES or any(name in _DIRECTORIES for name in names):
        return True
    return any(
        name == ".git" and (len(names) == at + 1 or _in_git(names[at + 1 :])) for at, name in enumerate(names)
    ) or _is_bare(names)


def _in_git(names: list[str]) -> bool:
    """Beneath `.git`: its hooks and configuration, those of worktrees and submodules too."""
    if names[0] == "info":
        names = names[1:]
    return bool(names) and (
        names[0] in _GIT or (names[0] in {"modules", "worktrees"} and any(name in _GIT for name in names[1:]))
    )


def _is_bare(names: list[str]) -> bool:
    """A repository without `.git` has its hooks in a directory of that name; so has core.hooksPath by habit."""
    return len(names) > 1 and names[-2] in {"hooks", "git-hooks"} and ".git" not in names
