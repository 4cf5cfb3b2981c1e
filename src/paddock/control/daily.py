"""Daily operations: integrity, full report, advice, performance, clean-up. Each once a day, and whenever a person asks.

waiting ──a day since its last run, or asked──> running ──> event `ops.<name>` with what was found ──> waiting
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from paddock.control.care import Care
from paddock.control.core import Core
from paddock.control.janitor import Janitor
from paddock.control.status import Status
from paddock.decide.advice import FleetFacts, advise, slower
from paddock.model.errors import NotFound, PaddockError
from paddock.model.kpi import FleetPoint, OpsReport, amount

log = structlog.get_logger(__name__)

LOOK_S = 60.0
DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
FINDINGS_MAX = 100
_STATE = "$KV.state._paddock.ops"


class Found(msgspec.Struct, frozen=True):
    """What an operation has to say."""

    findings: list[str]
    """What should be looked at; empty: all is well."""
    text: str
    data: dict[str, Any] = {}


Operation = Callable[[], Awaitable[Found]]


class Daily:
    def __init__(self, core: Core, care: Care, janitor: Janitor, status: Status) -> None:
        self._core, self._care, self._janitor, self._status = core, care, janitor, status
        self._one_at_a_time = asyncio.Lock()
        self._ran: dict[str, float] = {}
        self.operations: Mapping[str, Operation] = {
            "integrity-check": self._integrity,
            "full-report": self._report,
            "optimisation-advice": self._advice,
            "performance-analysis": self._performance,
            "clean-up": self._clean_up,
        }

    async def run(self) -> None:
        """For ever: what has not run for a day is run. When it ran last is kept in the fabric."""
        self._ran = await self._recall()
        while True:
            await self._core.clock.sleep(LOOK_S)  # also at first: a fleet that is being started is not a finding
            now = self._core.clock.now()
            for name in self.operations:
                if abs(now - self._ran.get(name, 0.0)) >= DAY_S:
                    try:
                        await self.do(name, by="schedule")
                    except PaddockError as error:
                        log.warning("a daily operation failed", name=name, error=error.message)

    def names(self) -> Sequence[str]:
        return list(self.operations)

    async def do(self, name: str, *, by: str = "") -> OpsReport:
        """Run one now. What it found is also an event."""
        operation = self.operations.get(name)
        if operation is None:
            raise NotFound(f"there is no daily operation {name[:40]!r}; there are: {', '.join(self.operations)}")
        async with self._one_at_a_time:
            at, began = self._core.clock.now(), self._core.clock.monotonic()
            found = await operation()
            report = OpsReport(
                name=name,
                at=at,
                took_s=self._core.clock.monotonic() - began,
                ok=not found.findings,
                text=found.text,
                findings=found.findings[:FINDINGS_MAX],
                data=found.data,
            )
            self._ran[name] = at
            await self._core.events.tell(f"ops.{name}", name, found.text, by=by, data={"findings": report.findings})
            await self._remember()
            return report

    # -- the operations --------------------------------------------------------------------------------------------

    async def _integrity(self) -> Found:
        """Does what is wanted run, do the parts answer, does the record agree with the fabric?"""
        mirror = self._core.mirror
        findings = [f"{part}: {said}" for part, said in (await self._status.ready()).items() if said != "ok"]
        wanted = {f"{name}/{agent}" for name, held in mirror.fleets.items() for agent in held.names}
        missing, extra = sorted(wanted - mirror.agents.keys()), sorted(mirror.agents.keys() - wanted)
        findings += [f"{len(missing)} wanted agents are nowhere: {', '.join(missing[:5])}"] if missing else []
        findings += [f"{len(extra)} agents run that nobody wants: {', '.join(extra[:5])}"] if extra else []
        damaged = await self._core.archive.read(self._core.archive.record.check)
        findings += [f"record: {damaged}"] if damaged else []
        counts = await self._core.archive.read(self._core.archive.record.counts)
        for fleet in mirror.fleets:
            recorded, queued = counts.get((fleet, "queued"), 0), self._status.queued(fleet)
            if not queued and recorded > 100:
                findings.append(f"{fleet}: the record knows {recorded} queued tasks, and its queue is empty")
        return Found(findings, f"{len(wanted)} wanted agents of {len(mirror.fleets)} fleets checked")

    async def _report(self) -> Found:
        report = await self._care.kpi_report(since_s=DAY_S)
        missed = [
            f"{kpi.name} is {amount(kpi.value, kpi.unit)}, its target is {amount(kpi.target, kpi.unit)}"
            for kpi in report.kpis
            if kpi.good is False
        ]
        burning = [slo for slo in report.objectives if slo.alarm]
        alarms = [f"{slo.fleet}: {slo.objective.name} burns its budget ({slo.alarm})" for slo in burning]
        known = ", ".join(f"{kpi.name} {amount(kpi.value, kpi.unit)}" for kpi in report.kpis if kpi.value is not None)
        return Found([*missed, *alarms], known, {"kpis": msgspec.to_builtins(report.kpis)})

    async def _advice(self) -> Found:
        since = self._core.clock.now() - DAY_S
        findings: list[str] = []
        for name in sorted(self._core.mirror.fleets):
            findings += advise(self._facts(name), await self._points(name, since))
        return Found(
            findings,
            f"{len(findings)} thing{'s' * (len(findings) != 1)} could be better" if findings else "nothing stands out",
        )

    async def _performance(self) -> Found:
        now = self._core.clock.now()
        findings: list[str] = []
        for name in sorted(self._core.mirror.fleets):
            points = await self._points(name, now - WEEK_S)
            recent = [point for point in points if point.at >= now - DAY_S]
            findings += slower(name, [point for point in points if point.at < now - DAY_S], recent)
        return Found(findings, f"{len(findings)} fleets got worse" if findings else "as quick as in the week before")

    async def _clean_up(self) -> Found:
        await self._janitor.round()
        removed = await self._janitor.prune_history()
        return Found(
            [],
            f"{removed} rows of history were past their time and are removed, as is all else that was",
            {"rows": removed},
        )

    def _facts(self, fleet: str) -> FleetFacts:
        spec = self._core.mirror.fleets[fleet].spec
        agents = self._core.mirror.by_fleet.get(fleet, {})
        measured = [vitals.memory_bytes for status in agents.values() if (vitals := self._care.vitals.of(status))]
        return FleetFacts(
            name=fleet,
            agents=len(agents),
            queued=self._status.queued(fleet),
            owners=bool(spec.owners),
            memory_bytes_max=max(measured, default=0),
            memory_limit_bytes=spec.limits.memory_bytes,
        )

    async def _points(self, fleet: str, since: float) -> list[FleetPoint]:
        read = self._core.archive.record.fleet_points
        return list(await self._core.archive.read(lambda: read(since, fleet=fleet)))

    # -- when they ran ---------------------------------------------------------------------------------------------

    async def _recall(self) -> dict[str, float]:
        try:
            stored = await self._core.fabric.last("KV_state", _STATE)
            return msgspec.json.decode(stored.data, type=dict[str, float]) if stored is not None else {}
        except (PaddockError, msgspec.MsgspecError) as error:
            log.warning("when the daily operations ran last is not known", error=str(error))
            return {}

    async def _remember(self) -> None:
        try:
            await self._core.fabric.store(_STATE, msgspec.json.encode(self._ran))
        except PaddockError as error:
            log.warning("when a daily operation ran is not kept", error=error.message)
