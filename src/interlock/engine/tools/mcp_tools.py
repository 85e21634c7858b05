"""The tools of the configured MCP servers, taken from the lock, so that no server has to be started to list them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from interlock.engine.record.known_secrets import VARIABLE
from interlock.engine.tools.registry import Registry
from interlock.executors.mcp.launch import Launcher, ServerSpec
from interlock.executors.mcp.lock import FILE, Lock, decode_lock
from interlock.executors.mcp.servers import SEPARATOR, Servers, tool_of
from interlock.executors.network import ProcessNetwork
from interlock.executors.process import ProcessRunner
from interlock.model.errors import ConfigurationError
from interlock.model.tool import Binding, Tool
from interlock.settings import Loaded, SourceFile
from interlock.settings.sections import McpServer, Settings

Adjust = Callable[[Binding], Binding]
"""Applies the settings in `[tools."NAME"]` to a tool."""


class Hands(Protocol):
    """What is needed to start servers."""

    @property
    def runner(self) -> ProcessRunner:
        """Runs the processes of servers."""
        ...

    @property
    def network(self) -> ProcessNetwork:
        """The network access of servers."""
        ...

    @property
    def workspace(self) -> Any:
        """The files that servers see."""
        ...


class Told(Protocol):
    """Receives messages for people."""

    @property
    def warnings(self) -> list[str]:
        """Configured features that are missing."""
        ...

    def notify(self, text: str) -> None:
        """Tell people something while the runtime is running."""
        ...


class Reloading(Protocol):
    """Applies an edited configuration."""

    preparing: list[Callable[[Loaded], Callable[[], None]]]


class Registering(Protocol):
    """The services in which the tools are registered."""

    @property
    def registry(self) -> Registry:
        """The tool registry."""
        ...

    @property
    def reload(self) -> Reloading | None:
        """Notifies about an edited lock."""
        ...

    def register(self, binding: Binding) -> None:
        """Add a tool."""
        ...


def open_servers(loaded: Loaded, env: Mapping[str, str], hands: Hands, hooks: Told) -> Servers:
    """The configured servers, none of them started yet. Raises: ConfigurationError `lock_invalid`."""
    settings, lock, warn = loaded.settings, lock_of(loaded), hooks.warnings.append
    specs = {name: _spec(name, one, settings, env, warn) for name, one in settings.mcp.servers.items()}
    if unlocked := sorted(specs.keys() - lock.servers.keys()):
        names = ", ".join(f"`{name}`" for name in unlocked)
        warn(f"mcp.servers: the tools of {names} are not locked, so none is offered; `interlock tools lock` locks them")
    return Servers(specs, lock, Launcher(hands.runner, hands.network, hands.workspace), tell=hooks.notify)


def offer(services: Registering, servers: Servers, adjust: Adjust) -> None:
    """Register the locked tools, now and whenever the lock changes. The set of servers is fixed at the start."""

    def prepare(fresh: Loaded) -> Callable[[], None]:
        return partial(relock, lock_of(fresh))

    def relock(lock: Lock) -> None:
        servers.relock(lock)
        _register(services, servers, adjust)

    _register(services, servers, adjust)
    if services.reload is not None:
        services.reload.preparing.append(prepare)


def _register(services: Registering, servers: Servers, adjust: Adjust) -> None:
    registry = services.registry
    found = [adjust(binding) for binding in servers.bindings()]
    names = {binding.tool.name for binding in found}
    configured = tuple(f"{name}{SEPARATOR}" for name in servers.names)
    gone = [name for name in registry.by_name if name.startswith(configured) and name not in names | registry.in_code]
    for name in gone:
        registry.remove(name)
    for binding in found:
        if binding.tool.name not in registry.in_code:
            services.register(binding)


def locked_tools(settings: Settings, files: Sequence[SourceFile]) -> list[Tool]:
    """The locked tool definitions of the configured servers, without starting them. Raises: ConfigurationError `lock_invalid`."""
    servers, lock = settings.mcp.servers, lock_in(files)
    return [
        tool_of(name, servers[name].read_only, definition)
        for name, locked in sorted(lock.servers.items())
        if name in servers
        for definition in locked.tools
    ]


def lock_of(loaded: Loaded) -> Lock:
    """The lock beside a configuration; see `lock_in`."""
    return lock_in(loaded.files)


def lock_in(files: Sequence[SourceFile]) -> Lock:
    """The lock among the files of a configuration; an empty one if there is none. Raises: ConfigurationError `lock_invalid`."""
    data = next((file.data for file in files if file.name == FILE), None)
    return Lock() if data is None else decode_lock(data)


def _spec(
    name: str, one: McpServer, settings: Settings, env: Mapping[str, str], warn: Callable[[str], None]
) -> ServerSpec:
    def expand(text: str, what: str) -> str:
        return _expanded(text, f"mcp.servers.{name}.{what}", settings.mcp.env, env)

    environment = {variable: expand(value, f"variables.{variable}") for variable, value in one.variables.items()}
    for variable in one.env:
        if variable in env:
            environment[variable] = env[variable]
        else:
            warn(
                f"mcp.servers.{name}.env: the environment variable `{variable}` is not set, so the server does not get it"
            )
    headers = {header: expand(value, f"headers.{header}") for header, value in one.headers.items()}
    for header, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise ConfigurationError("a header must be printable ASCII", path=f"mcp.servers.{name}.headers.{header}")
    return ServerSpec(
        name=name,
        command=tuple(expand(part, "command") for part in one.command),
        url=None if one.url is None else expand(one.url, "url"),
        headers=headers,
        environment=environment,
        hosts=one.hosts,
        private=settings.network.private,
        reads=tuple(_beneath_home(path, env.get("HOME", "")) for path in one.reads),
        writes=one.writes,
        asks=one.asks,
        read_only=one.read_only,
    )


def _beneath_home(path: str, home: str) -> str:
    return f"{home}{path[1:]}" if path.startswith("~/") else path


def _expanded(text: str, path: str, allowed: Sequence[str], env: Mapping[str, str]) -> str:
    """Replace `${NAME}` and `${NAME:-default}` in a text. Raises: ConfigurationError for a name not allowed or not set."""

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name not in allowed:
            raise ConfigurationError(
                f"`${{{name}}}` is used, but is not listed in `mcp.env`", path=path, hint=f'`[mcp] env = ["{name}"]`'
            )
        found = env.get(name, default)
        if found is None:
            raise ConfigurationError(f"the environment variable `{name}` is not set", path=path)
        return found

    return VARIABLE.sub(value, text)
