"""What every fleet does, summed up in stretches of five minutes for the key figures: time ready, tasks, response times.

Time is exact: each change of state is counted when it is seen, nothing is sampled. What is newly wanted counts from
when it is ready, or from START_S later if it is not. Time in which no server ran is not counted at all. A stretch that
was begun when the server was killed is lost.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import structlog

from paddock.control.archive import Archive
from paddock.control.mirror import Mirror
from paddock.control.recorder import Recorder
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.errors import PaddockError
from paddock.model.kpi import LATENCY_BOUNDS_S, FleetPoint
from paddock.model.task import TaskResult, TaskState
from paddock.ports.clock import Clock
from paddock.ports.record import Batch

log = structlog.get_logger(__name__)

SPAN_S = 300.0
START_S = 60.0
"""What comes up within this time was never down."""
OWNERS_MAX = 100_000
"""Different owners that are told apart in one stretch."""
LATE_S = 3600.0
"""A result that ended longer ago is read again after a restart, or was delayed: it is not of now."""


@dataclass
class _Stretch:
    """What one fleet did since it began; times on the monotonic clock."""

    since: float
    ready: int = 0
    wanted: int = 0
    started: int = 0
    """Of `wanted`, those that were ready once or have had their time to start."""
    started_by: float = 0.0
    """When that is all of them."""
    ready_s: float = 0.0
    wanted_s: float = 0.0
    done: int = 0
    failed: int = 0
    dead: int = 0
    busy_s: float = 0.0
    latency_s: float = 0.0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    owners: set[str] = field(default_factory=set)

    def until(self, now: float) -> None:
        if self.started < self.wanted and now >= self.started_by:
            self._count(max(self.since, self.started_by))
            self.started = self.wanted
        self._count(now)

    def change(self, ready: int, wanted: int, now: float) -> None:
        self.until(now)
        if wanted > self.wanted:
            self.started_by = now + START_S
        self.ready, self.wanted = ready, wanted
        self.started = min(wanted, max(ready, self.started))

    def next(self, now: float) -> _Stretch:
        """The one that follows."""
        return _Stretch(now, self.ready, self.wanted, self.started, self.started_by)

    def _count(self, now: float) -> None:
        span_s = max(0.0, now - self.since)
        # More may be ready than wanted while a fleet is scaled down: they do not make up for others.
        self.ready_s += min(self.ready, self.wanted) * span_s
        self.wanted_s += self.started * span_s
        self.since = now


class Figures:
    def __init__(self, archive: Archive, clock: Clock, mirror: Mirror, recorder: Recorder) -> None:
        self._archive, self._clock, self._mirror = archive, clock, mirror
        self._began_at = clock.now()
        self._began = clock.monotonic()
        self._fleets: dict[str, _Stretch] = {}
        self._ended_points: list[FleetPoint] = []
        mirror.on_fleet.append(self._fleet_changed)
        mirror.on_agent.append(self._agent_changed)
        mirror.on_gone.append(lambda agent: self._fleet_changed(agent.partition("/")[0]))
        recorder.on_ended.append(self._ended)

    async def run(self) -> None:
        """For ever: write a stretch when it is over."""
        while True:
            await self._clock.sleep(SPAN_S - (self._clock.monotonic() - self._began) % SPAN_S)
            await self.write()

    async def write(self) -> None:
        """End the stretch now and put it into the record."""
        points = self._ended_points = self.points()
        self._began_at, self._began = self._clock.now(), self._clock.monotonic()
        self._fleets = {
            name: held.next(self._began) for name, held in self._fleets.items() if name in self._mirror.fleets
        }
        try:
            await self._archive.write(lambda: self._archive.record.apply(Batch(fleets=points)))
        except PaddockError as error:
            log.warning("figures of a stretch are lost: the record does not answer", error=error.message)
        finally:
            self._ended_points = []

    def points(self) -> list[FleetPoint]:
        """The stretch so far; and the one before it, until it is written."""
        now = self._clock.monotonic()
        span_s = now - self._began
        found = list(self._ended_points)
        for name, held in sorted(self._fleets.items()):
            held.until(now)
            if held.wanted_s or held.done or held.failed or held.dead:
                found.append(
                    FleetPoint(
                        fleet=name,
                        at=self._began_at,
                        span_s=span_s,
                        wanted_s=held.wanted_s,
                        ready_s=held.ready_s,
                        done=held.done,
                        failed=held.failed,
                        dead=held.dead,
                        busy_s=held.busy_s,
                        latency_s=held.latency_s,
                        latencies=list(held.latencies),
                        owners=len(held.owners),
                    )
                )
        return found

    def _stretch(self, fleet: str) -> _Stretch:
        held = self._fleets.get(fleet)
        if held is None:
            held = self._fleets[fleet] = _Stretch(self._clock.monotonic())
        return held

    def _agent_changed(self, status: AgentStatus) -> None:
        self._fleet_changed(status.fleet)

    def _fleet_changed(self, fleet: str) -> None:
        held, wanted = self._stretch(fleet), self._mirror.fleets.get(fleet)
        counts = self._mirror.counts.get(fleet)
        ready = counts[AgentState.READY] + counts[AgentState.DEGRADED] if counts is not None else 0
        number = len(wanted.names) if wanted is not None else 0
        if (ready, number) != (held.ready, held.wanted):
            held.change(ready, number, self._clock.monotonic())

    def _ended(self, result: TaskResult) -> None:
        if abs(self._clock.now() - result.finished_at) > LATE_S:
            return
        held = self._stretch(result.fleet)
        if result.started_at:
            held.busy_s += max(0.0, result.finished_at - result.started_at)
        if result.state is TaskState.DONE:
            held.done += 1
            latency_s = max(0.0, result.finished_at - result.submitted_at)
            held.latency_s += latency_s
            held.latencies[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        elif result.state is TaskState.FAILED:
            held.failed += 1
        elif result.state is TaskState.DEAD:
            held.dead += 1
        wanted = self._mirror.fleets.get(result.fleet)
        if wanted is not None and wanted.spec.owners and len(held.owners) < OWNERS_MAX:
            held.owners.add(result.agent)
