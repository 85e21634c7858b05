"""The engine: a governed call of a no-op tool, compared with car-runtime and with a straight line of plain Python.

    python benchmarks/engine.py [--quick] [--json]

car-runtime (Rust, in memory) is called through its Python module, with a callback as the tool, in a separate process.
It has no grants, no policy, no journal and no enforced time-outs. Interlock has all of them in every row here, except
that with durability `off` nothing is written and no event is built, and that a policy which cannot depend on the call
is decided once. Both are timed from the text of the proposal to the result; car-runtime's result is JSON text,
Interlock's is objects. car-runtime is measured twice: in a fresh runtime, where it is at its best, and with its tenth
proposal in one runtime, because each takes longer than the previous one; Interlock has one runtime and one run for all
rounds. Left out, because they take minutes: car-runtime's tenth proposal of 10,000 actions, and 100,000 actions. The
chain consists of state keys that one action promises and the next one needs, the only kind of dependency that both
have.
"""

import time

import floor
import subject
from measuring import ROUNDS, Peer, alternate, options, row, scratch, show

import policy as policies
from interlock.model.decode import decode_proposal
from interlock.verify.checks import verify

SIZES = (100, 1_000, 10_000)
LARGE = 100_000
CHAIN = 10_000


def repeats(count: int) -> int:
    return max(1, 2_000 // count)


def fresh(peer: Peer, count: int, repeat: int) -> float:
    return sum(peer.ask(work="execute", count=count, chain=False)["seconds"] for _ in range(repeat)) / repeat


def tenth(peer: Peer, count: int) -> float:
    return peer.ask(work="execute", count=count, chain=False, before=9)["seconds"]


def sizes(peer: Peer, rounds: int, durability: str, target: str) -> list[dict]:
    rows = []
    with scratch() as root:
        if durability == "off":
            measured = subject.Subject(subject.in_memory())
            rows = _sizes(measured, peer, rounds, durability, target)
            measured.close()
        else:
            with subject.on_disk(root, durability) as runtime:
                measured = subject.Subject(runtime)
                rows = _sizes(measured, peer, rounds, durability, target)
                measured.close()
    return rows


def _sizes(measured: subject.Subject, peer: Peer, rounds: int, durability: str, target: str) -> list[dict]:
    rows = []
    for count in SIZES:
        data, repeat = subject.document(count), repeats(count)
        contenders = {
            "interlock": lambda data=data, repeat=repeat: measured.seconds(data, repeat),
            "car-runtime, fresh": lambda count=count, repeat=repeat: fresh(peer, count, repeat),
            "straight line": lambda data=data: floor.seconds(data, record=durability != "off"),
        }
        if count < SIZES[-1]:
            contenders["car-runtime, tenth"] = lambda count=count: tenth(peer, count)
        found = alternate(contenders, rounds)
        work = f"no-op, durability `{durability}`, {count:,} actions"
        for other in sorted(found.keys() - {"interlock"}):
            goal = "" if other == "straight line" else "0.2" if (count, durability) == (SIZES[-1], "off") else target
            rows.append(row(work, found["interlock"] / count, other, found[other] / count, goal))
    return rows


def flat(rounds: int) -> dict:
    measured = subject.Subject(subject.in_memory())
    small, large = subject.document(SIZES[0]), subject.document(LARGE)
    found = alternate(
        {"small": lambda: measured.seconds(small, repeats(SIZES[0])), "large": lambda: measured.seconds(large)}, rounds
    )
    measured.close()
    work = f"no-op, durability `off`, {LARGE:,} actions"
    return row(work, found["large"] / LARGE, f"itself at {SIZES[0]}", found["small"] / SIZES[0], "1.5")


def chains(peer: Peer, rounds: int) -> list[dict]:
    measured = subject.Subject(subject.in_memory())
    data, half = subject.chain(CHAIN), subject.chain(CHAIN // 2)
    tools = measured.runtime.services.registry.by_name

    def verified(document: bytes) -> float:
        began = time.perf_counter()
        report = verify(decode_proposal(document), tools)
        took = time.perf_counter() - began
        assert report.valid, report.issues[:3]
        assert len(report.execution_levels) == len(report.execution_levels[-1]) * document.count(b'"id"')
        return took

    run = alternate(
        {
            "interlock": lambda: measured.seconds(data),
            "car": lambda: peer.ask(work="execute", count=CHAIN, chain=True)["seconds"],
        },
        rounds,
    )
    static = alternate(
        {
            "interlock": lambda: verified(data),
            "half": lambda: verified(half),
            "car": lambda: peer.ask(work="verify", count=CHAIN, chain=True)["seconds"],
        },
        rounds,
    )
    measured.close()
    name = f"verify a chain of {CHAIN:,}, without running it"
    return [
        row(
            f"chain of {CHAIN:,} dependent actions",
            run["interlock"] / CHAIN,
            "car-runtime, fresh",
            run["car"] / CHAIN,
            "0.02",
        ),
        row(name, static["interlock"] / CHAIN, "car-runtime, fresh", static["car"] / CHAIN, "0.1"),
        row(name, static["interlock"] / CHAIN, f"itself at {CHAIN // 2:,}", static["half"] / CHAIN * 2, "linear: 1"),
    ]


def governed(rounds: int, count: int = 1_000) -> list[dict]:
    """A no-op with 100 policies, and with only `allow`: once with four policies per tool, once all about the called tool."""
    rows = []
    with scratch() as root:
        plain = subject.Subject(subject.in_memory())
        data = subject.document(count, "Tool0").replace(b'"x": ', b'"path": "src/main.py", "x": ')
        subject.register(plain.runtime, ["Tool0"])
        for shape in ("spread", "crowded"):
            names = [f"Tool{i}" for i in range(policies.tools_of(100, shape))]
            with subject.on_disk(root / shape, "off", policies.texts(100, shape), names) as runtime:
                ruled = subject.Subject(runtime)
                found = alternate(
                    {
                        "with": lambda ruled=ruled: ruled.seconds(data, 2),
                        "without": lambda: plain.seconds(data, 2),
                    },
                    rounds,
                )
                ruled.close()
            about = "four a tool" if shape == "spread" else "all about the called tool"
            work = f"no-op under 100 policies, {about}"
            rows.append(row(work, found["with"] / count, "without policies", found["without"] / count, "2"))
        plain.close()
    return rows


def main() -> None:
    chosen = options(__doc__)
    rounds = 3 if chosen.quick else ROUNDS
    peer = Peer("car")
    rows = sizes(peer, rounds, "off", "1")
    rows.append(flat(1 if chosen.quick else 3))
    rows += sizes(peer, rounds, "batch", "4")
    rows += chains(peer, 1 if chosen.quick else rounds)
    rows += governed(rounds)
    peer.close()
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
