"""When a schedule comes due, and under which id its task is submitted.

Daylight saving as in Debian's cron: a fixed time that a clock change skips fires right after the gap, one that comes
twice fires once; schedules by the hour or minute go by elapsed time.
"""

from __future__ import annotations

import hashlib
import math
import zoneinfo
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo

import cronsim

from paddock.model.fleet import FleetSpec, Schedule

_LOOK_BACK_S = (120.0, 3600.0, 86_400.0, 32 * 86_400.0, 366 * 86_400.0, 9 * 366 * 86_400.0)
"""How far back `due` looks for the latest time, step by step, so that an every-minute schedule after a month without
a server does not walk through the whole month."""


def next_fire(schedule: Schedule, after: float) -> float:
    """The first time (unix seconds) strictly after `after`; infinity when it never comes again."""
    start = datetime.fromtimestamp(math.floor(after), _zone(schedule.timezone))
    for fire in cronsim.CronSim(schedule.cron, start):
        # Inside the hour that comes twice, the library goes back to its first pass: those times are over.
        if fire.timestamp() > after:
            return float(fire.timestamp())
    return math.inf


def due(schedules: Sequence[Schedule], last: float, now: float) -> list[tuple[Schedule, float]]:
    """What came due after `last` and up to `now`, oldest first. Of several missed times of one schedule only the
    latest counts: catching up on a long absence must not flood the fleet."""
    found = [(schedule, fire) for schedule in schedules if (fire := _latest(schedule, last, now)) is not None]
    return sorted(found, key=lambda pair: (pair[1], pair[0].name))


def by_elapsed_time(schedule: Schedule) -> bool:
    """Whether it is one by the hour or minute. Of a fixed time of the day it matters what the clock says; of these how
    long ago the last one was, so a clock that is set back does not hold them up."""
    return any(field.startswith("*") for field in schedule.cron.split()[:2])


def fire_id(fleet: str, schedule_name: str, fire_at: float, turn: int = 0) -> str:
    """The task's id: the same for the same time, so that two servers or a repeated start submit it once. `turn` tells
    apart times that come again after the clock was set back."""
    digest = hashlib.sha256(f"{fleet}/{schedule_name}".encode()).hexdigest()[:20]
    return f"cron-{digest}-{math.floor(fire_at)}" + (f"-{turn}" if turn else "")


def unknown_methods(spec: FleetSpec) -> list[str]:
    """One sentence for each schedule that calls a method which the fleet does not have; for use once the methods have
    been found out (the manifest's reader knows only those that are declared)."""
    if spec.methods is None:
        return []
    known = sorted(method.name for method in spec.methods)
    return [
        f"schedule {schedule.name!r} of {spec.name} calls {schedule.method!r}, which is not among its methods: "
        f"{', '.join(known) or 'it has none'}"
        for schedule in spec.schedules
        if schedule.method not in known
    ]


def _latest(schedule: Schedule, last: float, now: float) -> float | None:
    for look_back_s in (*_LOOK_BACK_S, math.inf):
        start = max(last, now - look_back_s)
        found, fire = None, next_fire(schedule, start)
        while fire <= now:
            found, fire = fire, next_fire(schedule, fire)
        if found is not None or start == last:
            return found
    return None


def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
