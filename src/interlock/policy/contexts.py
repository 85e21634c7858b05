"""What each action's context must hold: the uses of all policies, resolved against the shapes of the actions.

The result, for each action, is the pruned shape (the Cedar schema is made of it) and the converter that fills exactly that
part from a request. Names that no schema has, types that cannot be told and types that contradict each other are problems
of the policies, found here, with file and line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from interlock.policy.policies import Policy, Problem, nearest
from interlock.policy.shapes import UNKNOWN, Field, Fields, Many, Shape, Unknown
from interlock.policy.uses import BOOL, Use
from interlock.policy.values import Converter, converter, is_open, present, record
from interlock.policy.world import ActionType

_SHARED: Final = {"state", "session"}
"""Records that are the same for every action, so that a key has one type in all policies."""

RESERVED: Final = ("__entity", "__extn", "__expr")


class Context(msgspec.Struct, frozen=True):
    """The mentioned part of an action's context: its shape, and its converters by name (`params`, `state` ...)."""

    shape: Fields
    parts: tuple[tuple[str, Converter], ...]


class _Node(msgspec.Struct):
    """A mentioned place: used as a value, only asked for, or only passed through."""

    children: dict[str, _Node] = {}
    value: bool = False


_Wanted = dict[tuple[str, tuple[str, ...]], dict[Shape | None, str]]


class Resolver:
    """Takes the uses of every policy, then answers with each action's context."""

    def __init__(self, actions: dict[str, ActionType]) -> None:
        self._actions = actions
        self._trees: dict[str, _Node] = {}
        self._wanted: _Wanted = {}
        self.problems: list[Problem] = []

    def add(self, policy: Policy, uses: Iterable[Use], applicable: Iterable[ActionType]) -> None:
        """Note the uses of a policy that is about these actions."""
        about = list(applicable)
        for use in uses:
            place = policy.statement.place_of(use.path[-1]) if use.path else policy.statement.place
            if not use.path or (use.path in {("state",), ("session",)} and use.value):
                what = ".".join(("context", *use.path))
                self._problem(place, f"`{what}` cannot be used as a whole; name what you need of it")
                continue
            if any(name in RESERVED for name in use.path):
                self._problem(place, f"`{use.path[-1]}` is a reserved name")
                continue
            missing = [self._place(use, action, place) for action in about]
            if missing and all(missing):
                self._problem(place, next(filter(None, missing)))

    def _place(self, use: Use, action: ActionType, place: str) -> str | None:
        """Note one use for one action; says what is wrong if the action has no such attribute."""
        shape: Shape = action.context
        for depth, name in enumerate(use.path):
            if not isinstance(shape, Fields):
                break
            if name in shape.fields:
                shape = shape.fields[name].shape
            elif shape.rest is not None:
                shape = shape.rest
            else:
                parent = ".".join(("context", *use.path[:depth]))
                return f"`{parent}` of `{action.name}` has no attribute `{name}`{nearest(name, shape.fields)}"
        node = self._trees.setdefault(action.name, _Node())
        for name in use.path:
            node = node.children.setdefault(name, _Node())
        if use.value:
            node.value = True
            owner = "" if use.path[0] in _SHARED else action.name
            self._wanted.setdefault((owner, use.path), {}).setdefault(use.shape, place)
        return None

    def contexts(self) -> dict[str, Context]:
        """The context of every action. Problems found on the way are in `problems`."""
        found = {}
        for name, action in self._actions.items():
            tree = self._trees.get(name, _Node())
            fields: dict[str, Field] = {}
            parts: list[tuple[str, Converter]] = []
            for part, node in tree.children.items():
                shape, convert = self._build(node, action.context.fields[part].shape, name, (part,))
                fields[part] = Field(shape, required=True)
                parts.append((part, convert))
            found[name] = Context(Fields(fields), tuple(parts))
        self.problems = list(dict.fromkeys(self.problems))
        return found

    def _build(self, node: _Node, shape: Shape, action: str, path: tuple[str, ...]) -> tuple[Shape, Converter]:
        place = ".".join(path)
        if node.value:
            shape = self._type(node, shape, action, path)
            return shape, converter(shape, place)
        if not node.children:
            return BOOL, present
        if not isinstance(shape, Fields):
            # left open by the schema, and the policies look inside: a record of what they name
            shape = Fields(rest=UNKNOWN)
        fields: dict[str, Field] = {}
        parts: list[tuple[str, bool, Converter]] = []
        for name, child in node.children.items():
            field = shape.fields.get(name) or Field(shape.rest or UNKNOWN)
            below, convert = self._build(child, field.shape, action, (*path, name))
            fields[name] = Field(below, required=field.required)
            parts.append((name, field.required, convert))
        return Fields(fields), record(tuple(parts), place)

    def _type(self, node: _Node, shape: Shape, action: str, path: tuple[str, ...]) -> Shape:
        """The shape of a place that policies use as a value."""
        if not is_open(shape):
            return shape
        wanted = self._wanted.get(("" if path[0] in _SHARED else action, path), {})
        told = {each: place for each, place in wanted.items() if each is not None and not is_open(each)}
        place = next(iter(wanted.values()), "")
        what = ".".join(("context", *path))
        if node.children or isinstance(shape, Fields):
            self._problem(
                place, f"`{what}` has no declared fields, so it cannot be compared as a whole; compare its parts"
            )
        elif len(told) > 1:
            places = " and ".join(told.values())
            self._problem(place, f"`{what}` is used at two different types, at {places}; it can only have one")
        elif not told:
            self._problem(
                place, f"the type of `{what}` cannot be told; its schema leaves it open: compare with a literal"
            )
        else:
            (found,) = told
            if isinstance(shape, Unknown) or isinstance(found, Many):
                return found
            self._problem(place, f"`{what}` is an array in its schema, and is used as something else")
        return shape

    def _problem(self, place: str, message: str) -> None:
        self.problems.append(Problem(place, message))


def fill(context: Context, request: Any) -> dict[str, Any]:
    """The context of a request. Raises: values.RefusedError."""
    out: dict[str, Any] = {}
    for name, convert in context.parts:
        out[name] = convert(getattr(request, _SOURCES[name]))
    return out


_SOURCES: Final = {
    "params": "parameters",
    "state": "state",
    "proposal": "proposal",
    "session": "session",
    "flags": "flags",
}
