"""Totals and readiness, and the depth of every fleet's queue, looked up once a second for all who ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from paddock import __version__
from paddock.control import views
from paddock.control.archive import Archive
from paddock.control.mirror import Mirror, WantedFleet
from paddock.control.owner import each, within
from paddock.control.recorder import Recorder
from paddock.control.service import FleetView
from paddock.fabric import subjects
from paddock.model.agent import AgentState
from paddock.model.errors import NotFound, PaddockError
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

log = structlog.get_logger(__name__)

EVERY_S = 1.0
PING_S_MAX = 2.0


async def nothing_broken() -> str:
    """Where nobody can tell."""
    return ""


class Status:
    def __init__(
        self,
        fabric: Fabric,
        clock: Clock,
        mirror: Mirror,
        archive: Archive,
        recorder: Recorder,
        broken: Callable[[], Awaitable[str]],
        no_room: Callable[[], str],
    ) -> None:
        """`broken`: which streams of the fabric take no more writes, or empty. `no_room`: why its disk takes none."""
        self.broken = broken
        self._no_room = no_room
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._archive = archive
        self._recorder = recorder
        self._queued: dict[str, int] = {}
        self._started_at = clock.monotonic()

    async def run(self) -> None:
        """Keep the depths fresh, for ever; one small request for each fleet."""
        while True:
            await self.look()
            await self._clock.sleep(EVERY_S)

    async def look(self) -> None:
        fleets = list(self._mirror.fleets)
        await each("depths", fleets, self._look_at, at_once=8)
        for gone in set(self._queued) - set(fleets):
            del self._queued[gone]

    async def _look_at(self, fleet: str) -> None:
        try:
            self._queued[fleet] = (await self._fabric.depth(subjects.work_stream(fleet))).messages
        except NotFound:
            self._queued[fleet] = 0
        except PaddockError:
            pass  # the fabric is away: the last known depth stands, and `ready` says what is wrong

    def queued(self, fleet: str) -> int:
        """Tasks in the fleet's queue, those that are being run included, about a second ago."""
        return self._queued.get(fleet, 0)

    def fleet(self, wanted: WantedFleet) -> FleetView:
        spec = wanted.spec
        counts = self._mirror.counts.get(spec.name, Counter())
        return FleetView(
            name=spec.name,
            wanted=len(wanted.names),
            ready=counts[AgentState.READY],
            states={str(state): count for state, count in sorted(counts.items()) if count},
            queued=self.queued(spec.name),
            queue_limit=spec.queue_limit,
            runtime=spec.runtime,
            capabilities=spec.capabilities,
            methods=[method.name for method in spec.methods or []],
            version=spec.version,
            outdated=sum(
                status.template not in ("", spec.version)
                for status in self._mirror.by_fleet.get(spec.name, {}).values()
            ),
            spec=views.blanked(spec),
        )

    async def totals(self) -> Mapping[str, Any]:
        """See `service.Control.status`. While the record is away its part says so and the rest still answers."""
        states: Counter[str] = Counter()
        for counts in self._mirror.counts.values():
            states.update({str(state): count for state, count in counts.items() if count})
        tasks: dict[str, dict[str, int]] = {}
        ready = await self.ready()
        if ready["record"] == "ok":
            await self._recorder.settle()
            counted = await self._archive.read(self._archive.record.counts)
            for (fleet, state), count in counted.items():
                tasks.setdefault(fleet, {})[state] = count
        return {
            "version": __version__,
            "uptime_s": self._clock.monotonic() - self._started_at,
            "agents": dict(states),
            "tasks": tasks,
            "queued": dict(self._queued),
            "fleets": len(self._mirror.fleets),
            "nodes": [node.id for node in self._mirror.live()],
            "fabric": ready["fabric"],
            "record": ready["record"],
            "rows_waiting": self._recorder.waiting,
        }

    async def ready(self) -> Mapping[str, str]:
        return {
            "fabric": await self._fabric_ready(),
            "record": await self._record_ready(),
            "node": "ok" if self._mirror.live() else "no node was heard of for a while: start one",
        }

    async def _fabric_ready(self) -> str:
        """Connected is not enough: after a full disk a broker may answer and take no writes."""
        if not self._fabric.connected:
            return "not connected; it is being tried again ('paddock doctor' looks at what it needs)"
        if broken := await self.broken():
            return broken
        if full := self._no_room():
            return full
        try:
            await self._fabric.store(subjects.well("server"), b"", timeout_s=PING_S_MAX)
        except PaddockError as error:
            return f"it takes no writes: {error.message}"
        return "ok"

    async def _record_ready(self) -> str:
        async def ping() -> str:
            try:
                await self._archive.read(self._archive.record.ping)
            except PaddockError as error:
                return error.message
            return self._recorder.problem or "ok"

        return await within(self._clock, ping(), PING_S_MAX) or f"it did not answer within {PING_S_MAX:g} s"
