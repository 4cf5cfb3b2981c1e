"""Who owns the asyncio tasks of the server: each is named, held and awaited; one that must not end and does, is told.

(made) ──start──> running ──stop──> cancelled in reverse order, all awaited
                    └──its end──> `failed` is set, the server stops
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from paddock.model.errors import PaddockError
from paddock.ports.clock import Clock

T = TypeVar("T")
log = structlog.get_logger(__name__)

JOBS_MAX = 1000


class LoopEnded(PaddockError):
    """A loop of the server that should run for ever has ended; this is a bug of Paddock."""

    code = "loop-ended"


class Owner:
    """Holds the loops of one server."""

    def __init__(self) -> None:
        self._loops: list[asyncio.Task[None]] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Set with the error once a loop has ended that should run for ever."""

    def loop(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work`, which must not end by itself, until `end` or `stop`."""
        task = asyncio.get_running_loop().create_task(work, name=f"control:{name}")
        self._loops.append(task)
        task.add_done_callback(self._loop_ended)
        return task

    def job(self, name: str, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work`, which ends by itself; its failure is logged. False, and not run, when too many are under way."""
        if self._stopping or len(self._jobs) >= JOBS_MAX:
            work.close()
            return False
        task = asyncio.get_running_loop().create_task(work, name=f"control:{name}")
        self._jobs.add(task)
        task.add_done_callback(self._job_ended)
        return True

    async def end(self, task: asyncio.Task[None]) -> None:
        """Stop one loop on purpose."""
        task.remove_done_callback(self._loop_ended)
        if task in self._loops:
            self._loops.remove(task)
        task.cancel()
        await asyncio.wait([task])

    async def stop(self) -> None:
        """Cancel all, the last started first; return when all have ended."""
        self._stopping = True
        while self._jobs or self._loops:
            task = self._jobs.pop() if self._jobs else self._loops.pop()
            task.cancel()
            await asyncio.wait([task])
        if not self.failed.done():
            self.failed.cancel()

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if self._stopping:
            if not task.cancelled():
                task.exception()  # seen; what counts now is to stop
            return
        error: BaseException = LoopEnded(f"{task.get_name()} has ended, though it should run for ever")
        if not task.cancelled() and task.exception() is not None:
            error = task.exception() or error
        log.error("loop ended", loop=task.get_name(), error=repr(error))
        if not self.failed.done():
            self.failed.set_result(error)

    def _job_ended(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("job failed", job=task.get_name(), error=repr(task.exception()))


class Wake:
    """A flag that wakes one loop. Set many times before it looks: woken once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()

    async def wait_for(self, clock: Clock, limit_s: float) -> bool:
        """Wait until set, or until `limit_s` are over; True when it was set."""
        woken = await within(clock, self._event.wait(), limit_s)
        self._event.clear()
        return woken is not None


async def within(clock: Clock, work: Coroutine[Any, Any, T], limit_s: float) -> T | None:
    """The outcome of `work`, or None when `limit_s` of the given clock passed first; then `work` is cancelled."""
    run = asyncio.get_running_loop()
    doing = run.create_task(work, name="control:within-work")
    timer = run.create_task(clock.sleep(max(0.0, limit_s)), name="control:within-timer")
    try:
        await asyncio.wait([doing, timer], return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        for task in (doing, timer):
            task.cancel()
        await asyncio.wait([doing, timer])


async def each(
    name: str, items: Sequence[T], work: Callable[[T], Awaitable[None]], *, at_once: int = 32
) -> list[BaseException]:
    """Do `work` for every item, at most `at_once` side by side; returns the errors, after all have ended."""
    left = iter(items)
    errors: list[BaseException] = []

    async def hand() -> None:
        for item in left:
            try:
                await work(item)
            except Exception as error:
                errors.append(error)

    async with asyncio.TaskGroup() as group:
        for index in range(min(at_once, len(items))):
            group.create_task(hand(), name=f"control:{name}-{index}")
    return errors
