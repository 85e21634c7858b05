"""The compiler, the index and the judge against the reference engine, on random input.

The corpus (`corpus/*.json`) holds what was found once, and cases that are easily got wrong; `fuzz_differential.py` runs as
many rounds as one likes.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal as Exact
from pathlib import Path
from random import Random
from typing import Any

import policy_random
import pytest
from fuzz_differential import compiled_answer, draw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_oracle import oracle, oracle_json
from policy_worlds import WORLD, judge

from interlock.model.decision import Request
from interlock.policy.index import Compiled, Index, in_scope, reduce
from interlock.policy.operators import Entity, Situation
from interlock.policy.policies import parse
from interlock.policy.reference import Reference, compile_policy, entities_json, request_json
from interlock.policy.source import split
from interlock.policy.terms import Uid, quote
from interlock.policy.world import actions, entities, situation

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
QUIET = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@QUIET
@given(st.randoms(use_true_random=False))
def test_random_policies_decide_as_in_the_reference(random: Random) -> None:
    policies, s, context = draw(random)
    assert compiled_answer(policies, s, context) == oracle(policies, s, context)


@pytest.mark.parametrize("seed", range(200))
def test_seeded_policies_decide_as_in_the_reference(seed: int) -> None:
    policies, s, context = draw(Random(seed))
    assert compiled_answer(policies, s, context) == oracle(policies, s, context)


@pytest.mark.parametrize("seed", range(100))
def test_the_index_finds_exactly_what_a_full_scan_finds(seed: int) -> None:
    policies, s, _ = draw(Random(seed))
    reference = Reference(s.entities)
    parsed = [parse(statement) for statement in split("f", "\n".join(policies))]
    compiled = [Compiled(each, compile_policy(each.tree, each.statement.text, reference)) for each in parsed]
    known = policy_random.ACTIONS
    found = {each.policy.id: len(each.tests) for each in Index(compiled, known).residue(s)}
    scanned = {}
    for each in compiled:
        tree = each.policy.tree
        if in_scope(tree.principal, s.principal, s) and in_scope(tree.resource, s.resource, s) and _action(each, s):
            left = reduce(each, s)
            if left is not None:
                scanned[each.policy.id] = len(left.tests)
    assert found == scanned


def _action(compiled: Compiled, s: Any) -> bool:
    """The action's scope, by the reference engine."""
    scope = re.search(r"\(principal.*?, (action.*?), resource", compiled.policy.statement.text)
    policy = f'@id("p") permit(principal, {scope[1]}, resource);'
    return oracle([policy], s, {})[0] == "allow"


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
    "context.session has team && context.session.team == {text}",
    "context.proposal.action_count {order} {number}",
    "context.flags.contains({text})",
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
        pattern=r.choice(('"*b*"', '"a*"', '"*"', '"bob"')),
        order=r.choice(("<", "<=", ">", ">=", "==", "!=")),
        number=r.choice((0, 1, 3, 100)),
        sets=r.choice(("containsAll", "containsAny")),
    )
    return text if r.random() < 0.7 else f"({text}) {r.choice(('&&', '||'))} ({condition(r)})"


def pay_policy(r: Random, number: int) -> str:
    """A well-typed policy about `pay`."""
    effect = r.choice(("permit", "permit", "forbid"))
    hold = ' @hold("ops")' if effect == "forbid" and r.random() < 0.6 else ""
    word = r.choice(("when", "when", "unless"))
    who = r.choice(("principal", "principal", 'principal == Agent::"coder"', 'principal in Group::"a"'))
    return f'@id("p{number}"){hold} {effect}({who}, action == Action::"pay", resource) {word} {{ {condition(r)} }};'


def pay_request(r: Random) -> Request:
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
        session=r.choice(({}, {"team": text()})),
        proposal={"id": "p", "source": "s", "action_count": r.choice((1, 3, 200))},
        flags=r.choice(((), ("a",), ("b", "bob"))),
    )


def pay_context(request: Request) -> str:
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


@pytest.mark.parametrize("seed", range(300))
def test_the_judge_decides_typed_requests_as_the_reference_does(seed: int) -> None:
    """From JSON to decision: conversion, pruning, index, memory of earlier answers, verdict."""
    r = Random(seed)
    texts = [pay_policy(r, number) for number in range(r.randrange(1, 8))]
    policies = judge("\n".join(texts))
    shared = entities(WORLD, actions(WORLD))
    for _ in range(6):
        request = pay_request(r)
        s = situation(WORLD, shared, request)
        expected = oracle_json(texts, request_json(s), pay_context(request), entities_json({**s.entities, **s.local}))
        decision = policies.decide(request)
        failed = {note.partition(":")[0] for note in decision.errors}
        assert (decision.decision, decision.reason, decision.policies, tuple(sorted(failed))) == expected


@pytest.mark.parametrize("path", CORPUS, ids=[path.stem for path in CORPUS])
def test_the_corpus(path: Path) -> None:
    case = json.loads(path.read_text())
    s = Situation(
        Uid("Agent", "coder"),
        Uid("Action", "t1"),
        Uid("Tool", "t1"),
        {Uid("Agent", "coder"): Entity(frozenset({Uid("Group", "g1")})), Uid("Tool", "t1"): Entity()},
    )
    answer = compiled_answer(case["policies"], s, case["context"])
    assert answer == oracle(case["policies"], s, case["context"])
    assert answer[:2] == (case["decision"], case["reason"])
