"""`Fabric.stand`, in memory: one pull after the other in each lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from paddock.model.errors import PaddockError, Unavailable
from paddock.ports.fabric import Delivery, Fabric

WAIT_S = 300.0


class FakeStanding:
    """A wait in several lanes at once."""

    def __init__(
        self,
        fabric: Fabric,
        stream: str,
        credits: Mapping[str, int],
        handler: Callable[[Delivery], None],
        ended: Callable[[PaddockError | None], None],
    ) -> None:
        if not fabric.connected:
            raise Unavailable("the fabric is away")
        self.inbox = ""
        self._fabric, self._stream, self._handler, self._ended = fabric, stream, handler, ended
        self._waits: set[asyncio.Task[None]] = set()
        for lane, credit in credits.items():
            self.renew(lane, credit)

    def renew(self, lane: str, credit: int) -> None:
        wait = asyncio.get_running_loop().create_task(self._wait(lane, credit), name=f"standing in {lane}")
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)

    def close(self, done: Callable[[], None] | None = None) -> None:
        for wait in self._waits:
            wait.cancel()
        if done is not None:
            done()

    async def _wait(self, lane: str, credit: int) -> None:
        try:
            while credit:
                found = await self._fabric.pull(self._stream, lane, wait_s=WAIT_S)
                if not found:
                    self._ended(None)
                    return
                credit -= len(found)
                for delivery in found:
                    self._handler(delivery)
        except PaddockError as error:
            self._ended(error)
