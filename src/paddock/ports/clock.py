from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Time and waiting, so that a simulated world can replace both."""

    def now(self) -> float:
        """Unix seconds; may jump when the host's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; for intervals and limits."""
        ...

    async def sleep(self, delay_s: float) -> None: ...
