"""Random policies whose conditions need something of a value in the context, with and without guards, in any order.

What `narrow` must never pass over is what would fail; so the contexts lack every part of a way at times, or have something
there that is no record.
"""

from __future__ import annotations

from random import Random
from typing import Any

from interlock.policy.terms import LONG_MAX, Uid, key, quote

PATHS = ("a", "b", "a.b", "a.c", "b.c", "a.b.c", "a.b.d", "a.c.d")
TEXTS = ("", "x", "secret", "a secret place", "secret1", "xx", "*", "src/secret", "SECRET", "é", "5")
PATTERNS = ("*secret*", "*secret1*", "src/*", "*place", "s*t", "x", "*", "", "a*c*e", "*e*", "\\\\**", "*x*xx*", "se*")
LITERALS = ('"x"', '"secret"', '""', "5", "1", "0", "true", "false", 'Agent::"coder"', 'Tool::"t1"')


def condition(r: Random) -> str:
    """One condition, most of them such that a policy needs it."""
    path = f"context.{r.choice(PATHS)}"
    kind = r.randrange(17)
    if kind < 4:
        return f'{path} like "{r.choice(PATTERNS)}"'
    if kind < 6:
        return f"{path} == {r.choice(LITERALS)}"
    if kind == 6:
        return f"{r.choice(LITERALS)} == {path}"
    if kind == 7:
        return f"[{r.choice(LITERALS)}, {r.choice(LITERALS)}].contains({path})"
    if kind < 11:
        base, _, name = path.rpartition(".")
        return f"{base} has {name}"
    if kind < 13:
        order, number = (
            r.choice(("<", "<=", ">", ">=")),
            r.choice((0, 1, 4, 5, 6, LONG_MAX, "-9223372036854775808", -1)),
        )
        return r.choice((f"{path} {order} {number}", f"{number} {order} {path}"))
    if kind == 13:
        name, number = (
            r.choice(("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual")),
            r.choice(("0.0", "1.5", "5.0001", "922337203685477.5807", "-922337203685477.5808", "x")),
        )
        return r.choice((f'{path}.{name}(decimal("{number}"))', f'decimal("{number}").{name}({path})'))
    return r.choice(
        (
            f"{path} + {LONG_MAX} > 0",
            path,
            f"!({path} has x)",
            f"({path} like {quote('x')} || {path} == {r.choice(LITERALS)})",
            "resource.name == context.a",
            'principal == Agent::"coder"',
            "principal.nothing",
            f"context has {r.choice(PATHS)}",
            f"{path} != 5",
        )
    )


def policy(r: Random, number: int) -> str:
    """A policy about `t1`: often guarded, as the type checker would want it."""
    path = r.choice(PATHS)
    guards = [f"context has {path}"] if r.random() < 0.5 else []
    rest = [condition(r) for _ in range(r.randrange(1, 4))]
    if guards and r.random() < 0.7:
        rest[0] = r.choice((f'context.{path} like "{r.choice(PATTERNS)}"', f"context.{path} == {r.choice(LITERALS)}"))
    conditions = [*guards, *rest]
    if r.random() < 0.2:
        r.shuffle(conditions)
    effect = r.choice(("permit", "forbid", 'forbid @hold("ops")'))
    notes = f'@id("p{number}")' + (' @hold("ops")' if "@" in effect else "")
    scope = r.choice(("principal", "principal", 'principal == Agent::"coder"'))
    return (
        f'{notes}\n{effect.split()[0]}({scope}, action == Action::"t1", resource) when {{ {" && ".join(conditions)} }};'
    )


def record(r: Random, depth: int = 3) -> dict[str, Any]:
    """A context."""
    return {name: _value(r, depth) for name in "abcd" if r.random() < 0.75}


def _value(r: Random, depth: int) -> Any:
    if depth and r.random() < 0.6:
        return record(r, depth - 1)
    if r.random() < 0.6:
        return r.choice(TEXTS)
    return r.choice(
        (0, 1, 5, LONG_MAX, True, False, Uid("Agent", "coder"), Uid("Tool", "t1"), frozenset((key("x"),)), {})
    )
