"""Gives back what the bucket `wanted` lost: nodes remember what they were told, and an empty bucket wants nothing away.

    node heard of ──asked what is placed there──> known to the bucket, also as deleted: nothing to do
                                                    └── not known at all: lost ──> wanted again, and told of

A deleted fleet leaves a marker in the bucket for ever, so "never heard of" can only mean that the store was lost. Each
write expects that there is nothing, so it can undo nobody's wish. What no node runs (a fleet of no agents) is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from paddock.control.events import Events
from paddock.control.fleets import Fleets
from paddock.control.mirror import Mirror
from paddock.control.nodes import Nodes
from paddock.control.owner import Wake
from paddock.fabric import subjects
from paddock.model.errors import Conflict, PaddockError
from paddock.model.fleet import Placement
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

log = structlog.get_logger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 2.0, 300.0


class Placed(msgspec.Struct, frozen=True):
    """The answer to `placements`."""

    fleets: Sequence[str] = ()


class PlacedFleet(msgspec.Struct, frozen=True):
    """The answer to `placement`."""

    placement: Placement


class Restore:
    def __init__(
        self, fabric: Fabric, clock: Clock, mirror: Mirror, nodes: Nodes, events: Events, fleets: Fleets
    ) -> None:
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._nodes = nodes
        self._events = events
        self._fleets = fleets
        self._asked: dict[str, float] = {}
        """node → when that process of it was started; it is asked once."""
        self._wake = Wake()
        mirror.on_nodes.append(self._wake.set)

    async def run(self) -> None:
        """For ever; asks a node when it is first heard of."""
        delay_s = RETRY_S_MIN
        while True:
            if await self.look():
                delay_s = RETRY_S_MIN
                await self._wake.wait()
            else:
                await self._wake.wait_for(self._clock, delay_s)
                delay_s = min(delay_s * 2, RETRY_S_MAX)

    async def look(self) -> bool:
        """Ask each node that was not asked yet; whether all have answered."""
        all_answered = True
        for node in self._mirror.live():
            if self._asked.get(node.id) == node.started_at:
                continue
            try:
                await self._ask(node.id)
                self._asked[node.id] = node.started_at
            except PaddockError as error:
                all_answered = False
                log.warning("a node does not say what is placed there", node=node.id, error=error.message)
        return all_answered

    async def _ask(self, node: str) -> None:
        answer = await self._nodes.ask(node, {"op": "placements"})
        for fleet in msgspec.json.decode(answer, type=Placed).fleets:
            if await self._is_known(subjects.wanted_place(node, fleet)):
                continue
            told = await self._nodes.ask(node, {"op": "placement", "fleet": fleet})
            placement = msgspec.json.decode(told, type=PlacedFleet).placement
            if self._mirror.placements.get(fleet):
                # Others have its agents by now; there must be no second copies.
                await self._store(subjects.wanted_place(node, fleet), None)
                continue
            self._fleets.found.setdefault(fleet, {})[node] = list(placement.names)
            if await self._store(subjects.wanted_fleet(fleet), msgspec.json.encode(placement.spec)):
                text = f"{fleet} is wanted again: the fabric had lost that, node {node} still runs its agents"
                log.warning("a lost fleet is wanted again", fleet=fleet, node=node)
                await self._events.tell("fleet.restored", fleet, text, data={"node": node})

    async def _is_known(self, key: str) -> bool:
        return await self._fabric.last(subjects.WANTED, f"$KV.wanted.{key}") is not None

    async def _store(self, key: str, data: bytes | None) -> bool:
        """Whether it was not there, also not as deleted, and is now."""
        headers = {"KV-Operation": "DEL"} if data is None else None
        try:
            await self._fabric.store(f"$KV.wanted.{key}", data or b"", headers=headers, expect_seq=0)
        except Conflict:
            return False
        return True
