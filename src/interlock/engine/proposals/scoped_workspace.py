"""The workspace for one action: every path that a tool encounters must be within the agent's grant.

Step 3 judges paths as they are written. Where a name is a symbolic link, its target is judged here when the tool follows it,
and so is everything that the tool finds in a directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator

from interlock.model.errors import ToolError
from interlock.workspace import Workspace
from interlock.workspace.names import Rel
from interlock.workspace.protect import Guard
from interlock.workspace.tree import Access

Check = Callable[[Rel, str, Access | None, str], None]


class ScopedWorkspace(Workspace):
    """A workspace that checks each path. It shares everything else with the one from which it was made."""

    def __init__(
        self,
        base: Workspace,
        check: Check,
        globs: Callable[[Access], tuple[str, ...]],
        *,
        also: Callable[[Rel, str], None] | None = None,
    ) -> None:
        """`check(place, field, access, what)` raises ToolError if the action may not use the path; `globs` are the paths that
        processes may read or write. `also` as in `Guard`. The base owns the root.
        """
        self.__dict__.update(base.__dict__)
        self._base = base
        self._check = check
        self._globs = globs
        self._also = also

    @property
    def written(self) -> tuple[str, ...]:
        """As `Workspace.written`: what the grants allow."""
        return self._globs("write")

    @property
    def readable(self) -> tuple[str, ...]:
        """As `Workspace.readable`: what the grants allow."""
        return self._globs("read")

    def resolve(self, path: Rel, field: str = "path", *, follow: bool = True) -> Rel:
        """As `Workspace.resolve`. Raises: ToolError `path_denied` too."""
        real = super().resolve(path, field, follow=follow)
        if real != path:
            self._check(real, field, None, "a link leads to where")
        return real

    def permit(self, path: Rel, field: str = "path", access: Access | None = None) -> None:
        """As `Workspace.permit`."""
        self._check(path, field, access, "it comes to where")

    def guard(self) -> Guard:
        """As `Workspace.guard`: what is protected is looked at wherever it is."""
        guard = self._base.guard()
        guard.also = self._also
        return guard

    def walk(
        self,
        path: Rel,
        field: str = "path",
        *,
        most: int | None = None,
        lenient: bool = False,
        skip: frozenset[bytes] = frozenset(),
        closed: Collection[Rel] = (),
    ) -> Iterator[tuple[Rel, os.stat_result]]:
        """As `Workspace.walk`. `lenient` leaves out what the grant does; else that is a ToolError `path_denied`."""
        for here, found in super().walk(path, field, most=most, lenient=lenient, skip=skip, closed=closed):
            if here != path:
                try:
                    self.permit(here, field)
                except ToolError:
                    if lenient:
                        continue
                    raise
            yield here, found
