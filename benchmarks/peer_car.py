"""car-runtime's side of `engine.py`, in a separate environment: proposals in memory, without governance or journal.

Reads one JSON line `{"work": "execute" | "verify", "count", "chain", "before"}` per measurement and answers
`{"seconds"}`. Each measurement has a new runtime, created before the time starts, in which `before` such proposals have
already run.
"""

import json
import sys
import time

import car_native

documents: dict[tuple[int, bool], str] = {}


def document(count: int, chain: bool) -> str:
    if (count, chain) not in documents:
        actions = [
            {"id": f"a{i}", "type": "tool_call", "tool": "noop", "parameters": {"x": i}}
            | ({"state_dependencies": [f"k{i - 1}"] if i else [], "expected_effects": {f"k{i}": 1}} if chain else {})
            for i in range(count)
        ]
        documents[count, chain] = json.dumps({"id": "bench", "source": "bench", "actions": actions})
    return documents[count, chain]


for line in sys.stdin:
    question = json.loads(line)
    text = document(question["count"], question["chain"])
    runtime = car_native.CarRuntime()
    runtime.register_tool("noop")
    for _ in range(question.get("before", 0)):
        runtime.execute_proposal(text, lambda tool, parameters: "null")
    if question["work"] == "execute":
        began = time.perf_counter()
        answer = runtime.execute_proposal(text, lambda tool, parameters: "null")
        took = time.perf_counter() - began
        rows = json.loads(answer)["results"]
        assert len(rows) == question["count"]
        assert all(row["status"] == "succeeded" for row in rows)
    else:
        began = time.perf_counter()
        answer = runtime.verify_proposal(text)
        took = time.perf_counter() - began
        assert json.loads(answer)["valid"] is True
    print(json.dumps({"seconds": took}), flush=True)
