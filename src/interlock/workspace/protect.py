"""Protected paths, which no agent may write: the files that Interlock's own loader reads.

A target is refused if it is such a file, is beneath such a directory, or is a directory above one (deleting or renaming it
would also move the protected file), unless the change only makes that directory, or removes it where nothing protected is in
it. Names are compared as the most permissive file systems do: without case, invisible characters, trailing dots and spaces.
Hard links, short names and bind mounts are detected by identity.
"""

from __future__ import annotations

import functools
import itertools
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from interlock.model.errors import ToolError
from interlock.workspace.names import Rel

LOADED: Final[tuple[Rel, ...]] = ((b"interlock.toml",), (b"interlock.lock",), (b"policy",), (b".mcp.json",))
"""Paths that are always protected. Callers add more: capsule manifests, Python tool modules, pyproject.toml where it is used."""


_IN_ANY_DIRECTORY: Final = frozenset({".claude"})
"""Directories of the root whose protected contents a tool does not write in any other directory either, because a client searches
for them where it works. Packages that a process installs may have them; a layer holds these (`runs_later.py`)."""


@functools.lru_cache(maxsize=4096)
def fold(name: bytes) -> str:
    """The form of a name in which the most permissive file systems compare it (casefolding ext4, HFS+, VFAT)."""
    text = unicodedata.normalize("NFKD", name.decode("utf-8", "surrogateescape")).casefold()
    text = unicodedata.normalize("NFKD", text)
    return "".join(c for c in text if unicodedata.category(c) != "Cf").rstrip(". ") or text


def related(one: Rel, other: Rel) -> bool:
    """True if the two paths are equal, or one is beneath the other. Names are compared by `fold`."""
    return all(a == b or fold(a) == fold(b) for a, b in zip(one, other, strict=False))


def is_reserved(name: bytes) -> bool:
    """True for a name with the form of Interlock's temporary files, which it may remove or rename to another file."""
    folded = fold(name)
    return folded.startswith(".interlock-") and folded.endswith(".tmp")


class Tree(Protocol):
    """The methods that the guard needs of a workspace."""

    def lstat(self, path: Rel) -> os.stat_result | None:
        """The lstat of a path; None if nothing exists there."""
        ...

    def resolve(self, path: Rel, field: str = "path", *, follow: bool = True) -> Rel:
        """The path without symbolic links. Raises: ToolError."""
        ...

    def walk(self, path: Rel, *, lenient: bool) -> Iterator[tuple[Rel, os.stat_result]]:
        """Walk everything beneath a path."""
        ...


class Guard:
    """The present protected files of a workspace. Create a new guard for each change."""

    def __init__(self, workspace: Tree, protected: Iterable[Rel]) -> None:
        """Find the protected paths: the given names, and the targets of links among them."""
        self._workspace = workspace
        named = set(protected)
        present = _present(workspace, named)
        self._places = named | {*present}
        self._anywhere = {
            (fold(place[0]), fold(place[1]))
            for place in named
            if len(place) == 2 and fold(place[0]) in _IN_ANY_DIRECTORY
        }
        self._present = tuple(place for place, found in present.items() if found is not None)
        self._ids = {(found.st_dev, found.st_ino) for found in present.values() if found is not None}
        self._inside: set[tuple[int, int]] | None = None
        self.also: Callable[[Rel, str], None] | None = None
        """Called with each checked path and its field; raises ToolError to refuse it."""

    def check(self, path: Rel, field: str = "path", *, after: str | None = None) -> None:
        """Refuse `path` (free of links) as the target of a change. Raises: ToolError `path_protected`.

        `after` is the kind of node after the change (`dir`, `absent` ...), if the change does not affect what is
        beneath, or if that is checked separately.
        """
        if self.also is not None:
            self.also(path, field)
        near = [place for place in self._places if related(path, place)]
        if near and not (after in ("dir", "absent") and all(len(place) > len(path) for place in near)):
            raise _refusal(field)
        if any(related(path, place) for place in self._present) or (after is None and self._is_found_anywhere(path)):
            raise _refusal(field)
        if any(is_reserved(name) for name in path):
            raise ToolError(
                f"{field}: names that begin with `.interlock-` and end with `.tmp` are reserved for Interlock's temporary files",
                code="path_protected",
                path=f"$.parameters.{field}",
                retryable=False,
                hint="use another name",
            )
        for depth in range(1, len(path) + 1):
            found = self._workspace.lstat(path[:depth])
            if found is None:
                return
            self.check_identity(found, field)
            if not stat.S_ISDIR(found.st_mode):
                return

    def _is_found_anywhere(self, path: Rel) -> bool:
        """True for a path that a client finds in any directory, and for a directory above one."""
        if not self._anywhere:
            return False
        names = [fold(name) for name in path]
        return any(pair in self._anywhere for pair in itertools.pairwise(names)) or (
            bool(names) and names[-1] in _IN_ANY_DIRECTORY
        )

    def check_identity(self, found: os.stat_result, field: str = "path") -> None:
        """Refuse a protected file or directory, whatever its name. Raises: ToolError `path_protected`."""
        one = (found.st_dev, found.st_ino)
        if one in self._ids:
            raise _refusal(field)
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            if self._inside is None:
                walks = (self._workspace.walk(place, lenient=True) for place in self._present)
                self._inside = {(s.st_dev, s.st_ino) for walk in walks for _, s in walk}
            if one in self._inside:
                raise _refusal(field)


def _present(workspace: Tree, named: Iterable[Rel]) -> dict[Rel, os.stat_result | None]:
    """What is at the named paths and at the targets of links among them. Absent paths without links may be left out."""
    found: dict[Rel, os.stat_result | None] = {}
    tops: dict[Rel, os.stat_result | None] = {}
    for place in named:
        top = place[:1]
        if top not in tops:
            tops[top] = workspace.lstat(top)
        above = tops[top]
        if above is None and place:
            continue
        if above is not None and len(place) == 2 and stat.S_ISDIR(above.st_mode):  # most are: look once
            here = workspace.lstat(place)
            if here is None or not stat.S_ISLNK(here.st_mode):
                found[place] = here
                continue
        found |= {there: workspace.lstat(there) for there in _without_links(workspace, place)}
    return found


def _without_links(workspace: Tree, place: Rel) -> Iterator[Rel]:
    """The paths to protect: the path itself, and its target. Targets outside the workspace need no protection."""
    for follow in (True, False):
        try:
            real = workspace.resolve(place, follow=follow)
        except ToolError as error:
            if error.code not in ("path_outside_workspace", "symlink_loop", "not_a_directory"):
                raise
        else:
            yield real
            if real == place:
                return


def _refusal(field: str) -> ToolError:
    return ToolError(
        f"{field}: Interlock's loader reads this path or something beneath it, and no agent may change it",
        code="path_protected",
        path=f"$.parameters.{field}",
        retryable=False,
        hint="a person can edit it, and then run `interlock trust`",
    )
