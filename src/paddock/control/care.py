"""Everything about health and healing behind one door: what the HTTP edge asks, and the loops that do it.

(made) ──start──> book read ──> vitals · health · competence · signs · healing · common causes · figures · chronicle
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import msgspec
import structlog

from paddock.control.actions import Actions
from paddock.control.common import CommonCauses
from paddock.control.competence import Competence
from paddock.control.core import Core
from paddock.control.figures import Figures
from paddock.control.healing import Healer
from paddock.control.health import HealthKeeper
from paddock.control.incidents import Book
from paddock.control.owner import Owner, within
from paddock.control.reports import Reports
from paddock.control.signs import Found, Signs
from paddock.control.vitals import VitalsBook
from paddock.decide.explain import Explanation, explain
from paddock.decide.redact import said
from paddock.decide.rehearse import Rehearsal, Rehearsed, rehearse
from paddock.model.agent import Event
from paddock.model.errors import NotFound, PaddockError, Refused, Unavailable
from paddock.model.health import Band, HealthPoint, Score
from paddock.model.incident import BY_HAND, Fact, Incident, IncidentState, Severity
from paddock.model.kpi import HealthReport, KpiReport
from paddock.model.names import split_agent
from paddock.model.policy import SYNONYMS, Action, Cause, Policy
from paddock.ports.record import Batch, Page

log = structlog.get_logger(__name__)

START_S_MAX = 30.0
WRITE_S = 0.1
RETRY_S = 1.0
ROWS_MAX = 500
INCIDENTS_MAX = 1000
"""Of one report; the newest."""
CHANGES_MAX = 200
TRIES_MAX = 3
"""To begin with what a person asks for, while incidents end by themselves."""
CHANGES_S = 3600.0
WHY_CHARS_MAX = 1000


class Care:
    def __init__(self, core: Core) -> None:
        self._core = core
        clock, mirror = core.clock, core.mirror
        self.vitals = VitalsBook(core.fabric, clock, mirror)
        self.health = HealthKeeper(core.archive, clock, mirror, self.vitals, core.recorder)
        self.figures = Figures(core.archive, clock, mirror, core.recorder)
        self.book = Book(core.fabric, clock, core.archive)
        self.signs = Signs(clock, mirror, self.book)
        self.actions = Actions(mirror, core.nodes, core.apply)
        self.competence = Competence(core.fabric, clock, mirror, self.health, core.dice)
        self.healer = Healer(core, self.vitals, self.health, self.book, self.actions)
        self.common = CommonCauses(clock, mirror, self.book)
        self.reports = Reports(
            core, self.vitals, self.figures, self.book, lambda fleet: self.scores(fleet=fleet), self._opened_since
        )
        self._dirty: dict[int, Incident] = {}
        self._written = asyncio.Event()
        self._by_hand = asyncio.Lock()
        self.signs.changes_of = self._changes_of
        self._lately: deque[Event] = deque(maxlen=CHANGES_MAX)
        core.recorder.on_event.append(self._happened)
        self.health.on_sign.append(self.signs.stands_out)
        self.book.on_change.append(self._changed)

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self, owner: Owner) -> None:
        """Read the book of incidents, then begin to care."""
        ready = asyncio.Event()
        owner.loop("incidents", self.book.follow(ready))

        async def known() -> bool:
            await ready.wait()
            return True

        if not await within(self._core.clock, known(), START_S_MAX):
            raise Unavailable(f"the fabric did not tell within {START_S_MAX:g} s which incidents are open")
        self.vitals.start()
        for name, work in (
            ("chronicle", self._write()),
            ("health", self.health.run()),
            ("figures", self.figures.run()),
            ("competence", self.competence.run(owner)),
            ("signs", self.signs.run()),
            ("healing", self.healer.run()),
            ("tallies", self.healer.run_tallies()),
            ("common-causes", self.common.run()),
        ):
            owner.loop(name, work)

    async def stop(self) -> None:
        """After its loops were ended: write what was measured since the last stretch."""
        self.vitals.close()
        await self.health.write()
        await self.figures.write()
        await self._flush()

    # -- answers ---------------------------------------------------------------------------------------------------

    def scores(self, *, fleet: str = "", band: str = "") -> Sequence[Score]:
        """The worst first."""
        if fleet:
            self._core.mirror.fleet(fleet)
        if band and band not in set(Band):
            raise Refused(f"band {band[:40]!r} is none of {', '.join(Band)}")
        found = [
            score
            for agent, score in self.health.scores.items()
            if fleet in ("", score.fleet) and band in ("", score.band) and agent in self._core.mirror.agents
        ]
        return sorted(found, key=lambda score: (score.score, score.id))

    def score(self, agent: str) -> Score:
        split_agent(agent)
        if agent not in self.health.scores:
            raise NotFound(f"there is no agent {agent!r} whose health is known")
        return self.health.scores[agent]

    async def history(self, agent: str, since: float) -> Sequence[HealthPoint]:
        """Of the agent's score, oldest first."""
        read = self._core.archive.record.health
        return await self._core.archive.read(lambda: read(agent, since))

    async def incidents(
        self, *, about: str = "", state: str = "", since: float = 0.0, after: str = "", limit: int = 100
    ) -> Page:
        states = list(IncidentState)  # `open` stands for all that are not over yet
        if state and state not in states:
            raise Refused(f"state {state[:40]!r} is none of {', '.join(states)}")
        await self._flush()
        read = self._core.archive.record.incidents
        return await self._core.archive.read(
            lambda: read(about=about, state=state, since=since, after=after, limit=limit)
        )

    async def _opened_since(self, fleet: str, since: float) -> Sequence[Incident]:
        return (await self.incidents(about=fleet, since=since, limit=INCIDENTS_MAX)).items

    async def incident(self, number: int) -> Incident:
        for incident in self.book.open.values():
            if incident.id == number:
                return incident
        await self._flush()
        found = await self._core.archive.read(lambda: self._core.archive.record.incident(number))
        if found is None:
            raise NotFound(f"there is no incident {number}: 'paddock get incidents' lists them")
        return found

    async def explain(self, number: int) -> Explanation:
        return explain(await self.incident(number), now=self._core.clock.now())

    def rehearse(self, case: Rehearsal) -> Rehearsed:
        """What the policy of a fleet would do about an imagined incident; does nothing."""
        policy = self._core.mirror.fleet(case.fleet).spec.policy if case.fleet else Policy()
        title = said(case.title, self._core.mirror.secrets())
        return rehearse(policy, msgspec.structs.replace(case, title=title))

    async def kpi_report(self, *, since_s: float = 86_400.0, fleet: str = "") -> KpiReport:
        return await self.reports.kpi(since_s=since_s, fleet=fleet)

    def health_report(self, *, fleet: str = "") -> HealthReport:
        return self.reports.health(fleet=fleet)

    # -- wishes ----------------------------------------------------------------------------------------------------

    async def heal(self, agent: str, action: str, *, by: str = "") -> Incident:
        """Do one action now, as a person asks; it is verified and recorded like every other."""
        fleet, name = split_agent(agent)
        action = SYNONYMS.get(action, action)
        status = self._core.mirror.agents.get(agent)
        wanted = self._core.mirror.fleet(fleet)
        if status is None or name not in wanted.names:
            raise NotFound(f"there is no agent {agent!r}")
        offered = self.actions.offers(status)
        if action not in offered:
            said = f"{action} is not offered for it" if action in set(Action) else f"action {action[:40]!r} is unknown"
            raise Refused(f"{agent} runs by {wanted.spec.runtime}: {said}; what is: {', '.join(sorted(offered))}")
        if action == Action.ACTIVATE_BACKUP and not wanted.spec.policy.standby:
            raise Refused(f"{agent} has no backup: name a fleet as 'standby' in the policy {wanted.spec.policy.name!r}")
        who = by or "a person"
        for _ in range(TRIES_MAX):
            async with self._by_hand:  # many may ask at once: it is one incident
                incident = next((held for held in self.book.about(agent) if held.kind == "agent"), None)
                incident = incident or await self._open_by_hand(agent, who)
            healed = await self.healer.take(incident.key, Action(action), who=who)
            if healed is not None:
                break
        else:
            raise Unavailable(f"the incidents of {agent} end as soon as they are opened: ask again")
        await self._core.events.tell("agent.heal", agent, f"{action} of {agent} on request", by=by)
        return healed

    async def _open_by_hand(self, agent: str, who: str) -> Incident:
        wish = Found(
            about=agent,
            fleet=agent.partition("/")[0],
            epoch=self._core.mirror.agents[agent].epoch,
            at=self._core.clock.now(),
            cause=Cause.LOW_SCORE,
            signature=BY_HAND,
            title=f"{who} wants {agent} healed",
            severity=Severity.INFO,
            facts=[],
            release=self._core.mirror.agents[agent].template,
        )
        opened = await self.signs.open(wish)
        if opened is None:
            raise Refused(f"{agent} is being healed by somebody else at this very moment; look at its incident")
        return opened

    async def rollback(self, fleet: str, *, by: str = "") -> str:
        """Bring back what the fleet was before its version changed last; returns that version."""
        return (await self._core.apply.rollback(fleet, by=by)).version

    async def close(self, number: int, *, by: str = "", why: str = "") -> Incident:
        """End an incident by hand; members of a common cause go on by themselves."""
        incident = await self.incident(number)
        if incident.state.over:
            raise Refused(f"incident {number} is over already: {incident.state}")
        why = said(why, self._core.mirror.secrets(), limit=WHY_CHARS_MAX)
        note = f"closed by {by or 'a person'}" + (f": {why}" if why else "")
        closed = await self.book.change(
            incident, state=IncidentState.CLOSED, closed_at=self._core.clock.now(), note=note
        )
        await self._core.events.tell("incident.closed", str(number), f"incident {number} {note}", by=by)
        return closed

    # -- what changed ----------------------------------------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        if event.kind.startswith(("fleet.", "node.started", "config.", "flag.")):
            self._lately.append(event)
        self.signs.happened(event)
        self.common.happened(event)

    def _changes_of(self, fleet: str, node: str) -> list[Fact]:
        """Changes of the last hour that may be why."""
        now = self._core.clock.now()
        return [
            Fact(at=event.at, text=f"{event.text} (by {event.by})" if event.by else event.text, source="change")
            for event in self._lately
            if event.about in (fleet, node) and now - event.at <= CHANGES_S
        ]

    # -- the record of incidents -----------------------------------------------------------------------------------

    def _changed(self, incident: Incident) -> None:
        self._dirty[incident.id] = incident
        self._written.set()
        self._core.changes.publish("incident", incident)

    async def _write(self) -> None:
        """For ever: put into the record what was said of incidents."""
        while True:
            await self._written.wait()
            self._written.clear()
            if not await self._flush():
                self._written.set()
                await self._core.clock.sleep(RETRY_S)
            await self._core.clock.sleep(WRITE_S)

    async def _flush(self) -> bool:
        while self._dirty:
            taken = {number: self._dirty.pop(number) for number in list(self._dirty)[:ROWS_MAX]}
            batch = Batch(incidents=list(taken.values()))
            try:
                await self._core.archive.write(lambda batch=batch: self._core.archive.record.apply(batch))  # type: ignore[misc]  # bound early
            except PaddockError as error:
                log.warning("incidents wait for the record", error=error.message)
                self._dirty = {**taken, **self._dirty}
                return False
        return True
