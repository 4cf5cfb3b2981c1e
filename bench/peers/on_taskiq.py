from __future__ import annotations

import os
from typing import Any

import jobs
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ["PEER_REDIS"]
broker = RedisStreamBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL))
LANES = 32


@broker.task(task_name="noop")
async def noop(payload: str) -> int:
    return jobs.noop(payload)


@broker.task(task_name="nap")
async def nap(path: str, seconds: float) -> str:
    return await jobs.async_nap(path, seconds)


TASKS: dict[str, Any] = {"noop": noop, "nap": nap}
_started = False


async def submit(name: str, *args: Any) -> Any:
    global _started
    if not _started:
        _started = True
        await broker.startup()
    return await TASKS[name].kiq(*args)


async def result(handle: Any, timeout_s: float) -> Any:
    return (await handle.wait_result(timeout=timeout_s)).return_value
