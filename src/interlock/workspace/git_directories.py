"""Finds git's own directories in a workspace, and the paths in them that git only reads as data.

Git recognises a directory by its contents, not by its name: `HEAD` with `objects` and `refs`, or with `commondir`,
which names the directory of these (setup.c, is_git_directory). So an embedded bare repository is found by its contents,
in the layer and the workspace together. A path that is not in a list here is not data, because each version of git
starts programs from more files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from interlock.lazy import lazy_pattern
from interlock.model.errors import ToolError
from interlock.workspace.layer_diff import Difference
from interlock.workspace.names import Rel
from interlock.workspace.protect import fold
from interlock.workspace.tree import Workspace

_MARKS: Final = ("HEAD", "objects", "refs", "commondir")
_DATA: Final = frozenset(
    {
        "head", "orig_head", "fetch_head", "merge_head", "merge_msg", "merge_mode", "merge_rr", "merge_autostash", "auto_merge",
        "squash_msg", "cherry_pick_head", "revert_head", "rebase_head", "commit_editmsg", "tag_editmsg", "packed-refs", "index",
        "shallow", "description", "gc.log",
    }
)  # fmt: skip
"""Data files, folded as `fold` does. `rebase-merge` and `sequencer` are not among them: their step lists may name commands."""
_DATA_DIRECTORIES: Final = frozenset({"refs", "reftable", "logs"})
_OBJECTS_INFO: Final = frozenset({"packs", "commit-graph", "commit-graphs"})
"""Data files in `objects/info`. `alternates` is not one: it refers to the objects of other directories."""

_HOOKS_PATH: Final = lazy_pattern(rb"hookspath[ \t]*=[ \t]*([^#;\n]*)", re.IGNORECASE)
_CONFIGURATION_BYTES: Final = 1024 * 1024


class GitPlace(NamedTuple):
    """The git directory that a path is in, and its position there."""

    directory: Rel
    names: tuple[str, ...]
    """The case-folded names below `directory`, at least one."""
    made: bool
    """True if the layer turned a directory that is not called `.git` into a git directory."""

    @property
    def is_data(self) -> bool:
        """True for data that git stores and only reads: objects, references, their logs, the index and similar files."""
        first, *more = self.names
        if not more:
            return first in _DATA | _DATA_DIRECTORIES or first == "objects" or first.startswith("sharedindex.")
        if first == "objects":
            return more[0] != "info" or (len(more) > 1 and more[1] in _OBJECTS_INFO)
        return first in _DATA_DIRECTORIES or (len(more) > 1 and (first, more[0]) == ("lfs", "objects"))

    @property
    def is_harmless(self) -> bool:
        """True for data, and for files of a new repository and of `git gc` that cannot cause programs to run."""
        return self.is_data or self.names in (("info", "exclude"), ("info", "refs")) or is_sample(self.names)


class GitDirectories:
    """The git directories of a workspace with a layer over it."""

    def __init__(self, differences: Iterable[Difference], below: Workspace, merged: Workspace) -> None:
        """`differences` are those of the layer; `merged` is its view, `below` the workspace."""
        self._below, self._merged = below, merged
        marks = {fold(mark.encode()): mark for mark in _MARKS}
        self._made: set[tuple[Rel, str]] = set()
        for one in differences:
            if one.after.kind != "absent" and (mark := marks.get(fold(one.path[-1]))) is not None:
                self._made.add((one.path[:-1], mark))  # a file system may treat `head` and `HEAD` as equal
        self._seen: dict[Rel, tuple[bool, bool]] = {}
        self._hooks: dict[Rel, set[Rel]] = {}

    def place(self, path: Rel) -> GitPlace | None:
        """The place of a path in the innermost git directory above it; None if there is none."""
        for depth in range(len(path) - 1, -1, -1):
            found, made = self._look(path[:depth])
            if found:
                return GitPlace(path[:depth], tuple(fold(name) for name in path[depth:]), made)
        return None

    def repository(self, path: Rel) -> Rel | None:
        """The outermost git directory of the repository to whose data a path belongs; None for any other path.

        The data of worktrees and submodules is inside the repository's directory and belongs to it.
        """
        place = self.place(path)
        if place is None or not place.is_data:
            return None
        return next(path[:depth] for depth in range(len(path)) if self._look(path[:depth])[0])

    def is_in_hooks(self, path: Rel) -> bool:
        """True for a path in a directory that `core.hooksPath` names, in the configuration of a repository above it or
        of the user.
        """
        return any(path[: len(hooks)] == hooks for depth in range(len(path)) for hooks in self._hooks_of(path[:depth]))

    def _hooks_of(self, top: Rel) -> set[Rel]:
        """The hook directories of the repository with its files in `top`; empty if there is no repository."""
        known = self._hooks.get(top)
        if known is None:
            known = set()
            trees = [tree for tree in (self._below, self._merged) if _exists(tree, (*top, b".git"))]
            if trees:
                texts = [
                    _read(tree, (*top, b".git", name)) for tree in trees for name in (b"config", b"config.worktree")
                ]
                for text in (*texts, *_users_configurations()):
                    known.update(_hooks_named_in(text, top, self._below))
            self._hooks[top] = known
        return known

    def _look(self, directory: Rel) -> tuple[bool, bool]:
        """Whether a directory is a git directory, and whether the layer made it one."""
        known = self._seen.get(directory)
        if known is None:
            named = bool(directory) and fold(directory[-1]) == ".git"
            if named or self._is_git(directory, (self._below,), made=False):
                known = True, False
            else:
                found = self._is_git(directory, (self._below, self._merged), made=True)
                known = found, found
            self._seen[directory] = known
        return known

    def _is_git(self, directory: Rel, trees: tuple[Workspace, ...], *, made: bool) -> bool:
        def has(mark: str) -> bool:
            if made and (directory, mark) in self._made:
                return True
            return any(_exists(tree, (*directory, mark.encode())) for tree in trees)

        return has("HEAD") and (has("commondir") or (has("objects") and has("refs")))


def is_sample(names: tuple[str, ...]) -> bool:
    """True for a sample hook beneath a git directory, which git does not run."""
    return len(names) == 2 and names[0] == "hooks" and names[1].endswith(".sample")


def _hooks_named_in(text: bytes, top: Rel, tree: Workspace) -> Iterator[Rel]:
    """The hook directories within the workspace that a configuration names. In doubt, a directory is included."""
    for found in _HOOKS_PATH.finditer(text):
        raw = os.path.expanduser(found[1].strip(b' \t\r"'))  # noqa: PTH111 - bytes
        root = os.fsencode(tree.root)
        inside = os.path.relpath(os.path.join(root, *top, raw), root) if raw else b".."  # noqa: PTH118 - bytes
        if inside != b"." and not inside.startswith(b".."):
            yield tuple(inside.split(b"/"))


def _read(tree: Workspace, path: Rel) -> bytes:
    with contextlib.suppress(ToolError):
        fd = tree.open_file(path)
        try:
            return os.read(fd, _CONFIGURATION_BYTES)
        finally:
            os.close(fd)
    return b""


def _users_configurations() -> Iterator[bytes]:
    """The git configuration of the user and the system, without unreadable files and without included files."""
    home = Path("~").expanduser()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    for path in (home / ".gitconfig", config / "git" / "config", Path("/etc/gitconfig")):
        with contextlib.suppress(OSError):
            yield path.read_bytes()[:_CONFIGURATION_BYTES]


def _exists(tree: Workspace, path: Rel) -> bool:
    with contextlib.suppress(ToolError):
        return tree.lstat(path) is not None
    return False
