"""Delayed tasks: one heap and one timer for all of them. The tasks themselves stay in the fabric's stream LATER.

    in LATER ──due──> stored in its queue ──> purged from LATER

Killed between the two, the move is begun again: the queue refuses a second copy, a result that exists stops it, and the
copy asks its agent to look for a result before running.
"""

from __future__ import annotations

import heapq
from collections import Counter

import msgspec
import structlog

from paddock.control.fleets import dead_result
from paddock.control.mirror import Mirror
from paddock.control.owner import Owner, Wake, each
from paddock.fabric import subjects
from paddock.model.errors import Conflict, NoResponders, NotFound, PaddockError, Unavailable
from paddock.model.task import Task
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Stored

log = structlog.get_logger(__name__)

TICK_S_MAX = 1.0
"""The timer looks at the clock this often while tasks wait, for the host's clock may be set."""
RETRY_S = 1.0
MOVES_MAX = 1000
"""Tasks moved in one round."""


class Later:
    def __init__(self, fabric: Fabric, clock: Clock, mirror: Mirror) -> None:
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._heap: list[tuple[float, str, str]] = []
        """(not before, fleet, task id)"""
        self._counts: Counter[str] = Counter()
        self._wake = Wake()

    def count(self, fleet: str) -> int:
        """Delayed tasks of a fleet, among them those cancelled whose time has not come."""
        return self._counts[fleet]

    def start(self, owner: Owner) -> None:
        owner.loop("later-tail", self._follow())
        owner.loop("later", self._run())

    async def _follow(self) -> None:
        after = 0
        while True:
            try:
                async for batch in self._fabric.tail(subjects.LATER, after_seq=after):
                    for stored in batch:
                        after = stored.seq
                        self._take(stored)
            except (NotFound, Unavailable) as error:
                log.warning("tail interrupted", stream=subjects.LATER, error=error.message)
            await self._clock.sleep(RETRY_S)

    def _take(self, stored: Stored) -> None:
        _, fleet, task_id = stored.subject.split(".")
        try:
            at = msgspec.json.decode(stored.data, type=Task).not_before
        except msgspec.MsgspecError:
            at = 0.0  # due now: the move will end it with the reason
        self._push(at, fleet, task_id)

    def _push(self, at: float, fleet: str, task_id: str) -> None:
        heapq.heappush(self._heap, (at, fleet, task_id))
        self._counts[fleet] += 1
        if self._heap[0][2] == task_id:
            self._wake.set()

    async def _run(self) -> None:
        while True:
            now = self._clock.now()
            due: list[tuple[float, str, str]] = []
            while self._heap and self._heap[0][0] <= now and len(due) < MOVES_MAX:
                due.append(heapq.heappop(self._heap))
            for _, fleet, _ in due:
                self._counts[fleet] -= 1
            await each("later-move", due, self._try_move)
            if not due:
                await self._wait(now)

    async def _wait(self, now: float) -> None:
        if not self._heap:
            await self._wake.wait()
        else:
            await self._wake.wait_for(self._clock, min(TICK_S_MAX, self._heap[0][0] - now))

    async def _try_move(self, entry: tuple[float, str, str]) -> None:
        _, fleet, task_id = entry
        try:
            await self.move(fleet, task_id)
        except PaddockError as error:
            # The queue is full, or the fabric away: it waits on in LATER, where it is safe.
            log.warning("delayed task not queued yet", task=task_id, fleet=fleet, error=error.message)
            self._push(self._clock.now() + RETRY_S, fleet, task_id)

    async def move(self, fleet: str, task_id: str) -> None:
        """Move one task into its queue; nothing to do when it was cancelled, ended, or moved before."""
        subject = subjects.later(fleet, task_id)
        stored = await self._fabric.last(subjects.LATER, subject)
        if stored is None:
            return
        if await self._fabric.last(subjects.RESULTS, subjects.result(fleet, task_id)) is None:
            try:
                task = msgspec.json.decode(stored.data, type=Task)
            except msgspec.MsgspecError as error:
                await self._end(stored, fleet, f"the delayed task cannot be read: {error}")
            else:
                await self._queue(stored, fleet, msgspec.structs.replace(task, id=task_id, fleet=fleet, keyed=True))
        await self._fabric.purge(subjects.LATER, subject)

    async def _queue(self, stored: Stored, fleet: str, task: Task) -> None:
        try:
            await self._fabric.store(subjects.work(task), msgspec.json.encode(task))
        except Conflict:
            pass  # moved before
        except NoResponders:
            if fleet in self._mirror.fleets:
                raise
            await self._end(stored, fleet, f"its fleet {fleet} was deleted")

    async def _end(self, stored: Stored, fleet: str, reason: str) -> None:
        result = dead_result(stored, fleet, reason, self._clock.now())
        try:
            await self._fabric.store(subjects.result(fleet, result.id), msgspec.json.encode(result))
        except Conflict:
            pass  # it has ended already
