"""How fast a fleet ends tasks, and from that when it is worth to try again. Pure: time comes in as an argument."""

from __future__ import annotations

import math

RETRY_S_MIN, RETRY_S_MAX = 1, 60
WINDOW_S = 10.0


class Rate:
    """Ends per second, over the last one to two windows; O(1) per end."""

    def __init__(self, now: float) -> None:
        self._start = now
        self._count = 0
        self._before: int | None = None

    def add(self, now: float) -> None:
        self._roll(now)
        self._count += 1

    def per_s(self, now: float) -> float:
        self._roll(now)
        spent_s = max(1.0, now - self._start)
        if self._before is None:
            return self._count / spent_s
        return (self._before + self._count) / (WINDOW_S + now - self._start)

    def _roll(self, now: float) -> None:
        windows = int((now - self._start) // WINDOW_S)
        if windows > 0:
            self._before = self._count if windows == 1 else 0
            self._count = 0
            self._start += windows * WINDOW_S


def retry_after_s(queue_limit: int, per_s: float) -> int:
    """Seconds until about a hundredth of the queue will be free: sooner, all who were refused would meet again."""
    if per_s <= 0:
        return RETRY_S_MAX
    return min(RETRY_S_MAX, max(RETRY_S_MIN, math.ceil(queue_limit / 100 / per_s)))
