"""Who waits for the end of a task."""

from __future__ import annotations

import asyncio

from paddock.model.errors import Unavailable
from paddock.model.task import TaskView

WAITERS_MAX = 10_000


class Waiters:
    def __init__(self) -> None:
        self._by_task: dict[str, set[asyncio.Future[TaskView]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, task_id: str) -> asyncio.Future[TaskView]:
        """A future that holds the task's view once it has ended; give it back with `remove`."""
        if self._count >= WAITERS_MAX:
            raise Unavailable(f"{WAITERS_MAX} callers wait for results already; ask for the task's state instead")
        future: asyncio.Future[TaskView] = asyncio.get_running_loop().create_future()
        self._by_task.setdefault(task_id, set()).add(future)
        self._count += 1
        return future

    def remove(self, task_id: str, future: asyncio.Future[TaskView]) -> None:
        waiting = self._by_task.get(task_id, set())
        if future in waiting:
            waiting.remove(future)
            self._count -= 1
        if not waiting:
            self._by_task.pop(task_id, None)
        future.cancel()

    def awaited(self, task_id: str) -> bool:
        return task_id in self._by_task

    def resolve(self, view: TaskView) -> None:
        for future in self._by_task.get(view.id, ()):
            if not future.done():
                future.set_result(view)
