"""The record, whose calls block, as seen from the event loop: one thread writes, another reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from paddock.ports.record import Record

T = TypeVar("T")


class Archive:
    def __init__(self, record: Record) -> None:
        self.record = record
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="record-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="record-read")

    async def write(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    async def close(self) -> None:
        """Return when both threads have ended their work; the record itself stays open."""
        for pool in (self._writer, self._reader):
            await asyncio.get_running_loop().run_in_executor(pool, lambda: None)
            pool.shutdown()
