"""Finds what a repository's configuration makes git execute from the workspace: included files, and hook directories.

Git itself is not run: these are files that a layer has changed, which must have no effect before a person has reviewed
them. In doubt a file counts as included: conditions (`includeIf`) are always met, and `path` is an include in every
section.

Source: git-config(1), "Syntax", "Includes", and `core.hooksPath`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from interlock.disk import open_regular
from interlock.lazy import lazy_pattern
from interlock.model.errors import StoreError, ToolError
from interlock.workspace.names import Rel
from interlock.workspace.protect import fold
from interlock.workspace.tree import Workspace

_SETTING: Final = lazy_pattern(
    rb"[#;][^\n]*|\"(?:[^\"\\\n]|\\.)*\"|"  # a comment, or the quoted name of a section, with what looks like a setting
    rb"(?P<name>[a-z][a-z0-9-]*)[ \t]*=[ \t]*(?P<value>(?:\"(?:[^\"\\\n]|\\.)*\"|\\.|[^#;\n\"\\])*)",
    re.IGNORECASE | re.DOTALL,
)
_DIRECTORIES: Final = frozenset({b"hookspath", b"templatedir"})
_DATA: Final = frozenset(
    {
        b"description", b"email", b"fetch", b"insteadof", b"merge", b"name", b"push", b"pushinsteadof", b"pushremote", b"pushurl",
        b"remote", b"signingkey", b"url",
    }
)  # fmt: skip
"""Settings that start no program. All others may: each version of git has more of those (`pager.*`, `diff.*.command` ...)."""
_WORD: Final = lazy_pattern(rb"[^\s\"'`;|&()<>{}!=]+")
_ESCAPED: Final = lazy_pattern(rb"\\(.)|\"", re.DOTALL)
_BYTES_MAX: Final = 1024 * 1024
_SHORT_BYTES: Final = 8 * 1024
_FILES_MAX: Final = 200
"""Maximum number of files read for one repository, more than a person would include."""
_REACHED_MAX: Final = 100
"""Maximum number of paths through links, more than the kernel follows."""


class Named(NamedTuple):
    """The paths in the workspace that configurations name: as written, where links lead, and each path on the way."""

    hooks: frozenset[Rel]
    """Hook directories, with that of each of the repository's git directories."""
    files: frozenset[Rel]
    """Included files, which are configuration themselves, and programs."""
    complete: bool = True
    """False if more files are included than were read. Then any path may be named."""

    def covers(self, path: Rel, *, link: bool) -> bool:
        """True if a changed path is named, or if it is a link that is now on the way to a named path."""
        if not self.complete or path in self.files or any(path[: len(hooks)] == hooks for hooks in self.hooks if hooks):
            return True
        if () in self.hooks and len(path) == 1 and fold(path[0]) in HOOK_NAMES:
            return True
        return link and any(one[: len(path)] == path for one in (*self.hooks, *self.files))


HOOK_NAMES: Final = frozenset(
    {
        "applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "pre-merge-commit", "prepare-commit-msg",
        "commit-msg", "post-commit", "pre-rebase", "post-checkout", "post-merge", "pre-push", "pre-receive", "update",
        "proc-receive", "post-receive", "post-update", "reference-transaction", "push-to-checkout", "pre-auto-gc",
        "post-rewrite", "sendemail-validate", "fsmonitor-watchman", "p4-changelist", "p4-prepare-changelist",
        "p4-post-changelist", "p4-pre-submit", "post-index-change",
    }
)  # fmt: skip
"""Source: githooks(5)."""


def named_by(trees: Sequence[Workspace], top: bytes) -> Named:
    """The paths named by the configuration of the repository with its files in `top` (absolute), and of the user.

    All `trees` have the same root, in which `top` need not be.
    """
    root = os.fsencode(trees[0].root)
    directories = _git_directories(trees, root, top)
    hooks = {one for directory in directories for one in _hooks_of(trees, root, os.path.join(directory, b"hooks"))}  # noqa: PTH118
    included: set[Rel] = set()
    own = [os.path.join(one, name) for one in directories for name in (b"config", b"config.worktree")]  # noqa: PTH118
    pending = [*own, *_of_user()]
    first, seen = set(pending), set[bytes]()
    while pending and len(seen) < _FILES_MAX:
        path = pending.pop(0)
        if path in seen:
            continue
        seen.add(path)
        if path not in first:
            included.update(reached(trees, root, path))
        for text in _texts(trees, root, path):
            for name, value in _settings(text):
                base = os.path.dirname(path) if name == b"path" else top  # noqa: PTH120 - bytes
                for word in [value] if name == b"path" or name in _DIRECTORIES else _words(value):
                    target = os.path.normpath(os.path.join(base, word))  # noqa: PTH118 - bytes
                    if name == b"path":
                        pending.append(target)
                    elif name in _DIRECTORIES:
                        hooks.update(_hooks_of(trees, root, target))
                    else:
                        included.update(reached(trees, root, target))
    return Named(frozenset(hooks), frozenset(included), complete=seen.issuperset(pending))


def reached(trees: Sequence[Workspace], root: bytes, path: bytes) -> set[Rel]:
    """The path in the workspace as written, and each path to which the links on the way lead, in any of the trees."""
    found = set(_inside(root, path))
    pending = [(tree, one) for tree in trees for one in found]
    while pending and len(found) < _REACHED_MAX:
        tree, one = pending.pop()
        for depth in range(1, len(one) + 1):
            with contextlib.suppress(ToolError):
                seen = tree.lstat(one[:depth])
                if seen is not None and stat.S_ISLNK(seen.st_mode):
                    target = os.path.join(root, *one[: depth - 1], tree.read_link(one[:depth]), *one[depth:])  # noqa: PTH118
                    new = set(_inside(root, target)) - found
                    found |= new
                    pending += [(tree, each) for each in new]
    return found


def _hooks_of(trees: Sequence[Workspace], root: bytes, place: bytes) -> set[Rel]:
    """A directory of hooks, and the files to which links in it lead."""
    found = reached(trees, root, place)
    for tree in trees:
        for one in list(found):
            for name in links_in(tree, one):
                found |= reached(trees, root, os.path.join(root, *one, name))  # noqa: PTH118 - bytes
    if not found:
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            links = [entry.path for entry in entries if entry.is_symlink()]
        found.update(*(reached(trees, root, link) for link in links))
    return found


def links_in(tree: Workspace, directory: Rel) -> list[bytes]:
    """The names of the links in a directory; none if it is not there, or cannot be listed."""
    with contextlib.suppress(ToolError, OSError):
        fd = tree.open_directory(directory)
        try:
            with os.scandir(fd) as entries:
                return [os.fsencode(entry.name) for entry in entries if entry.is_symlink()]
        finally:
            os.close(fd)
    return []


def _words(value: bytes) -> list[bytes]:
    """The words of a command that can name a file in the workspace; a name without `/` is looked up in the path of programs."""
    return [word for word in _WORD.findall(value) if b"/" in word]


def _settings(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    for found in _SETTING.finditer(text):
        if found["name"] is None or found["name"].lower() in _DATA:
            continue
        value = _ESCAPED.sub(lambda one: b"" if one[1] in (None, b"\n") else one[1], found["value"].strip(b" \t\r"))
        if value:
            yield found["name"].lower(), os.path.expanduser(value)  # noqa: PTH111 - bytes


def _inside(root: bytes, path: bytes) -> Iterator[Rel]:
    """The path in the workspace, as written and without links; nothing for other paths."""
    above = _above(root)
    for one in {_one_slash(os.path.abspath(path)), _one_slash(os.path.realpath(path))}:  # noqa: PTH100 - bytes
        if one == above[:-1]:
            yield ()
        elif one.startswith(above):
            yield tuple(one[len(above) :].split(b"/"))


@functools.lru_cache(maxsize=16)
def _above(root: bytes) -> bytes:
    """The beginning of all paths beneath an absolute root."""
    return _one_slash(os.path.abspath(root)).rstrip(b"/") + b"/"  # noqa: PTH100 - bytes


def _one_slash(path: bytes) -> bytes:
    """POSIX leaves two slashes at the beginning of a path as they are; Linux takes them as one."""
    return b"/" + path.lstrip(b"/")


def _texts(trees: Iterable[Workspace], root: bytes, path: bytes) -> Iterator[bytes]:
    """The contents of a file, once for each tree in which they differ."""
    names = list(_inside(root, path))
    if not names:
        with contextlib.suppress(OSError, StoreError), open_regular(Path(os.fsdecode(path))) as file:
            yield _read(file)
        return
    for tree in trees:
        for name in names:
            with contextlib.suppress(ToolError):
                fd = tree.open_file(name)
                with os.fdopen(fd, "rb") as file:
                    yield _read(file)


def _read(file: BinaryIO) -> bytes:
    """The first `_BYTES_MAX` bytes of a file. Most are short, and a large buffer for each takes longer than reading it."""
    start = file.read(_SHORT_BYTES)
    return start if len(start) < _SHORT_BYTES else start + file.read(_BYTES_MAX - _SHORT_BYTES)


def _git_directories(trees: Sequence[Workspace], root: bytes, top: bytes) -> list[bytes]:
    """The git directories of a repository: more than one in a linked worktree or a submodule, which have a `.git` file."""
    marker = os.path.join(top, b".git")  # noqa: PTH118 - bytes
    directories = [marker]
    for text in _texts(trees, root, marker):
        if text.startswith(b"gitdir: "):
            directory = os.path.normpath(os.path.join(os.path.dirname(marker), text[8:].split(b"\n")[0]))  # noqa: PTH118, PTH120
            directories.append(directory)
            shared = _texts(trees, root, os.path.join(directory, b"commondir"))  # noqa: PTH118
            directories += [os.path.normpath(os.path.join(directory, one.split(b"\n")[0])) for one in shared]  # noqa: PTH118
    return directories


def _of_user() -> list[bytes]:
    """The git configuration files of the user and the system."""
    home = Path("~").expanduser()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = [home / ".gitconfig", config / "git" / "config", Path("/etc/gitconfig")]
    places += [Path(one) for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM") if (one := os.environ.get(name))]
    return [os.fsencode(place) for place in places]
