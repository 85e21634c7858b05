"""Determines what each action's context must hold, by resolving the policies' uses against the actions' shapes.

The result for each action is the pruned shape, from which the Cedar schema is made, and the converter that fills
exactly this shape from a request. Unknown names, undetermined types and contradictory types are reported as problems of
the policies, with file and line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.lazy import lazy
from interlock.policy.policies import Policy, Problem, nearest
from interlock.policy.shapes import UNKNOWN, Field, Fields, Many, Shape, Unknown
from interlock.policy.uses import BOOL, Use
from interlock.policy.values import Converter, converter, is_open, present, record
from interlock.policy.world import COMPENSATE, ActionType

if TYPE_CHECKING:
    import difflib
else:
    difflib = lazy("difflib")

_SHARED: Final = {"state", "session"}
"""Records that are the same for every action, so that a key has the same type in all policies."""

COMMAND: Final = "command"
PATHS: Final = "paths"
MODEL_PARTS: Final = ("model", "provider", "prompt_flags")
DERIVED: Final = frozenset((COMMAND, PATHS, *MODEL_PARTS))
"""Parts of a context that are computed from the parameters; see `calls`."""

RESERVED: Final = ("__entity", "__extn", "__expr")


class Context(msgspec.Struct, frozen=True):
    """The part of an action's context that policies mention: its shape, and its converters by name (`params`, `state` ...)."""

    shape: Fields
    parts: tuple[tuple[str, Converter], ...]


class _Node(msgspec.Struct):
    """A mentioned attribute: used as a value, only tested with `has`, or only passed through."""

    children: dict[str, _Node] = {}
    value: bool = False


class _Missing(msgspec.Struct, frozen=True):
    """An action that has all names of `path` but the last; `shape` is the shape of the parent."""

    action: str
    path: tuple[str, ...]
    shape: Shape

    @property
    def message(self) -> str:
        """The message for the policy's author."""
        parent = f"`{'.'.join(('context', *self.path[:-1]))}` of `{self.action}`"
        name = self.path[-1]
        if isinstance(self.shape, Fields):
            return f"{parent} has no attribute `{name}`{nearest(name, self.shape.fields)}"
        return f"{parent} is not a record, so it cannot have `{name}`"

    @property
    def closeness(self) -> float:
        """The similarity of the name to the nearest existing one: highest for the action that was probably meant."""
        there = self.shape.fields if isinstance(self.shape, Fields) else ()
        return max((difflib.SequenceMatcher(None, self.path[-1], name).ratio() for name in there), default=0.0)


_Wanted = dict[tuple[str, tuple[str, ...]], dict[Shape | None, tuple[str, str]]]
"""For an action (or "") and a path: the required shapes, each with the place and the id of the first policy."""


class Resolver:
    """Collects the uses of all policies, then computes each action's context."""

    def __init__(self, actions: dict[str, ActionType]) -> None:
        self._actions = actions
        self._trees: dict[str, _Node] = {}
        self._wanted: _Wanted = {}
        self.problems: list[Problem] = []
        self.faulty: set[str] = set()
        """Ids of the policies that have problems."""

    def add(self, policy: Policy, uses: Iterable[Use], applicable: Iterable[ActionType]) -> None:
        """Record the uses of a policy for these actions."""
        about = list(applicable)
        for use in uses:
            place = policy.statement.place_of(use.path[-1]) if use.path else policy.statement.place
            wrong: str | None = None
            if not use.path or (use.path in {("state",), ("session",)} and use.value):
                wrong = f"`{'.'.join(('context', *use.path))}` cannot be used as a whole; name the part you need"
            elif any(name in RESERVED for name in use.path):
                wrong = f"`{use.path[-1]}` is a reserved name"
            else:
                noted = [(action.name, self._note(use, action, (place, policy.id))) for action in about]
                # `compensate` has the parameters of every tool, so a name that only it has is unknown
                missing = [lacks for name, lacks in noted if name != COMPENSATE] or [lacks for _, lacks in noted]
                everywhere = [lacks for lacks in missing if lacks is not None]
                if missing and len(everywhere) == len(missing):
                    wrong = max(everywhere, key=lambda lacks: lacks.closeness).message
            if wrong:
                self._problem(wrong, (place, policy.id))

    def _note(self, use: Use, action: ActionType, origin: tuple[str, str]) -> _Missing | None:
        """Record one use for one action. Returns what the action lacks, if anything."""
        shape: Shape = action.context
        node = self._trees.setdefault(action.name, _Node())
        for depth, name in enumerate(use.path):
            if isinstance(shape, Fields):
                field = shape.fields.get(name)
                below = field.shape if field else shape.rest
            else:
                below = UNKNOWN if isinstance(shape, Unknown) else None
            if below is None:
                # Record the existing part of the path too: another action may have the name, and `has` tests for it here.
                return _Missing(action.name, use.path[: depth + 1], shape)
            shape = below
            node = node.children.setdefault(name, _Node())
        if use.value:
            node.value = True
            owner = "" if use.path[0] in _SHARED else action.name
            self._wanted.setdefault((owner, use.path), {}).setdefault(use.shape, origin)
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
        if not node.children and not isinstance(shape, Fields):
            return BOOL, present
        if not isinstance(shape, Fields):
            # the schema leaves it open, but policies use attributes: make it a record of those
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
        """The shape of an attribute that policies use as a value."""
        if not is_open(shape):
            return shape
        wanted = self._wanted.get(("" if path[0] in _SHARED else action, path), {})
        origins = {each: origin for each, origin in wanted.items() if each is not None and not is_open(each)}
        what = f"`{'.'.join(('context', *path))}`"
        if node.children or isinstance(shape, Fields):
            self._problem(f"{what} has no declared fields, so it cannot be compared as a whole", *wanted.values())
        elif len(origins) > 1:
            places = " and ".join(place for place, _ in origins.values())
            self._problem(f"{what} is used with different types, at {places}; it can have only one", *origins.values())
        elif not origins:
            self._problem(
                f"the type of {what} cannot be determined: its schema leaves it open, and no policy compares it"
                " with a literal",
                *wanted.values(),
            )
        else:
            (found,) = origins
            if isinstance(shape, Unknown) or isinstance(found, Many):
                return found
            self._problem(f"{what} is an array in its schema, but is used as another type", *origins.values())
        return shape

    def _problem(self, message: str, *origins: tuple[str, str]) -> None:
        """Report a problem at the first of these places, and mark the policies there as faulty."""
        self.problems.append(Problem(origins[0][0], message))
        self.faulty.update(name for _, name in origins)


def fill(context: Context, request: Any) -> dict[str, Any]:
    """The context of a request without the `DERIVED` parts. Raises: values.RefusedError."""
    out: dict[str, Any] = {}
    for name, convert in context.parts:
        if name not in DERIVED:
            out[name] = convert(getattr(request, _SOURCES[name]))
    return out


_SOURCES: Final = {
    "params": "parameters",
    "state": "state",
    "proposal": "proposal",
    "session": "session",
    "flags": "flags",
}
