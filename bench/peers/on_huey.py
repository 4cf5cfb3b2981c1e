from __future__ import annotations

import os
from typing import Any

import jobs
from huey import RedisHuey, SqliteHuey

SQLITE = {"sqlite": {}, "sqlite-nosync": {"fsync": False}}
store = os.environ.get("PEER_STORE", "redis")
huey = RedisHuey(url=os.environ["PEER_REDIS"]) if store == "redis" else SqliteHuey(filename="huey.db", **SQLITE[store])
TASKS = {"noop": huey.task()(jobs.noop), "nap": huey.task()(jobs.nap)}
LANES = 1


def submit(name: str, *args: Any) -> Any:
    return TASKS[name](*args)


def result(handle: Any, timeout_s: float) -> Any:
    return handle(blocking=True, timeout=timeout_s)
