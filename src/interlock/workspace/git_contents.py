"""Finds the files that a repository has only since a layer changed its data: in its index, its branches and its tags.

A file that runs later may be held, and yet be in a commit: `git push` gives it to a CI service, `git checkout` and `git stash`
write it. So git's data stays with it. Not looked for: branches of remotes (a fetch), and commits that no reference names.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from interlock.model.errors import ToolError
from interlock.workspace.git_directories import GitDirectories
from interlock.workspace.git_objects import (
    DIRECTORY,
    LINK,
    REPOSITORY,
    Entry,
    Objects,
    UnreadableError,
    blob_name,
    entry_of,
    object_name,
    read_index,
)
from interlock.workspace.layer_diff import Difference
from interlock.workspace.names import Rel, show
from interlock.workspace.nodes import ABSENT, Node
from interlock.workspace.protect import fold
from interlock.workspace.tree import Workspace

_KINDS: Final[dict[int, Literal["symlink"]]] = {LINK: "symlink"}
_OWN_BYTES_MAX: Final = 64 * 1024 * 1024
_ENTRIES_MAX: Final = 200_000
_STASH: Final = (b"refs", b"stash")
_LINKS_MAX: Final = 5


def held_contents(
    git: GitDirectories,
    differences: Iterable[Difference],
    below: Workspace,
    merged: Workspace,
    is_held: Callable[[Difference], bool],
) -> dict[Rel, str]:
    """For each repository whose changed data has a held file, the reason for people why the data stays.

    `differences` are those of a layer (`merged`) over `below`; `is_held` judges a file that is new in the repository.
    """
    changed: dict[tuple[Rel, Rel], list[Difference]] = {}
    for one in differences:
        repository, place = git.repository(one.path), git.place(one.path)
        if repository is not None and place is not None:
            own = _exists(merged, (*place.directory, b"objects"))
            changed.setdefault((repository, place.directory if own else repository), []).append(one)
    found: dict[Rel, str] = {}
    for (repository, directory), data in changed.items():
        top = directory[:-1] if directory and fold(directory[-1]) == ".git" else repository[:-1]
        try:
            for path, entry in added_files(directory, data, below, merged):
                one = Difference((*top, *path), ABSENT, Node(_KINDS.get(entry.mode, "file"), mode=entry.mode & 0o777))
                if entry.mode != REPOSITORY and is_held(one) and not _is_file(below, one.path, entry):
                    found[repository] = f"git has `{show(one.path)}` in it, which a program may execute later"
                    break
        except UnreadableError:
            found[repository] = "the files that git has in it cannot be read, and a program may execute them later"
    return found


def _exists(tree: Workspace, path: Rel) -> bool:
    with contextlib.suppress(ToolError):
        return tree.lstat(path) is not None
    return False


def _is_file(below: Workspace, path: Rel, entry: Entry) -> bool:
    """True if the person's own file has this content already."""
    try:
        found = below.lstat(path)
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size > _OWN_BYTES_MAX:
            return False
        with os.fdopen(below.open_file(path), "rb") as file:
            content = file.read()
    except ToolError:
        return False
    same = blob_name(content, len(entry.id)) == entry.id
    return same and bool(entry.mode & 0o100) == bool(found.st_mode & 0o100)


class Added(NamedTuple):
    """A file in the repository, by its path in the working tree."""

    path: Rel
    entry: Entry


def added_files(directory: Rel, changed: Sequence[Difference], below: Workspace, merged: Workspace) -> Iterator[Added]:
    """The files that the repository with its data in `directory` has in the layer (`merged`), and did not have before.

    `changed` are the differences of its data. Raises: UnreadableError if that cannot be known.
    """
    before, after = Objects(below, directory), Objects(merged, directory)
    if before.hash_bytes != after.hash_bytes and before.file((b"HEAD",)) is not None:
        raise UnreadableError
    names = [one.path[len(directory) :] for one in changed if one.after.kind not in ("absent", "dir")]
    for name in names:
        if name[-1] == b"index":
            yield from _added_to_index(name, before, after)
        if name[0] == b"reftable" or name[-1].startswith(b"sharedindex."):
            raise UnreadableError
    walk = _Walk(before, after)
    own = _reference(before, (b"HEAD",))
    for name, tip in _changed_references(names, before, after):
        old = [one for one in (_reference(before, name), own) if one is not None]
        for one in (tip, *(after.parents(tip) if name[-1] == b"stash" else ())):
            yield from walk.added(one, old)


def _added_to_index(name: Rel, before: Objects, after: Objects) -> Iterator[Added]:
    old, new = read_index(before.file(name), before.hash_bytes), read_index(after.file(name), after.hash_bytes)
    for path, stored in new.entries - old.entries:
        yield Added(tuple(path.split(b"/")), entry_of(stored))
    pending = [one for one in new.trees.items() if one not in old.trees.items()]
    left = _ENTRIES_MAX
    while pending:
        here, tree = pending.pop()
        for one, entry in after.entries(tree).items():
            path, left = b"/".join(filter(None, (here, one))), left - 1
            is_known = (path, entry.mode.to_bytes(4, "big") + entry.id) in new.entries
            if entry.mode == DIRECTORY and new.trees.get(path) != entry.id:
                pending.append((path, entry.id))
            if left < 0 or (entry.mode != DIRECTORY and not is_known):
                raise UnreadableError  # the next commit would have what is not in the index


def _changed_references(names: Sequence[Rel], before: Objects, after: Objects) -> Iterator[tuple[Rel, bytes]]:
    """The references with new values, by their path in the git directory, without those of remotes."""
    known: set[tuple[Rel, bytes]] | None = None
    for name in names:
        if name[-1] == b"packed-refs":
            known = known or set(_packed(before))
            found = [one for one in _packed(after) if one not in known]
        else:
            found = list(_values(name, before, after))
        for reference, value in found:
            kind = reference[reference.index(b"refs") + 1] if b"refs" in reference[:-1] else b""
            if kind == b"replace":
                raise UnreadableError  # git would read one object in the place of another
            if kind != b"remotes":
                yield reference, value


def _values(name: Rel, before: Objects, after: Objects) -> Iterator[tuple[Rel, bytes]]:
    """The new values in a changed file: of a reference, or of the log of the stash, whose older entries it keeps."""
    top = name.index(b"refs") if b"refs" in name else len(name) - 1
    if b"logs" in name[:top]:
        if name[top:] == _STASH:
            lines = set((after.file(name) or b"").splitlines()) - set((before.file(name) or b"").splitlines())
            yield from ((_STASH, object_name(b" ".join(line.split(b" ")[1:2]))) for line in lines)
    elif name[top] in (b"refs", b"HEAD"):
        real, value = _resolve(after, name)
        if value is not None and (real == name or _reference(before, real) != value):
            yield name, value


def _reference(objects: Objects, name: Rel) -> bytes | None:
    """The object that a reference names; None if there is none."""
    return _resolve(objects, name)[1]


def _resolve(objects: Objects, name: Rel) -> tuple[Rel, bytes | None]:
    """The reference to which a reference leads, and the object that it names."""
    for _ in range(_LINKS_MAX):
        text = objects.file(name)
        if text is None:
            return name, dict(_packed(objects)).get(name)
        if not text.startswith(b"ref:"):
            return name, object_name(text)
        name = tuple(text[4:].strip().split(b"/"))
    raise UnreadableError


def _packed(objects: Objects) -> list[tuple[Rel, bytes]]:
    lines = (objects.file((b"packed-refs",)) or b"").splitlines()
    pairs = (line.split(b" ", 1) for line in lines if line[:1] not in (b"#", b"^", b""))
    return [(tuple(pair[1].split(b"/")), value) for pair in pairs if len(pair) == 2 and (value := object_name(pair[0]))]


class _Walk:
    """Compares the trees of commits, without what they share."""

    def __init__(self, before: Objects, after: Objects) -> None:
        self._before = before
        self._after = after
        self._left = _ENTRIES_MAX

    def added(self, tip: bytes, old: Sequence[bytes]) -> Iterator[Added]:
        """The files of a commit that none of the `old` ones has."""
        top = self._after.tree_of(tip)
        if top is None:
            return
        known = [tree for one in old if (tree := self._known(one)) is not None]
        pending: list[tuple[Rel, bytes, list[bytes]]] = [((), top, known)]
        while pending:
            here, tree, shared = pending.pop()
            if tree in shared:
                continue
            others = [self._before.entries(one) for one in shared]
            for name, entry in self._after.entries(tree).items():
                self._left -= 1
                if self._left < 0:
                    raise UnreadableError
                same = [other[name] for other in others if name in other]
                if entry.mode == DIRECTORY:
                    pending.append(((*here, name), entry.id, [one.id for one in same if one.mode == DIRECTORY]))
                elif entry not in same:
                    yield Added((*here, name), entry)

    def _known(self, one: bytes) -> bytes | None:
        try:
            return self._before.tree_of(one)
        except UnreadableError:
            return None  # then everything is new
