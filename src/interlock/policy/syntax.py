"""Cedar's syntax tree: the node types of `cedarpy.pst` as structs that can be stored. A stored set needs no parsing.

Names and fields are those of `cedarpy.pst`; `from_cedar` converts the tree, and refuses node types of a newer Cedar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from interlock.lazy import lazy

if TYPE_CHECKING:
    import cedarpy
else:
    cedarpy = lazy("cedarpy")


class Node(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base class of all nodes."""


class EntityType(msgspec.Struct, frozen=True, array_like=True):
    """An entity type: `Tool`, or `Namespace::Tool`."""

    basename: str
    namespace: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "::".join((*self.namespace, self.basename))


class EntityUid(msgspec.Struct, frozen=True, array_like=True):
    """`Tool::"fs.read"`."""

    type: EntityType
    id: str

    def __str__(self) -> str:
        return f'{self.type}::"{self.id}"'


class Slot(Node, frozen=True):
    """The slot of a template. Policies do not support it."""

    name: str


class Var(Node, frozen=True):
    """`principal`, `action`, `resource` or `context`."""

    name: str


class BoolLit(Node, frozen=True):
    """`true` or `false`."""

    value: bool


class LongLit(Node, frozen=True):
    """An integer literal."""

    value: int


class StringLit(Node, frozen=True):
    """A string literal."""

    value: str


class EntityLit(Node, frozen=True):
    """An entity literal."""

    value: EntityUid


class UnaryOp(Node, frozen=True):
    """An operator or function with one operand: `not`, `neg`, `decimal` ..."""

    op: str
    arg: Expr


class BinaryOp(Node, frozen=True):
    """An operator or method with two operands: `eq`, `and`, `contains` ..."""

    op: str
    left: Expr
    right: Expr


class GetAttr(Node, frozen=True):
    """`base.attr`."""

    base: Expr
    attr: str


class HasAttr(Node, frozen=True):
    """`base has a.b`."""

    base: Expr
    attrs: tuple[str, ...]


class Char(Node, frozen=True):
    """A character of a `like` pattern."""

    value: str


class Wildcard(Node, frozen=True):
    """The `*` of a `like` pattern."""


class Like(Node, frozen=True):
    """`base like "pattern"`."""

    base: Expr
    pattern: tuple[Char | Wildcard, ...]


class Is(Node, frozen=True):
    """`base is Type`, or `base is Type in entity`."""

    base: Expr
    entity_type: EntityType
    in_expr: Expr | None


class IfThenElse(Node, frozen=True):
    """`if cond then ... else ...`."""

    cond: Expr
    then_expr: Expr
    else_expr: Expr


class Set(Node, frozen=True):
    """`[a, b]`."""

    elements: tuple[Expr, ...]


class Record(Node, frozen=True):
    """`{a: 1}`."""

    fields: dict[str, Expr]


Expr = (
    Var
    | Slot
    | BoolLit
    | LongLit
    | StringLit
    | EntityLit
    | UnaryOp
    | BinaryOp
    | GetAttr
    | HasAttr
    | Like
    | Is
    | IfThenElse
    | Set
    | Record
)


class When(Node, frozen=True):
    """`when { ... }`."""

    expr: Expr


class Unless(Node, frozen=True):
    """`unless { ... }`."""

    expr: Expr


Clause = When | Unless


class ScopeAny(Node, frozen=True):
    """An open scope, which includes everything."""


class ScopeEq(Node, frozen=True):
    """`principal == entity`."""

    entity: EntityUid


class ScopeIn(Node, frozen=True):
    """`principal in entity`."""

    entity: EntityUid


class ScopeIs(Node, frozen=True):
    """`principal is Type`."""

    entity_type: EntityType


class ScopeIsIn(Node, frozen=True):
    """`principal is Type in entity`."""

    entity_type: EntityType
    entity: EntityUid


PrincipalOrResourceConstraint = ScopeAny | ScopeEq | ScopeIn | ScopeIs | ScopeIsIn


class ActionEq(Node, frozen=True):
    """`action == entity`."""

    entity: EntityUid


class ActionIn(Node, frozen=True):
    """`action in [entity, ...]`."""

    entities: tuple[EntityUid, ...]


ActionConstraint = ScopeAny | ActionEq | ActionIn


class Template(msgspec.Struct, frozen=True, array_like=True):
    """One policy."""

    id: str
    effect: Literal["permit", "forbid"]
    principal: PrincipalOrResourceConstraint
    action: ActionConstraint
    resource: PrincipalOrResourceConstraint
    clauses: tuple[Clause, ...]
    annotations: dict[str, str]


_KINDS: tuple[type[msgspec.Struct], ...] = (*Node.__subclasses__(), EntityType, EntityUid, Template)
_TYPES: dict[str, type[msgspec.Struct]] = {kind.__name__: kind for kind in _KINDS}


def parse(text: str) -> tuple[tuple[Template, ...], bool]:
    """The policies in a text, and True if it also contains templates. Raises: ValueError with Cedar's message."""
    parsed = cedarpy.policies_to_pst(text)
    return tuple(map(from_cedar, parsed.static_policies.values())), bool(parsed.templates)


def from_cedar(node: Any) -> Any:
    """Convert a tree to our types. Cedar's parser limits its depth. Raises: ValueError for an unknown node type."""
    if isinstance(node, tuple):
        return tuple(map(from_cedar, node))
    if isinstance(node, Mapping):
        return {name: from_cedar(value) for name, value in node.items()}
    fields = getattr(type(node), "__dataclass_fields__", None)
    if fields is None:
        return node
    kind = _TYPES.get(type(node).__name__)
    if kind is None or kind.__struct_fields__ != tuple(fields):
        raise ValueError(f"`{type(node).__name__}` is Cedar syntax that this version of Interlock does not know")
    return kind(*(from_cedar(getattr(node, name)) for name in fields))


def entity_uids(node: Any) -> frozenset[EntityUid]:
    """Every entity named anywhere in a tree."""
    return frozenset(_entities(node))


def _entities(node: Any) -> Iterator[EntityUid]:
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, EntityUid):
            yield value
        elif isinstance(value, msgspec.Struct):
            stack.extend(getattr(value, name) for name in value.__struct_fields__)
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, tuple):
            stack.extend(value)
