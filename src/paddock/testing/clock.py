"""The clock of the simulated world."""

from __future__ import annotations

import asyncio

from paddock.testing.store import EPOCH


class VirtualClock:
    """`paddock.ports.clock.Clock` on the event loop's time; the wall clock can be set, the monotonic one cannot."""

    def __init__(self, start: float = EPOCH) -> None:
        self._offset_s = start

    def now(self) -> float:
        return self._offset_s + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def jump(self, seconds: float) -> None:
        """Somebody sets the host's clock: forward, or back when negative."""
        self._offset_s += seconds
