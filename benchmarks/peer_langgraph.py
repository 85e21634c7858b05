"""LangGraph's side of `journal.py`: tasks of an entrypoint with its SQLite checkpointer, in a separate environment.

Reads one JSON line `{"directory", "actions", "wide"}` per round and answers `{"seconds", "kept"}`. Durability is
`sync`: each step of the graph is in the database before the next one begins. `kept` is the number of task results in it
afterwards.
"""

import asyncio
import json
import sqlite3
import sys
import time
import uuid
from pathlib import Path

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task


async def measure(directory: Path, actions: int, wide: int) -> dict:
    path = directory / f"{uuid.uuid4().hex}.db"
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:

        @task
        async def noop(x: int) -> int:
            await asyncio.sleep(0)
            return x

        @entrypoint(checkpointer=saver)
        async def work(count: int) -> int:
            total = 0
            for start in range(0, count, wide):
                total += sum(await asyncio.gather(*(noop(x) for x in range(start, min(count, start + wide)))))
            return total

        async def once(count: int, thread: str) -> int:
            return await work.ainvoke(count, {"configurable": {"thread_id": thread}}, durability="sync")

        await once(1, "warm")
        started = time.perf_counter()
        total = await once(actions, "measured")
        seconds = time.perf_counter() - started
    assert total == actions * (actions - 1) // 2
    rows = sqlite3.connect(path)
    kept = rows.execute(
        "select count(distinct task_id) from writes where thread_id = 'measured' and channel = '__return__'"
    )
    return {"seconds": seconds, "kept": kept.fetchone()[0]}


for line in sys.stdin:
    question = json.loads(line)
    found = asyncio.run(measure(Path(question["directory"]), question["actions"], question["wide"]))
    print(json.dumps(found), flush=True)
