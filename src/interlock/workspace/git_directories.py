"""Finds git's own directories in a workspace, and the paths in them that git only reads as data.

Git recognises a directory by its contents, not by its name: `HEAD` with `objects` and `refs`, or with `commondir`,
which names the directory of these (setup.c, is_git_directory). So an embedded bare repository is found by its contents,
in the layer and the workspace together. A path that is not in a list here is not data, because each version of git
starts programs from more files.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from interlock.model.errors import ToolError
from interlock.workspace.git_configuration import Named, links_in, named_by, reached
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
_SEARCHED_MAX: Final = 256
"""The number of directories in which other repositories are looked for: a commit does not take longer in a large tree."""
_DATA_DIRECTORIES: Final = frozenset({"refs", "reftable", "logs"})
_OBJECTS_INFO: Final = frozenset({"packs", "commit-graph", "commit-graphs"})
"""Data files in `objects/info`. `alternates` is not one: it refers to the objects of other directories."""


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
        self._named: dict[Rel, Named] = {}
        self._targets: frozenset[Rel] | None = None
        self._above: list[Named] | None = None
        self._nested: list[Named] | None = None

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

    def is_configured(self, path: Rel, *, link: bool = False, program: bool = False) -> bool:
        """True for a path in a hook directory, and for a file that a repository above it or the user includes or runs.

        For a changed `link`, also true if it was a git directory or is above such a path. A `link` or a `program` (an
        executable file) is also looked for in what other repositories beneath the workspace's uppermost directories run.
        """
        if link and self._look(path)[0]:
            return True
        above = itertools.chain(self._outside(), (self._named_by(path[:depth]) for depth in range(len(path))))
        if any(named.covers(path, link=link) for named in above):
            return True
        return (link or program) and any(named.covers(path, link=link) for named in self._elsewhere())

    def targets(self, is_named: Callable[[str], bool]) -> frozenset[Rel]:
        """The places to which the workspace's uppermost links with certain names lead."""
        if self._targets is None:
            root, found = os.fsencode(self._below.root), set[Rel]()
            for name in links_in(self._below, ()):
                if is_named(fold(name)):
                    found |= reached((self._below,), root, os.path.join(root, name))  # noqa: PTH118 - bytes
            self._targets = frozenset(found)
        return self._targets

    def _named_by(self, top: Rel) -> Named:
        """What the configuration of the repository with its files in `top` names."""
        known = self._named.get(top)
        if known is None:
            both = dict.fromkeys((self._below, self._merged))  # without a layer they are the same
            # even without a repository, the user's own configuration may name files
            trees = [tree for tree in both if not top or _exists(tree, (*top, b".git"))]
            place = os.path.join(os.fsencode(self._below.root), *top)  # noqa: PTH118 - bytes
            known = self._named[top] = named_by(trees, place) if trees else Named(frozenset(), frozenset())
        return known

    def _outside(self) -> list[Named]:
        """What the configurations of the repositories above the workspace name in it."""
        if self._above is None:
            both = list(dict.fromkeys((self._below, self._merged)))
            places = [os.fsencode(place) for place in self._below.root.parents if os.path.lexists(place / ".git")]
            self._above = [named_by(both, place) for place in places]
        return self._above

    def _elsewhere(self) -> list[Named]:
        """What the configurations of the repositories in the workspace name in it, as far as they are near its root."""
        if self._nested is None:
            self._nested = [self._named_by(top) for top in _repositories(self._below)]
        return self._nested

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


def _repositories(tree: Workspace) -> list[Rel]:
    """The directories with a `.git` among the uppermost directories, level by level; hidden ones are not searched."""
    pending: list[Rel] = [()]
    found: list[Rel] = []
    for here in itertools.islice(pending, _SEARCHED_MAX):  # grows meanwhile
        names: list[bytes] = []
        with contextlib.suppress(ToolError, OSError):
            fd = tree.open_directory(here)
            try:
                with os.scandir(fd) as entries:
                    names = [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
            finally:
                os.close(fd)
        if here and _exists(tree, (*here, b".git")):
            found.append(here)
        pending += [(*here, name) for name in sorted(names) if not name.startswith(b".") and name != b"node_modules"]
    return found


def is_sample(names: tuple[str, ...]) -> bool:
    """True for a sample hook beneath a git directory, which git does not run."""
    return len(names) == 2 and names[0] == "hooks" and names[1].endswith(".sample")


def _exists(tree: Workspace, path: Rel) -> bool:
    with contextlib.suppress(ToolError):
        return tree.lstat(path) is not None
    return False
