"""Threads for plain `def` methods. Daemons, so that code that never returns cannot keep a stopped agent alive;
the standard pool would wait for it at the end of the process."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Threads:
    """Up to `size` threads, started when needed. Work beyond that waits; callers hold a slot each, so it is rare."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._started = 0
        self._idle = 0
        self._lock = threading.Lock()

    def run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call `work` in a thread, in a copy of the present context."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        with self._lock:
            start = self._idle == 0 and self._started < self._size
            if start:
                self._started += 1
            elif self._idle:
                self._idle -= 1
        self._jobs.put((loop, future, lambda: context.run(work)))
        if start:
            threading.Thread(target=self._serve, name=f"method-{self._started}", daemon=True).start()
        return future

    def _serve(self) -> None:
        while True:
            loop, future, work = self._jobs.get()
            try:
                value, error = work(), None
            except BaseException as caught:  # SystemExit in a method is the method's failure, not this thread's end
                value, error = None, caught
            try:
                loop.call_soon_threadsafe(_settle, future, value, error)
            except RuntimeError:
                return  # the loop is closed: the agent ended before its code did
            del future, work, value, error
            with self._lock:
                self._idle += 1


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError("the method raised StopIteration"))  # a future refuses to carry it
    else:
        future.set_exception(error)
