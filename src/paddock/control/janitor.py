"""Forgets tasks whose kept-for time is over, every minute, in the record. Streams forget by their own age limits."""

from __future__ import annotations

import structlog

from paddock.control.archive import Archive
from paddock.model.errors import Unavailable
from paddock.ports.clock import Clock

log = structlog.get_logger(__name__)

EVERY_S = 60.0
ROWS_MAX = 1000
"""Rows of one transaction, so that the recorder is never held up for long."""


class Janitor:
    def __init__(self, archive: Archive, clock: Clock) -> None:
        self._archive = archive
        self._clock = clock

    async def run(self) -> None:
        while True:
            try:
                await self.forget()
            except Unavailable as error:
                log.warning("nothing forgotten", error=error.message)
            await self._clock.sleep(EVERY_S)

    async def forget(self) -> int:
        """Forget all that is due now; returns how many tasks."""
        now, total = self._clock.now(), 0
        while True:
            count = await self._archive.write(lambda: self._archive.record.forget(now, limit=ROWS_MAX))
            total += count
            if count < ROWS_MAX:
                return total
