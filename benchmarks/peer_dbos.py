"""DBOS' side of `journal.py`: steps of one workflow on its SQLite system database, in a separate environment.

Reads one JSON line `{"directory", "actions", "wide"}` per round and answers `{"seconds", "kept"}`. `kept` is the number
of step outcomes in the database afterwards.
"""

import asyncio
import json
import logging
import sqlite3
import sys
import time
import uuid
from pathlib import Path

from dbos import DBOS, SetWorkflowID


@DBOS.step()
async def noop(x: int) -> int:
    await asyncio.sleep(0)
    return x


@DBOS.workflow()
async def work(count: int, wide: int) -> int:
    total = 0
    for start in range(0, count, wide):
        total += sum(await asyncio.gather(*(noop(x) for x in range(start, min(count, start + wide)))))
    return total


async def measure(path: Path, actions: int, wide: int) -> dict:
    await work(1, wide)
    name = uuid.uuid4().hex
    started = time.perf_counter()
    with SetWorkflowID(name):
        total = await work(actions, wide)
    seconds = time.perf_counter() - started
    assert total == actions * (actions - 1) // 2
    rows = sqlite3.connect(path)
    kept = rows.execute("select count(*) from operation_outputs where workflow_uuid = ?", (name,)).fetchone()[0]
    return {"seconds": seconds, "kept": kept}


def main() -> None:
    path = None
    loop = asyncio.new_event_loop()
    for line in sys.stdin:
        question = json.loads(line)
        if path is None:
            path = Path(question["directory"]) / "dbos.db"
            DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{path}", "run_admin_server": False})
            DBOS.launch()
        logging.disable(logging.CRITICAL)
        print(json.dumps(loop.run_until_complete(measure(path, question["actions"], question["wide"]))), flush=True)


main()
