"""Imports and regular expressions that wait until they are used, so that a command pays only for the parts that it needs.

    if TYPE_CHECKING:
        from interlock.executors import git_tools
    else:
        git_tools = lazy("interlock.executors.git_tools")

Type checkers and import-linter read the first branch, and a test holds that both name the same module. What is used for every
action is imported as usual: a name that is looked up through a lazy module costs a function call.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, AnyStr, cast


class LazyModule:
    """A module that is imported when a name of it is first used, by any thread."""

    def __init__(self, name: str) -> None:
        """`name` is the full name of the module."""
        self._name = name
        self._module: Any = None

    def __getattr__(self, name: str) -> Any:
        """A name of the module, as it is now. Raises: AttributeError, and what the import raises."""
        if self._module is None:
            self._module = import_module(self._name)
        return getattr(self._module, name)

    def __repr__(self) -> str:
        return f"<lazy module {self._name}>"


def lazy(name: str) -> Any:
    """The module with this full name, imported on first use."""
    return LazyModule(name)


def lazy_exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are imported from its modules (name to module) on first use.

    A name must not be that of a module in the package: importing the module would replace it.
    """

    def find(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module `{package}` has no attribute `{name}`")
        value = getattr(import_module(f"{package}.{home}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find


class LazyPattern:
    """A regular expression that is compiled when it is first used, by any thread."""

    def __init__(self, text: str | bytes, flags: int) -> None:
        """As for `re.compile`."""
        self._text = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        """An attribute of the compiled pattern, kept: its methods cost nothing more from then on."""
        value = getattr(re.compile(self._text, self._flags), name)
        setattr(self, name, value)
        return value

    def __repr__(self) -> str:
        return f"<lazy pattern {self._text!r}>"


def lazy_pattern(text: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """The pattern, compiled on first use. Give it to no function of `re`: those take compiled ones only."""
    return cast("re.Pattern[AnyStr]", LazyPattern(text, flags))
