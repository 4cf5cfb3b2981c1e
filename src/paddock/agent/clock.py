"""The agent's clock and dice: the only place in this room that reads the time or rolls."""

from __future__ import annotations

import asyncio
import random
import time


class HostClock:
    """The host's own time, as the port `Clock` has it."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def dice(self) -> float:
        """In [0, 1), for jitter; never for secrets."""
        return random.random()  # noqa: S311 - jitter, not a secret
