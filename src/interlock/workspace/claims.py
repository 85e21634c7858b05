"""The claim of a writer: paths with everything below them, or the whole workspace.

Two claims overlap if a path in one equals, or is above or below, a path in the other. Writers work in parallel only if
their claims do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Self

import msgspec

from interlock.model import typed
from interlock.model.errors import ToolError
from interlock.workspace.names import NameJson, Rel, show, stored, to_json
from interlock.workspace.tree import Workspace

PATHS_MAX: Final = 100
"""A claim of more paths becomes a claim of the whole workspace, because comparing it would cost more than waiting."""
_SHOWN_MAX: Final = 3


class Claim(msgspec.Struct, frozen=True):
    """`paths` with everything below them; None for the whole workspace."""

    paths: frozenset[Rel] | None = None

    @classmethod
    def of(cls, paths: Iterable[Rel]) -> Self:
        """The claim of these paths; of the whole workspace if there are more than `PATHS_MAX`, or the root is among them."""
        found = frozenset(paths)
        return cls(None if len(found) > PATHS_MAX or () in found else found)

    @property
    def everything(self) -> bool:
        """True for the whole workspace."""
        return self.paths is None

    def overlaps(self, other: Claim) -> bool:
        """True if there may be a path that both claims cover."""
        if self.paths == frozenset() or other.paths == frozenset():
            return False
        if self.paths is None or other.paths is None:
            return True
        return _any_beneath(self.paths, other.paths) or _any_beneath(other.paths, self.paths)

    def covers(self, other: Claim) -> bool:
        """True if each path of the other claim is at or below a path of this one."""
        if self.paths is None:
            return True
        return other.paths is not None and all(_is_beneath(path, self.paths) for path in other.paths)

    def joined(self, other: Claim) -> Claim:
        """The union of both claims."""
        return Claim() if self.paths is None or other.paths is None else Claim.of(self.paths | other.paths)

    def encode(self) -> str:
        """The claim as text for the database."""
        names = None if self.paths is None else [to_json(path) for path in sorted(self.paths)]
        return msgspec.json.encode(names).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Decode the text from `encode`. An unreadable claim counts as the whole workspace."""
        try:
            names = typed.decode(text, list[NameJson] | None)
            return cls(None if names is None else frozenset(stored(name) for name in names))
        except (msgspec.MsgspecError, ValueError):
            return cls(None)

    def __str__(self) -> str:
        """The claim as text for people."""
        if self.paths is None:
            return "the whole workspace"
        more = f" and {len(self.paths) - _SHOWN_MAX} more" if len(self.paths) > _SHOWN_MAX else ""
        return ", ".join(f"`{show(path)}`" for path in sorted(self.paths)[:_SHOWN_MAX]) + more


EVERYTHING: Final = Claim()
NOTHING: Final = Claim(frozenset())


def claimed_by_writing(workspace: Workspace, path: Rel) -> set[Rel]:
    """The paths that a change at a path may touch.

    These are the path as written, the targets of its links, and the links themselves (a writer that moved one of them
    would redirect the change). If a directory on the way is missing, the highest missing one stands for the path.
    """
    links: set[Rel] = set()
    found = {path, *links}
    for follow in (False, True):
        try:
            found.add(_Following(workspace, links.add).resolve(path, follow=follow))
        except ToolError:
            continue  # the tool will get the same error, and report it
    return {_to_be_made(workspace, one) for one in found | links}


class _Following(Workspace):
    """A workspace that reports each link it follows."""

    def __init__(self, base: Workspace, followed: Callable[[Rel], None]) -> None:
        self.__dict__.update(base.__dict__)
        self._followed = followed

    def read_link(self, path: Rel, field: str = "path") -> bytes:
        """As `Workspace.read_link`."""
        self._followed(path)
        return super().read_link(path, field)


def _to_be_made(workspace: Workspace, path: Rel) -> Rel:
    """The path, or its highest missing parent, because creating a file creates its directories too."""
    for end in range(1, len(path)):
        try:
            if workspace.lstat(path[:end]) is None:
                return path[:end]
        except ToolError:
            return path
    return path


def _any_beneath(paths: frozenset[Rel], roots: frozenset[Rel]) -> bool:
    return any(_is_beneath(path, roots) for path in paths)


def _is_beneath(path: Rel, roots: frozenset[Rel]) -> bool:
    return any(path[:end] in roots for end in range(len(path) + 1))
