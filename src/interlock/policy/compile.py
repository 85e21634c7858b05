"""Compiles Cedar's syntax tree (`syntax`) to Python closures.

A policy becomes a list of conjuncts (its clauses split at `&&`), each a closure with a flag that tells whether it uses
the context. A conjunct that does not use the context is evaluated once per principal, action and resource (see
`index`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from interlock.policy import extensions, operators, syntax
from interlock.policy.operators import Closure
from interlock.policy.terms import EvaluationError, Uid, key


class NotCoveredError(Exception):
    """Raised for an expression that needs the reference engine."""


class Conjunct(msgspec.Struct, frozen=True):
    """One condition that must be true for a policy to match."""

    test: Closure
    dynamic: bool
    """True if it uses the context."""
    expr: syntax.Expr | None = None
    """The source of `test`; None if it is more than a single condition."""


def uid(node: syntax.EntityUid) -> Uid:
    """The entity named by a literal."""
    return Uid(str(node.type), node.id)


def conjuncts(policy: syntax.Template) -> tuple[Conjunct, ...]:
    """Compile the clauses of a policy, in order. Raises: NotCoveredError."""
    return tuple(
        Conjunct(test=compile_expression(part), dynamic=mentions_context(part), expr=part)
        for clause in policy.clauses
        for part in _parts(clause)
    )


def _parts(clause: syntax.Clause) -> Iterator[syntax.Expr]:
    """The conjuncts of a clause: `a && b` becomes a, then b. The tree's depth limit (100) bounds the recursion."""
    if isinstance(clause, syntax.Unless):
        yield syntax.UnaryOp(op="not", arg=clause.expr)
        return
    todo = [clause.expr]
    while todo:
        expr = todo.pop()
        if isinstance(expr, syntax.BinaryOp) and expr.op == "and":
            todo.extend((expr.right, expr.left))
        else:
            yield expr


def mentions_context(node: Any) -> bool:
    """True if `context` occurs anywhere in the expression."""
    return any(isinstance(below, syntax.Var) and below.name == "context" for below in walk(node))


def walk(node: syntax.Expr) -> Iterator[syntax.Expr]:
    """Every expression at and below `node`."""
    todo: list[syntax.Expr] = [node]
    while todo:
        current = todo.pop()
        yield current
        todo.extend(children(current))


def children(node: syntax.Expr) -> tuple[syntax.Expr, ...]:
    """The operands of an expression, in the order in which they are evaluated. Raises: NotCoveredError."""
    match node:
        case syntax.Var() | syntax.BoolLit() | syntax.LongLit() | syntax.StringLit() | syntax.EntityLit():
            return ()
        case syntax.UnaryOp(arg=arg):
            return (arg,)
        case syntax.BinaryOp(left=left, right=right):
            return (left, right)
        case syntax.GetAttr(base=base) | syntax.HasAttr(base=base) | syntax.Like(base=base):
            return (base,)
        case syntax.Is(base=base, in_expr=in_expr):
            return (base,) if in_expr is None else (base, in_expr)
        case syntax.IfThenElse(cond=cond, then_expr=then, else_expr=otherwise):
            return (cond, then, otherwise)
        case syntax.Set(elements=elements):
            return tuple(elements)
        case syntax.Record(fields=fields):
            return tuple(fields.values())
        case _:
            raise NotCoveredError(type(node).__name__)


def compile_expression(node: syntax.Expr) -> Closure:  # noqa: C901, PLR0911 - one flat case for each kind of node
    """The closure of an expression. Raises: NotCoveredError."""
    match node:
        case syntax.BoolLit(value=value) | syntax.LongLit(value=value) | syntax.StringLit(value=value):
            return operators.constant(value)
        case syntax.EntityLit(value=named):
            return operators.constant(uid(named))
        case syntax.Var(name=name):
            return _VARIABLES[name]
        case syntax.UnaryOp(op=op, arg=arg):
            return _unary(op, compile_expression(arg))
        case syntax.BinaryOp(op=op, left=left, right=right):
            return _binary(op, left, right)
        case syntax.GetAttr():
            return _attribute(node)
        case syntax.HasAttr(base=base, attrs=names):
            return _has(base, names)
        case syntax.Like(base=base, pattern=pattern):
            elements = tuple(element.value if isinstance(element, syntax.Char) else None for element in pattern)
            return operators.like(compile_expression(base), elements)
        case syntax.Is(base=base, entity_type=kind, in_expr=in_expr):
            entity = compile_expression(base)
            test = operators.is_type(entity, str(kind))
            if in_expr is None:
                return test
            return operators.both(test, operators.member(entity, compile_expression(in_expr)))
        case syntax.IfThenElse(cond=cond, then_expr=then, else_expr=otherwise):
            return operators.choose(*map(compile_expression, (cond, then, otherwise)))
        case syntax.Set(elements=elements):
            return _set(elements)
        case syntax.Record(fields=fields):
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


def _binary(op: str, left: syntax.Expr, right: syntax.Expr) -> Closure:
    a = compile_expression(left)
    if op == "eq" and isinstance(right, syntax.StringLit):
        return operators.equals_text(a, right.value)
    if op in {"less", "less_eq", "greater", "greater_eq"}:
        if isinstance(right, syntax.LongLit):
            return operators.ordered_number(op, a, right.value)
        return operators.ordered(op, a, compile_expression(right))
    b = compile_expression(right)
    if op in {"add", "sub", "mul"}:
        return operators.arithmetic(op, a, b)
    if make := _BINARY.get(op):
        return make(a, b)
    if function := extensions.BINARY.get(op):
        # compute a constant operand such as decimal("100.0") only once, unless computing it fails
        b = _folded(right, b)
        return lambda c, s: function(a(c, s), b(c, s))
    raise NotCoveredError(op)


def _folded(node: syntax.Expr, closure: Closure) -> Closure:
    match node:
        case syntax.UnaryOp(op=op, arg=syntax.StringLit(value=text)) if op in extensions.UNARY:
            try:
                return operators.constant(extensions.UNARY[op](text))
            except EvaluationError:
                return closure
        case _:
            return closure


def _attribute(node: syntax.GetAttr) -> Closure:
    names: list[str] = []
    base: syntax.Expr = node
    while isinstance(base, syntax.GetAttr):
        names.append(base.attr)
        base = base.base
    names.reverse()
    if isinstance(base, syntax.Var) and base.name == "context":
        return operators.context_path(tuple(names))
    closure = compile_expression(base)
    for name in names:
        closure = operators.attribute(closure, name)
    return closure


def _has(base: syntax.Expr, names: tuple[str, ...]) -> Closure:
    if len(names) != 1:
        # the parser turns `a has b.c` into `a has b && a.b has c`
        raise NotCoveredError("has")
    if isinstance(base, syntax.GetAttr) and base.base == syntax.Var("context"):
        return operators.context_has(base.attr, names[0])
    return operators.has(compile_expression(base), names[0])


def _set(elements: tuple[syntax.Expr, ...]) -> Closure:
    literals: list[Any] = []
    for element in elements:
        match element:
            case syntax.BoolLit(value=value) | syntax.LongLit(value=value) | syntax.StringLit(value=value):
                literals.append(key(value))
            case syntax.EntityLit(value=entity):
                literals.append(uid(entity))
            case _:
                return operators.make_set(tuple(map(compile_expression, elements)))
    return operators.constant(frozenset(literals))
