"""Compare the compiler with the reference engine on random policies, entities and requests.

    python tests/policy/fuzz_differential.py --rounds 100000 [--seed 1]

Prints what was compared, and the first differences, with the seed that brings each back.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

import policy_random
from policy_oracle import Answer, oracle

from interlock.policy.index import Compiled, Index
from interlock.policy.operators import Situation
from interlock.policy.policies import parse
from interlock.policy.reference import Reference, compile_policy
from interlock.policy.source import split
from interlock.policy.verdict import run, verdict


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
    decision = verdict(forbids, permits, run(forbids, context, s), run(permits, context, s), frozenset())
    failed = tuple(sorted({note.partition(":")[0] for note in decision.errors}))
    return (decision.decision, decision.reason, decision.policies, failed)


def draw(r: Random) -> tuple[list[str], Situation, dict]:
    """A random pair of a policy set and a request."""
    policies = [policy_random.policy(r, number) for number in range(r.randrange(1, 7))]
    return policies, policy_random.situation(r), policy_random.record(r)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    answers: Counter[str] = Counter()
    failed = differences = 0
    for seed in range(options.seed, options.seed + options.rounds):
        policies, s, context = draw(Random(seed))
        expected = oracle(policies, s, context)
        got = compiled_answer(policies, s, context)
        answers[f"{expected[0]} ({expected[1]})"] += 1
        failed += bool(expected[3])
        if got != expected:
            differences += 1
            if differences <= 5:
                print(f"seed {seed}: expected {expected}, got {got}\n" + "\n".join(policies))
                print(f"{s.principal} {s.action} {s.resource} {context}\n")
    print(f"{options.rounds} pairs, {differences} differences; {failed} with an evaluation error; {dict(answers)}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
