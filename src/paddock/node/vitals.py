"""What is measured of each agent, told to the server: in turn, so that each has its turn every EVERY_S, and at once
when a probe changed its verdict. One loop for all; a round of the heap's kind would cost a timer for each agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from paddock.fabric import subjects
from paddock.model.health import Vitals
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric
from paddock.ports.runtime import Live, Measured, Usage

EVERY_S = 30.0
TICK_S = 1.0
BATCH_MAX = 200
CPU_S_MIN = 1.0
"""Processor time is compared over at least so long: the kernel counts in hundredths of a second."""


class Meter:
    """What one incarnation uses, as often as somebody asks."""

    def __init__(self, live: Live, clock: Clock) -> None:
        self._live = live if isinstance(live, Measured) else None
        self._clock = clock
        self._before: tuple[float, float] | None = None
        self._cpus = -1.0

    def read(self) -> Usage | None:
        """None when it cannot be measured, or has ended."""
        found = self._live.usage() if self._live is not None else None
        if found is None or found.cpu_s < 0:
            return found
        now = self._clock.monotonic()
        if self._before is None:
            self._before = now, found.cpu_s
        elif now - self._before[0] >= CPU_S_MIN:
            self._cpus = max(0.0, (found.cpu_s - self._before[1]) / (now - self._before[0]))
            self._before = now, found.cpu_s
        return msgspec.structs.replace(found, cpus=self._cpus)


class Watched(Protocol):
    """An agent that is told of."""

    @property
    def id(self) -> str: ...
    def vitals(self, now: float) -> Vitals | None:
        """Measured now; None when it does not run."""
        ...


class VitalsTeller:
    def __init__(self, node: str, fabric: Fabric, clock: Clock, agents: Callable[[], Iterable[Watched]]) -> None:
        self._subject, self._fabric, self._clock, self._agents = subjects.vitals(node), fabric, clock, agents
        self._round: list[Watched] = []
        self._share = 0.0
        """Agents of this round per tick, and what is left over of it."""
        self._rest = 0.0
        self._soon: dict[str, Watched] = {}
        self._wake: asyncio.Handle | None = None

    async def run(self) -> None:
        """For ever: the next few of the round, each tick."""
        while True:
            self.tick()
            await self._clock.sleep(TICK_S)

    def tick(self) -> None:
        """Tell of those whose turn it is."""
        if not self._round:
            self._round = list(self._agents())
            self._share = len(self._round) * TICK_S / EVERY_S
            self._rest = min(self._rest, 1.0)
        self._rest += self._share
        count = int(self._rest)
        self._rest -= count
        turn, self._round = self._round[:count], self._round[count:]
        self._tell(turn)

    def soon(self, agent: Watched) -> None:
        """Tell of it with all else that changes in this turn of the loop."""
        self._soon[agent.id] = agent
        if self._wake is None:
            self._wake = asyncio.get_running_loop().call_soon(self._tell_soon)

    def _tell_soon(self) -> None:
        agents, self._soon, self._wake = list(self._soon.values()), {}, None
        self._tell(agents)

    def _tell(self, agents: list[Watched]) -> None:
        now = self._clock.now()
        found = [vitals for agent in agents if (vitals := agent.vitals(now)) is not None]
        for start in range(0, len(found), BATCH_MAX):
            self._fabric.publish(self._subject, msgspec.json.encode(found[start : start + BATCH_MAX]))
