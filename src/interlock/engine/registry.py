"""The tool registry: definitions with their functions, and everything about them that can be worked out beforehand.

Registering compiles the schema, reads the `x-interlock` marks and takes the version digest, so that a call pays for none
of it. Registering a name again replaces it.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from interlock.model.errors import UsageError
from interlock.model.schema import Schema, marks
from interlock.model.tool import Binding, Function, Mode, Tool, open_schema
from interlock.state.rate_limit import TokenBucket

_generations = itertools.count(1)


class Registered:
    """One tool, ready to be called."""

    __slots__ = (
        "bucket", "cache_ttl_ns", "defaults", "function", "inline", "marks", "mode", "name", "plain", "read_only", "returns",
        "schema", "secrets", "timeout_ns", "tool", "version",
    )  # fmt: skip

    def __init__(self, binding: Binding) -> None:
        """Compile a binding. Raises ConfigurationError or UsageError if its schema cannot be used."""
        tool = binding.tool
        self.tool = tool
        self.name = tool.name
        self.function: Function = binding.function
        self.mode: Mode = "inline" if tool.inline and binding.mode != "async" else binding.mode
        self.version = tool.version
        self.read_only = tool.read_only
        self.schema: Schema | None = None if tool.parameters == open_schema() else Schema.compile(tool.parameters)
        self.returns: Schema | None = None if tool.returns is None else Schema.compile(tool.returns)
        self.marks = tuple(marks(tool.parameters))
        self.defaults = _defaults(tool.parameters, self.marks)
        """What a path or host parameter is if it is left out: judged as if it were written."""
        self.secrets = tuple(pointer for pointer, mark in self.marks if mark == "secret")
        self.timeout_ns = tool.timeout_ms * 1_000_000
        self.bucket = TokenBucket(tool.rate_limit) if tool.rate_limit else None
        self.cache_ttl_ns = tool.cache_ttl_ms * 1_000_000 if tool.cache_ttl_ms else 0
        self.plain = self.bucket is None and not self.cache_ttl_ns and not tool.effects
        """True if a call has nothing to do but run: no rate limit, no cache, no effects to write."""


def _defaults(schema: dict[str, Any], marks: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    properties = schema.get("properties")
    found = properties if isinstance(properties, dict) else {}
    marked = {pointer.split("/")[1] for pointer, mark in marks if mark != "secret" and "/" in pointer}
    return {
        name: part["default"]
        for name, part in found.items()
        if name in marked and isinstance(part, dict) and part.get("default") is not None
    }


class Registry(Mapping[str, Tool]):
    """Tools by name. As a mapping it gives the definitions, which is all that verification may see."""

    def __init__(self) -> None:
        """Empty."""
        self._tools: dict[str, Registered] = {}
        self.generation = next(_generations)
        """Another number after each registration, in any registry: what was worked out can be kept until it changes."""

    def register(self, binding: Binding) -> Registered:
        """Add or replace a tool."""
        if not binding.tool.name:
            raise UsageError("a tool needs a name")
        registered = Registered(binding)
        self._tools[registered.name] = registered
        self.generation = next(_generations)
        return registered

    def register_name(self, name: str, function: Function, mode: Mode = "async") -> Registered:
        """Add a tool by its bare name: an open schema, and the most cautious traits."""
        return self.register(Binding(tool=Tool(name=name), function=function, mode=mode))

    def find(self, name: str | None) -> Registered | None:
        """The tool of that name, or None."""
        return self._tools.get(name) if name is not None else None

    def missing(self, name: str | None) -> str:
        """The sentence that says that there is no such tool, and which one may have been meant."""
        near = difflib.get_close_matches((name or "")[:80], self._tools, n=1)
        return f"there is no tool `{name}`" + (f" (did you mean `{near[0]}`?)" if near else "")

    def definitions(self) -> list[Tool]:
        """All definitions, by name."""
        return [self._tools[name].tool for name in sorted(self._tools)]

    def copy(self) -> Registry:
        """A registry of its own that starts with the same tools (for `rt.fork`)."""
        other = Registry()
        other._tools = self._tools.copy()
        return other

    def __getitem__(self, name: str) -> Tool:
        """The definition of that name."""
        return self._tools[name].tool

    def __iter__(self) -> Iterator[str]:
        """Names, in order of registration."""
        return iter(self._tools)

    def __len__(self) -> int:
        """How many tools there are."""
        return len(self._tools)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        """A registry equals itself only: what was worked out from one is no good for another."""
        return self is other

    def versions(self) -> dict[str, str]:
        """Name to version digest of every tool."""
        return {name: tool.version for name, tool in sorted(self._tools.items())}

    def get(self, name: Any, default: Any = None) -> Any:
        """The definition of that name, or `default`."""
        found = self._tools.get(name)
        return found.tool if found is not None else default
