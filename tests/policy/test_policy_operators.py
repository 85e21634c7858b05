"""Every operator of Cedar, one by one, against the value that it must have and against the reference engine."""

from __future__ import annotations

import pytest
from policy_oracle import oracle

from interlock.policy.operators import Entity, Situation
from interlock.policy.policies import parse
from interlock.policy.reference import Reference, compile_policy
from interlock.policy.source import split
from interlock.policy.terms import LONG_MAX, LONG_MIN, Address, Datetime, Decimal, Duration, EvaluationError, Uid, key

ENTITIES = {
    Uid("Agent", "coder"): Entity(frozenset({Uid("Group", "dev")}), {"level": 3}, {"team": "core"}),
    Uid("Tool", "t"): Entity(
        frozenset({Uid("Server", "s")}),
        {"name": "t", "ok": True, "ip": Address("10.1.2.3"), "owner": Uid("Agent", "coder")},
    ),
    Uid("Action", "t"): Entity(frozenset({Uid("Action", "call")})),
    Uid("Group", "dev"): Entity(),
}
SITUATION = Situation(Uid("Agent", "coder"), Uid("Action", "t"), Uid("Tool", "t"), ENTITIES)
CONTEXT = {
    "n": 5,
    "min": LONG_MIN,
    "max": LONG_MAX,
    "s": "hello",
    "yes": True,
    "no": False,
    "d": Decimal(15_000),
    "when": Datetime(0),
    "day": Duration(86_400_000),
    "set": frozenset({1, "a", key(True)}),
    "rec": {"a": 1, "b": {"c": True}},
    "who": Uid("Agent", "coder"),
    "one": 1,
}
TRUE, FALSE, ERROR = "true", "false", "error"

CASES = [
    # == and != never fail, and a Bool is not a Long
    ("context.n == 5", TRUE),
    ("context.n != 5", FALSE),
    ("context.one == true", FALSE),
    ("context.yes == context.one", FALSE),
    ("context.yes == true", TRUE),
    ("context.s == 5", FALSE),
    ("context.who == principal", TRUE),
    ('context.who == Agent::"coder"', TRUE),
    ('context.who == "coder"', FALSE),
    ('principal == User::"coder"', FALSE),
    ("context.rec == {a: 1, b: {c: true}}", TRUE),
    ("context.rec == {a: true, b: {c: true}}", FALSE),
    ("context.rec == {a: 1, b: {c: 1}}", FALSE),
    ("context.rec == {a: 1}", FALSE),
    ("[1, 2, 2] == [2, 1]", TRUE),
    ("[1] == [true]", FALSE),
    ("[[1], [true]] == [[true], [1]]", TRUE),
    ("[{a: 1}].contains({a: true})", FALSE),
    ("[{a: [1]}].contains({a: [1, 1]})", TRUE),
    ('decimal("1.5") == decimal("1.50")', TRUE),
    ('decimal("1.0") == 1', FALSE),
    ('duration("1d") == duration("24h")', TRUE),
    ('datetime("1970-01-01") == duration("0ms")', FALSE),
    ("context.missing == 1", ERROR),
    ("context.n != context.missing", ERROR),
    # order
    ("context.n > 4", TRUE),
    ("context.n < 5", FALSE),
    ("context.n <= 5", TRUE),
    ("context.n >= 6", FALSE),
    ("4 < context.n", TRUE),
    ("context.n < context.max", TRUE),
    ('context.s < "z"', ERROR),
    ("context.yes < 5", ERROR),
    ("5 > context.yes", ERROR),
    ("context.d > context.d", ERROR),
    ('context.when < datetime("1970-01-02")', TRUE),
    ('context.day >= duration("25h")', FALSE),
    ("context.when < context.day", ERROR),
    ("context.when < 5", ERROR),
    ("5 < context.when", ERROR),
    # arithmetic
    ("context.n + 1 == 6", TRUE),
    ("context.n - 6 == -1", TRUE),
    ("context.n * -2 == -10", TRUE),
    ("context.max + 1 == 0", ERROR),
    ("context.max + 0 == context.max", TRUE),
    ("context.min - 1 == 0", ERROR),
    ("context.max * 2 == 0", ERROR),
    ("context.min * -1 == 0", ERROR),
    ("-context.min == 0", ERROR),
    ("-context.max == -9223372036854775807", TRUE),
    ("context.yes + 1 == 2", ERROR),
    ("1 - context.s == 2", ERROR),
    ("-context.yes == -1", ERROR),
    # logic: no look at the right side where the left decides, and only Bools
    ("context.yes && context.yes", TRUE),
    ("context.no && context.missing", FALSE),
    ("context.yes && context.missing", ERROR),
    ("context.missing && context.no", ERROR),
    ("context.yes && context.n", ERROR),
    ("(context.n && context.yes) || true", ERROR),
    ("context.yes || context.missing", TRUE),
    ("context.no || context.yes", TRUE),
    ("context.no || context.no", FALSE),
    ("context.no || context.n", ERROR),
    ("context.n || context.yes", ERROR),
    ("!context.no", TRUE),
    ("!context.n", ERROR),
    ("!context.one", ERROR),
    ("if context.yes then context.n == 5 else context.missing", TRUE),
    ("if context.no then context.missing else context.n == 6", FALSE),
    ("if context.n then true else true", ERROR),
    ("context.n", ERROR),
    ("context.one", ERROR),
    ("context.yes", TRUE),
    # has and attributes
    ("context has n", TRUE),
    ("context has missing", FALSE),
    ("context.rec has b.c", TRUE),
    ("context has rec.b.c", TRUE),
    ("context has rec.b.d", FALSE),
    ("context has missing.b.d", FALSE),
    ("context has n.b", ERROR),
    ("context.n has b", ERROR),
    ("context.rec.b.c", TRUE),
    ("context.rec.b.d", ERROR),
    ("context.rec.x.d", ERROR),
    ("context.s.x.y", ERROR),
    ('context["rec"]["b"]["c"]', TRUE),
    ("principal has level", TRUE),
    ("principal has name", FALSE),
    ("principal.level == 3", TRUE),
    ("principal.name == 3", ERROR),
    ('Agent::"nobody" has level', FALSE),
    ('Agent::"nobody".level == 3', ERROR),
    ("resource.owner.level == 3", TRUE),
    ("context.who.level == 3", TRUE),
    ("{a: 1, b: 2}.b == 2", TRUE),
    ("{a: 1 + context.max}.a == 2", ERROR),
    # like
    ('context.s like "h*o"', TRUE),
    ('context.s like "hello"', TRUE),
    ('context.s like "hell"', FALSE),
    ('context.s like "*"', TRUE),
    ('"" like "*"', TRUE),
    ('"" like ""', TRUE),
    ('context.s like "*l*l*"', TRUE),
    ('context.s like "*l*l*l*"', FALSE),
    ('"a" like "a*a"', FALSE),
    ('"aa" like "a*a"', TRUE),
    ('"ab" like "*ab*ab*"', FALSE),
    ('"a*b" like "a\\*b"', TRUE),
    ('"axb" like "a\\*b"', FALSE),
    ('"a\\nb" like "a*b"', TRUE),
    ('"é" like "\\u{e9}"', TRUE),
    ('context.n like "5"', ERROR),
    # in
    ("principal in principal", TRUE),
    ('principal in Group::"dev"', TRUE),
    ('principal in Group::"ops"', FALSE),
    ('principal in [Group::"ops", Group::"dev"]', TRUE),
    ("principal in []", FALSE),
    ('principal in [Group::"ops", 1]', ERROR),
    ('principal in [principal, "x"]', ERROR),
    ('principal in "dev"', ERROR),
    ('context.n in Group::"dev"', ERROR),
    ('Agent::"nobody" in Group::"dev"', FALSE),
    ('Agent::"nobody" in Agent::"nobody"', TRUE),
    ('Agent::"nobody" in [Agent::"nobody"]', TRUE),
    ('action in Action::"call"', TRUE),
    ('resource in Server::"s"', TRUE),
    # is
    ("principal is Agent", TRUE),
    ("principal is Tool", FALSE),
    ('principal is Agent in Group::"dev"', TRUE),
    ('principal is Agent in Group::"ops"', FALSE),
    ("principal is Tool in 5", FALSE),
    ("principal is Agent in 5", ERROR),
    ("context.n is Agent", ERROR),
    # sets
    ("context.set.contains(1)", TRUE),
    ("context.set.contains(true)", TRUE),
    ("context.set.contains(false)", FALSE),
    ("[1].contains(true)", FALSE),
    ("[true].contains(1)", FALSE),
    ("context.set.contains(context.missing)", ERROR),
    ("context.s.contains(1)", ERROR),
    ('context.set.containsAll([1, "a"])', TRUE),
    ("context.set.containsAll([])", TRUE),
    ("context.set.containsAll([2])", FALSE),
    ("context.set.containsAll(1)", ERROR),
    ("context.s.containsAny([1])", ERROR),
    ("context.set.containsAny([5, 1])", TRUE),
    ("context.set.containsAny([])", FALSE),
    ("context.set.isEmpty()", FALSE),
    ("[].isEmpty()", TRUE),
    ("context.n.isEmpty()", ERROR),
    ("[context.n, context.s].contains(5)", TRUE),
    # tags
    ('principal.hasTag("team")', TRUE),
    ('principal.hasTag("none")', FALSE),
    ('principal.getTag("team") == "core"', TRUE),
    ('principal.getTag("none") == "core"', ERROR),
    ('Agent::"nobody".hasTag("team")', FALSE),
    ('Agent::"nobody".getTag("team") == "core"', ERROR),
    ("principal.hasTag(context.s)", FALSE),
    ("principal.hasTag(context.n)", ERROR),
    ('context.n.hasTag("team")', ERROR),
    # decimal
    ('context.d.lessThan(decimal("1.5001"))', TRUE),
    ('context.d.lessThanOrEqual(decimal("1.5"))', TRUE),
    ('context.d.greaterThan(decimal("1.5"))', FALSE),
    ('context.d.greaterThanOrEqual(decimal("1.4999"))', TRUE),
    ('context.n.lessThan(decimal("1.0"))', ERROR),
    ("context.d.lessThan(context.n)", ERROR),
    ('decimal("-0.5").lessThan(decimal("0.0"))', TRUE),
    ('decimal("922337203685477.5807") == decimal("922337203685477.5807")', TRUE),
    ('decimal("922337203685477.5808") == context.d', ERROR),
    ('decimal("-922337203685477.5808").lessThan(context.d)', TRUE),
    *(
        (f'decimal("{text}") == context.d', ERROR)
        for text in ("1", "1.", ".5", "1.00000", "+1.0", " 1.0", "1e3", "x", "")
    ),
    ("decimal(context.s) == context.d", ERROR),
    ("decimal(context.n) == context.d", ERROR),
    # datetime and duration
    ('datetime("1970-01-01") == context.when', TRUE),
    ('datetime("1970-01-01T01:00:00+0100") == context.when', TRUE),
    ('datetime("1969-12-31T23:00:00-0100") == context.when', TRUE),
    ('datetime("1970-01-01T00:00:00.000Z") == context.when', TRUE),
    ('datetime("0000-01-01") < context.when', TRUE),
    ('datetime("9999-12-31T23:59:59.999Z") > context.when', TRUE),
    ('datetime("2000-02-29") > context.when', TRUE),
    *(
        (f'datetime("{text}") == context.when', ERROR)
        for text in ("2023-02-29", "1970-1-1", "1970-01-01T00:00:00", "1970-01-01T24:00:00Z", "1970-01-01T00:00:60Z")
    ),
    ('datetime("1970-01-01T00:00:00+2400") == context.when', ERROR),
    ('datetime("1970-01-01T00:00:00+0160") == context.when', ERROR),
    ('context.when.offset(duration("-1d")) == datetime("1969-12-31")', TRUE),
    ("context.when.offset(context.when) == context.when", ERROR),
    ('context.when.offset(duration("9223372036854775807ms")).offset(duration("1ms")) == context.when', ERROR),
    ('datetime("1970-01-03").durationSince(datetime("1970-01-01")) == duration("2d")', TRUE),
    ('datetime("1969-12-31T01:00:00Z").toDate() == datetime("1969-12-31")', TRUE),
    ('datetime("1969-12-31T01:00:00Z").toTime() == duration("1h")', TRUE),
    ('duration("-90m").toHours() == -1', TRUE),
    ('duration("-36h").toDays() == -1', TRUE),
    ('duration("1500ms").toSeconds() == 1', TRUE),
    ('duration("-1500ms").toSeconds() == -1', TRUE),
    ('duration("90s").toMinutes() == 1', TRUE),
    ('duration("1d2h3m4s5ms").toMilliseconds() == 93784005', TRUE),
    *((f'duration("{text}") == context.day', ERROR) for text in ("", "-", "1", "1h1d", "1d1d", "1.5h", "+1d", "1D")),
    ('duration("9223372036854775808ms") == context.day', ERROR),
    ("context.n.toDate() == context.when", ERROR),
    # what only the reference engine evaluates
    ('ip("10.0.0.1").isInRange(ip("10.0.0.0/8"))', TRUE),
    ('resource.ip.isInRange(ip("10.0.0.0/8"))', TRUE),
    ("resource.ip.isLoopback()", FALSE),
    ('resource.ip == ip("10.1.2.3")', TRUE),
    ('ip(context.s) == ip("10.1.2.3")', ERROR),
    ('context has s && ip("::1").isIpv6()', TRUE),
]


def evaluate(text: str) -> str:
    """What our compiler makes of an expression as the only condition of a permit."""
    (statement,) = split("f", text)
    policy = parse(statement)
    try:
        for conjunct in compile_policy(policy.tree, statement.text, Reference(ENTITIES)):
            value = conjunct.test(CONTEXT if conjunct.dynamic else {}, SITUATION)
            if value is False:
                return FALSE
            if value is not True:
                return ERROR
    except EvaluationError:
        return ERROR
    return TRUE


@pytest.mark.parametrize(("expression", "expected"), CASES, ids=[expression for expression, _ in CASES])
def test_operator(expression: str, expected: str) -> None:
    text = f'@id("p") permit(principal, action, resource) when {{ {expression} }};'
    decision, _, _, failed = oracle([text], SITUATION, CONTEXT)
    reference = ERROR if failed else TRUE if decision == "allow" else FALSE
    assert reference == expected
    assert evaluate(text) == expected


@pytest.mark.parametrize(
    "clauses", ["when { true } when { context.no }", "unless { true }", "when { true } unless { false }"]
)
def test_clauses_are_joined(clauses: str) -> None:
    text = f'@id("p") permit(principal, action, resource) {clauses};'
    assert (evaluate(text) == TRUE) == (oracle([text], SITUATION, CONTEXT)[0] == "allow")


def test_a_pattern_of_many_stars_takes_linear_time() -> None:
    """A regular expression would need longer than the age of the universe for this."""
    (statement,) = split("f", f'permit(principal, action, resource) when {{ context.s like "{"*a" * 30}*b" }};')
    (conjunct,) = compile_policy(parse(statement).tree, statement.text, Reference(ENTITIES))
    assert conjunct.test({"s": "a" * 100_000}, SITUATION) is False
