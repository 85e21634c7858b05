"""The floor: a straight line of plain Python through everything that the gate has to do for a no-op call.

Decode strictly, look up the tool, check the schema, evaluate a policy of one closure, build intent and outcome as
structs, await the tool, build the row; with `record` also compute the digest, and encode and hash both events. No
scheduler, no time-outs, no failures, no undo, nothing on disk. Any further cost of the engine is the cost of these.
"""

import asyncio
import hashlib
import time

import jsonschema_rs
import msgspec

from interlock.model.decode import decode_proposal
from interlock.model.events import ActionIntent, ActionSucceeded, Kept
from interlock.model.result import ActionResult

from subject import SCHEMA, noop  # isort: skip - the benchmarks are side by side, not in a package

NOTHING = Kept(digest="", bytes=4)


async def straight(data: bytes, *, record: bool) -> list[ActionResult]:
    valid = jsonschema_rs.validator_for(SCHEMA).is_valid
    allowed = frozenset({"noop"})
    tools = {"noop": (noop, valid, lambda tool, parameters: tool in allowed)}
    encode = msgspec.json.Encoder(order="sorted").encode
    line = msgspec.json.encode
    hashed = hashlib.sha256()
    rows = []
    for action in decode_proposal(data).actions:
        function, fits, policy = tools[action.tool]
        parameters = action.parameters
        if not fits(parameters) or not policy(action.tool, parameters):
            raise AssertionError("the straight line has no turn-off")
        kept, digest = NOTHING, None
        if record:
            digest = "sha256:" + hashlib.sha256(b"value\n" + encode(parameters)).hexdigest()
            kept = Kept(digest=digest, bytes=1)
        now, mono = time.time_ns() // 1000, time.monotonic_ns()
        intent = ActionIntent(
            ts=now, mono=mono, action=action.id, step=8, attempt=1, tool=action.tool, digest=digest, parameters=kept
        )
        output = await function(parameters, None)
        ended = time.monotonic_ns()
        outcome = ActionSucceeded(
            ts=now, mono=ended, action=action.id, step=10, attempt=1, duration_ms=(ended - mono) / 1e6, output=NOTHING
        )
        if record:
            hashed.update(line(intent))
            hashed.update(line(outcome))
        rows.append(
            ActionResult(
                action_id=action.id, status="succeeded", output=output, attempts=1, duration_ms=(ended - mono) / 1e6
            )
        )
    return rows


def seconds(data: bytes, *, record: bool) -> float:
    return asyncio.run(_timed(data, record))


async def _timed(data: bytes, record: bool) -> float:
    began = time.perf_counter()
    rows = await straight(data, record=record)
    took = time.perf_counter() - began
    assert all(row.status == "succeeded" for row in rows)
    return took
