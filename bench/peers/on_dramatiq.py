from __future__ import annotations

import os
from typing import Any

import dramatiq
import jobs
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["PEER_REDIS"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["PEER_REDIS"])))
dramatiq.set_broker(broker)
TASKS = {
    "noop": dramatiq.actor(jobs.noop, store_results=True),
    "nap": dramatiq.actor(jobs.nap, store_results=True),
}
LANES = 1


def submit(name: str, *args: Any) -> Any:
    return TASKS[name].send(*args)


def result(handle: Any, timeout_s: float) -> Any:
    return handle.get_result(block=True, timeout=int(timeout_s * 1000))
