from __future__ import annotations

import os
from typing import Any

import jobs
from arq import create_pool
from arq.connections import RedisSettings

SETTINGS = RedisSettings.from_dsn(os.environ["PEER_REDIS"])
LANES = 32
_pool: Any = None


async def noop(context: Any, payload: str) -> int:
    return jobs.noop(payload)


async def nap(context: Any, path: str, seconds: float) -> str:
    return await jobs.async_nap(path, seconds)


class WorkerSettings:
    functions = [noop, nap]  # noqa: RUF012 - as its documentation writes it
    redis_settings = SETTINGS


async def submit(name: str, *args: Any) -> Any:
    global _pool
    if _pool is None:
        _pool = await create_pool(SETTINGS)
    return await _pool.enqueue_job(name, *args)


async def result(handle: Any, timeout_s: float) -> Any:
    return await handle.result(timeout=timeout_s)
