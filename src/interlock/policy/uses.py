"""Finds which parts of the context a policy uses, and with which types.

Only what policies mention is ever converted from a request (see `values`), so a parameter that no policy uses can have
any value. If a schema leaves a type open, the policies' use of the value decides: `context.state["n"] > 5` makes it a
Long, and a request with a value of another type is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from interlock.policy import syntax
from interlock.policy.compile import children
from interlock.policy.shapes import Atom, Many, Shape

BOOL: Final = Atom("Bool")
LONG: Final = Atom("Long")
STRING: Final = Atom("String")
DECIMAL: Final = Atom("decimal")

_BOOLEAN: Final = {"and", "or", "not"}
_LONGS: Final = {"add", "sub", "mul", "neg"}
_ORDERED: Final = {"less", "less_eq", "greater", "greater_eq"}
_SYMMETRIC: Final = {"eq", "not_eq", "contains_all", "contains_any"}


class Use(msgspec.Struct, frozen=True):
    """A path in the context. `value` is False if only `has` tests it; `shape` is None if the use does not determine it."""

    path: tuple[str, ...]
    value: bool
    shape: Shape | None = None


def uses(policy: syntax.Template) -> Iterator[Use]:
    """Every use of the context in a policy. Raises: compile.NotCoveredError."""
    for clause in policy.clauses:
        yield from _uses(clause.expr, BOOL)


def path_of(node: syntax.Expr) -> tuple[str, ...] | None:
    """The names from `context` down to this node, or None if it does not start there."""
    names: list[str] = []
    while isinstance(node, syntax.GetAttr):
        names.append(node.attr)
        node = node.base
    if isinstance(node, syntax.Var) and node.name == "context":
        return tuple(reversed(names))
    return None


def _uses(node: syntax.Expr, wanted: Shape | None) -> Iterator[Use]:
    path = path_of(node)
    if path is not None:
        yield Use(path, value=True, shape=wanted)
        return
    if isinstance(node, syntax.HasAttr):
        base = path_of(node.base)
        if base is not None:
            yield from (Use((*base, *node.attrs[: count + 1]), value=False) for count in range(len(node.attrs)))
            return
    for child, shape in zip(children(node), _wanted(node, wanted), strict=True):
        yield from _uses(child, shape)


def _wanted(node: syntax.Expr, outer: Shape | None) -> tuple[Shape | None, ...]:
    """The shapes that an expression requires of its operands."""
    match node:
        case syntax.UnaryOp(op=op):
            return (BOOL if op in _BOOLEAN else LONG if op in _LONGS else None,)
        case syntax.Like():
            return (STRING,)
        case syntax.IfThenElse():
            return (BOOL, outer, outer)
        case syntax.BinaryOp(op=op, left=left, right=right):
            return _operands(op, left, right)
        case _:
            return tuple(None for _ in children(node))


def _operands(op: str, left: syntax.Expr, right: syntax.Expr) -> tuple[Shape | None, Shape | None]:
    if op in _BOOLEAN:
        return (BOOL, BOOL)
    if op in _LONGS or op in _ORDERED:
        return (LONG, LONG)
    if op.startswith("decimal_"):
        return (DECIMAL, DECIMAL)
    if op in _SYMMETRIC:
        return (shape_of(right), shape_of(left))
    if op == "contains":
        element, within = shape_of(right), shape_of(left)
        return (Many(element) if element else None, within.element if isinstance(within, Many) else None)
    return (None, None)


def shape_of(node: syntax.Expr) -> Shape | None:
    """The shape of an expression if it is known without a schema, else None."""
    match node:
        case syntax.BoolLit() | syntax.HasAttr() | syntax.Like() | syntax.Is():
            return BOOL
        case syntax.LongLit():
            return LONG
        case syntax.StringLit():
            return STRING
        case syntax.UnaryOp(op="decimal"):
            return DECIMAL
        case syntax.UnaryOp(op=op) | syntax.BinaryOp(op=op) if op in _LONGS:
            return LONG
        case syntax.UnaryOp(op=op) | syntax.BinaryOp(op=op) if op in _BOOLEAN or op in _ORDERED or op in _SYMMETRIC:
            return BOOL
        case syntax.Set(elements=elements):
            found = {shape_of(element) for element in elements}
            if len(found) == 1 and (element := found.pop()) is not None:
                return Many(element)
            return None
        case _:
            return None
