"""Functions of the program itself, called in a process of their own: `@interlock.tool(isolation="process")`.

A host process (`module_host`) imports the function's module once, and forks for each call behind the walls of the runtime. What
the program has in memory is not there: the function is found again by the name of its module and its own.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from interlock.lazy import lazy
from interlock.model.tool import Binding, Context, Tool

if TYPE_CHECKING:
    from interlock.executors import callables
    from interlock.executors.module_host import Source
    from interlock.executors.modules import ModuleTools
else:
    callables = lazy("interlock.executors.callables")

OpenHost = Callable[["Sequence[Source]", Sequence[str]], "ModuleTools"]
"""Makes a host of some functions, and of the directories where their modules are looked for. It starts with the first call."""


class IsolatedFunctions:
    """The isolated functions of a runtime. Must be closed."""

    def __init__(self, open_host: OpenHost) -> None:
        """Start nothing yet."""
        self._open_host = open_host
        self._lock = threading.Lock()
        self._sources: dict[str, Source] = {}
        self._host: ModuleTools | None = None
        self._hosts: list[ModuleTools] = []

    @property
    def pids(self) -> list[int]:
        """The processes of the hosts, which no action may kill."""
        return [host.server.pid for host in self._hosts if host.server.pid]

    def bind(self, function: Callable[..., Any], tool: Tool) -> Binding:
        """A binding that calls the function in a process. Raises: InvalidToolError if no other process can find it."""
        if tool.inline:
            raise callables.InvalidToolError(
                f"`{tool.name}` cannot be `inline` and run in a process of its own", path="inline"
            )
        source = _source_of(function, tool)
        with self._lock:
            self._sources[tool.name] = source
            self._host = None  # one that has started does not know it; its calls continue

        async def call(parameters: dict[str, Any], ctx: Context) -> Any:
            return await self._current().call(tool, tool.version, parameters, ctx)

        return Binding(tool=tool, function=call, mode="async")

    def close(self) -> None:
        """End the hosts."""
        for host in self._hosts:
            host.close()

    def _current(self) -> ModuleTools:
        with self._lock:
            if self._host is None:
                path = dict.fromkeys(os.path.abspath(directory) for directory in sys.path)  # noqa: PTH100 - texts
                self._host = self._open_host(tuple(self._sources.values()), tuple(path))
                self._hosts.append(self._host)
            return self._host


def _source_of(function: Callable[..., Any], tool: Tool) -> Source:
    """Where another process finds the function. Raises: InvalidToolError."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if module is None or found is not function:
        raise callables.InvalidToolError(
            f"`{tool.name}` cannot run in a process of its own: no module has it under the name `{name}`",
            path="isolation",
            hint="define the function at the top of a module, and give it what it needs as parameters",
        )
    definition = msgspec.to_builtins(tool)
    if module != "__main__":
        return {"module": module, "file": None, "name": name, "tool": definition}
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # started as `python -m ...`
        return {"module": main.__spec__.name, "file": None, "name": name, "tool": definition}
    file = getattr(main, "__file__", None)
    if file is None:
        raise callables.InvalidToolError(
            f"`{tool.name}` cannot run in a process of its own: it is in no file",
            path="isolation",
            hint="write it into a module",
        )
    return {"module": "__interlock_main__", "file": str(Path(file).resolve()), "name": name, "tool": definition}
