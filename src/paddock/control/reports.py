"""Reports: key figures, service levels and health, as one value that a table, JSON or a page is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from paddock.control.core import Core
from paddock.control.figures import Figures
from paddock.control.incidents import Book
from paddock.control.vitals import VitalsBook
from paddock.decide.kpi import BURNS, Usage, kpis, objectives
from paddock.model.errors import Refused
from paddock.model.health import Score
from paddock.model.incident import Incident
from paddock.model.kpi import FleetPoint, HealthReport, KpiReport, Slo

SINCE_S_MAX = 366 * 86_400.0
LONGEST_BURN_S = max(long_s for long_s, *_ in BURNS)
OPEN_MAX = 1000
WORST_MAX = 50


Scores = Callable[[str], Sequence[Score]]
"""The scores of a fleet, or of all, the worst first."""
Incidents = Callable[[str, float], Awaitable[Sequence[Incident]]]
"""Incidents about a fleet, or about all, that were opened since a time."""


class Reports:
    def __init__(
        self, core: Core, vitals: VitalsBook, figures: Figures, book: Book, scores: Scores, incidents: Incidents
    ) -> None:
        self._core, self._vitals, self._figures, self._book = core, vitals, figures, book
        self._scores, self._incidents = scores, incidents

    async def kpi(self, *, since_s: float = 86_400.0, fleet: str = "") -> KpiReport:
        if not 60.0 <= since_s <= SINCE_S_MAX:
            raise Refused(f"since_s is {since_s:g}; it must be from 60 to {SINCE_S_MAX:g}")
        if fleet:
            self._core.mirror.fleet(fleet)
        now = self._core.clock.now()
        points = await self._points(now - since_s, fleet)
        incidents = list(await self._incidents(fleet, now - since_s))
        scores = [score.score for score in self._scores(fleet)]
        return KpiReport(
            at=now,
            since_s=since_s,
            fleet=fleet,
            kpis=kpis(points, incidents, scores, self._usage(fleet)),
            objectives=await self._objectives(fleet, now),
            points=points,
            incidents=incidents,
        )

    def health(self, *, fleet: str = "") -> HealthReport:
        if fleet:
            self._core.mirror.fleet(fleet)
        scores = self._scores(fleet)
        by_fleet: dict[str, list[int]] = {}
        for score in scores:
            by_fleet.setdefault(score.fleet, []).append(score.score)
        return HealthReport(
            at=self._core.clock.now(),
            bands=dict(Counter(str(score.band) for score in scores)),
            fleets={
                name: {"lowest": min(found), "mean": sum(found) / len(found), "agents": len(found)}
                for name, found in sorted(by_fleet.items())
            },
            worst=[score for score in scores if score.score < 100][:WORST_MAX],
            open=sorted(
                (held for held in self._book.open.values() if fleet in ("", held.fleet)),
                key=lambda held: held.id,
                reverse=True,
            )[:OPEN_MAX],
        )

    async def alarms(self) -> list[Slo]:
        """Objectives whose budget burns too fast now. Of the longer windows that budgets are of nothing is read."""
        found = await self._objectives("", self._core.clock.now(), longest_s=LONGEST_BURN_S)
        return [slo for slo in found if slo.alarm]

    async def _objectives(self, fleet: str, now: float, *, longest_s: float = 0.0) -> list[Slo]:
        """`longest_s`: only points of so long are looked at; 0: as many as are needed for all."""
        found: list[Slo] = []
        for name, wanted in sorted(self._core.mirror.fleets.items()):
            goals = wanted.spec.policy.objectives
            if goals and fleet in ("", name):
                needed_s = longest_s or max(LONGEST_BURN_S, *(goal.window_s for goal in goals))
                found += objectives(name, goals, await self._points(now - needed_s, name), now)
        return found

    async def _points(self, since: float, fleet: str) -> list[FleetPoint]:
        """What the record has, and the stretch that is under way."""
        read = self._core.archive.record.fleet_points
        stored = await self._core.archive.read(lambda: read(since, fleet=fleet))
        return [*stored, *(point for point in self._figures.points() if fleet in ("", point.fleet))]

    def _usage(self, fleet: str) -> Usage:
        live = self._core.mirror.live()
        measured = [
            vitals
            for status in self._core.mirror.agents.values()
            if fleet in ("", status.fleet) and (vitals := self._vitals.of(status)) is not None
        ]
        return Usage(
            memory_bytes=_sum([float(vitals.memory_bytes) for vitals in measured]),
            memory_bytes_max=float(sum(node.memory_bytes for node in live)),
            cpus=_sum([vitals.cpus for vitals in measured]),
            cpus_max=float(sum(node.cpus for node in live)),
        )


def _sum(values: Sequence[float]) -> float:
    """Of those that were measured; -1: none was."""
    known = [value for value in values if value >= 0]
    return sum(known) if known else -1.0
