"""Waiting in a handler: it ends when the work is done, when the caller has gone and when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Receive

T = TypeVar("T")


async def gone(receive: Receive) -> None:
    """Return when the caller has hung up; what is left of a body is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def end_all(*tasks: asyncio.Task[Any]) -> None:
    """Cancel and await them; their outcomes are the caller's to look at."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def unless_over(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The outcome of `work`, or None when the caller hung up or the server stops before there is one."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Event = request.app.state.stopping
    task = loop.create_task(work, name="api wait")
    left = loop.create_task(gone(request.receive), name="api wait: caller gone")
    stop = loop.create_task(stopping.wait(), name="api wait: stopping")
    try:
        await asyncio.wait([task, left, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_all(task, left, stop)
    return None if task.cancelled() else task.result()
