"""Random policies, entities and requests, drawn from a `random.Random` (hypothesis hands in its own, which it can shrink).

Nothing here is well typed on purpose: half of what makes Cedar Cedar is what happens when types are wrong.
"""

from __future__ import annotations

from random import Random
from typing import Any

from interlock.policy.operators import Entity, Situation
from interlock.policy.terms import (
    LONG_MAX,
    LONG_MIN,
    Datetime,
    Decimal,
    Duration,
    Uid,
    key,
    quote,
)
from interlock.policy.world import ActionType

NAMES = ("a", "b", "c", "a b", "name", "tags")
TEXTS = ("", "a", "b", "ab", "a*b", "aab", "a\\b", '"', "é", "x\ny", "5", "aXbXc", "ba")
NUMBERS = (0, 1, 2, 5, -1, -4, 5000, LONG_MAX, LONG_MIN, LONG_MAX - 1, 2**62)
AGENTS = ("coder", "ops")
GROUPS = ("g1", "g2", "g3")
TOOLS = ("t1", "t2", "x.y")
ACTIONS = {
    "t1": ActionType("t1", ("call", "tag:r"), "Tool"),
    "t2": ActionType("t2", ("call",), "Tool"),
    "read": ActionType("read", (), "StateKey"),
}
DECIMALS = ("0.0", "1.5", "-1.5", "5000.0001", "922337203685477.5807", "-922337203685477.5808")
BAD_DECIMALS = ("1", "1.00001", "x", "", "922337203685477.5808", "1.", ".5", "+1.0", "1.0 ")
DATETIMES = (
    "2024-10-15",
    "1970-01-01",
    "1969-12-31T23:59:59Z",
    "2024-10-15T11:35:00.123+0130",
    "0000-01-01",
    "9999-12-31",
)
BAD_DATETIMES = (
    "2024-13-01",
    "2024-02-30",
    "2024-10-15T24:00:00Z",
    "x",
    "2024-10-15T11:35:00",
    "2023-02-29",
    "2024-1-1",
)
DURATIONS = ("1d", "1d2h3m4s5ms", "-1d", "0ms", "90m", "-1ms", "9223372036854775807ms")
BAD_DURATIONS = ("", "1", "1h1d", "1d1d", "-", "9223372036854775808ms", "d", "1.5h")
UIDS = (
    *(Uid("Agent", name) for name in AGENTS),
    *(Uid("Group", name) for name in GROUPS),
    *(Uid("Tool", name) for name in TOOLS),
    Uid("Server", "s"),
    Uid("StateKey", "k"),
    Uid("Action", "t1"),
    Uid("Action", "call"),
    Uid("Agent", "unknown"),
)


def value(r: Random, depth: int = 2) -> Any:
    """A random term."""
    kind = r.randrange(11 if depth else 8)
    if kind < 2:
        return r.choice(NUMBERS)
    if kind < 4:
        return r.choice(TEXTS)
    if kind == 4:
        return r.random() < 0.5
    if kind == 5:
        return r.choice(UIDS)
    if kind == 6:
        return Decimal(r.choice((0, 15000, -15000, 50000001, LONG_MAX, LONG_MIN)))
    if kind == 7:
        return r.choice((Datetime, Duration))(
            r.choice((0, 1, -1, 86_400_000, -86_400_001, 1728992100000, LONG_MAX // 4))
        )
    if kind == 8:
        return frozenset(key(value(r, depth - 1)) for _ in range(r.randrange(4)))
    return record(r, depth - 1)


def record(r: Random, depth: int = 2) -> dict[str, Any]:
    """A random record."""
    return {name: _likely(r, name, depth) for name in r.sample(NAMES, r.randrange(len(NAMES) + 1))}


def _likely(r: Random, name: str, depth: int) -> Any:
    """A value that is often of the type that `typed` expects under this name."""
    if r.random() < 0.3:
        return value(r, depth)
    if name == "a":
        return r.choice(NUMBERS)
    if name in {"b", "name"}:
        return r.choice(TEXTS)
    if name == "a b":
        return r.random() < 0.5
    return frozenset(r.choice((*TEXTS[:4], *NUMBERS[:3])) for _ in range(r.randrange(4)))


def situation(r: Random) -> Situation:
    """A random request without its context, among random entities."""
    entities: dict[Uid, Entity] = {
        Uid("Action", name): Entity(frozenset(Uid("Action", group) for group in action.groups))
        for name, action in ACTIONS.items()
    }
    for uid in UIDS:
        if uid.type == "Action" or uid.id == "unknown" or r.random() < 0.1:
            continue
        above: frozenset[Uid] = frozenset()
        if uid.type == "Agent":
            above = frozenset(Uid("Group", name) for name in GROUPS if r.random() < 0.5)
        elif uid.type == "Tool":
            above = frozenset((Uid("Server", "s"),)) if r.random() < 0.5 else above
        entities[uid] = Entity(above, record(r, 1), record(r, 1) if r.random() < 0.3 else {})
    action = r.choice(tuple(ACTIONS))
    resource = Uid("Tool", r.choice(TOOLS)) if ACTIONS[action].resource_type == "Tool" else Uid("StateKey", "k")
    return Situation(Uid("Agent", r.choice((*AGENTS, "unknown"))), Uid("Action", action), resource, entities)


def policy(r: Random, number: int) -> str:
    """The text of a random policy with the id `p<number>`."""
    effect = r.choice(("permit", "permit", "forbid"))
    notes = f'@id("p{number}")'
    if effect == "forbid" and r.random() < 0.6:
        notes += ' @hold("ops")'
    count = r.choice((0, 1, 1, 1, 2))
    clauses = " ".join(f"{r.choice(('when', 'when', 'unless'))} {{ {boolean(r, 3)} }}" for _ in range(count))
    return f"{notes}\n{effect}({principal(r)}, {action(r)}, {resource(r)}) {clauses};"


def principal(r: Random) -> str:
    """A principal's scope."""
    agent, group = quote(r.choice(AGENTS)), quote(r.choice(GROUPS))
    return r.choice(
        (
            *("principal",) * 5,
            f"principal == Agent::{agent}",
            f"principal in Group::{group}",
            "principal is Agent",
            f"principal is Agent in Group::{group}",
        )
    )


def action(r: Random) -> str:
    """An action's scope."""
    name, other = quote(r.choice(tuple(ACTIONS))), quote(r.choice(("call", "tag:r", *ACTIONS)))
    return r.choice(
        (
            *("action",) * 3,
            f"action == Action::{name}",
            f"action in Action::{other}",
            f"action in [Action::{name}, Action::{other}]",
        )
    )


def resource(r: Random) -> str:
    """A resource's scope."""
    tool = quote(r.choice(TOOLS))
    return r.choice(
        (
            *("resource",) * 5,
            f"resource == Tool::{tool}",
            'resource in Server::"s"',
            "resource is Tool",
            "resource is StateKey",
            'resource is Tool in Server::"s"',
        )
    )


def boolean(r: Random, depth: int) -> str:
    """An expression that is probably a Bool."""
    if depth == 0:
        return r.choice(
            ("true", "false", "context.a", "(context has a)", "(principal has b)", '(resource.name == "a")')
        )
    a, b = (lambda: boolean(r, depth - 1)), (lambda: expression(r, depth - 1))
    if r.random() < 0.5:
        return typed(r, depth)
    kind = r.randrange(22)
    if kind < 4:
        return f"({a()} {r.choice(('&&', '||'))} {a()})"
    if kind < 6:
        return f"!({a()})"
    if kind < 9:
        return f"({b()} {r.choice(('==', '!='))} {b()})"
    if kind < 11:
        return f"({b()} {r.choice(('<', '<=', '>', '>='))} {b()})"
    if kind == 11:
        return f"({b()} in {b()})"
    if kind == 12:
        return f"({b()} like {pattern(r)})"
    if kind == 13:
        return f"({r.choice(('context', 'principal', 'resource', b()))} has {quote(r.choice(NAMES))})"
    if kind == 14:
        return f"(context has a.{r.choice(('b', 'c', 'b.c'))})"
    if kind == 15:
        return f"{b()}.{r.choice(('contains', 'containsAll', 'containsAny'))}({b()})"
    if kind == 16:
        return f"{b()}.isEmpty()"
    if kind == 17:
        inside = f" in {b()}" if r.random() < 0.5 else ""
        return f"({r.choice(('principal', 'resource', b()))} is {r.choice(('Agent', 'Tool', 'Group'))}{inside})"
    if kind == 18:
        return f"(if {a()} then {a()} else {a()})"
    if kind == 19:
        name = r.choice(("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual"))
        return f"{b()}.{name}({extension(r, 'decimal')})"
    if kind == 20:
        return f"{b()}.hasTag({r.choice((quote(r.choice(NAMES)), b()))})"
    return expression(r, depth - 1)


def typed(r: Random, depth: int) -> str:
    """A Bool whose operands have the right types, unless the request has other ones."""
    of = lambda name: f"{r.choice(('context', 'context', 'resource', 'principal'))}[{quote(name)}]"
    number = lambda: r.choice(
        (of("a"), f"({r.choice(NUMBERS)})", f"({of('a')} {r.choice('+-*')} ({r.choice(NUMBERS)}))")
    )
    text = lambda: r.choice((of("b"), of("name"), quote(r.choice(TEXTS))))
    listed = lambda: r.choice((of("c"), of("tags"), f"[{text()}, {number()}]", '["a", "b"]'))
    entity = lambda: r.choice(("principal", "resource", "action", str(r.choice(UIDS))))
    kind = r.randrange(11)
    if kind < 2:
        return f"({number()} {r.choice(('<', '<=', '>', '>=', '==', '!='))} {number()})"
    if kind == 2:
        return f"({text()} like {pattern(r)})"
    if kind == 3:
        return f"({text()} {r.choice(('==', '!='))} {text()})"
    if kind == 4:
        return f"{listed()}.contains({r.choice((text, number))()})"
    if kind == 5:
        return f"{listed()}.{r.choice(('containsAll', 'containsAny'))}({listed()})"
    if kind == 6:
        return f"({entity()} in {r.choice((entity(), f'[{entity()}, {entity()}]'))})"
    if kind == 7:
        name = r.choice(NAMES)
        base = r.choice(("context", "resource", "principal"))
        if depth == 0:
            return f"({base} has {quote(name)})"
        return f"({base} has {quote(name)} && {boolean(r, depth - 1)})"
    if kind == 8:
        return of("a b")
    if kind == 9:
        name = r.choice(("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual"))
        return f"{extension(r, 'decimal')}.{name}({extension(r, 'decimal')})"
    other = r.choice((extension(r, "datetime"), f"{extension(r, 'datetime')}.offset({extension(r, 'duration')})"))
    return f"({extension(r, 'datetime')} {r.choice(('<', '<=', '>', '=='))} {other})"


def expression(r: Random, depth: int) -> str:
    """An expression of any type."""
    if depth == 0 or r.random() < 0.25:
        return leaf(r)
    sub = lambda: expression(r, depth - 1)
    kind = r.randrange(13)
    if kind < 2:
        return f"({sub()} {r.choice(('+', '-', '*'))} {sub()})"
    if kind == 2:
        return f"(-{sub()})"
    if kind < 5:
        return f"{r.choice(('context', 'principal', 'resource', sub()))}[{quote(r.choice(NAMES))}]"
    if kind == 5:
        return "[" + ", ".join(sub() for _ in range(r.randrange(4))) + "]"
    if kind == 6:
        fields = ", ".join(f"{quote(name)}: {sub()}" for name in r.sample(NAMES, r.randrange(3)))
        return f"{{{fields}}}"
    if kind == 7:
        return f"(if {boolean(r, depth - 1)} then {sub()} else {sub()})"
    if kind == 8:
        return f"{sub()}.getTag({quote(r.choice(NAMES))})"
    if kind == 9:
        name = r.choice(("toDate", "toTime", "toMilliseconds", "toSeconds", "toMinutes", "toHours", "toDays"))
        return f"{r.choice((extension(r, 'datetime'), extension(r, 'duration'), sub()))}.{name}()"
    if kind == 10:
        return f"{extension(r, 'datetime')}.offset({r.choice((extension(r, 'duration'), sub()))})"
    if kind == 11:
        return f"{r.choice((extension(r, 'datetime'), sub()))}.durationSince({extension(r, 'datetime')})"
    return boolean(r, depth - 1)


def extension(r: Random, name: str) -> str:
    """A call of an extension function, sometimes on nonsense, sometimes on what a request holds."""
    good, bad = {
        "decimal": (DECIMALS, BAD_DECIMALS),
        "datetime": (DATETIMES, BAD_DATETIMES),
        "duration": (DURATIONS, BAD_DURATIONS),
        "ip": (("1.2.3.4", "10.0.0.0/8", "::1", "ff00::/8"), ("x", "1.2.3", "01.2.3.4")),
    }[name]
    if r.random() < 0.1:
        return f"{name}(context.a)"
    return f"{name}({quote(r.choice(good if r.random() < 0.8 else bad))})"


def leaf(r: Random) -> str:
    """A literal, a variable or an attribute."""
    kind = r.randrange(13)
    if kind < 4:
        return f"context[{quote(r.choice(NAMES))}]"
    if kind == 4:
        return r.choice(("principal", "resource", "action", "context"))
    if kind < 7:
        return f"({r.choice(NUMBERS)})"
    if kind < 9:
        return quote(r.choice(TEXTS))
    if kind == 9:
        return r.choice(("true", "false"))
    if kind == 10:
        return str(r.choice(UIDS))
    if kind == 11:
        return extension(r, r.choice(("decimal", "datetime", "duration")))
    return f"{extension(r, 'ip')}.{r.choice(('isIpv4()', 'isLoopback()', 'isInRange(' + extension(r, 'ip') + ')'))}"


def pattern(r: Random) -> str:
    """A pattern literal."""
    parts = (r.choice(("*", "a", "b", "\\*", "X", "\\\\", "**")) for _ in range(r.randrange(5)))
    return '"' + "".join(parts) + '"'
