"""The tool registry: definitions with their functions, and everything that can be computed from them in advance.

Registering compiles the schema, reads the `x-interlock` marks and computes the version digest, so that calls do not pay
for it (for built-in tools, the first call does). Registering a name again replaces the tool.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from interlock.model.errors import UsageError
from interlock.model.schema import Schema, defaults, marks
from interlock.model.tool import Binding, Function, Mode, Tool, open_schema
from interlock.model.values import nearest_name
from interlock.state.rate_limit import TokenBucket

_generations = itertools.count(1)


class Registered:
    """One tool, ready to be called."""

    __slots__ = (
        "binding", "bucket", "cache_ttl_ns", "defaults", "estimates", "function", "in_layer", "inline", "marks", "mode", "name",
        "plain", "preview", "read_only", "reads_files", "returns", "schema", "secrets", "timeout_ns", "tool", "touches_files",
        "version", "writes",
    )  # fmt: skip

    def __init__(self, binding: Binding) -> None:
        """Compile a binding. Raises: ConfigurationError or UsageError if its schema cannot be used."""
        tool = binding.tool
        self.binding = binding
        self.tool = tool
        self.name = tool.name
        self.function: Function = binding.function
        self.preview = binding.preview
        self.estimates = binding.estimates
        self.mode: Mode = "inline" if tool.inline and binding.mode != "async" else binding.mode
        self.version = tool.version
        self.read_only = tool.read_only
        self.schema: Schema | None = None if tool.parameters == open_schema() else Schema.compile(tool.parameters)
        self.returns: Schema | None = None if tool.returns is None else Schema.compile(tool.returns)
        self.marks = tuple(marks(tool.parameters))
        self.writes = binding.writes
        self.in_layer = binding.in_layer
        self.touches_files = binding.writes != "nothing" or any(mark.startswith("path.") for _, mark in self.marks)
        """False if a call cannot touch the files of the workspace."""
        self.reads_files = not (binding.writes == "nothing" and tool.open_world) or self.touches_files
        """False if the output of a call cannot depend on files, because it comes from elsewhere."""
        self.defaults = defaults(tool.parameters)
        """The defaults of omitted parameters, by path. They are judged as if they were given."""
        self.secrets = tuple(pointer for pointer, mark in self.marks if mark == "secret")
        self.timeout_ns = tool.timeout_ms * 1_000_000
        self.bucket = TokenBucket(tool.rate_limit) if tool.rate_limit else None
        self.cache_ttl_ns = tool.cache_ttl_ms * 1_000_000 if tool.cache_ttl_ms else 0
        self.plain = self.bucket is None and not self.cache_ttl_ns and not tool.effects
        """True if a call only has to run: no rate limit, no cache, no effects to write."""


class Registry:
    """Tools by name."""

    def __init__(self, *, beside: Registry | None = None) -> None:
        """Start empty. Rules may also name the tools of `beside`, but these cannot be called here."""
        self._beside = beside
        self._tools: dict[str, Registered] = {}
        self._uncompiled: dict[str, Binding] = {}
        self.by_name: dict[str, Tool] = {}
        """The definitions, which is all that verification may see. Callers must not change it."""
        self.in_code: set[str] = set()
        """Names that the program registered itself. Tool modules do not replace them."""
        self._generation = next(_generations)

    def register(self, binding: Binding) -> Registered:
        """Add or replace a tool."""
        if not binding.tool.name:
            raise UsageError("a tool needs a name")
        registered = Registered(binding)
        self._uncompiled.pop(registered.name, None)
        self._tools[registered.name] = registered
        self.by_name[registered.name] = registered.tool
        self._generation = next(_generations)
        return registered

    def add_built_in(self, binding: Binding) -> None:
        """Add a tool whose schema is known to be sound. It is compiled on first use, to keep the start quick."""
        self._uncompiled[binding.tool.name] = binding
        self.by_name[binding.tool.name] = binding.tool
        self._generation = next(_generations)

    def remove(self, name: str) -> None:
        """Remove a tool."""
        self._tools.pop(name, None)
        self._uncompiled.pop(name, None)
        del self.by_name[name]
        self._generation = next(_generations)

    @property
    def generation(self) -> int:
        """Increases with each registration, so that callers can cache what they compute from the registry."""
        return self._generation if self._beside is None else max(self._generation, self._beside.generation)

    def require(self, name: str) -> Registered:
        """The tool with this name. Raises: UsageError `not_found`."""
        found = self.find(name)
        if found is None:
            raise UsageError(self.missing(name), code="not_found", hint="`interlock tools list` shows them")
        return found

    def find(self, name: str | None) -> Registered | None:
        """The tool with this name; None if there is none."""
        found = self._tools.get(name or "")
        if found is None and name is not None and (binding := self._uncompiled.get(name)) is not None:
            found = self._tools[name] = Registered(binding)
        return found

    def find_all(self, names: Iterable[str | None]) -> list[Registered | None]:
        """`find` for each of many names."""
        get = self._tools.get
        return [get(name or "") or self.find(name) for name in names]

    def marks(self, tool: Tool) -> tuple[tuple[str, str], ...]:
        """The `x-interlock` marks of a tool of this registry. Compiles nothing."""
        found = self._tools.get(tool.name)
        return marks(tool.parameters) if found is None else found.marks

    def missing(self, name: str | None) -> str:
        """The sentence that there is no such tool, with a suggestion if a similar one exists."""
        near = nearest_name((name or "")[:80], self.by_name)
        return f"there is no tool `{name}`" + (f" (did you mean `{near}`?)" if near else "")

    def definitions(self) -> list[Tool]:
        """All definitions, by name."""
        return [tool for _, tool in sorted(self.by_name.items())]

    def named(self) -> list[Tool]:
        """The definitions that rules may name, by name: those of this registry and of the one beside it."""
        found = {} if self._beside is None else {tool.name: tool for tool in self._beside.named()}
        return [tool for _, tool in sorted((found | self.by_name).items())]

    def copy(self) -> Registry:
        """A separate registry that starts with the same tools (for `rt.fork`)."""
        other = Registry(beside=self._beside)
        other._tools = self._tools.copy()
        other._uncompiled = self._uncompiled.copy()
        other.by_name = self.by_name.copy()
        other.in_code = self.in_code.copy()
        return other

    def versions(self) -> dict[str, str]:
        """The version digest of every tool, by name."""
        return {name: tool.version for name, tool in sorted(self.by_name.items())}
