"""Fetching work: only as much as can start now, by priority, without polling.

looking ──something──> taken ──slots left──> looking
   └──all lanes empty──> waiting in all lanes at once ──something──> taken, and on waiting while slots are free
                              └──no slot free · own lane has work · drain──> looking · ended
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from paddock.agent.context import Context
from paddock.agent.owner import Owner
from paddock.agent.worker import Worker
from paddock.decide.lanes import lane_order
from paddock.fabric import subjects
from paddock.model.errors import NotFound, PaddockError, Unavailable
from paddock.ports.fabric import Delivery, Message, Standing

EMPTY_S = 0.02
"""A lane that answered empty is not asked again this long."""
CREDIT_MAX = 64
"""How many messages one wait may bring before it is renewed."""
OWN_LANE_INACTIVE_S = 300.0
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0


class Puller:
    """One loop; the lanes of the fleet always, the agent's own only while they have work."""

    def __init__(self, context: Context, worker: Worker, owner: Owner, *, ack_wait_s: float) -> None:
        self._context, self._worker, self._owner = context, worker, owner
        self._ack_wait_s = ack_wait_s
        self._stream = subjects.work_stream(context.fleet)
        self._own_filter = f"work.{context.fleet}.a.{context.name}.>"
        self._own: set[str] = set()
        """Names `p0` … of the own lanes that exist."""
        self._own_wanted: set[str] = set()
        self._look_own = True
        self._empty_until: dict[str, float] = {}
        self._turn = 0
        self._stopping = self._resting = False
        self._poked = asyncio.Event()
        self._freed = asyncio.Event()
        self._standing: Standing | None = None
        self._credits: dict[str, int] = {}
        self._brought = False
        self._failure: PaddockError | None = None

    def stop(self) -> None:
        """Take no more work; `run` returns soon."""
        self._stopping = True
        self._poked.set()
        self._freed.set()

    def rest(self, on: bool) -> None:
        """Take no more work until it is told otherwise; what arrives meanwhile goes back."""
        self._resting = on
        self._poked.set()
        self._freed.set()

    def freed(self) -> None:
        """A slot became free."""
        self._freed.set()

    async def run(self) -> None:
        """Until `stop`. What the fabric refuses or cannot do now is tried again with growing pauses."""
        subscription = self._context.fabric.subscribe(self._own_filter, self._own_work)
        self._context.fabric.on_reconnect(self._reconnected)
        delay_s = RETRY_S_MIN
        try:
            while not self._stopping:
                try:
                    await self._step()
                    delay_s = RETRY_S_MIN
                except PaddockError as error:
                    if not isinstance(error, Unavailable):
                        self._context.log.warning("work cannot be fetched", error=str(error), code=error.code)
                    self._look_own = True
                    await self._pause(delay_s * (0.5 + self._context.clock.dice()))
                    delay_s = min(delay_s * 2, RETRY_S_MAX)
        finally:
            subscription.close()

    async def _step(self) -> None:
        self._freed.clear()
        if self._worker.free <= 0:
            await self._freed.wait()
            return
        self._poked.clear()
        if self._resting:
            await self._poked.wait()
            return
        if self._look_own or self._own_wanted:
            await self._open_own_lanes()
        if not await self._look():
            await self._wait()

    async def _look(self) -> bool:
        """One round over the lanes in the order of this turn; stops at the first that has something."""
        now = self._context.clock.monotonic()
        for priority in lane_order(self._turn):
            for lane in self._lanes(f"p{priority}"):
                if self._empty_until.get(lane, 0.0) > now:
                    continue
                if found := await self._pull(lane, self._worker.free):
                    self._take(found)
                    return True
                self._empty_until[lane] = self._context.clock.monotonic() + EMPTY_S
        return False

    async def _wait(self) -> None:
        """Wait in all lanes at once, for as long as there are free slots; what comes is started at once."""
        lanes = [lane for name in subjects.LANES for lane in self._lanes(name)]
        credit = min(self._worker.free, CREDIT_MAX)
        self._credits = dict.fromkeys(lanes, credit)
        self._brought, self._failure = False, None
        standing = self._context.fabric.stand(self._stream, self._credits, self._arrived, self._wait_over)
        self._standing = standing
        self._worker.link.wait(standing.inbox)
        try:
            await self._poked.wait()
        finally:
            self._standing = None
            standing.close(partial(self._unwait, standing.inbox))
        if self._own and not self._brought:
            await self._close_own_lanes()
        if self._failure is not None:
            self._own.clear()  # the lane that is missing may be one of the own, which go by themselves
            raise self._failure

    def _unwait(self, inbox: str) -> None:
        self._worker.link.unwait(inbox, self._worker.unnoted)

    def _arrived(self, delivery: Delivery) -> None:
        self._brought = True
        self._take([delivery])
        lane = delivery.consumer
        self._credits[lane] = self._credits.get(lane, 1) - 1
        if self._worker.free <= 0:
            self._poked.set()
        elif self._credits[lane] <= 0 and self._standing is not None:
            self._credits[lane] = min(self._worker.free, CREDIT_MAX)
            self._standing.renew(lane, self._credits[lane])

    def _wait_over(self, failure: PaddockError | None) -> None:
        self._failure = failure
        self._poked.set()

    def _take(self, found: Sequence[Delivery]) -> None:
        if found:
            self._turn += 1
        for delivery in found:
            if self._stopping or self._resting or self._worker.free <= 0:
                subject = delivery.subject
                self._owner.start(f"put back {subject}", self._context.fabric.put_back(delivery), told=False)
            else:
                self._worker.take(delivery)

    async def _pull(self, lane: str, batch: int) -> list[Delivery]:
        try:
            return list(await self._context.fabric.pull(self._stream, lane, batch=batch))
        except NotFound:
            if lane not in subjects.LANES:  # an own lane that nobody pulled from for too long
                self._own.discard(lane.rpartition("-")[2])
                self._look_own = True
                return []
            raise

    def _lanes(self, name: str) -> list[str]:
        """The lanes of one priority: what is for this agent alone comes first."""
        own = [subjects.agent_lane(self._context.name, name)] if name in self._own else []
        return [*own, name]

    def _own_work(self, message: Message) -> None:
        lane = message.subject.split(".")[-2]
        self._empty_until.pop(subjects.agent_lane(self._context.name, lane), None)
        if lane in subjects.LANES and lane not in self._own:
            self._own_wanted.add(lane)
            self._poked.set()

    def _reconnected(self) -> None:
        self._look_own = True
        self._poked.set()

    async def _open_own_lanes(self) -> None:
        """Make the own lanes that have work: those seen in passing, and once at the start and after a reconnect those
        of a task that is queued already."""
        wanted, self._own_wanted = self._own_wanted, set()
        try:
            if self._look_own:
                if not await self._context.fabric.read(self._stream, limit=1):
                    # Nothing is queued at all, as for most of a fleet that starts: each lane need not be asked.
                    until = self._context.clock.monotonic() + EMPTY_S
                    self._empty_until = dict.fromkeys(subjects.LANES, until)
                elif await self._context.fabric.read(self._stream, subject=self._own_filter, limit=1):
                    wanted = set(subjects.LANES)
                self._look_own = False
            for lane in sorted(wanted - self._own):
                await self._context.fabric.ensure_lane(
                    self._stream,
                    subjects.agent_lane(self._context.name, lane),
                    subjects.agent_lane_filter(self._context.fleet, self._context.name, lane),
                    ack_wait_s=self._ack_wait_s,
                    inactive_s=OWN_LANE_INACTIVE_S,
                )
                self._own.add(lane)
        except PaddockError:
            self._own_wanted |= wanted
            raise

    async def _close_own_lanes(self) -> None:
        """After a wait that brought nothing: forget the own lanes if no task for this agent is left, not even one put
        back for later. The fabric removes them by itself when nobody pulls."""
        if self._stopping or self._own_wanted:
            return
        if not await self._context.fabric.read(self._stream, subject=self._own_filter, limit=1):
            self._own.clear()

    async def _pause(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                while not self._stopping:
                    await self._poked.wait()
                    self._poked.clear()
        except TimeoutError:
            pass
