"""The task owner: the one place in an agent where asyncio tasks are made, named, and awaited at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Owner:
    """Owns asyncio tasks; `close` cancels what still runs and returns when all have ended."""

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, name: str, work: Coroutine[Any, Any, T], *, told: bool = True) -> asyncio.Task[T]:
        """Run `work`; an exception that it lets out is told to the owner's `failed`, unless who started it awaits it
        and handles that itself (`told=False`)."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # a system call with Python 3.11
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended if told else self._tasks.discard)
        return task

    async def close(self, timeout_s: float = 5.0) -> None:
        """Cancel all; what ignores its cancellation for `timeout_s` is left to the end of the process."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(task.get_name(), error)
