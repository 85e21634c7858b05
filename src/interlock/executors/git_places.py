"""Locates a repository and checks its location.

Three layouts are supported. In the usual one, the working tree is in the workspace and contains git's own directory. If
the workspace is a part of a repository, the working tree begins above it; in a linked worktree (`git worktree add`),
git's own directory is elsewhere. In these cases, only the repository's own metadata is read and written outside the
workspace. An agent can write a `.git` file, so the outside directory must confirm the link: it must belong to the user,
and must be the git directory of the working tree above, or list this worktree as its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from interlock.isolation.wire import Bind
from interlock.model.errors import ToolError
from interlock.workspace import Workspace
from interlock.workspace.names import Rel, parts, refusal

_NOT_WRITTEN: Final = frozenset((b"config", b"description", b"hooks", b"info", b"lfs", b"modules", b"worktrees"))
"""Parts of git's directory that no tool writes to, so links there are harmless (hooks are often links)."""

_POINTER_BYTES_MAX: Final = 8192
"""Of a file that names another place."""
_REPAIR: Final = (
    "use the directory that contains both as the workspace, repair it (`git worktree repair`), or run git with `exec`"
)
_DIRECT: Final = 'use the directory that contains both as the workspace, or set `[workspace] mode = "direct"`'


class Places(NamedTuple):
    """The locations of a repository's working tree and of git's own directory."""

    top: Rel
    """The working tree's directory beneath the workspace; `()` if the working tree begins above the workspace."""
    prefix: Rel
    """The workspace's path within the working tree, if that begins above the workspace."""
    git_dir: Path
    common_dir: Path
    """Differs from `git_dir` in a linked worktree."""


def check_places(workspace: Workspace, answer: bytes) -> Places:
    """Check the directories that `git rev-parse --show-toplevel --git-dir --git-common-dir` printed, and return them.

    Raises: ToolError `path_outside_workspace`, `git_config_refused`.
    """
    top, git_dir, common = answer.removesuffix(b"\n").split(b"\n")
    root = parts(os.fsencode(workspace.root))
    names = parts(top)
    above = len(names) < len(root) and root[: len(names)] == names
    if above and _is_inside(workspace, git_dir):
        _refuse_place("the working tree begins above the workspace, but git's own directory does not")
    for directory in dict.fromkeys((git_dir, common)):
        if _is_inside(workspace, directory):
            _check_own_files(workspace, _beneath(workspace, directory))
        else:
            _check_outside(Path(os.fsdecode(directory)))
    if not _is_inside(workspace, git_dir):
        _check_agreed(top, git_dir, common, above=above)
    own = Path(os.fsdecode(git_dir)), Path(os.fsdecode(common))
    return Places((), root[len(names) :], *own) if above else Places(_beneath(workspace, top), (), *own)


def open_git_directory(workspace: Workspace, places: Places) -> int:
    """Open git's own directory, through the workspace's view if it is inside. Raises: ToolError."""
    directory = os.fsencode(places.git_dir)
    if _is_inside(workspace, directory):
        return workspace.open_directory(_beneath(workspace, directory))
    if workspace.layer is not None:
        _refuse_place("git's own directory is outside the workspace, which a layer does not cover", _DIRECT)
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise refusal(error) from error


def is_program(workspace: Workspace, path: Path) -> bool:
    """Returns True for an executable file, through the workspace's view if it is inside."""
    name = os.fsencode(path)
    try:
        if not _is_inside(workspace, name):
            return path.is_file() and os.access(path, os.X_OK)
        place = workspace.resolve(parts(name)[len(parts(os.fsencode(workspace.root))) :])
        found = workspace.lstat(place)
    except (OSError, ToolError):
        return False
    return found is not None and stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o111)


def outside_places(root: Path) -> list[Bind]:
    """Returns the binds that git needs outside the workspace.

    They are a working tree that begins above it (read-only) and git's own directories.

    `check_places` decides later whether they belong together.
    """
    for top in (root, *root.parents):
        marker = top / ".git"
        try:
            found = marker.lstat()
        except OSError:
            continue
        directories = [marker] if stat.S_ISDIR(found.st_mode) else _linked(marker)
        above: list[Bind] = [] if top == root else [{"path": os.fspath(top), "writable": False}]
        own: list[Bind] = [
            {"path": os.fspath(one), "writable": True} for one in directories if not one.is_relative_to(root)
        ]
        return [*above, *own]
    return []


def _linked(marker: Path) -> list[Path]:
    """Returns the existing directories of a linked worktree, read from its `.git` file."""
    try:
        text = os.fsdecode(_read_short(marker))
        if not text.startswith("gitdir: "):
            return []
        git_dir = (marker.parent / text[8:].rstrip("\n")).resolve()
        common = git_dir / "commondir"
        shared = (git_dir / os.fsdecode(_read_short(common)).strip()).resolve() if common.is_file() else git_dir
        found = [shared] if git_dir.is_relative_to(shared) else [shared, git_dir]
        return [one for one in found if (one / "HEAD").is_file() and one.stat().st_uid == os.geteuid()]
    except (OSError, ValueError):
        return []


def _read_short(path: Path) -> bytes:
    """The beginning of a regular file. An agent may have made it: it can be a FIFO, and of any size. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(_POINTER_BYTES_MAX)


def _is_inside(workspace: Workspace, absolute: bytes) -> bool:
    root = parts(os.fsencode(workspace.root))
    return parts(absolute)[: len(root)] == root


def _beneath(workspace: Workspace, absolute: bytes) -> Rel:
    """Returns the workspace path of one of git's own absolute paths. Raises: ToolError if it is outside."""
    names, top = parts(absolute), parts(os.fsencode(workspace.root))
    if names[: len(top)] != top or workspace.resolve(names[len(top) :]) != names[len(top) :]:
        _refuse_place("the repository's directories are not all inside the workspace")
    return names[len(top) :]


def _check_agreed(top: bytes, git_dir: bytes, common: bytes, *, above: bool) -> None:
    """Check that git's own directory, which is outside the workspace, names this working tree. Raises: ToolError."""
    own = os.path.join(top, b".git")  # noqa: PTH118 - bytes
    if above and git_dir == own == common:
        return
    if os.path.dirname(git_dir) != os.path.join(common, b"worktrees"):  # noqa: PTH118, PTH120 - bytes
        _refuse_place("git's own directory is outside the workspace, and this is not one of its linked worktrees")
    try:
        named = _read_short(Path(os.fsdecode(git_dir), "gitdir")).strip()
    except OSError:
        named = b""
    if named != own:
        _refuse_place("git's own directory is outside the workspace, and does not name this directory as its worktree")


def _check_outside(directory: Path) -> None:
    try:
        found = directory.lstat()
        borrowed = any((directory / "objects" / "info" / name).exists() for name in ("alternates", "http-alternates"))
    except OSError:
        _refuse_place("git's own directory cannot be read")
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        _refuse_place("git's own directory is outside the workspace, and belongs to another user")
    if borrowed:
        _refuse_files("alternates")


def _check_own_files(workspace: Workspace, directory: Rel) -> None:
    """Refuse symbolic links in git's own directory, through which git would write, and objects stored elsewhere."""
    objects = (*directory, b"objects")
    pending = [directory]
    while pending:
        here = pending.pop()
        names: list[bytes] = []
        with _vanished():
            names = workspace.names(here)
        for name in names:
            place = (*here, name)
            if here == directory and name in _NOT_WRITTEN:
                continue
            found = workspace.lstat(place)
            if found is not None and stat.S_ISLNK(found.st_mode):
                _refuse_files("symbolic links")
            if found is not None and stat.S_ISDIR(found.st_mode) and here != objects:
                pending.append(place)
    if any(workspace.lstat((*objects, b"info", name)) for name in (b"alternates", b"http-alternates")):
        _refuse_files("alternates")


@contextlib.contextmanager
def _vanished() -> Iterator[None]:
    """Ignore files that disappear, because another git process may be running."""
    try:
        yield
    except ToolError as error:
        if error.code != "not_found":
            raise


def _refuse_place(why: str, hint: str = _REPAIR) -> NoReturn:
    raise ToolError(
        f"path: the repository is refused: {why}",
        code="path_outside_workspace",
        path="$.parameters.path",
        retryable=False,
        hint=hint,
    )


def _refuse_files(what: str) -> NoReturn:
    raise ToolError(
        f"git's own directory has {what}, through which git reads or writes elsewhere",
        code="git_config_refused",
        path="$.parameters.path",
        retryable=False,
        hint="run git with `exec`",
    )
