"""What an agent may never write: the files that Interlock's own loader reads.

A target is refused if it is such a file, lies beneath such a directory, or is a directory above one (deleting or renaming it
would take the protected file along). Names are compared as the laxest file systems do: without case, without invisible
characters, without trailing dots and spaces. What names cannot tell, identity does: hard links, short names, bind mounts.
"""

from __future__ import annotations

import stat
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from interlock.model.errors import ToolError
from interlock.workspace.names import Rel

if TYPE_CHECKING:
    from interlock.workspace.tree import Workspace

LOADED: Final[tuple[Rel, ...]] = ((b"interlock.toml",), (b"interlock.lock",), (b"policy",), (b".mcp.json",))
"""What is always protected. More is handed in: capsule manifests, Python tool modules, pyproject.toml where it is used."""


def fold(name: bytes) -> str:
    """A name as the laxest file systems compare it (casefolding ext4, HFS+, VFAT)."""
    text = unicodedata.normalize("NFKD", name.decode("utf-8", "surrogateescape")).casefold()
    text = unicodedata.normalize("NFKD", text)
    return "".join(c for c in text if unicodedata.category(c) != "Cf").rstrip(". ") or text


def related(one: Rel, other: Rel) -> bool:
    """True if the two are the same path, or one lies beneath the other, names compared by `fold`."""
    return all(a == b or fold(a) == fold(b) for a, b in zip(one, other, strict=False))


def check(workspace: Workspace, path: Rel, protected: Iterable[Rel], field: str) -> None:
    """Refuse `path` (free of links) as the target of a change. Raises: ToolError `path_protected`."""
    places = set(protected)
    places |= {workspace.resolve(place) for place in places}
    if any(related(path, place) for place in places):
        raise _refusal(field)
    ids = {(found.st_dev, found.st_ino) for place in places if (found := workspace.lstat(place)) is not None}
    if not ids:
        return
    for depth in range(1, len(path) + 1):
        found = workspace.lstat(path[:depth])
        if found is None:
            return
        if (found.st_dev, found.st_ino) in ids:
            raise _refusal(field)
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            inside = (s for place in places for _, s in workspace.walk(place, lenient=True))
            if any((s.st_dev, s.st_ino) == (found.st_dev, found.st_ino) for s in inside):
                raise _refusal(field)


def _refusal(field: str) -> ToolError:
    return ToolError(
        f"{field}: this is read by Interlock's loader, or holds what is, and no agent may change it",
        code="path_protected",
        path=f"$.parameters.{field}",
        retryable=False,
        hint="a human edits it, and then runs `interlock trust`",
    )
