"""The clock by which things are thrown away. A wall clock that was set is believed only once it has stayed so:

    with the clock ──jump──> doubtful: the earlier of both times counts ──LASTS_S later──> with the clock
                                          └──set right again──> with the clock

So who sets the clock a day ahead by mistake has an hour to see it before anything is forgotten.
"""

from __future__ import annotations

from paddock.ports.clock import Clock

JUMP_S = 60.0
"""A smaller difference is the clock's own correction."""
LASTS_S = 3600.0


class Steady:
    """See `paddock.ports.clock.Clock`; for what is asked at least every few minutes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s = clock.now() - clock.monotonic()
        """Of the wall clock before the monotonic one, as it is believed."""
        self._doubtful_since: float | None = None

    def now(self) -> float:
        wall, elapsed = self._clock.now(), self._clock.monotonic()
        if abs(wall - elapsed - self._ahead_s) <= JUMP_S:
            self._doubtful_since = None
        elif self._doubtful_since is None:
            self._doubtful_since = elapsed
        if self._doubtful_since is None or elapsed - self._doubtful_since >= LASTS_S:
            self._ahead_s, self._doubtful_since = wall - elapsed, None
        return min(wall, elapsed + self._ahead_s)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
