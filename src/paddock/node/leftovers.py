"""What dead incarnations and ended probes left behind: children that moved to a session of their own, and so outlived
the group.

    death ──────────> noted ──BATCH_S later────────┬─> one look for all that ended meanwhile ──found some──> once more
    end of a probe ─> noted ──BATCH_PROBES_S later─┘

A child carries the environment of the agent, or of the run of the probe, that started it. While this node lives, what
loses its parent becomes a child of the node (its subreaper): so only the node's own children are looked at, and of
those only the ones that it does not watch itself. What these started in turn ends with them. Of an agent that was
adopted, or that died while no node watched, the orphans are somebody else's: then all of /proc is read, once for the
whole batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import select
import signal
import time
from collections.abc import Iterable
from itertools import count

from paddock.agent.owner import Owner
from paddock.ports.clock import Clock
from paddock.runtimes import proc, process

BATCH_S = 0.1
BATCH_PROBES_S = 1.0
ENDS_S_MAX = 1.0
"""So long the end of what was killed is waited for, before the next look: until then its children are still its own."""
ROUNDS_MAX = 5
"""What forks faster than it is found gets away after so many looks."""

Mark = frozenset[str]
"""`NAME=value` of the environment by which what was left behind is known."""

_NAMES = (b"PADDOCK_AGENT=", b"PADDOCK_EPOCH=", b"PADDOCK_PROBE_RUN=")


def of_agent(agent: str, epoch: int) -> Mark:
    """Of one incarnation."""
    return frozenset((f"PADDOCK_AGENT={agent}", f"PADDOCK_EPOCH={epoch}"))


class Leftovers:
    def __init__(self, owner: Owner, clock: Clock, *, subreaper: bool) -> None:
        """`subreaper`: orphans of what this process started come to it."""
        self._owner, self._clock, self._subreaper = owner, clock, subreaper
        self._ours: set[Mark] = set()
        self._others: set[Mark] = set()
        self._looking: asyncio.Task[None] | None = None
        """The look that is to come: what dies until then is in it."""
        self._sweeps: set[asyncio.Task[None]] = set()
        self._probes: set[Mark] = set()
        self._probed = asyncio.Event()
        self._boot, self._runs = secrets.token_hex(4), count(1)

    def died(self, agent: str, epoch: int, *, adopted: bool) -> None:
        """End soon what it left behind. Without a subreaper its orphans are not looked for."""
        if self._subreaper:
            (self._others if adopted else self._ours).add(of_agent(agent, epoch))
            self._look()

    async def ended(self, agent: str, epoch: int) -> None:
        """It died while nobody watched: return when what it left behind is ended."""
        self._others.add(of_agent(agent, epoch))
        await asyncio.shield(self._look())

    def probe_begins(self) -> dict[str, str]:
        """What the environment of one more run of a probe holds, by which all that it starts is known."""
        return {"PADDOCK_PROBE_RUN": f"{self._boot}.{next(self._runs)}"}

    def probe_ended(self, run: dict[str, str]) -> None:
        """End soon what this run left behind."""
        if self._subreaper:
            self._probes.add(frozenset(f"{name}={value}" for name, value in run.items()))
            self._probed.set()

    async def run_probes(self) -> None:
        """For ever: look for what probes left behind, when there were any."""
        while True:
            await self._probed.wait()
            await self._clock.sleep(BATCH_PROBES_S)
            await self.end_probes()

    async def end_probes(self) -> None:
        """End now what probes left behind."""
        marks, self._probes = self._probes, set()
        self._probed.clear()
        if marks:
            await asyncio.to_thread(_end_all, marks, set())

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
        pids = map(int, filter(str.isdecimal, os.listdir("/proc"))) if children is None else children
        watched = process.watched()
        found = _marked(set(pids) - watched, ours | others)
        if not found:
            return
        for pid in found:  # grows
            found += set(proc.children(pid) or ()).difference(watched, found)
        _kill(found)


def _kill(pids: Iterable[int]) -> None:
    """Return when all have ended, after ENDS_S_MAX at the latest."""
    ending = select.poll()
    handles = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            handles.append(handle := os.pidfd_open(pid))
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            ending.register(handle, select.POLLIN)
    left, give_up = len(handles), time.monotonic() + ENDS_S_MAX
    while left and (wait_s := give_up - time.monotonic()) > 0:
        for handle, _ in ending.poll(wait_s * 1000):
            ending.unregister(handle)
            left -= 1
    for handle in handles:
        os.close(handle)


def _marked(pids: Iterable[int], marks: set[Mark]) -> list[int]:
    """Those whose environment at their start was of one of these."""
    wanted = {frozenset(map(str.encode, mark)) for mark in marks}
    return [pid for pid in pids if frozenset(e for e in proc.environment(pid) if e.startswith(_NAMES)) in wanted]
