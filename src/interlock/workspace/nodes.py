"""The state of a path: a file, a directory, a symbolic link, or nothing. The data of backups and undo."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import stat
from typing import Final, Literal, NamedTuple

import msgspec

from interlock.model.errors import ToolError
from interlock.workspace.names import NameJson

Kind = Literal["absent", "file", "dir", "symlink"]


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one path, as far as undo restores it."""

    kind: Kind
    mode: int | None = None
    """Permission bits (0o7777) of a file or directory."""
    size: int | None = None
    """Bytes of a file."""
    sha256: str | None = None
    """Hex digest of a file's content."""
    target: NameJson | None = None
    """Target of a symbolic link."""
    mtime_ns: int | None = None
    owner: tuple[int, int] | None = None
    """Numeric user and group; None if they are not known, as in the planned result of some changes."""
    attributes: dict[str, str] | None = None
    """Extended attributes, values in base64: the user's own (`user.*`) and access control lists.

    None if there are none or, in a node without an `owner`, if they are not known.
    """

    def same(self, other: Node) -> bool:
        """True if both have the same kind, content, permissions and target.

        Times, owner and extended attributes are ignored, and so are a directory's owner bits, which undo widens while
        it works.
        """
        if self.kind == "dir":
            return other.kind == "dir" and (self.mode or 0) | 0o700 == (other.mode or 0) | 0o700
        return (self.kind, self.mode, self.sha256, self.target) == (other.kind, other.mode, other.sha256, other.target)

    def same_attributes(self, other: Node) -> bool:
        """True if both have the same extended attributes, or those of one of them are not known."""
        if not (self.knows_attributes and other.knows_attributes):
            return True
        return (self.attributes or {}) == (other.attributes or {})

    @property
    def knows_attributes(self) -> bool:
        """False if nothing is known about the extended attributes."""
        return self.owner is not None or self.attributes is not None

    def same_owner(self, other: Node) -> bool:
        """True if both have the same user and group, or those of one of them are not known."""
        return None in (self.owner, other.owner) or self.owner == other.owner

    def matches(self, other: Node) -> bool:
        """True if nothing but times differs, as far as it is known."""
        return self.same(other) and self.same_attributes(other) and self.same_owner(other)


ABSENT: Final = Node("absent")


class Identity(NamedTuple):
    """Identifies a version of a file: equal identities mean the same, unchanged file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


NOTHING: Final = Identity(0, 0, 0, 0, 0)
"""In place of the identity of a file that does not exist."""


class Seen(NamedTuple):
    """The state found at a path, and its identity (None for nothing)."""

    node: Node
    identity: Identity | None


def identity(found: os.stat_result) -> Identity:
    """The identity of a stat result."""
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def attributes(fd: int) -> dict[str, str] | None:
    """The `Node.attributes` of an open file or directory; None if there are none or they are not supported."""
    found = {}
    # the file system does not support it, or the attribute was removed between list and read
    with contextlib.suppress(OSError):
        for name in filter(_is_kept, os.listxattr(fd)):
            found[name] = base64.b64encode(os.getxattr(fd, name)).decode()
    return found or None


def set_attributes(fd: int, wanted: dict[str, str]) -> None:
    """Set the attributes of an open file or directory, and remove others of the same kinds. Raises: OSError."""
    values = {name: base64.b64decode(value) for name, value in wanted.items()}
    try:
        for name in filter(_is_kept, os.listxattr(fd)):
            if name not in values:
                os.removexattr(fd, name)
        for name, value in values.items():
            os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno != errno.ENOTSUP or values:
            raise


def _is_kept(name: str) -> bool:
    """True if an attribute is restored. Not restored are those of the system (`security.*`: a capability applies only
    to the old content), those that cannot be set (`trusted.*`), and the marks of overlayfs.
    """
    return name.startswith(("user.", "system.posix_acl_")) and not name.startswith("user.overlay.")


def kind_of(found: os.stat_result, field: str = "path") -> Kind:
    """The kind of a stat result. Raises: ToolError `special_file` for a FIFO, socket or device."""
    if stat.S_ISREG(found.st_mode):
        return "file"
    if stat.S_ISDIR(found.st_mode):
        return "dir"
    if stat.S_ISLNK(found.st_mode):
        return "symlink"
    raise ToolError(
        f"{field}: the path is a FIFO, a socket or a device, which file tools do not touch",
        code="special_file",
        path=f"$.parameters.{field}",
        retryable=False,
    )
