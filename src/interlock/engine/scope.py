"""The workspace as one action may see it: a link inside the workspace must not lead past the agent's grant.

Step 3 judges paths as they are written. Where a name turns out to be a symbolic link, the place it leads to is judged too,
here, when the tool asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from interlock.workspace import Workspace
from interlock.workspace.names import Rel

Check = Callable[[Rel, str], None]
Access = Literal["read", "write"]


class ScopedWorkspace(Workspace):
    """A workspace that asks before it follows a link. Shares everything else with the one it was made from."""

    def __init__(self, base: Workspace, check: Check) -> None:
        """`check(place, field)` raises ToolError if the action may not go there. The base stays the owner of the root."""
        self.__dict__.update(base.__dict__)
        self._check = check

    def resolve(self, path: Rel, field: str = "path", *, follow: bool = True) -> Rel:
        """As `Workspace.resolve`. Raises: ToolError `path_denied` too."""
        real = super().resolve(path, field, follow=follow)
        if real != path:
            self._check(real, field)
        return real
