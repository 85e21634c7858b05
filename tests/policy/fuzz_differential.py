"""Compare the compiler with the reference engine on random policies, entities and requests.

    python tests/policy/fuzz_differential.py --rounds 100000 [--seed 1] [--judge | --needs]

Prints what was compared, and each difference with the seed that brings it back.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

import policy_needs
import policy_random
import policy_requests
from policy_oracle import Answer, oracle, oracle_json
from policy_worlds import WORLD, judge

from interlock.policy.index import Compiled, Index, Residue
from interlock.policy.judge import NARROW_AFTER
from interlock.policy.narrow import narrowed
from interlock.policy.operators import Situation
from interlock.policy.policies import parse
from interlock.policy.reference import Reference, compile_policy, entities_json, request_json
from interlock.policy.source import split
from interlock.policy.terms import EvaluationError, Uid
from interlock.policy.verdict import Outcome, run, verdict
from interlock.policy.world import actions, entities, situation


def compiled_answer(policies: list[str], s: Situation, context: dict) -> Answer:
    """What the compiled policies say, by way of the index."""
    parsed = [parse(statement) for statement in split("f", "\n".join(policies))]
    reference = Reference(s.entities)
    index = Index(
        [Compiled(each, compile_policy(each.tree, each.statement.text, reference)) for each in parsed],
        policy_random.ACTIONS,
    )
    left = index.residue(s)
    forbids = [each for each in left if each.policy.forbid]
    permits = [each for each in left if not each.policy.forbid]
    decision = verdict(forbids, permits, narrowly(forbids, context, s), narrowly(permits, context, s), frozenset())
    failed = tuple(sorted({note.partition(":")[0] for note in decision.errors}))
    return (decision.decision, decision.reason, decision.policies, failed)


def narrowly(residues: list[Residue], context: dict, s: Situation) -> Outcome:
    """What becomes of policies by way of `narrowed`: each alone, so that none hides behind another that fails, and together."""
    hits, errors = 0, {}
    for at, residue in enumerate(residues):
        try:
            hits |= narrowed([residue], few=0)(context, s) << at
        except EvaluationError as error:
            errors[at] = str(error)
    found = Outcome(hits, errors)
    assert found == run(residues, context, s)
    assert errors or narrowed(residues, few=0)(context, s) == hits
    return found


def draw(r: Random) -> tuple[list[str], Situation, dict]:
    """A random pair of a policy set and a request."""
    policies = [policy_random.policy(r, number) for number in range(r.randrange(1, 7))]
    return policies, policy_random.situation(r), policy_random.record(r)


def judged_answers(r: Random) -> list[tuple[Answer, Answer]]:
    """Random well-typed policies, loaded with everything that loading does, and the answers to six requests."""
    texts = [policy_requests.policy(r, number) for number in range(r.randrange(1, 8))]
    policies = judge("\n".join(texts))
    shared = entities(WORLD, actions(WORLD))
    found = []
    for _ in range(6):
        request = policy_requests.request(r)
        s = situation(WORLD, shared, request)
        known = entities_json({**s.entities, **s.local})
        expected = oracle_json(texts, request_json(s), policy_requests.context(request), known)
        decisions = [policies.decide(request) for _ in range(NARROW_AFTER + 1)]
        decision = decisions[-1]
        assert decisions == [decision] * len(decisions)
        failed = tuple(sorted({note.partition(":")[0] for note in decision.errors}))
        found.append((expected, (decision.decision, decision.reason, decision.policies, failed)))
    return found


def untyped_answers(r: Random) -> list[tuple[Answer, Answer]]:
    """Random policies of any kind, and the answer to one request."""
    policies, s, context = draw(r)
    return [(oracle(policies, s, context), compiled_answer(policies, s, context))]


def needing_answers(r: Random) -> list[tuple[Answer, Answer]]:
    """Random policies that need something of the context, and the answers to four contexts."""
    policies = [policy_needs.policy(r, number) for number in range(r.randrange(1, 12))]
    s = policy_random.situation(r)
    s.action, s.resource = Uid("Action", "t1"), Uid("Tool", "t1")
    contexts = [policy_needs.record(r) for _ in range(4)]
    return [(oracle(policies, s, context), compiled_answer(policies, s, context)) for context in contexts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--judge", action="store_true", help="well-typed policies and requests, through the whole judge"
    )
    parser.add_argument("--needs", action="store_true", help="policies that need something of the context")
    options = parser.parse_args()
    answers: Counter[str] = Counter()
    failed = pairs = differences = 0
    make = judged_answers if options.judge else needing_answers if options.needs else untyped_answers
    seed = options.seed
    while pairs < options.rounds:
        for expected, got in make(Random(seed)):
            pairs += 1
            answers[f"{expected[0]} ({expected[1]})"] += 1
            failed += bool(expected[3])
            if got != expected:
                differences += 1
                print(f"seed {seed}: expected {expected}, got {got}")
        seed += 1
    print(f"{pairs} pairs, {differences} differences; {failed} with an evaluation error; {dict(answers)}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
