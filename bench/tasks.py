"""Tasks per second end to end and submit → result, idle; beside the task queues of Python in the same run.

Our default syncs every task and every result to disk before it is acknowledged; the peers on Redis sync nothing.
"""

from __future__ import annotations

import asyncio
import os
import time

from _bench import PAYLOAD, all_of, client, manifest, row, run, running, timed_each, times
from _peers import Absent
from _queues import QUEUES, measured, tell_how, wanted

from paddock.testing.installation import Installation

TASKS = int(os.environ.get("BENCH_TASKS", "20000"))
AT_ONCE = 512
"""So many of ours are under way at once; peers have all of theirs queued before the first result is read."""
RATE = "tasks/s, 2 worker processes, durability {}"
IDLE = "submit → result, idle"
TIMES_BEST = {"always": 2, "interval": 6}
"""durability → how many times the rate of the best peer on Redis is our target."""


def main() -> None:
    best = peers()
    for durability in ("always", "interval"):
        with running(manifest("noop", replicas=2, concurrency=128), durability=durability) as installation:
            asyncio.run(ours(installation, durability, best))
            if durability == "always":
                by_http(installation)


def peers() -> float:
    """Rows of all peers; the best rate of those on Redis, 0 if none is here."""
    queues = wanted(QUEUES)
    tell_how(queues)
    best = 0.0
    for queue in queues:
        try:
            rate, idle = measured(queue)
        except Absent as error:
            for measure in (RATE.format("always"), IDLE):
                row(measure, f"not here: {error}", who=queue.name)
            continue
        per_s = float(rate["per_s"])
        for durability in TIMES_BEST:  # a peer knows no such choice: its rate stands beside both of ours
            row(
                RATE.format(durability),
                f"{per_s:,.0f} ({rate['count']:,} tasks)",
                who=queue.name,
                value=per_s if queue.is_on_redis else None,
                said=durability != "always",
            )
        times(IDLE, idle["taken_s"], who=queue.name)
        best = max(best, per_s if queue.is_on_redis else 0.0)
    return best


async def ours(installation: Installation, durability: str, best: float) -> None:
    async with client(installation) as program:

        async def one() -> None:
            value = await program.run("noop", "noop", payload=PAYLOAD)
            if value != len(PAYLOAD):
                raise AssertionError(f"a result is {value!r}")

        await all_of(one, 500, at_once=AT_ONCE)
        per_s = TASKS / await all_of(one, TASKS, at_once=AT_ONCE)
        times_best = TIMES_BEST[durability]
        row(
            RATE.format(durability),
            f"{per_s:,.0f} ({TASKS:,} tasks)",
            value=per_s,
            target=f"≥ {times_best} × the best on Redis",
            met=per_s >= times_best * best if best else None,
        )
        taken = await timed_each(one, 500)
    if durability == "always":
        times(IDLE, taken, p50_ms=2, p99_ms=5)
    else:
        times(f"{IDLE}, durability interval", taken)


def by_http(installation: Installation) -> None:
    with installation.http() as http:
        body = {"fleet": "noop", "method": "noop", "args": {"payload": PAYLOAD}}
        taken = []
        for _ in range(300):
            before = time.perf_counter()
            answer = http.post("/api/v1/tasks", params={"wait_s": 10}, json=body)
            taken.append(time.perf_counter() - before)
            if answer.json()["state"] != "done":
                raise AssertionError(answer.text)
    times(f"{IDLE}, by HTTP", taken, p50_ms=6)


if __name__ == "__main__":
    run(main)
