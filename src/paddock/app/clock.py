"""The host's clock: the one place where Paddock reads the time of the machine."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """See `paddock.ports.clock.Clock`."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
