"""One timer for all deadlines of a node: a heap, with what was moved or dropped left in it until its time comes."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable

from paddock.ports.clock import Clock

Action = Callable[[float], None]
"""Called with how late it is, in seconds: a node that was itself stopped for a while must not blame its agents."""


class Deadlines:
    """Keyed deadlines on the monotonic clock. Setting a key again moves it. Actions must not block."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Hashable]] = []
        self._due: dict[Hashable, tuple[float, int, Action]] = {}
        self._serial = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: Hashable, delay_s: float, action: Action) -> None:
        if self._closed:
            return
        at = self._clock.monotonic() + max(0.0, delay_s)
        serial = next(self._serial)
        self._due[key] = (at, serial, action)
        heapq.heappush(self._heap, (at, serial, key))
        if len(self._heap) > 64 + 4 * len(self._due):
            self._sweep()
        self._arm()

    def drop(self, key: Hashable) -> None:
        self._due.pop(key, None)

    def close(self) -> None:
        self._closed = True
        self._due.clear()
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        """Forget what was moved or dropped, so that the heap stays in proportion to what is due."""
        self._heap = [entry for entry in self._heap if self._is_due(entry)]
        heapq.heapify(self._heap)

    def _is_due(self, entry: tuple[float, int, Hashable]) -> bool:
        due = self._due.get(entry[2])
        return due is not None and due[1] == entry[1]

    def _arm(self) -> None:
        while self._heap and not self._is_due(self._heap[0]):
            heapq.heappop(self._heap)
        if not self._heap:
            return
        at = self._heap[0][0]
        if self._timer is not None and self._timer_at <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock.monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._is_due(entry):
                action = self._due.pop(entry[2])[2]
                action(now - entry[0])
        self._arm()
