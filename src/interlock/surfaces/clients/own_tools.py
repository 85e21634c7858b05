"""A client's own tools: each member of a call's input is translated, or known to change nothing, or the call is refused.

So what is judged is what the client does: a member that Interlock does not read cannot lead it elsewhere, and neither can
a path or a pattern that a client changes before it uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from interlock.surfaces.clients.hooks import HookEvent, NativeCall, Verdict, deny

Translate = Callable[[Mapping[str, Any], str], "NativeCall | Verdict"]
"""Translates the input of one tool, given the client's directory. Raises: ValueError for an input that does not fit."""


class OwnTool(NamedTuple):
    """One of a client's own tools."""

    translate: Translate
    beside: frozenset[str] = frozenset()
    """Members of its input that change nothing that is judged, such as a description, a time limit, or a part of a file."""


def beside(names: str) -> frozenset[str]:
    """The names in a text, separated by spaces, for `OwnTool.beside`."""
    return frozenset(names.split())


def own_call(tool: OwnTool, name: str, given: Mapping[str, Any], cwd: str) -> NativeCall | Verdict:
    """The call for an input; a refusal if it has a member that neither the translation reads nor changes nothing.

    A client could use such a member instead of the one that was read. Raises: as `Translate`.
    """
    read = _Reading(given)
    found = tool.translate(read, cwd)
    unknown = sorted(given.keys() - read.names - tool.beside)
    if not unknown or isinstance(found, Verdict):
        return found
    return deny(
        f"`{name}` was given `{unknown[0][:_SHOWN]}`, and Interlock does not know what that changes beside the rest of its"
        " input. Call it without it. Nothing was done."
    )


def event_call(tools: Mapping[str, OwnTool], event: HookEvent) -> NativeCall | Verdict | None:
    """The call of an event; None if the tool is not among the client's own. Raises: as `Translate`."""
    tool = tools.get(event.tool)
    return None if tool is None else own_call(tool, event.tool, event.input, event.cwd)


class _Reading(Mapping[str, Any]):
    """An input that remembers which of its members were read."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        value = self._given[name]
        self.names.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def flag(given: Mapping[str, Any], name: str) -> bool:
    """An optional boolean. Raises: ValueError."""
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"`{name}` is not true or false")
    return value is True


def unless(given: Mapping[str, Any], name: str, why: str) -> None:
    """Refuse a member that changes how a call runs. Raises: ValueError if it is there, and not empty or false."""
    if given.get(name):
        raise ValueError(f"`{name}` is not supported, because {why}. Call it without it. Nothing was done")


_SHOWN: Final = 200
