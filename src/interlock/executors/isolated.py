"""Functions of the application that run in a separate process: `@interlock.tool(isolation="process")`.

A host process (`module_host`) imports the function's module once, and forks for each call behind the runtime's walls.
It does not share the application's memory; it finds the function by module and name.
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
"""Creates a host for functions, given the directories to import their modules from. The host starts with its first call."""


class IsolatedFunctions:
    """The isolated functions of a runtime. Must be closed."""

    def __init__(self, open_host: OpenHost) -> None:
        """Starts nothing yet."""
        self._open_host = open_host
        self._lock = threading.Lock()
        self._sources: dict[str, Source] = {}
        self._host: ModuleTools | None = None
        self._hosts: list[ModuleTools] = []

    @property
    def pids(self) -> list[int]:
        """The pids of the hosts, which no action may kill."""
        return [host.server.pid for host in self._hosts if host.server.pid]

    def bind(self, function: Callable[..., Any], tool: Tool) -> Binding:
        """Returns a binding that calls the function in a process.

        Raises: InvalidToolError if another process cannot find the function.
        """
        if tool.inline:
            raise callables.InvalidToolError(
                f"`{tool.name}` cannot be `inline` and run in a separate process", path="inline"
            )
        source = _source_of(function, tool)
        with self._lock:
            self._sources[tool.name] = source
            self._host = None  # a running host does not know the new function; calls in it continue

        async def call(parameters: dict[str, Any], ctx: Context) -> Any:
            return await self._current().call(tool, tool.version, parameters, ctx)

        return Binding(tool=tool, function=call, mode="async", walls=lambda: self._current().posture())

    def close(self) -> None:
        """End the hosts."""
        for host in self._hosts:
            host.close()

    def _current(self) -> ModuleTools:
        with self._lock:
            if self._host is None:
                path = dict.fromkeys(os.path.abspath(directory) for directory in sys.path)  # noqa: PTH100 - the request holds strings
                self._host = self._open_host(tuple(self._sources.values()), tuple(path))
                self._hosts.append(self._host)
            return self._host


def _source_of(function: Callable[..., Any], tool: Tool) -> Source:
    """Where another process can find the function. Raises: InvalidToolError."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if module is None or found is not function:
        raise callables.InvalidToolError(
            f"`{tool.name}` cannot run in a separate process: its module has no function `{name}`",
            path="isolation",
            hint="define the function at the top level of a module, and pass what it needs as parameters",
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
            f"`{tool.name}` cannot run in a separate process: the function is not in a file",
            path="isolation",
            hint="define the function in a module",
        )
    return {"module": "__interlock_main__", "file": str(Path(file).resolve()), "name": name, "tool": definition}
