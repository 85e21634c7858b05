"""`fs.write`, `fs.edit`, `fs.delete` and `fs.move`: file changes, each backed up first.

All four take the same steps: resolve the path without links, refuse protected paths, examine the present file (and back
up its content), record the states before and after, and only then make the change in one atomic step, which is refused
if the file has changed since. Set-id bits do not survive a change of content. A file whose own permissions refuse
writing is not replaced.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from msgspec.structs import replace

from interlock.executors.encodings import MARK_BYTES, Mark, marked
from interlock.executors.file_reads import need_file_name
from interlock.executors.text_edits import Edit, apply
from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.workspace import ABSENT, Change, Node, Origin, Seen, Workspace, effects
from interlock.workspace.names import Rel
from interlock.workspace.nodes import kind_of
from interlock.workspace.tree import changed, hash_file, read_chunks, refused

EDIT_BYTES_MAX: Final = 16 * 1024 * 1024

_CONTENT_MODE: Final = 0o1777  # mode bits kept when the content changes


def write(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Returns the function of `fs.write`."""
    workspace: Workspace = ctx.workspace
    need_file_name(parameters["path"])
    with workspace.changing():
        path = workspace.locate(parameters["path"])
        workspace.guard().check(path)
        data = content_of(parameters, mark_of(workspace, path))
        ledger = _Ledger(ctx)
        seen = workspace.examine(path, read=ledger.keep)
        _need_file(workspace, path, seen)
        if parameters.get("append", False) and seen.identity is not None:
            node = _append(ledger, path, seen, data)
        else:
            node = _put(ledger, path, seen, [data], hashlib.sha256(data).hexdigest(), len(data))
        return {"size": node.size, "sha256": node.sha256, "created": seen.identity is None}


def edit(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Returns the function of `fs.edit`."""
    workspace: Workspace = ctx.workspace
    edits = edits_of(parameters)
    need_file_name(parameters["path"])
    with workspace.changing():
        path = workspace.locate(parameters["path"])
        workspace.guard().check(path)
        data = read_whole(workspace, path)
        text = FileText.decode(data, parameters.get("encoding"))
        edited = apply(text.text, edits)
        ledger = _Ledger(ctx)
        seen = workspace.examine(path, read=ledger.keep)
        _need_file(workspace, path, seen)
        if seen.node.sha256 != hashlib.sha256(data).hexdigest():
            raise changed("path")
        result = text.encode(edited)
        node = _put(ledger, path, seen, [result], hashlib.sha256(result).hexdigest(), len(result))
        return {
            "replacements": sum(each.times for each in edits),
            "encoding": text.encoding,
            "sha256": node.sha256,
        }


def delete(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Returns the function of `fs.delete`. Deletes a link itself, not its target."""
    workspace: Workspace = ctx.workspace
    with workspace.changing():
        path = workspace.locate(parameters["path"], follow=False)
        found = tree_of(workspace, path, "path")
        _need_directory_behind_slash(workspace, path, parameters["path"], "path")
        if len(found) > 1 and not parameters.get("recursive", False):
            raise ToolError(
                "path: the directory is not empty",
                code="directory_not_empty",
                path="$.parameters.path",
                retryable=False,
                hint="set `recursive` to remove it with its contents",
            )
        ledger = _Ledger(ctx)
        # Remove the contents before the directory.
        seen = [(place, ledger.examine(place, "path")) for place in reversed(found)]
        if not ctx.dry_run:
            ledger.record([Change(place, one.node, ABSENT) for place, one in seen])
            removed: set[Rel] = set()
            try:
                for place, one in seen:
                    effects.remove(workspace, place, expect=_there(one, "path"), later=removed)
            finally:
                effects.sync_directories(workspace, removed)
        return {"deleted": len(seen)}


def move(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Returns the function of `fs.move`. Never overwrites anything; moves a link itself, not its target."""
    workspace: Workspace = ctx.workspace
    with workspace.changing():
        source = workspace.locate(parameters["source"], "source", follow=False)
        destination = workspace.locate(parameters["destination"], "destination", follow=False)
        found = tree_of(workspace, source, "source")
        for field in ("source", "destination"):
            _need_directory_behind_slash(workspace, source, parameters[field], field)
        workspace.guard().check(destination, "destination")
        if workspace.lstat(destination, "destination") is not None:
            raise ToolError(
                "destination: the name already exists",
                code="already_exists",
                path="$.parameters.destination",
                retryable=False,
                hint="delete it first, or choose another name",
            )
        if destination[: len(source)] == source:
            raise ToolError(
                "destination: a directory cannot be moved into itself",
                code="path_invalid",
                path="$.parameters.destination",
                retryable=False,
            )
        ledger = _Ledger(ctx)
        seen = [(place, ledger.examine(place, "source")) for place in found]
        if not ctx.dry_run:
            parents = ledger.missing_parents(destination, "destination")
            changes = [Change(place, one.node, ABSENT) for place, one in seen]
            for place, one in seen:
                moved = (*destination, *place[len(source) :])
                workspace.permit(moved, "destination")
                changes.append(Change(moved, ABSENT, one.node))
            ledger.record([*parents, *changes])
            with ledger.parents(parents, "destination"):
                expect = _there(seen[0][1], "source")
                effects.move(workspace, source, destination, expect=expect, fields=("source", "destination"))
        return {"moved": len(seen)}


class _Ledger:
    """Records one call's changes in the run's backups. Records nothing with durability `off` or in a dry run."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.workspace: Workspace = ctx.workspace
        self._backups = None if ctx.dry_run else ctx.backups

    def keep(self, fd: int) -> tuple[str, int]:
        """Back up a file's content. Returns its digest and size."""
        if self._backups is None:
            return hash_file(fd, self.go_on)
        sha256, size = self._backups.keep(fd, self.go_on)
        return sha256, size

    def examine(self, path: Rel, field: str) -> Seen:
        """Examine a path and back up its content."""
        self.go_on()
        return self.workspace.examine(path, field, read=self.keep)

    def record(self, changes: Sequence[Change]) -> bytes:
        """Record changes before they are made. Returns the temporary name for the last one."""
        ctx = self.ctx
        self.go_on()
        if self._backups is None:
            ctx.not_exactly_undoable("files were changed and no backups are kept, because durability is off")
            return b".interlock-%b-%d.tmp" % (hashlib.sha256(ctx.action_id.encode()).hexdigest().encode(), ctx.attempt)
        entries = self._backups.record(Origin(ctx.proposal_id, ctx.action_id, ctx.attempt), changes)
        return bytes(self._backups.temporary(entries[-1]))

    def go_on(self) -> None:
        """Raises: ToolError `cancelled` if the action was stopped, as long as nothing has changed.

        A thread cannot be killed, so this keeps undo from running before the change.
        """
        if self.ctx.cancelled:
            raise ToolError("stopped before anything was changed", code="cancelled", retryable=False)

    def new(self, kind: Literal["file", "dir"], **fields: Any) -> Node:
        """The planned state of a new file or directory. In a layer, the commit records owner and attributes."""
        if self.workspace.layer is not None:
            return Node(kind, **fields)
        return Node(kind, owner=(os.geteuid(), os.getegid()), attributes={}, **fields)

    def correct(self, changes: Iterable[Change]) -> None:
        """Record again what got another owner or attributes, as from a set-gid directory or default access control lists."""
        if self._backups is None or self.workspace.layer is not None:
            return
        other: list[Change] = []
        for change in changes:
            after = change.after
            with contextlib.suppress(ToolError):  # it is gone again
                made = self.workspace.examine(change.path, read=lambda _: ("", 0)).node
                if not (made.same_owner(after) and made.same_attributes(after)):
                    node = replace(after, owner=made.owner, attributes=made.attributes)
                    other.append(Change(change.path, change.before, node))
        if other:
            self._backups.record(Origin(self.ctx.proposal_id, self.ctx.action_id, self.ctx.attempt), other)

    def missing_parents(self, path: Rel, field: str) -> list[Change]:
        """Returns the changes that create the missing directories above a path."""
        made = self.new("dir", mode=0o777 & ~self.workspace.umask)
        missing = itertools.takewhile(
            lambda parent: self.workspace.lstat(parent, field) is None,
            (path[:depth] for depth in range(len(path) - 1, 0, -1)),
        )
        return [Change(parent, ABSENT, made) for parent in reversed(list(missing))]

    @contextlib.contextmanager
    def parents(self, changes: Iterable[Change], field: str) -> Iterator[None]:
        """Create the directories for the block; if it fails, remove those that are empty."""
        made: list[Change] = []
        try:
            for change in changes:
                effects.put_directory(self.workspace, change.path, mode=change.after.mode or 0, field=field)
                made.append(change)
            yield
            self.correct(changes)
        except Exception:
            for change in reversed(made):
                effects.remove_empty_directory(self.workspace, change.path)
            raise


def _put(ledger: _Ledger, path: Rel, seen: Seen, content: Iterable[bytes], sha256: str, size: int) -> Node:
    """Write a file's new content, whose digest and size are known."""
    workspace, before = ledger.workspace, seen.node
    mode = 0o666 & ~workspace.umask if before.mode is None else before.mode & _CONTENT_MODE
    kept = None if seen.identity is None else before.attributes or {}
    after = ledger.new("file", mode=mode, size=size, sha256=sha256)
    if kept is not None and after.owner is not None:
        after = replace(after, owner=before.owner, attributes=kept)
    if not ledger.ctx.dry_run:
        parents = ledger.missing_parents(path, "path")
        temporary = ledger.record([*parents, Change(path, before, after)])
        with ledger.parents(parents, "path"):
            effects.put_file(
                workspace,
                effects.NewFile(path, content, mode, seen.identity, temporary, before.owner, attributes=kept),
            )
            if kept is None:
                ledger.correct([Change(path, before, after)])
    return after


def _append(ledger: _Ledger, path: Rel, seen: Seen, data: bytes) -> Node:
    fd = ledger.workspace.open_file(path)
    try:
        with refused("path"):
            digest, size = hashlib.sha256(), len(data)
            for chunk in read_chunks(fd, ledger.go_on):
                digest.update(chunk)
                size += len(chunk)
            if digest.hexdigest() != seen.node.sha256:
                raise changed("path")
            digest.update(data)
            content = itertools.chain(read_chunks(fd), [data])
            return _put(ledger, path, seen, content, digest.hexdigest(), size)
    finally:
        os.close(fd)


def tree_of(workspace: Workspace, path: Rel, field: str) -> list[Rel]:
    """Everything at and beneath a path, parents first. Raises: ToolError if any part must not be changed."""
    guard = workspace.guard()
    guard.check(path, field)
    found = []
    for place, seen in workspace.walk(path, field):
        kind_of(seen, field)
        guard.check_identity(seen, field)
        found.append(place)
    return found


def _there(seen: Seen, field: str) -> Any:
    if seen.identity is None:
        raise changed(field)
    return seen.identity


def _need_file(workspace: Workspace, path: Rel, seen: Seen) -> None:
    if seen.node.kind == "absent":
        return
    if seen.node.kind != "file":
        raise ToolError("path: the path is a directory", code="not_a_file", path="$.parameters.path", retryable=False)
    if not workspace.may_write(path):
        raise ToolError(
            "path: the file's own permissions refuse writing",
            code="access_denied",
            path="$.parameters.path",
            retryable=False,
        )


def read_whole(workspace: Workspace, path: Rel) -> bytes:
    """Returns the content of a file to be edited. Raises: ToolError `file_too_large` and others."""
    fd = workspace.open_file(path)
    try:
        with refused("path"):
            if os.fstat(fd).st_size > EDIT_BYTES_MAX:
                raise ToolError(
                    f"path: the file is larger than {EDIT_BYTES_MAX} bytes",
                    code="file_too_large",
                    path="$.parameters.path",
                    retryable=False,
                )
            return b"".join(read_chunks(fd))
    finally:
        os.close(fd)


def _need_directory_behind_slash(workspace: Workspace, path: Rel, given: Any, field: str) -> None:
    """Raises: ToolError if the call names a directory (`x/`) but the path is not a directory."""
    seen = workspace.lstat(path)
    if seen is not None and not stat.S_ISDIR(seen.st_mode):
        need_file_name(given, field)


def edits_of(parameters: dict[str, Any]) -> list[Edit]:
    """Returns the replacements of a call, from `old` and `new` or from `edits`. Raises: ToolError `invalid_parameters`."""
    listed = parameters.get("edits")
    single = {"old", "new"} <= parameters.keys()
    if (listed is None) is not single or (listed is not None and {"old", "new", "count"} & parameters.keys()):
        raise ToolError(
            "give either `old` and `new`, or `edits`",
            code="invalid_parameters",
            path="$.parameters",
            retryable=False,
        )
    if listed is None:
        return [Edit(parameters["old"], parameters["new"], int(parameters.get("count", 1)), "$.parameters")]
    return [
        Edit(one["old"], one["new"], int(one.get("count", 1)), f"$.parameters.edits[{at}]")
        for at, one in enumerate(listed)
    ]


class FileText(NamedTuple):
    """A file's content as text, with what is needed to encode it again."""

    text: str
    mark: bytes
    encoding: str

    @classmethod
    def decode(cls, data: bytes, given: str | None) -> FileText:
        """Decode a file: in the encoding `given`, else that of its byte order mark, else UTF-8.

        If no encoding is known, bytes that are not UTF-8 are preserved: they survive an edit but cannot be replaced.

        Raises: ToolError `encoding_invalid`.
        """
        mark, found = marked(data)
        if found is None or given not in {None, found}:
            mark, found = b"", given
        try:
            text = data[len(mark) :].decode(found or "utf-8", "strict" if found else "surrogateescape")
        except UnicodeDecodeError as error:
            raise ToolError(
                f"path: byte {error.start + len(mark)} of the file is not {found}",
                code="encoding_invalid",
                path="$.parameters.encoding",
                retryable=False,
                hint="give the file's `encoding`",
            ) from None
        return cls(text, mark, found or "utf-8")

    def encode(self, text: str) -> bytes:
        """Encode the new text. Raises: ToolError `encoding_invalid` for a character that the encoding lacks."""
        try:
            return self.mark + text.encode(self.encoding, "surrogateescape" if self.encoding == "utf-8" else "strict")
        except UnicodeEncodeError as error:
            raise ToolError(
                f"{self.encoding}, the file's encoding, has no character U+{ord(text[error.start]):04X}",
                code="encoding_invalid",
                path="$.parameters",
                retryable=False,
            ) from None


def mark_of(workspace: Workspace, path: Rel) -> Mark:
    """Returns the byte order mark of the present file; empty if there is no file."""
    seen = workspace.lstat(path)
    if seen is None or not stat.S_ISREG(seen.st_mode):
        return marked(b"")
    try:
        fd = workspace.open_file(path)
    except ToolError:  # unreadable: a later step reports it if it matters
        return marked(b"")
    try:
        return marked(os.pread(fd, MARK_BYTES, 0))
    finally:
        os.close(fd)


def content_of(parameters: dict[str, Any], present: Mark) -> bytes:
    """Returns the bytes to write. If the call names no encoding, the present file's byte order mark and encoding are kept."""
    text: str = parameters["content"]
    encoding = parameters.get("encoding")
    if encoding is None:
        again = parameters.get("append", False) or text.startswith("\ufeff")
        return FileText("", b"" if again else present.mark, present.encoding or "utf-8").encode(text)
    if encoding != "base64":
        return FileText("", b"", encoding).encode(text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ToolError(
            "content: the text is not base64", code="encoding_invalid", path="$.parameters.content", retryable=False
        ) from None
