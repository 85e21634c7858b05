"""Random policies that are well typed, about the tool `pay` of `policy_worlds`, and random requests to it.

The context is put into Cedar's JSON here a second time, without any of the judge's code.
"""

from __future__ import annotations

import json
from decimal import Decimal as Exact
from random import Random

from interlock.model.decision import Request
from interlock.policy.terms import quote

CONDITIONS = (
    "context.params.amount.{compare}(decimal({decimal}))",
    "context.params.amount == decimal({decimal})",
    "context.params.to == {text}",
    "context.params.to like {pattern}",
    "context.params has count && context.params.count {order} {number}",
    "context.params has count && context.params.count * 3 > {number}",
    "context.params has urgent && context.params.urgent",
    "context.params has labels && context.params.labels.contains({text})",
    "context.params has labels && context.params.labels.{sets}([{text}, {text}])",
    "context.params has labels && !context.params.labels.isEmpty()",
    "context.params has card && context.params.card.kind == {text}",
    "context.params has card.limit && context.params.card.limit.{compare}(decimal({decimal}))",
    "context.params has pair && context.params.pair == {{kind: {text}}}",
    "context.params has note",
    "context.state has n && context.state.n {order} {number}",
    "context.state has deep.on && context.state.deep.on",
    "context.session has name && context.session.name == {text}",
    "context.proposal.action_count {order} {number}",
    "context.flags.contains({flag})",
    "resource.name like {pattern} || principal in Group::{text}",
    "if context.params.to == {text} then resource.destructive else {{a: {number}}}.a == {number}",
)
TEXTS = ("a", "b", "bob", "")


def condition(r: Random) -> str:
    """A well-typed condition on a request to `pay`."""
    text = r.choice(CONDITIONS).format(
        compare=r.choice(("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual")),
        decimal=quote(r.choice(("0.0", "1.5", "100.0", "-3.1415"))),
        text=quote(r.choice(TEXTS)),
        flag=quote(r.choice(("secret", "path_escape"))),
        pattern=r.choice(('"*b*"', '"a*"', '"*"', '"bob"')),
        order=r.choice(("<", "<=", ">", ">=", "==", "!=")),
        number=r.choice((0, 1, 3, 100)),
        sets=r.choice(("containsAll", "containsAny")),
    )
    return text if r.random() < 0.7 else f"({text}) {r.choice(('&&', '||'))} ({condition(r)})"


def policy(r: Random, number: int) -> str:
    """A well-typed policy about `pay`."""
    effect = r.choice(("permit", "permit", "forbid"))
    hold = ' @hold("ops")' if effect == "forbid" and r.random() < 0.6 else ""
    word = r.choice(("when", "when", "unless"))
    who = r.choice(("principal", "principal", 'principal == Agent::"coder"', 'principal in Group::"a"'))
    return f'@id("p{number}"){hold} {effect}({who}, action == Action::"pay", resource) {word} {{ {condition(r)} }};'


def request(r: Random) -> Request:
    """A request whose values mostly fit."""
    text = lambda: r.choice(TEXTS)
    number = lambda: r.choice((0, 1, 3, 100, 101, 2**62))
    amount = lambda: r.choice((0, 1.5, 100, 100.0001, -3.1415, 99.5))
    some = {
        "count": number,
        "urgent": lambda: r.random() < 0.5,
        "labels": lambda: [text() for _ in range(r.randrange(3))],
        "card": lambda: {"kind": text(), **({"limit": amount()} if r.random() < 0.5 else {})},
        "pair": lambda: {"kind": text()},
        "note": lambda: r.choice((None, "x")),
    }
    return Request(
        agent=r.choice(("coder", "eve")),
        groups=r.choice(((), ("a",), ("a", "b"))),
        action="pay",
        resource="pay",
        parameters={"amount": amount(), "to": text(), **{name: of() for name, of in some.items() if r.random() < 0.6}},
        state=r.choice(({}, {"n": number()}, {"n": 3, "deep": {"on": True}}, {"deep": {"on": False}})),
        session=r.choice(({}, {"name": text()})),
        proposal={"id": "p", "source": "s", "action_count": r.choice((1, 3, 200))},
        flags=r.choice(((), ("secret",), ("path_escape", "private_address"))),
    )


def context(request: Request) -> str:
    """The whole context in Cedar's JSON, written without any of the judge's code."""
    decimal = lambda number: {"__extn": {"fn": "decimal", "arg": f"{Exact(str(number)):.4f}"}}
    params = {name: value for name, value in request.parameters.items() if value is not None}
    params["amount"] = decimal(params["amount"])
    if "limit" in params.get("card", {}):
        params["card"] = {**params["card"], "limit": decimal(params["card"]["limit"])}
    return json.dumps(
        {
            "params": params,
            "state": request.state,
            "session": request.session,
            "proposal": request.proposal,
            "flags": list(request.flags),
        }
    )
