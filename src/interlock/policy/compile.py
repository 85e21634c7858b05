"""Compiles Cedar's syntax tree (`cedarpy.pst`) to Python closures.

A policy becomes a list of conjuncts (its clauses split at `&&`), each a closure with a flag that tells whether it uses the
context. One that does not is decided only once for a principal, action and resource (see `index`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from cedarpy import pst

from interlock.policy import extensions, operators
from interlock.policy.operators import Closure
from interlock.policy.terms import EvaluationError, Uid, key


class NotCoveredError(Exception):
    """The expression needs the reference engine."""


class Conjunct(msgspec.Struct, frozen=True):
    """One condition that must be true for a policy to match."""

    test: Closure
    dynamic: bool
    """True if it uses the context."""
    expr: pst.Expr | None = None
    """The source of `test`; None if that is not a single condition."""


def uid(node: pst.EntityUid) -> Uid:
    """The entity named by a literal."""
    return Uid(str(node.type), node.id)


def conjuncts(policy: pst.Template) -> tuple[Conjunct, ...]:
    """Compile the clauses of a policy, in order. Raises: NotCoveredError."""
    return tuple(
        Conjunct(test=compile_expression(part), dynamic=mentions_context(part), expr=part)
        for clause in policy.clauses
        for part in _parts(clause)
    )


def _parts(clause: pst.Clause) -> Iterator[pst.Expr]:
    """The clause's conjuncts: `a && b` is a, then b. The tree's depth limit (100) bounds the recursion."""
    if isinstance(clause, pst.Unless):
        yield pst.UnaryOp(op="not", arg=clause.expr)
        return
    todo = [clause.expr]
    while todo:
        expr = todo.pop()
        if isinstance(expr, pst.BinaryOp) and expr.op == "and":
            todo.extend((expr.right, expr.left))
        else:
            yield expr


def mentions_context(node: Any) -> bool:
    """True if `context` occurs anywhere in the expression."""
    return any(isinstance(below, pst.Var) and below.name == "context" for below in walk(node))


def walk(node: pst.Expr) -> Iterator[pst.Expr]:
    """Every expression at and below `node`."""
    todo: list[pst.Expr] = [node]
    while todo:
        current = todo.pop()
        yield current
        todo.extend(children(current))


def children(node: pst.Expr) -> tuple[pst.Expr, ...]:
    """The operands of an expression, in the order in which they are evaluated. Raises: NotCoveredError."""
    match node:
        case pst.Var() | pst.BoolLit() | pst.LongLit() | pst.StringLit() | pst.EntityLit():
            return ()
        case pst.UnaryOp(arg=arg):
            return (arg,)
        case pst.BinaryOp(left=left, right=right):
            return (left, right)
        case pst.GetAttr(base=base) | pst.HasAttr(base=base) | pst.Like(base=base):
            return (base,)
        case pst.Is(base=base, in_expr=in_expr):
            return (base,) if in_expr is None else (base, in_expr)
        case pst.IfThenElse(cond=cond, then_expr=then, else_expr=otherwise):
            return (cond, then, otherwise)
        case pst.Set(elements=elements):
            return tuple(elements)
        case pst.Record(fields=fields):
            return tuple(fields.values())
        case _:
            raise NotCoveredError(type(node).__name__)


def compile_expression(node: pst.Expr) -> Closure:  # noqa: C901, PLR0911 - one flat case for each kind of node
    """The closure of an expression. Raises: NotCoveredError."""
    match node:
        case pst.BoolLit(value=value) | pst.LongLit(value=value) | pst.StringLit(value=value):
            return operators.constant(value)
        case pst.EntityLit(value=named):
            return operators.constant(uid(named))
        case pst.Var(name=name):
            return _VARIABLES[name]
        case pst.UnaryOp(op=op, arg=arg):
            return _unary(op, compile_expression(arg))
        case pst.BinaryOp(op=op, left=left, right=right):
            return _binary(op, left, right)
        case pst.GetAttr():
            return _attribute(node)
        case pst.HasAttr(base=base, attrs=names):
            return _has(base, names)
        case pst.Like(base=base, pattern=pattern):
            elements = tuple(element.value if isinstance(element, pst.Char) else None for element in pattern)
            return operators.like(compile_expression(base), elements)
        case pst.Is(base=base, entity_type=kind, in_expr=in_expr):
            entity = compile_expression(base)
            test = operators.is_type(entity, str(kind))
            if in_expr is None:
                return test
            return operators.both(test, operators.member(entity, compile_expression(in_expr)))
        case pst.IfThenElse(cond=cond, then_expr=then, else_expr=otherwise):
            return operators.choose(*map(compile_expression, (cond, then, otherwise)))
        case pst.Set(elements=elements):
            return _set(elements)
        case pst.Record(fields=fields):
            return operators.make_record(tuple((name, compile_expression(field)) for name, field in fields.items()))
        case _:
            raise NotCoveredError(type(node).__name__)


_VARIABLES: Final[dict[str, Closure]] = {
    "principal": lambda _c, s: s.principal,
    "action": lambda _c, s: s.action,
    "resource": lambda _c, s: s.resource,
    "context": lambda c, _s: c,
}

_UNARY: Final[dict[str, Callable[[Closure], Closure]]] = {
    "not": operators.negate,
    "neg": operators.minus,
    "is_empty": operators.is_empty,
}

_BINARY: Final[dict[str, Callable[[Closure, Closure], Closure]]] = {
    "eq": operators.equals,
    "not_eq": operators.differs,
    "and": operators.both,
    "or": operators.either,
    "in": operators.member,
    "contains": operators.contains,
    "contains_all": operators.contains_all,
    "contains_any": operators.contains_any,
    "has_tag": operators.has_tag,
    "get_tag": operators.get_tag,
}


def _unary(op: str, arg: Closure) -> Closure:
    if make := _UNARY.get(op):
        return make(arg)
    if function := extensions.UNARY.get(op):
        return lambda c, s: function(arg(c, s))
    raise NotCoveredError(op)


def _binary(op: str, left: pst.Expr, right: pst.Expr) -> Closure:
    a = compile_expression(left)
    if op == "eq" and isinstance(right, pst.StringLit):
        return operators.equals_text(a, right.value)
    if op in {"less", "less_eq", "greater", "greater_eq"}:
        if isinstance(right, pst.LongLit):
            return operators.ordered_number(op, a, right.value)
        return operators.ordered(op, a, compile_expression(right))
    b = compile_expression(right)
    if op in {"add", "sub", "mul"}:
        return operators.arithmetic(op, a, b)
    if make := _BINARY.get(op):
        return make(a, b)
    if function := extensions.BINARY.get(op):
        # a constant operand such as decimal("100.0") is computed once, unless computing it fails
        b = _folded(right, b)
        return lambda c, s: function(a(c, s), b(c, s))
    raise NotCoveredError(op)


def _folded(node: pst.Expr, closure: Closure) -> Closure:
    match node:
        case pst.UnaryOp(op=op, arg=pst.StringLit(value=text)) if op in extensions.UNARY:
            try:
                return operators.constant(extensions.UNARY[op](text))
            except EvaluationError:
                return closure
        case _:
            return closure


def _attribute(node: pst.GetAttr) -> Closure:
    names: list[str] = []
    base: pst.Expr = node
    while isinstance(base, pst.GetAttr):
        names.append(base.attr)
        base = base.base
    names.reverse()
    if isinstance(base, pst.Var) and base.name == "context":
        return operators.context_path(tuple(names))
    closure = compile_expression(base)
    for name in names:
        closure = operators.attribute(closure, name)
    return closure


def _has(base: pst.Expr, names: tuple[str, ...]) -> Closure:
    if len(names) != 1:
        # the parser turns `a has b.c` into `a has b && a.b has c`
        raise NotCoveredError("has")
    if isinstance(base, pst.GetAttr) and base.base == pst.Var("context"):
        return operators.context_has(base.attr, names[0])
    return operators.has(compile_expression(base), names[0])


def _set(elements: tuple[pst.Expr, ...]) -> Closure:
    literals: list[Any] = []
    for element in elements:
        match element:
            case pst.BoolLit(value=value) | pst.LongLit(value=value) | pst.StringLit(value=value):
                literals.append(key(value))
            case pst.EntityLit(value=entity):
                literals.append(uid(entity))
            case _:
                return operators.make_set(tuple(map(compile_expression, elements)))
    return operators.constant(frozenset(literals))
