"""What dead incarnations left behind: children that moved to a session of their own, and so outlived the group.

    death ──> noted ──BATCH_S later──> one look for all that died meanwhile ──found some──> looked once more

A child carries the environment of the agent that started it. While this node lives, what loses its parent becomes a
child of the node (its subreaper): so only the node's own children are looked at. Of an agent that was adopted, or that
died while no node watched, the orphans are somebody else's: then all of /proc is read, once for the whole batch.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable

from paddock.agent.owner import Owner
from paddock.ports.clock import Clock
from paddock.runtimes import proc

BATCH_S = 0.1
ROUNDS_MAX = 5
"""What forks faster than it is found gets away after so many looks."""

Mark = tuple[str, int]
"""Agent and epoch."""


class Leftovers:
    def __init__(self, owner: Owner, clock: Clock, *, subreaper: bool) -> None:
        """`subreaper`: orphans of what this process started come to it."""
        self._owner, self._clock, self._subreaper = owner, clock, subreaper
        self._ours: set[Mark] = set()
        self._others: set[Mark] = set()
        self._looking: asyncio.Task[None] | None = None
        """The look that is to come: what dies until then is in it."""
        self._sweeps: set[asyncio.Task[None]] = set()

    def died(self, agent: str, epoch: int, *, adopted: bool) -> None:
        """End soon what it left behind. Without a subreaper its orphans are not looked for."""
        if self._subreaper:
            (self._others if adopted else self._ours).add((agent, epoch))
            self._look()

    async def ended(self, agent: str, epoch: int) -> None:
        """It died while nobody watched: return when what it left behind is ended."""
        self._others.add((agent, epoch))
        await asyncio.shield(self._look())

    async def settled(self) -> None:
        """Return when nothing that was left behind is still to be ended."""
        while self._sweeps:
            await asyncio.wait(self._sweeps)

    def _look(self) -> asyncio.Task[None]:
        if self._looking is None:
            self._looking = self._owner.start("leftovers", self._sweep())
            self._sweeps.add(self._looking)
            self._looking.add_done_callback(self._sweeps.discard)
        return self._looking

    async def _sweep(self) -> None:
        await self._clock.sleep(BATCH_S)
        ours, others = self._ours, self._others
        self._ours, self._others, self._looking = set(), set(), None
        await asyncio.to_thread(_end_all, ours, others)


def _end_all(ours: set[Mark], others: set[Mark]) -> None:
    for _ in range(ROUNDS_MAX):
        children = proc.children() if not others else None
        found = _marked(os.listdir("/proc") if children is None else map(str, children), ours | others)
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself
        if not found:
            return


def _marked(pids: Iterable[str], marks: set[Mark]) -> list[int]:
    """Those whose environment at their start was of one of these incarnations."""
    wanted = {(f"PADDOCK_AGENT={agent}".encode(), f"PADDOCK_EPOCH={epoch}".encode()) for agent, epoch in marks}
    found = []
    for pid in filter(str.isdecimal, pids):
        have = proc.environment(int(pid))
        agent = next((item for item in have if item.startswith(b"PADDOCK_AGENT=")), b"")
        epoch = next((item for item in have if item.startswith(b"PADDOCK_EPOCH=")), b"")
        if (agent, epoch) in wanted:
            found.append(int(pid))
    return found
