"""Takes out of the queues what has ended already, after the fabric was away.

A broker that is killed may remember that a task was acknowledged and forget that it took it out of the queue: then
nobody is ever handed it, and it counts against the queue's limit for ever. So at the start, and whenever the fabric
has come back, every queued task is looked at once, and one that has a result is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from paddock.control.mirror import Mirror
from paddock.control.owner import Wake, each
from paddock.fabric import subjects
from paddock.model.errors import NotFound, PaddockError
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Stored

log = structlog.get_logger(__name__)

SETTLE_S = 3.0
"""After the fabric came back: so long agents have to end what they hold by themselves."""
RETRY_S = 5.0
PAGE = 500


class Leftovers:
    def __init__(self, fabric: Fabric, clock: Clock, mirror: Mirror) -> None:
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._wake = Wake()
        self._wake.set()
        fabric.on_reconnect(self._wake.set)

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            await self._clock.sleep(SETTLE_S)
            try:
                count = await self.round()
            except PaddockError as error:
                log.warning("queues could not be looked through for what has ended", error=error.message)
                await self._clock.sleep(RETRY_S)
                self._wake.set()
            else:
                if count:
                    log.info("taken out of the queues: they had ended already", tasks=count)

    async def round(self) -> int:
        """Look at all that is queued now; returns how many tasks were taken out."""
        return sum([await self._fleet(fleet) for fleet in list(self._mirror.fleets)])

    async def _fleet(self, fleet: str) -> int:
        stream = subjects.work_stream(fleet)
        total, seq = 0, 0
        try:
            last = (await self._fabric.depth(stream)).last_seq
            while seq < last and (page := await self._fabric.read(stream, after_seq=seq, limit=PAGE)):
                total += await self._page(fleet, page)
                seq = page[-1].seq
        except NotFound:
            pass  # its fleet is gone, or its queue is not made yet
        return total

    async def _page(self, fleet: str, page: Sequence[Stored]) -> int:
        ended: list[str] = []

        async def look(stored: Stored) -> None:
            task_id = stored.subject.rpartition(".")[2]
            if await self._fabric.last(subjects.RESULTS, subjects.result(fleet, task_id)) is not None:
                ended.append(stored.subject)

        for error in await each("leftovers", page, look):
            raise error
        for subject in ended:
            await self._fabric.purge(subjects.work_stream(fleet), subject)
        return len(ended)
