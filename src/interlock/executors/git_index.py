"""The index of a repository (git's staging area): its entries, and how the git tools change it.

A change is made in a private copy, which then replaces the index by compare and swap under git's own lock
(`index.lock`), only if the index has not changed since it was copied. The change is therefore atomic, and never
overwrites what others have staged since.

The effect of a change is stored as a *record*: a blob in the repository that holds each path's entries before and
after, and its entry in `HEAD`. `git_undo.py` undoes a change from its record.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from interlock.executors.git_parse import records
from interlock.executors.git_repository import Repository
from interlock.model import typed
from interlock.model.errors import StoreError, ToolError
from interlock.workspace.names import NameJson, Rel, parts, stored, to_json
from interlock.workspace.tree import refused, write_chunks

LISTING_BYTES: Final = 128 * 1024 * 1024
"""Maximum size of a listing of the whole index: more than a million entries."""
_INDEX_BYTES_MAX: Final = 2 * LISTING_BYTES
_EMPTY_BLOBS: Final = (
    b"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    b"473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
)
"""The blob id of an intent-to-add entry (`git add -N`), in SHA-1 and SHA-256."""
_VERSION: Final = 1

Entries = dict[bytes, tuple[str, ...]]
"""Maps a path (as git writes it, from the top of the repository) to one `MODE ID STAGE FLAGS` per stage.

FLAGS is `-`, or any of `a` (assume-unchanged), `s` (skip-worktree) and `n` (intent-to-add).
"""


class Change(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The change of one path in the index."""

    path: NameJson
    """Relative to the top of the repository."""
    head: str | None
    """`MODE ID` in the commit that was checked out; null if the path was not in it."""
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def name(self) -> bytes:
        """The path as git writes it."""
        return b"/".join(stored(self.path))


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The effect of one change on the index."""

    version: int
    changes: tuple[Change, ...]
    conflict: str | None = None
    """The conflict that the unmerged entries belong to (`git_undo.conflict_of`); null without unmerged entries.

    They are valid only during this conflict.
    """

    @property
    def unmerged(self) -> tuple[bytes, ...]:
        """The paths that are unmerged before or after the change."""
        return tuple(c.name for c in self.changes if any(e.split(" ")[2] != "0" for e in (*c.before, *c.after)))

    def reversed(self) -> Record:
        """Returns the record of the change that undoes this one."""
        changes = tuple(msgspec.structs.replace(c, before=c.after, after=c.before) for c in self.changes)
        return msgspec.structs.replace(self, changes=changes)


class IndexCopy:
    """A private copy of the index for one change; a context manager that removes the copy at the end."""

    def __init__(self, repository: Repository) -> None:
        """Copies nothing yet."""
        self._repository = repository
        self._directory = ""
        self._base: bytes | None = None

    def __enter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="interlock-index-")
        try:
            found = self._read()
            if found is not None:
                self._base, times = found
                for name in ("index", "base"):
                    path = Path(self._directory, name)
                    path.write_bytes(self._base)
                    # Git compares a file's time with the index's: a newer index would hide a change made at the same
                    # time.
                    os.utime(path, ns=times)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that make git work on the copy."""
        return {"GIT_INDEX_FILE": f"{self._directory}/index"}

    @property
    def environment_before(self) -> dict[str, str]:
        """Environment variables that make git read the index as it was copied."""
        return {"GIT_INDEX_FILE": f"{self._directory}/base"}

    def publish(self) -> None:
        """Replace the index with the copy. Raises: ToolError `file_changed` if the index has changed since it was copied."""
        workspace, directory = self._repository.ctx.workspace, self._repository.git_fd
        path = Path(self._directory, "index")
        times = path.stat()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            lock = os.open(b"index.lock", flags, 0o666 & ~workspace.umask, dir_fd=directory)
        except FileExistsError:
            raise _changed("another git process is changing the index") from None
        except OSError as error:
            raise StoreError(f"git's index cannot be locked: {os.strerror(error.errno or 0)}", code="store") from error
        try:
            try:
                found = self._read()
                if (None if found is None else found[0]) != self._base:
                    raise _changed("another program has changed the index")
                with refused("path"):
                    if found is not None:
                        os.fchmod(lock, os.stat(b"index", dir_fd=directory, follow_symlinks=False).st_mode & 0o777)
                    write_chunks(workspace.disk, lock, [path.read_bytes()])
                    os.utime(lock, ns=(times.st_atime_ns, times.st_mtime_ns))
                    workspace.disk.sync(lock)
            finally:
                os.close(lock)
            with refused("path"):
                workspace.disk.rename_at(directory, b"index.lock", directory, b"index")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(b"index.lock", dir_fd=directory)
            raise

    def _read(self) -> tuple[bytes, tuple[int, int]] | None:
        """Returns the index's bytes and times (accessed, modified, in ns); None if there is no index yet."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a FIFO must not wait
            fd = os.open(b"index", flags, dir_fd=self._repository.git_fd)
        except FileNotFoundError:
            return None
        with refused("path"), os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _INDEX_BYTES_MAX:
                raise ToolError(
                    f"git's index is not a file, or larger than {_INDEX_BYTES_MAX} bytes",
                    code="limit_exceeded",
                    retryable=False,
                )
            return file.read(_INDEX_BYTES_MAX), (found.st_atime_ns, found.st_mtime_ns)


async def entries(repository: Repository, environment: Mapping[str, str]) -> Entries:
    """Returns the entries of the index that `environment` selects. Raises: ToolError `limit_exceeded`."""
    data = await _listing(repository, "ls-files", "-s", "-v", "-z", "--full-name", environment=environment)
    found: Entries = {}
    empty = False
    for record in records(data):
        head, _, name = record.partition(b"\t")
        tag, mode, blob, stage = head.split(b" ")
        flags = ("a" if tag.islower() else "") + ("s" if tag in (b"S", b"s") else "")
        empty = empty or blob in _EMPTY_BLOBS
        found[name] = (*found.get(name, ()), f"{mode.decode()} {blob.decode()} {stage.decode()} {flags or '-'}")
    if empty:
        for name in await _intended(repository, environment) & found.keys():
            mode_id_stage, flags = found[name][0].rsplit(" ", 1)
            found[name] = (f"{mode_id_stage} {flags.replace('-', '')}n",)
    return found


async def _intended(repository: Repository, environment: Mapping[str, str]) -> set[bytes]:
    """Returns the intent-to-add paths, which git lists as staged or not, depending on an option."""
    shown = []
    for how in ("--ita-invisible-in-index", "--ita-visible-in-index"):
        data = await _listing(
            repository, "diff", "--cached", "--name-status", "--no-renames", "--no-ext-diff", "--ignore-submodules=dirty",
            how, "-z", environment=environment,
        )  # fmt: skip
        fields = records(data)
        shown.append(set(zip(fields[::2], fields[1::2], strict=False)))
    return {name for _, name in shown[0] ^ shown[1]}


async def head_entries(repository: Repository, tree: str | None) -> dict[bytes, str]:
    """Maps each path of a commit or tree to `MODE ID`; empty for None."""
    if tree is None:
        return {}
    found = {}
    for record in records(await _listing(repository, "ls-tree", "-r", "-z", "--full-tree", tree)):
        head, _, name = record.partition(b"\t")
        mode, _, blob = head.split(b" ")
        found[name] = f"{mode.decode()} {blob.decode()}"
    return found


async def _listing(repository: Repository, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
    result = await repository.run(*arguments, read_only=True, environment=environment, output_bytes_max=LISTING_BYTES)
    if result.truncated:
        raise ToolError("the repository has too many files to examine", code="limit_exceeded", retryable=False)
    out: bytes = result.stdout
    return out


def make_record(before: Entries, after: Entries, head: Mapping[bytes, str]) -> Record:
    """Returns the record of a change. `head` holds the entries of the checked-out commit."""
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return Record(
        _VERSION,
        tuple(
            Change(to_json(parts(name)), head.get(name), before.get(name, ()), after.get(name, ())) for name in changed
        ),
    )


async def write_record(repository: Repository, record: Record) -> str:
    """Write a record and return the id of its blob."""
    data = msgspec.json.encode(record)
    result = await repository.run("hash-object", "-w", "--stdin", "--no-filters", stdin=data)
    return result.stdout.decode().strip()


async def read_record(repository: Repository, blob: str) -> Record:
    """Read a record. Raises: ToolError `ref_invalid` if it is missing or not a record."""
    result = await repository.run(
        "cat-file", "blob", blob, read_only=True, expected=(0, 128), output_bytes_max=LISTING_BYTES
    )
    record = _decode(result.stdout) if result.exit_code == 0 and not result.truncated else None
    if record is None:
        raise ToolError(
            "restore: the record of what was staged is no longer in the repository",
            code="ref_invalid",
            path="$.parameters.restore",
            retryable=False,
            hint="`git gc` removes it after some weeks; check `git status` and unstage manually",
        )
    return record


def _decode(data: bytes) -> Record | None:
    try:
        record = typed.decode(data, Record)
        names = {change.name for change in record.changes}
    except (ValueError, msgspec.DecodeError):
        return None
    return record if record.version == _VERSION and len(names) == len(record.changes) else None


def above_and_below(names: Iterator[bytes] | set[bytes], taken: set[bytes]) -> set[bytes]:
    """Returns the paths in `taken` that are parents or children of one of `names`; git would remove them to make room."""
    wanted = set(names)
    above = {b"/".join(path[:depth]) for path in map(_split, wanted) for depth in range(1, len(path))}
    return {name for name in taken if name in above or any(up in wanted for up in _parents(name))} - wanted


def _split(name: bytes) -> Rel:
    return tuple(name.split(b"/"))


def _parents(name: bytes) -> Iterator[bytes]:
    at = name.rfind(b"/")
    while at > 0:
        yield name[:at]
        at = name.rfind(b"/", 0, at)


def _changed(what: str) -> ToolError:
    return ToolError(what, code="file_changed", retryable=True, hint="nothing was changed; try again")
