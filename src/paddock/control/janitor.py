"""Keeps the record in bounds and true, every minute: forgets what is kept no longer, and closes what was lost sight of.

Each part by itself: one that fails is tried again in the next round, and holds up no other. Streams forget by their
own age limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from paddock.control.archive import Archive
from paddock.control.lost import Lost
from paddock.control.mirror import Mirror
from paddock.control.recorder import Recorder
from paddock.model.errors import PaddockError
from paddock.ports.clock import Clock

log = structlog.get_logger(__name__)

EVERY_S = 60.0
ROWS_MAX = 1000
"""Rows of one transaction, so that the recorder is never held up for long."""
DAY_S = 86_400.0
EVENTS_KEPT_S = 30 * DAY_S
AGENTS_KEPT_S = 30 * DAY_S
"""How long the last status of an agent is kept that is there no longer."""
HISTORY_KEPT_S = 90 * DAY_S
COARSE_S = 3600.0
"""Health that is older than a day is kept in stretches of this length."""
STRETCHES_MAX = 30
"""Of one round."""
SEEN_EVERY_S = DAY_S
"""How often the record is told of all agents that are there: of one that never changes it would hear nothing."""


class Janitor:
    def __init__(self, archive: Archive, clock: Clock, mirror: Mirror, recorder: Recorder, lost: Lost) -> None:
        self._archive = archive
        self._clock = clock
        self._mirror = mirror
        self._recorder = recorder
        self._lost = lost
        self._seen_at = clock.now()

    async def run(self) -> None:
        while True:
            await self.round()
            await self._clock.sleep(EVERY_S)

    async def round(self) -> None:
        parts: tuple[Callable[[], Awaitable[int]], ...] = (
            self.forget,
            self.see,
            self.prune,
            self.coarsen,
            self.prune_history,
            self._lost.close,
        )
        for part in parts:
            try:
                await part()
            except PaddockError as error:
                log.warning("the janitor could not do a part", part=part.__name__, error=error.message)

    async def forget(self) -> int:
        """Forget all tasks whose kept-for time is over now; returns how many."""
        now = self._clock.now()
        return await self._all(lambda: self._archive.record.forget(now, limit=ROWS_MAX))

    async def prune(self) -> int:
        """Forget old events, and agents that went long ago; returns how many rows."""
        now, prune = self._clock.now(), self._archive.record.prune
        return await self._all(
            lambda: prune(now, events_kept_s=EVENTS_KEPT_S, agents_kept_s=AGENTS_KEPT_S, limit=ROWS_MAX)
        )

    async def coarsen(self) -> int:
        """Sum up health that is older than a day; returns how many points went."""
        before, coarsen = self._clock.now() - DAY_S, self._archive.record.coarsen
        total = 0
        for _ in range(STRETCHES_MAX):
            count = await self._archive.write(lambda: coarsen(before, span_s=COARSE_S))
            total += count
            if not count:
                break
        return total

    async def prune_history(self) -> int:
        """Forget incidents, health and figures from long ago; returns how many rows."""
        now, prune = self._clock.now(), self._archive.record.prune_history
        return await self._archive.write(lambda: prune(now, kept_s=HISTORY_KEPT_S, limit=ROWS_MAX))

    async def see(self) -> int:
        """Once a day: tell the record which agents are there; returns how many."""
        # By the clock that `prune` goes by: were it set ahead, who is there must be told of before that.
        if abs(self._clock.now() - self._seen_at) < SEEN_EVERY_S:
            return 0
        self._seen_at = self._clock.now()
        for status in self._mirror.agents.values():
            self._recorder.agent(status)
        await self._recorder.settle()  # before anything is pruned by what it says
        return len(self._mirror.agents)

    async def _all(self, work: Callable[[], int]) -> int:
        """Again and again, each time in a transaction of its own, until less was found than fits into one."""
        total = 0
        while True:
            count = await self._archive.write(work)
            total += count
            if count < ROWS_MAX:
                return total
