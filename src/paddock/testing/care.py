"""Health and healing in memory: what the HTTP edge can be tried on. `FakeControl` has one of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from paddock.decide.explain import Explanation, explain
from paddock.decide.rehearse import Rehearsal, Rehearsed, rehearse
from paddock.model.errors import NotFound, Refused
from paddock.model.health import Band, HealthPoint, Score
from paddock.model.incident import Incident, IncidentState, Outcome, StepTaken
from paddock.model.kpi import FleetPoint, HealthReport, Kpi, KpiReport, OpsReport, Slo
from paddock.model.policy import SYNONYMS, Action, Cause, Objective, Policy
from paddock.ports.record import Page

AT = 1_790_000_000.0


class FakeCare:
    """Satisfies `control.service.CareDoor`. Nothing happens by itself: an action that is asked for has helped."""

    def __init__(self) -> None:
        self.known: dict[str, Score] = {}
        self.book: dict[int, Incident] = {}
        self.points: list[FleetPoint] = []
        self.kpis: list[Kpi] = [Kpi(name="availability", value=0.9995, unit="share", text="time ready", good=True)]
        self.slos: list[Slo] = [
            Slo(
                fleet="critic",
                objective=Objective(name="up", measure="availability", share=0.999),
                value=0.9985,
                budget_left=-0.5,
                burns=[(3600.0, 20.0)],
                alarm="page",
            )
        ]
        self.rolled_back: list[tuple[str, str]] = []

    def add_score(self, agent: str, score: int, *because: str) -> None:
        self.known[agent] = Score(
            id=agent, fleet=agent.partition("/")[0], at=AT, score=score, band=Band.of(score), because=list(because)
        )

    def add_incident(self, about: str, *, by: str = "policy", action: str = "", **fields: Any) -> Incident:
        number = len(self.book) + 1
        known: dict[str, Any] = {
            "id": number,
            "key": f"agent.{about.replace('/', '.')}.1.{number}",
            "about": about,
            "fleet": about.partition("/")[0],
            "cause": Cause.HANG,
            "signature": "hang: no beat",
            "title": f"{about}: no beat for 10 s",
            "sign_at": AT,
            "opened_at": AT + 0.5,
        }
        if action:
            step = StepTaken(
                number=1,
                action=Action(action),
                why="it is the next rung",
                by=by,
                outcome=Outcome.RECOVERED,
                started_at=AT + 1,
                ended_at=AT + 2,
            )
            known |= {"steps": [step], "acted_at": AT + 1, "recovered_at": AT + 2, "state": IncidentState.RECOVERED}
        self.book[number] = Incident(**known | fields)
        return self.book[number]

    def scores(self, *, fleet: str = "", band: str = "") -> Sequence[Score]:
        found = [one for one in self.known.values() if fleet in ("", one.fleet) and band in ("", one.band)]
        return sorted(found, key=lambda one: (one.score, one.id))

    def score(self, agent: str) -> Score:
        if agent not in self.known:
            raise NotFound(f"there is no agent {agent!r} whose health is known")
        return self.known[agent]

    async def history(self, agent: str, since: float) -> Sequence[HealthPoint]:
        point = HealthPoint(id=agent, at=AT - 300, span_s=300.0, low=70, mean=90.0, high=100)
        return [point] if point.at >= since else []

    async def incidents(
        self, *, about: str = "", state: str = "", since: float = 0.0, after: str = "", limit: int = 100
    ) -> Page:
        states = ["open", *(known.value for known in IncidentState)]
        if state and state not in states:
            raise Refused(f"state {state!r} is none of {', '.join(states)}")
        found = [
            one
            for one in sorted(self.book.values(), key=lambda one: -one.id)
            if about in ("", one.about, one.fleet)
            and (state in ("", one.state) or (state == "open" and not one.state.over))
            and one.opened_at >= since
            and (not after or one.id < int(after))
        ]
        return Page(found[:limit], str(found[limit - 1].id) if len(found) > limit else None)

    async def incident(self, number: int) -> Incident:
        if number not in self.book:
            raise NotFound(f"there is no incident {number}: 'paddock get incidents' lists them")
        return self.book[number]

    async def explain(self, number: int) -> Explanation:
        return explain(await self.incident(number), now=AT + 10)

    async def heal(self, agent: str, action: str, *, by: str = "") -> Incident:
        action = SYNONYMS.get(action, action)
        if action not in set(Action):
            raise Refused(f"action {action!r} is none of {', '.join(Action)}")
        self.score(agent)
        return self.add_incident(agent, by=by, action=action)

    async def close(self, number: int, *, by: str = "", why: str = "") -> Incident:
        held = await self.incident(number)
        if held.state.over:
            raise Refused(f"incident {number} is over already: {held.state}")
        note = f"closed by {by}" + (f": {why}" if why else "")
        self.book[number] = msgspec.structs.replace(held, state=IncidentState.CLOSED, note=note, closed_at=AT + 5)
        return self.book[number]

    async def rollback(self, fleet: str, *, by: str = "") -> str:
        self.rolled_back.append((fleet, by))
        return "v0"

    def rehearse(self, case: Rehearsal) -> Rehearsed:
        return rehearse(Policy(), case)

    async def kpi_report(self, *, since_s: float = 86_400.0, fleet: str = "") -> KpiReport:
        return KpiReport(
            at=AT,
            since_s=since_s,
            fleet=fleet,
            kpis=self.kpis,
            objectives=self.slos,
            points=self.points,
            incidents=list((await self.incidents(about=fleet)).items),
        )

    def health_report(self, *, fleet: str = "") -> HealthReport:
        found = self.scores(fleet=fleet)
        bands = {band: sum(one.band == band for one in found) for band in {one.band.value for one in found}}
        fleets = {
            name: {
                "lowest": float(min(scores)),
                "mean": sum(scores) / len(scores),
                "agents": float(len(scores)),
            }
            for name in sorted({one.fleet for one in found})
            if (scores := [one.score for one in found if one.fleet == name])
        }
        open_now = [one for one in self.book.values() if not one.state.over and fleet in ("", one.fleet)]
        return HealthReport(at=AT, bands=bands, fleets=fleets, worst=list(found), open=open_now)


class FakeDaily:
    """Satisfies `control.service.DailyDoor`."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.done: list[tuple[str, str]] = []

    def names(self) -> Sequence[str]:
        return ["integrity-check", "clean-up"]

    async def do(self, name: str, *, by: str = "") -> OpsReport:
        if name not in self.names():
            raise NotFound(f"there is no daily operation {name!r}; there are: {', '.join(self.names())}")
        self.done.append((name, by))
        return OpsReport(
            name=name, at=AT, took_s=0.1, ok=not self.findings, text="4 agents checked", findings=self.findings
        )
