"""Files that execute later, outside any walls: git hooks and configuration, CI, editor, shell and tool start-up files.

A program that an agent may not run could be put into one of them, and run when a person opens the project or asks git
for its status. A commit leaves these files out until a person commits them by name. The project's own sources, build
and test files and installed packages are not among them, because agents are meant to write these. The guide to
workspaces lists the files.
"""

from __future__ import annotations

import itertools
import stat
from typing import Final

from interlock.workspace.git_configuration import HOOK_NAMES
from interlock.workspace.git_directories import GitDirectories
from interlock.workspace.layer_diff import Difference
from interlock.workspace.names import Rel
from interlock.workspace.nodes import ABSENT, Node
from interlock.workspace.protect import fold
from interlock.workspace.tree import Workspace

_NAMES: Final = frozenset(
    {
        # shells and debuggers
        ".envrc", ".autoenv", ".autoenv.zsh", ".autoenv_leave.zsh", ".bashrc", ".bash_profile", ".bash_login", ".bash_logout",
        ".bash_aliases", ".profile", ".zshrc", ".zshenv", ".zprofile", ".zlogin", ".zlogout", ".kshrc", ".cshrc", ".tcshrc",
        ".login", ".inputrc", ".tmux.conf", ".screenrc", ".rvmrc", ".gdbinit", ".lldbinit",
        # interpreters that read a file from the directory in which they start
        ".pythonstartup", ".pdbrc", "sitecustomize.py", "usercustomize.py", "ipython_config.py", ".irbrc", ".pryrc", ".rprofile",
        ".renviron", ".ghci", ".ocamlinit", ".iex.exs", ".octaverc", "startup.m",
        # editors
        ".vimrc", ".lvimrc", ".nvimrc", ".nvim.lua", ".exrc", ".gvimrc", ".ideavimrc", ".dir-locals.el", ".dir-locals-2.el",
        ".projectile", ".devcontainer.json", ".gitpod.yml", ".replit", ".emacs.desktop", "hie.yaml", ".hie-bios", ".merlin",
        "rust-analyzer.toml", ".rust-analyzer.toml", ".emacs", ".xprofile", ".xinitrc", ".xsession", ".xsessionrc",
        # git, and programs that run when it commits
        ".gitconfig", ".gitmodules", ".lfsconfig", ".pre-commit-config.yaml", ".pre-commit-config.yml", "lefthook.yml",
        "lefthook.yaml", "lefthook.toml", "lefthook.json", ".lefthook.yml", ".lefthook.yaml", ".lefthook.toml", ".lefthook.json",
        "lefthook-local.yml", "lefthook-local.yaml", ".huskyrc", ".overcommit.yml", ".simple-git-hooks.json",
        "prek.toml", "hk.pkl",
        # package and version managers
        ".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", ".pnpmfile.mjs", "pnpmfile.js", "bunfig.toml", ".mise.toml",
        "mise.toml", ".mise.local.toml", "mise.local.toml", "uv.toml", ".tool-versions", "rust-toolchain", "rust-toolchain.toml",
        # CI
        ".gitlab-ci.yml", ".travis.yml", "azure-pipelines.yml", "azure-pipelines.yaml", "jenkinsfile", "bitbucket-pipelines.yml",
        ".drone.yml", ".drone.yaml", ".woodpecker.yml", ".woodpecker.yaml", "appveyor.yml", ".appveyor.yml", ".cirrus.yml",
        "cloudbuild.yaml", "cloudbuild.yml", "buildspec.yml", "buildspec.yaml", "codemagic.yaml", "netlify.toml", ".zuul.yaml",
        ".build.yml", ".readthedocs.yaml", ".readthedocs.yml",
        # agents
        "opencode.json", "opencode.jsonc", ".aider.conf.yml",
    }
)  # fmt: skip
"""File names, in any directory."""
_DIRECTORIES: Final = frozenset(
    {
        ".github", ".gitlab", ".circleci", ".buildkite", ".forgejo", ".gitea", ".woodpecker", ".semaphore", ".teamcity",
        ".azuredevops", ".azure-pipelines", ".tekton", ".husky", ".githooks", ".git-hooks", ".vscode", ".idea", ".vs", ".fleet",
        ".devcontainer", ".zed", ".nvim", ".vim", ".helix", ".emacs.d", ".direnv", ".mise", ".ipython", ".jupyter", ".claude",
        ".cursor", ".codex", ".gemini", ".qwen", ".windsurf", ".opencode", ".kiro", ".roo", ".continue", ".config", ".ssh",
        ".gnupg", ".copilot", ".lefthook", ".lefthook-local", ".builds", ".theia", ".idx", ".kilocode", ".amazonq", ".trae",
        ".junie", ".factory", ".openhands", ".externaltoolbuilders",
    }
)  # fmt: skip
"""Directory names; everything in such a directory counts."""
_PAIRS: Final = frozenset(
    {
        (".cargo", "config"), (".cargo", "config.toml"), (".yarn", "releases"), (".yarn", "plugins"), (".hg", "hgrc"),
        (".hg", "hgrc-not-shared"), (".hg", "sharedpath"), (".hg", "shared"), (".agents", "skills"), (".agents", "plugins"),
        (".clinerules", "hooks"), (".sl", "config"), (".pijul", "config"), ("_darcs", "prefs"), (".repo", "repo"),
        ("mise", "config.toml"), (".bundle", "config"), (".mvn", "extensions.xml"), (".mvn", "jvm.config"),
    }
)  # fmt: skip
"""Pairs of a directory name and a name in it, with everything below."""
_JJ: Final = frozenset({"repo", "config.toml", "workspace-config.toml"})
"""Files of jj: the pointer to a repository, and configurations. Its operations and index are data."""
_LINKS: Final = frozenset({name for name, _ in _PAIRS} | {".jj", "hooks", "git-hooks"})
"""A symbolic link with such a name can lead to files that the rules about names do not see."""
_SUFFIXES: Final = (".code-workspace", ".sublime-project")
_HOOKS: Final = frozenset({"hooks", "git-hooks"})
"""Usual directories of git hooks, if `core.hooksPath` names them. Projects also use these names for other purposes."""


def may_run_later(workspace: Workspace, path: Rel) -> bool:
    """True if a file that is written at this path (free of links) might stay in a layer because of `runs_later`."""
    above = [Difference(path[:depth], ABSENT, Node("dir", mode=0o755)) for depth in range(1, len(path))]
    found = workspace.lstat(path)
    one = Difference(path, ABSENT, Node("file", mode=0o644 if found is None else stat.S_IMODE(found.st_mode)))
    git = GitDirectories([*above, one], workspace, workspace)
    return runs_later(one, git) or git.repository(path) is not None  # what git stores may have such a file in it


def runs_later(one: Difference, git: GitDirectories) -> bool:
    """True if the changed file may later be executed by another program, or decide what it executes.

    A new directory executes nothing, but its contents may. `git` are the git directories of the workspace and the
    layer. In them, only data is allowed; everything else counts, including links, because git writes through them.
    """
    if one.after.kind in ("absent", "dir"):
        return False
    names = tuple(fold(name) for name in one.path)
    link = one.after.kind == "symlink"
    if names[-1] == ".git" or _is_named(names) or (link and names[-1] in _LINKS):
        return True
    place = git.place(one.path)
    if place is not None:
        return place.made or link or not place.is_harmless
    if len(names) > 1 and names[-2] in _HOOKS and names[-1] in HOOK_NAMES:
        return True
    if any(one.path[: len(place)] == place for place in git.targets(_leads_later)):
        return True
    return git.is_configured(one.path, link=link, program=bool((one.after.mode or 0) & 0o111))


def _leads_later(name: str) -> bool:
    """True if a person's link with this name makes a program execute what it leads to."""
    return _is_named((name,)) or (name in _LINKS and name not in _HOOKS)


def _is_named(names: tuple[str, ...]) -> bool:
    if names[-1] in _NAMES or names[-1].endswith(_SUFFIXES) or any(name in _DIRECTORIES for name in names):
        return True
    if ".jj" in names[:-1] and names[-1] in _JJ:
        return True
    return any(pair in _PAIRS for pair in itertools.pairwise(names))
