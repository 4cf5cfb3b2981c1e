"""What the node tells the fabric: the present of its agents (bucket `now`) and what happened (stream EVENTS).

Never in the way of supervision: changes are only marked here; one loop writes the newest state of all that changed,
pipelined, and waits while the fabric is away. Events are kept meanwhile, EVENTS_MAX of them; then the oldest go, and
are counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from paddock.fabric import subjects
from paddock.model.agent import AgentStatus, Event, NodeStatus
from paddock.model.errors import PaddockError, Unavailable
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

log = structlog.get_logger(__name__)

EVENTS_MAX = 20_000
AT_ONCE = 128
RETRY_S = 0.5
COUNT_EVERY_S = 2.0
COUNTS_AT_ONCE = 500
"""Agents of which only the counters changed are written so many at a time, every COUNT_EVERY_S."""


class Told(Protocol):
    """An agent whose status is told."""

    @property
    def id(self) -> str: ...
    def status(self) -> AgentStatus: ...


class Publisher:
    def __init__(self, node: str, fabric: Fabric, clock: Clock, *, boot: str, forgotten: Callable[[str], None]) -> None:
        """`boot` is different at each start of the node: it makes the ids of its events unique. `forgotten` is called
        once the key of an agent that is gone was deleted."""
        self._node, self._fabric, self._clock, self._boot = node, fabric, clock, boot
        self._forgotten = forgotten
        self._dirty: dict[str, Told | None] = {}
        """None: the agent is gone, its key is deleted."""
        self._counted: dict[str, Told] = {}
        self._events: deque[tuple[str, Event]] = deque()
        self._serial = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0
        """Events that were dropped because the fabric was away for too long."""

    def dirty(self, agent: Told) -> None:
        """Its state changed: tell soon."""
        self._counted.pop(agent.id, None)
        self._dirty[agent.id] = agent
        self._woken()

    def counted(self, agent: Told) -> None:
        """Only its counters changed: tell some time."""
        if agent.id not in self._dirty:
            self._counted[agent.id] = agent

    def gone(self, agent_id: str) -> None:
        """Delete its key; a new agent of the same id overrides this until then."""
        self._counted.pop(agent_id, None)
        self._dirty[agent_id] = None
        self._woken()

    def event(
        self, kind: str, about: str, text: str, data: dict[str, Any] | None = None, *, at: float | None = None
    ) -> None:
        """Tell of it. `at`: when it happened; without, now."""
        if len(self._events) >= EVENTS_MAX:
            self._events.popleft()
            self.dropped += 1
        self._serial += 1
        at = self._clock.now() if at is None else at
        event = Event(at=at, kind=kind, about=about, text=text, by=f"node/{self._node}", data=data or {})
        self._events.append((f"{self._node}-{self._boot}-{self._serial}", event))
        self._woken()

    def everything(self, agents: Sequence[Told]) -> None:
        for agent in agents:
            self.dirty(agent)

    async def node(self, status: NodeStatus) -> None:
        """Tell the node's own status, or leave it to the next time."""
        try:
            key = subjects.now_node(self._node)
            await self._fabric.store(f"$KV.now.{key}", msgspec.json.encode(status))
        except Unavailable as error:
            log.warning("the fabric is away", error=str(error))

    async def settled(self) -> None:
        """Return when all that was marked so far has been told."""
        await self._idle.wait()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty or self._events:
                if not await self._flush():
                    await self._clock.sleep(RETRY_S)
            self._idle.set()

    async def run_counts(self) -> None:
        """For ever: let changed counters through, a limited number at a time."""
        while True:
            await self._clock.sleep(COUNT_EVERY_S)
            for agent_id in list(self._counted)[:COUNTS_AT_ONCE]:
                self.dirty(self._counted[agent_id])

    def _woken(self) -> None:
        self._idle.clear()
        self._wake.set()

    async def _flush(self) -> bool:
        """Tell one batch of each; False when the fabric did not take all of it. What failed stays for the next time."""
        dirty = [(key, self._dirty.pop(key)) for key in list(self._dirty)[:AT_ONCE]]
        events = [self._events.popleft() for _ in range(min(AT_ONCE, len(self._events)))]
        stores = [self._store_status(key, agent) for key, agent in dirty]
        stores += [self._store_event(name, event) for name, event in events]
        done = await asyncio.gather(*stores)
        for (key, agent), good in zip(dirty, done[: len(dirty)], strict=True):
            if not good:
                self._dirty.setdefault(key, agent)
        again = [event for event, good in zip(events, done[len(dirty) :], strict=True) if not good]
        self._events.extendleft(reversed(again))
        return all(done)

    async def _store_status(self, agent_id: str, agent: Told | None) -> bool:
        fleet, _, name = agent_id.partition("/")
        subject = f"$KV.now.{subjects.now_agent(self._node, fleet, name)}"
        if agent is None:
            deleted = await self._store(subject, b"", {"KV-Operation": "DEL"})
            if deleted:
                self._forgotten(agent_id)
            return deleted
        return await self._store(subject, msgspec.json.encode(agent.status()), {})

    async def _store_event(self, name: str, event: Event) -> bool:
        # An event whose acknowledgement was lost is sent again: its id lets the fabric drop the second.
        subject = subjects.event(event.kind, event.about)
        return await self._store(subject, msgspec.json.encode(event), {"Nats-Msg-Id": name})

    async def _store(self, subject: str, data: bytes, headers: dict[str, str]) -> bool:
        try:
            await self._fabric.store(subject, data, headers=headers or None)
        except Unavailable:
            return False
        except PaddockError as error:
            log.error("the fabric refused what this node tells", subject=subject, error=str(error))
        return True
