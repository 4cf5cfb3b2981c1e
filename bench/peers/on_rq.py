from __future__ import annotations

import os
from typing import Any

import jobs
from redis import Redis
from rq import Queue


class Failed(Exception):
    """The task ended badly; the last line of what RQ noted."""


queue = Queue(connection=Redis.from_url(os.environ["PEER_REDIS"]))
LANES = 1


def submit(name: str, *args: Any) -> Any:
    return queue.enqueue(getattr(jobs, name), *args)


def result(handle: Any, timeout_s: float) -> Any:
    found = handle.latest_result(timeout=int(timeout_s))
    if found is None:
        raise TimeoutError
    if found.type != found.Type.SUCCESSFUL:
        raise Failed(str(found.exc_string).strip().splitlines()[-1])
    return found.return_value
