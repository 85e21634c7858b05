"""The forms of paths, and their parsing.

In JSON a path is a string, or `{"b64": "..."}` (standard base64) if it is not UTF-8. Inside this package a path beneath
the workspace's root is a `Rel`: a tuple of names as bytes, without `/`, `.`, `..` or empty names; `()` is the root.
"""

from __future__ import annotations

import base64
import errno
import os
import unicodedata
from typing import Any, Final

from interlock.model.errors import ToolError
from interlock.model.globs import PathOutsideError, workspace_path

NameJson = str | dict[str, str]
"""A path in JSON: a string, or `{"b64": "..."}` for a name that is not UTF-8."""

Rel = tuple[bytes, ...]
"""A path beneath the root; `()` is the root itself."""


def parse(value: Any, root: str, field: str = "path") -> Rel:
    """The path beneath `root` that a parameter names, in the form that step 3 compares (`model.globs.workspace_path`).

    Raises: ToolError `path_outside_workspace` or `path_invalid`; `field` is the parameter's name.
    """
    try:
        text = workspace_path(value, root)
    except PathOutsideError as error:
        raise ToolError(
            f"{field} {error}",
            code="path_outside_workspace",
            path=f"$.parameters.{field}",
            retryable=False,
            hint="paths are relative to the workspace",
        ) from None
    except ValueError as error:
        raise ToolError(
            f"{field} {error}", code="path_invalid", path=f"$.parameters.{field}", retryable=False
        ) from None
    return () if text == "." else tuple(text.encode("utf-8", "surrogateescape").split(b"/"))


def to_json(path: Rel) -> NameJson:
    """A path as JSON, in a form that `parse` accepts. The root is `.`."""
    raw = b"/".join(path) or b"."
    # A leading `./` protects names that programs might expand or mistake for a URL; `parse` accepts them only so.
    if raw.startswith(b"~") or (len(path) > 1 and path[0].endswith(b":")):
        raw = b"./" + raw
    return _json(raw)


def stored(value: NameJson) -> Rel:
    """Parse a path that `to_json` wrote into a record. Raises: ValueError if it is invalid."""
    raw = value.encode() if isinstance(value, str) else base64.b64decode(value["b64"], validate=True)
    names = () if raw == b"." else tuple(raw.removeprefix(b"./").split(b"/"))
    if any(name in (b"", b".", b"..") or b"\0" in name for name in names):
        raise ValueError("a stored path is not in normal form")
    return names


def link_to_json(target: bytes) -> NameJson:
    """The target of a symbolic link as JSON, unchanged, because it need not be a workspace path."""
    return _json(target)


def link_stored(value: NameJson) -> bytes:
    """Parse a link target that `link_to_json` wrote."""
    return value.encode() if isinstance(value, str) else base64.b64decode(value["b64"], validate=True)


def parts(raw: bytes) -> tuple[bytes, ...]:
    """The names in a link's target, without empty ones and `.`. `..` is kept, because only the caller can resolve it."""
    return tuple(name for name in raw.split(b"/") if name not in (b"", b"."))


def show(path: Rel) -> str:
    """A path for people, on one line. Different paths look different."""
    return show_bytes(b"/".join(path) or b".")


def show_bytes(raw: bytes) -> str:
    """A path or link target for people, on one line. Different values look different."""
    text = raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    if text.isascii() and text.isprintable():
        return text
    twin = unicodedata.normalize("NFC", text) != text  # another path may look the same
    return "".join(
        c if c.isprintable() and not (twin and _is_apart(c)) else c.encode("unicode_escape").decode() for c in text
    )


def _is_apart(character: str) -> bool:
    """True for a character that normalisation combines or replaces."""
    return bool(unicodedata.combining(character)) or unicodedata.normalize("NFC", character) != character


_ERRNO: Final[dict[int, tuple[str, str]]] = {
    errno.ENOENT: ("not_found", "there is no such file or directory"),
    errno.ENOTDIR: ("not_a_directory", "a part of the path is not a directory"),
    errno.EISDIR: ("not_a_file", "the path is a directory"),
    errno.EEXIST: ("already_exists", "the name exists already"),
    errno.ENOTEMPTY: ("directory_not_empty", "the directory is not empty"),
    errno.ELOOP: ("path_changed", "a part of the path became a symbolic link while it was used"),
    errno.ENAMETOOLONG: ("path_invalid", "a name in the path is too long for the file system"),
    errno.EINVAL: ("path_invalid", "the file system does not support that name or operation"),
    errno.EILSEQ: ("path_invalid", "the file system does not allow that name"),
    errno.EXDEV: ("cross_device", "source and destination are on different file systems"),
    errno.EACCES: ("access_denied", "the file system does not permit this for the user"),
    errno.EPERM: ("access_denied", "the file system does not permit this for the user"),
    errno.EROFS: ("access_denied", "the file system is read-only"),
    errno.ENOSPC: ("workspace_full", "the workspace's file system has no space left"),
    errno.EDQUOT: ("workspace_full", "the disk quota is used up"),
    errno.EFBIG: (
        "workspace_full",
        "the file is larger than the file system or this process's limit (`ulimit -f`) allows",
    ),
    errno.EOVERFLOW: ("owner_not_mapped", "a file's or directory's group or owner cannot be represented in the layer"),
    errno.ETXTBSY: ("file_busy", "the file is in use"),
    errno.EBUSY: ("file_busy", "the file is in use"),
}


def refusal(error: OSError, field: str = "path") -> ToolError:
    """The ToolError for a file system error. It never names the path, which is an agent's parameter."""
    code, text = _ERRNO.get(error.errno or 0, ("file_failed", os.strerror(error.errno or 0)))
    return ToolError(f"{field}: {text}", code=code, path=f"$.parameters.{field}")


def _json(raw: bytes) -> NameJson:
    try:
        return raw.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(raw).decode()}
