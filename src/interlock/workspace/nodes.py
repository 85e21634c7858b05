"""What can stand at a path: a file, a directory, a symbolic link, or nothing. The data that backups and undo speak about."""

from __future__ import annotations

import os
import stat
from typing import Final, Literal, NamedTuple

import msgspec

from interlock.model.errors import ToolError
from interlock.workspace.names import NameJson

Kind = Literal["absent", "file", "dir", "symlink"]


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one path, as far as undo restores it. Extended attributes are not part of it."""

    kind: Kind
    mode: int | None = None
    """Permission bits (0o7777) of a file or directory."""
    size: int | None = None
    """Bytes of a file."""
    sha256: str | None = None
    """Hex digest of a file's content."""
    target: NameJson | None = None
    """Text of a symbolic link."""
    mtime_ns: int | None = None
    owner: tuple[int, int] | None = None
    """Numeric user and group of what is there; absent for what a change is going to produce."""

    def same(self, other: Node) -> bool:
        """True if the two say the same about kind, content, permissions and target.

        Times and owner do not count; nor do a directory's bits for its owner, which undo has to widen while it works.
        """
        if self.kind == "dir":
            return other.kind == "dir" and (self.mode or 0) | 0o700 == (other.mode or 0) | 0o700
        return (self.kind, self.mode, self.sha256, self.target) == (other.kind, other.mode, other.sha256, other.target)


ABSENT: Final = Node("absent")


class Identity(NamedTuple):
    """Tells whether what lies at a path is still the very thing that was looked at, unchanged."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Seen(NamedTuple):
    """What was found at a path, and how to recognise it again. The identity is None for nothing."""

    node: Node
    identity: Identity | None


def identity(found: os.stat_result) -> Identity:
    """The identity in a stat."""
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def kind_of(found: os.stat_result, field: str = "path") -> Kind:
    """The kind in a stat. Raises: ToolError `special_file` for a FIFO, socket or device."""
    if stat.S_ISREG(found.st_mode):
        return "file"
    if stat.S_ISDIR(found.st_mode):
        return "dir"
    if stat.S_ISLNK(found.st_mode):
        return "symlink"
    raise ToolError(
        f"{field}: it is a FIFO, a socket or a device, which file tools do not touch",
        code="special_file",
        path=f"$.parameters.{field}",
        retryable=False,
    )
