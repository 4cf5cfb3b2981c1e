from __future__ import annotations

import os
from typing import Any

import jobs
from celery import Celery

app = Celery("peer", broker=os.environ["PEER_REDIS"], backend=os.environ["PEER_REDIS"])
TASKS = {"noop": app.task(jobs.noop), "nap": app.task(jobs.nap)}
LANES = 1


def submit(name: str, *args: Any) -> Any:
    return TASKS[name].delay(*args)


def result(handle: Any, timeout_s: float) -> Any:
    return handle.get(timeout=timeout_s)
