"""Policy: one decision with 1, 10, 100 and 1,000 policies, compared with the reference engine and Microsoft's toolkit.

    python benchmarks/policy.py [--json] [--no-toolkit]

Goals (governance.md): 5 us per decision with 100 policies, without growth. Compared with, in the same run and
alternating: `cedarpy` with its policies and entities parsed once (`PolicySet`, `Entities`), and
`agent-governance-toolkit` (its Cedar backend, and its own rules, which do not distinguish tools and so are all
evaluated), in a separate environment under `build/`.

Two shapes: `spread` has four policies for each tool, so the number of tools grows; in `crowded` all are about the
called tool, each with a condition on a parameter that must be evaluated. The measurement is the whole call with an
existing request; building it, parsing policies and the first decision of a kind are not included but shown separately.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

COUNTS = (1, 10, 100, 1000)
ROUNDS = 9
PER_TOOL = 4
BATCH_S = 0.02
TOOLKIT = "agent-governance-toolkit[core,cedar]==4.1.0"
ENVIRONMENT = Path(__file__).resolve().parent.parent / "build" / "bench-agent-governance-toolkit"


def texts(count: int, shape: str, path: str = "context.params.path", has: str = "context.params has path") -> str:
    """`count` policies: for each tool one permit, then forbids on its parameter that do not match the request."""
    out = []
    for number in range(count):
        tool = 0 if shape == "crowded" else number // PER_TOOL
        first = number == 0 or (shape == "spread" and number % PER_TOOL == 0)
        if first:
            out.append(f'@id("p{number}") permit(principal, action == Action::"Tool{tool}", resource);')
        else:
            condition = f'{has} && {path} like "*secret{number}*"'
            out.append(
                f'@id("p{number}") forbid(principal, action == Action::"Tool{tool}", resource) when {{ {condition} }};'
            )
    return "\n".join(out)


def tools_of(count: int, shape: str) -> int:
    return 1 if shape == "crowded" else max(1, -(-count // PER_TOOL))


def interlock_call(count: int, shape: str) -> tuple[Callable[[], object], float, float]:
    """The call to measure, the loading time in seconds, and that of the first decision."""
    from interlock.model.decision import Request  # noqa: PLC0415 - neither environment has what the other needs
    from interlock.model.tool import Tool  # noqa: PLC0415 - neither environment has what the other needs
    from interlock.policy import World, load  # noqa: PLC0415 - neither environment has what the other needs

    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    world = World(
        tools=tuple(Tool(name=f"Tool{number}", parameters=schema) for number in range(tools_of(count, shape)))
    )
    started = time.perf_counter()
    judge = load([("policies.cedar", texts(count, shape))], world=world)
    loaded = time.perf_counter() - started
    request = Request(agent="coder", action="Tool0", resource="Tool0", parameters={"path": "src/main.py"})
    started = time.perf_counter()
    assert judge.decide(request).decision == "allow"
    first = time.perf_counter() - started
    return lambda: judge.decide(request), loaded, first


def cedarpy_call(count: int, shape: str) -> Callable[[], object]:
    import cedarpy  # noqa: PLC0415 - neither environment has what the other needs

    policies = cedarpy.PolicySet.from_str(texts(count, shape))
    names = [f"Tool{number}" for number in range(tools_of(count, shape))]
    parents = [{"type": "Action", "id": "call"}]
    entities = [{"uid": {"type": "Action", "id": name}, "attrs": {}, "parents": parents} for name in names]
    entities += [{"uid": {"type": "Tool", "id": name}, "attrs": {"name": name}, "parents": []} for name in names]
    known = cedarpy.Entities.from_json_str(json.dumps(entities))
    request = {
        "principal": {"type": "Agent", "id": "coder"},
        "action": {"type": "Action", "id": "Tool0"},
        "resource": {"type": "Tool", "id": "Tool0"},
        "context": {"params": {"path": "src/main.py"}},
    }
    assert cedarpy.is_authorized(request, policies, known).allowed
    return lambda: cedarpy.is_authorized(request, policies, known)


def toolkit_calls(count: int, shape: str) -> dict[str, Callable[[], object]]:
    """Runs in the toolkit's own environment: its Cedar backend, and its own rules with the same conditions."""
    import logging  # noqa: PLC0415 - neither environment has what the other needs

    from agent_os.policies.backends import CedarBackend  # noqa: PLC0415 - neither environment has what the other needs
    from agent_os.policies.evaluator import PolicyEvaluator  # noqa: PLC0415 - neither environment has what the other needs
    from agent_os.policies.schema import PolicyDocument  # noqa: PLC0415 - neither environment has what the other needs

    logging.disable(logging.CRITICAL)
    backend = CedarBackend(policy_content=texts(count, shape, "context.path", "context has path"), mode="cedarpy")
    rules = [
        {
            "name": f"p{number}",
            "condition": {"field": "path", "operator": "contains", "value": f"secret{number}"},
            "action": "deny",
        }
        for number in range(count)
    ]
    document = {"version": "1.0", "name": "bench", "rules": rules, "defaults": {"action": "allow"}}
    native = PolicyEvaluator(policies=[PolicyDocument.model_validate(document)])
    context = {"agent_id": "coder", "tool_name": "tool0", "path": "src/main.py"}
    assert backend.evaluate(context).allowed
    assert native.evaluate(context).allowed
    return {"toolkit, Cedar": lambda: backend.evaluate(context), "toolkit, own rules": lambda: native.evaluate(context)}


def batch(call: Callable[[], object], repeat: int) -> float:
    """Microseconds per call."""
    started = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - started) / repeat * 1e6


def repeats(call: Callable[[], object]) -> int:
    return max(1, int(BATCH_S / max(batch(call, 3) / 1e6, 1e-7)))


def peer() -> None:
    """Answer `[count, shape]` lines with microseconds, so that rounds alternate between the environments."""
    known: dict[str, tuple[dict[str, Callable[[], object]], dict[str, int]]] = {}
    for line in sys.stdin:
        if line not in known:
            calls = toolkit_calls(*json.loads(line))
            known[line] = (calls, {name: repeats(call) for name, call in calls.items()})
        calls, times = known[line]
        print(json.dumps({name: batch(call, times[name]) for name, call in calls.items()}), flush=True)


def toolkit() -> "subprocess.Popen[str] | str":
    """The peer process, or the reason why there is none."""
    python = ENVIRONMENT / "bin" / "python"
    try:
        if not (ENVIRONMENT / "ready").exists():
            print(f"installing {TOOLKIT} into {ENVIRONMENT.name} ...", file=sys.stderr)
            venv.create(ENVIRONMENT, with_pip=True, clear=True)
            subprocess.run(
                [python, "-m", "pip", "install", "-q", TOOLKIT], check=True, timeout=600, capture_output=True
            )
            (ENVIRONMENT / "ready").touch()
    except (OSError, subprocess.SubprocessError) as error:
        return f"not installed: {type(error).__name__}"
    return subprocess.Popen(
        [python, "-W", "ignore", __file__, "--peer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask_peer(process: "subprocess.Popen[str]", count: int, shape: str) -> dict[str, float]:
    process.stdin.write(json.dumps([count, shape]) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def measure(shape: str, count: int, process: "subprocess.Popen[str] | None") -> dict[str, float]:
    ours, loaded, first = interlock_call(count, shape)
    calls = {"interlock": ours, "cedarpy": cedarpy_call(count, shape)}
    times = {name: repeats(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            samples.setdefault(name, []).append(batch(call, times[name]))
        if process is not None:
            for name, microseconds in ask_peer(process, count, shape).items():
                samples.setdefault(name, []).append(microseconds)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {**medians, "load_ms": loaded * 1e3, "first_us": first * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-toolkit", action="store_true", help="leave Microsoft's toolkit out")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer()
        return
    found = "left out" if options.no_toolkit else toolkit()
    process = None if isinstance(found, str) else found
    rows = [
        {"shape": shape, "policies": count, **measure(shape, count, process)}
        for shape in ("spread", "crowded")
        for count in COUNTS
    ]
    if process is not None:
        process.stdin.close()
        process.wait(timeout=30)
    if options.json:
        print(json.dumps(rows))
        return
    if process is None:
        print(f"agent-governance-toolkit: {found}")
    for row in rows:
        ours = row["interlock"]
        others = "  ".join(
            f"{name} {row[name]:8.1f} us ({row[name] / ours:6.1f} x)"
            for name in ("cedarpy", "toolkit, Cedar", "toolkit, own rules")
            if name in row
        )
        print(
            f"{row['shape']:8} {row['policies']:5} policies  interlock {ours:6.2f} us  {others}"
            f"  [load {row['load_ms']:.0f} ms, first {row['first_us']:.0f} us]"
        )


if __name__ == "__main__":
    main()
