"""Schedules: submits the tasks that fleets want again and again, and remembers in the bucket `wanted` what fired last.

    due ──> task stored under an id made of fleet, schedule and time ──> mark stored

Killed between the two, the same firing is tried again and makes the same id: the queue, or the result, stops it.
"""

from __future__ import annotations

import msgspec
import structlog

from paddock.control.mirror import CronMark, Mirror
from paddock.control.owner import Wake
from paddock.control.recorder import Recorder
from paddock.decide.schedule import by_elapsed_time, due, fire_id, next_fire
from paddock.fabric import subjects
from paddock.model.errors import Conflict, PaddockError
from paddock.model.fleet import FleetSpec, Schedule
from paddock.model.task import Priority, Task
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

log = structlog.get_logger(__name__)

TICK_S_MAX = 5.0
"""The clock is looked at this often while there are schedules, for the host's clock may be set."""
RETRY_S = 1.0
AHEAD_S_MAX = 2 * 3600.0
"""A mark further in the future was made while the clock was set ahead by mistake. One less far stands: the clock was
set back a little, and each time of its face fires once; but see `by_elapsed_time`."""
BACK_S_MIN = 60.0
"""A smaller step back is the clock's own correction."""


class Crons:
    def __init__(self, fabric: Fabric, clock: Clock, mirror: Mirror, recorder: Recorder) -> None:
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._recorder = recorder
        self._wake = Wake()
        mirror.on_fleet.append(self._look)

    def _look(self, fleet: str) -> None:
        wanted = self._mirror.fleets.get(fleet)
        if wanted is None or wanted.spec.schedules:
            self._wake.set()

    async def run(self) -> None:
        while True:
            delay_s = await self.round()
            if delay_s is None:
                await self._wake.wait()
            else:
                await self._wake.wait_for(self._clock, delay_s)

    async def round(self) -> float | None:
        """Fire all that is due; returns when to look again, or None when there is no schedule at all."""
        delays_s: list[float] = []
        await self._forget()
        for wanted in list(self._mirror.fleets.values()):
            if not wanted.spec.schedules:
                continue
            try:
                delays_s.append(await self._fleet(wanted.spec))
            except PaddockError as error:
                # The queue is full or the fabric away: the mark is not moved, so it is tried again.
                log.warning("schedule not fired yet", fleet=wanted.spec.name, error=error.message)
                delays_s.append(RETRY_S)
        return min(delays_s) if delays_s else None

    async def _fleet(self, spec: FleetSpec) -> float:
        now = self._clock.now()
        for schedule in spec.schedules:
            known = self._mirror.crons.get((spec.name, schedule.name))
            if known is None:
                await self._mark(spec.name, schedule.name, CronMark(now))  # seen first: nothing before this was missed
            elif by_elapsed_time(schedule) and known.at > now + BACK_S_MIN:
                await self._mark(spec.name, schedule.name, CronMark(now, known.turn + 1))
            elif known.at > now + AHEAD_S_MAX:
                await self._mark(spec.name, schedule.name, CronMark(now, known.turn))
            mark = self._mirror.crons.get((spec.name, schedule.name), CronMark(now))
            for _, fire_at in due([schedule], mark.at, now):
                await self._fire(spec.name, schedule, CronMark(fire_at, mark.turn))
        now = self._clock.now()
        soonest = min(next_fire(schedule, now) for schedule in spec.schedules)
        return min(TICK_S_MAX, max(0.0, soonest - now))

    async def _fire(self, fleet: str, schedule: Schedule, mark: CronMark) -> None:
        task = Task(
            id=fire_id(fleet, schedule.name, mark.at, mark.turn),
            fleet=fleet,
            method=schedule.method,
            args=schedule.args,
            priority=Priority[schedule.priority],
            submitted_at=self._clock.now(),
            submitted_by=f"schedule {schedule.name}",
            keyed=True,
        )
        if await self._fabric.last(subjects.RESULTS, subjects.result(fleet, task.id)) is None:
            try:
                await self._fabric.store(subjects.work(task), msgspec.json.encode(task))
                self._recorder.queued(task)
            except Conflict:
                pass  # fired by a run that was cut short before its mark
        await self._mark(fleet, schedule.name, mark)

    async def _mark(self, fleet: str, name: str, mark: CronMark) -> None:
        seq = await self._fabric.store(_key(fleet, name), msgspec.json.encode(mark))
        await self._mirror.seen(seq)

    async def _forget(self) -> None:
        """Delete the marks of schedules that are gone: should one come back, it has missed nothing."""
        for fleet, name in list(self._mirror.crons):
            wanted = self._mirror.fleets.get(fleet)
            if wanted is not None and any(schedule.name == name for schedule in wanted.spec.schedules):
                continue
            try:
                await self._fabric.store(_key(fleet, name), b"", headers={"KV-Operation": "DEL"})
            except PaddockError as error:
                log.warning("mark of a schedule not deleted", fleet=fleet, schedule=name, error=error.message)


def _key(fleet: str, name: str) -> str:
    return f"$KV.wanted.cron.{fleet}.{name}"
