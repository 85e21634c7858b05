"""The compiler, the index and the judge against the reference engine, on random input.

The corpus (`corpus/*.json`) holds what was found once, and cases that are easily got wrong; `fuzz_differential.py` runs as
many rounds as one likes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import policy_random
import pytest
from fuzz_differential import compiled_answer, draw, judged_answers, needing_answers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_oracle import oracle

from interlock.policy.index import Compiled, Index, in_scope, reduce
from interlock.policy.operators import Entity, Situation
from interlock.policy.policies import parse
from interlock.policy.reference import Reference, compile_policy
from interlock.policy.source import split
from interlock.policy.terms import Uid

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


@pytest.mark.parametrize("seed", range(300))
def test_the_judge_decides_typed_requests_as_the_reference_does(seed: int) -> None:
    """From JSON to decision: conversion, pruning, index, memory of earlier answers, verdict."""
    for expected, got in judged_answers(Random(seed)):
        assert got == expected


@pytest.mark.parametrize("seed", range(200))
def test_what_is_passed_over_could_neither_match_nor_fail(seed: int) -> None:
    for expected, got in needing_answers(Random(seed)):
        assert got == expected


@pytest.mark.parametrize("context", [{}, {"a": {}}, {"a": 5}, {"a": {"b": 5}}, {"a": {"b": "x"}}, {"a": "x", "c": 5}])
@pytest.mark.parametrize(
    "condition",
    [
        "context.a has b && context has c && principal.nothing",
        "context has c && context.a has b && principal.nothing",
        'context has a && context.a has b && context.a == "x"',
        'context.a has b && context has a && context.a.b like "*x*"',
        'context has a && context.a has b && context.a.b like "*x*"',
        'context.a.b like "*x*" && context has a',
        "context.a.b >= 5",
        "context.a.b > 4",
        "context.a.b > 5",
        "context.a.b <= 5",
        "5 <= context.a.b",
        "5 >= context.a.b",
        "6 > context.a.b",
        "5 < context.a.b",
        "[5, true].contains(context.a.b)",
        '"x" == context.a.b',
        "context has a && !(context.a has b)",
    ],
)
def test_what_is_needed_of_a_value_is_needed_exactly(condition: str, context: dict[str, Any]) -> None:
    s = Situation(Uid("Agent", "coder"), Uid("Action", "t1"), Uid("Tool", "t1"), {Uid("Agent", "coder"): Entity()})
    policies = [
        f'@id("p")\n{effect}(principal, action, resource) when {{ {condition} }};' for effect in ("permit", "forbid")
    ]
    for policy in policies:
        assert compiled_answer([policy], s, context) == oracle([policy], s, context)


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
