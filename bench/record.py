"""How many rows a second the record takes: batches of 500 tasks and their 500 results, each batch on disk.

python bench/record.py                       SQLite in a temporary folder
python bench/record.py postgresql://…        an empty PostgreSQL database
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

from _bench import row

from paddock.model.task import Task, TaskResult, TaskState
from paddock.ports.record import Batch
from paddock.record.sql import SqlRecord

BATCH_TASKS = 500
BATCHES = 40


def batch(number: int) -> Batch:
    at = 1_790_000_000.0 + number
    ids = [f"bench-{number}-{i}" for i in range(BATCH_TASKS)]
    request: dict[str, Any] = {"fleet": f"fleet-{number % 5}", "method": "review", "args": {"source": "print(6 * 7)"}}
    return Batch(
        queued=[Task(id=task_id, submitted_at=at, **request) for task_id in ids],
        results=[
            TaskResult(
                id=task_id,
                state=TaskState.DONE,
                result={"findings": [], "lines": 1},
                agent=f"{request['fleet']}/{i % 50}",
                epoch=1,
                submitted_at=at,
                started_at=at + 0.1,
                finished_at=at + 0.2,
                **request,
            )
            for i, task_id in enumerate(ids)
        ],
        cursors={"WORK": (number + 1) * BATCH_TASKS, "RESULTS": (number + 1) * BATCH_TASKS},
    )


def run(url: str) -> None:
    batches = [batch(number) for number in range(BATCHES)]
    record = SqlRecord.open(url)
    try:
        started = time.perf_counter()
        for each in batches:
            record.apply(each)
        took_s = time.perf_counter() - started
    finally:
        record.close()
    rows = 2 * BATCH_TASKS * BATCHES
    kind = url.partition(":")[0]
    figure = f"{rows / took_s:,.0f} ({rows:,} rows, {took_s / BATCHES * 1000:.1f} ms a batch of {2 * BATCH_TASKS:,})"
    row(f"record.apply on {kind}, rows/s", figure)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(f"sqlite:///{folder}/record.db")
