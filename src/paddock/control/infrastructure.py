"""The machine and Paddock's own servers: asked of the infrastructure agents, healed as incidents like everything else.

    look (agents of the capability `infrastructure`, and the server) ──> streaks ──ill──> incident ──> rung by rung
                                                                            └──well──> recovered

One incident a part at a time. What the agent may not do it says, and the next rung is tried; then people are told.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from paddock.control.core import Core
from paddock.control.incidents import Book
from paddock.control.status import Status
from paddock.decide.infra import Finding, Streak, next_action, seen, under_way
from paddock.decide.redact import said
from paddock.fabric import subjects
from paddock.model.errors import Conflict, NoResponders, PaddockError
from paddock.model.incident import Fact, Incident, IncidentState, Outcome, Severity, StepTaken
from paddock.model.policy import Action, Cause

log = structlog.get_logger(__name__)

EVERY_S = 10.0
ASK_S_MAX = 15.0
ACT_S_MAX = 60.0
CAPABILITY = "infrastructure"
PARTS = frozenset({"cpu", "memory", "disk", "files", "clock", "broker"})
"""What an agent is believed about; the record is asked by the server itself."""


class Answer(msgspec.Struct, frozen=True):
    ok: Any = None
    error: dict[str, Any] = {}


class Infrastructure:
    def __init__(self, core: Core, book: Book, status: Status) -> None:
        self._core, self._book, self._status = core, book, status
        self._streaks: dict[str, Streak] = {}
        self._sheds: dict[str, str] = {}
        """Key of an open incident → why tasks of the lowest priority are refused because of it."""
        book.on_change.append(self._incident_changed)

    @property
    def shedding(self) -> str:
        """Why tasks of the lowest priority are refused now; empty: they are not."""
        return next(iter(self._sheds.values()), "")

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._core.clock.sleep(EVERY_S)
            for finding in await self.look():
                try:
                    await self._take(finding)
                except Conflict:
                    continue  # somebody else changed it: the next look goes on from there
                except PaddockError as error:
                    log.warning("infrastructure waits", part=finding.part, error=error.message)

    async def look(self) -> list[Finding]:
        """How all parts are, the worst of each."""
        found: dict[str, Finding] = {}
        for finding in [*await self._asked(), *await self._own()]:
            known = found.get(finding.part)
            if known is None or (finding.bad and not known.bad):
                found[finding.part] = finding
        return list(found.values())

    async def _asked(self) -> list[Finding]:
        findings: list[Finding] = []
        for fleet in self._fleets():
            try:
                told = msgspec.convert(await self._ask(fleet, "look", {}, ASK_S_MAX), list[Finding])
                findings += [replace(one, text=said(one.text)) for one in told if one.part in PARTS]
            except NoResponders:
                continue  # nobody is ready there; that is another matter
            except (PaddockError, msgspec.MsgspecError) as error:
                log.warning("an infrastructure agent does not tell", fleet=fleet, error=str(error))
        return findings

    async def _own(self) -> list[Finding]:
        """What the server sees itself."""
        record = (await self._status.ready()).get("record", "ok")
        return [Finding(part="record", bad=record != "ok", text=f"the record: {record}")]

    def _fleets(self) -> list[str]:
        return [name for name, held in self._core.mirror.fleets.items() if CAPABILITY in held.spec.capabilities]

    async def _ask(self, fleet: str, method: str, args: dict[str, Any], timeout_s: float) -> Any:
        question = msgspec.json.encode({"method": method, "args": args})
        reply = await self._core.fabric.request(subjects.ask(fleet), question, timeout_s=timeout_s)
        answer = msgspec.json.decode(reply.data, type=Answer)
        if answer.error:
            raise PaddockError(str(answer.error.get("message", "an error without a message"))[:300])
        return answer.ok

    async def _take(self, finding: Finding) -> None:
        streak = self._streaks[finding.part] = seen(self._streaks.get(finding.part, Streak()), finding)
        # A fleet may be called `disk`: what is about it is another matter.
        known = (held for held in self._book.about(finding.part) if held.kind == "infrastructure")
        incident = next(known, None)
        if incident is None:
            if streak.ill:
                incident = await self._open(finding)
            if incident is None:
                return
        elif streak.well:
            await self._recovered(incident, finding)
            return
        if streak.ill and incident.state is not IncidentState.ESCALATED:
            await self._go_on(incident, finding)

    async def _open(self, finding: Finding) -> Incident | None:
        now = self._core.clock.now()
        return await self._book.begin(
            Incident(
                id=0,
                key=f"infra.{finding.part}.{int(now)}",
                kind="infrastructure",
                about=finding.part,
                cause=Cause.RESOURCES if finding.part not in ("broker", "record") else Cause.CONNECTION,
                signature=f"infrastructure: {finding.part}",
                title=finding.text,
                severity=Severity.ERROR,
                sign_at=now - EVERY_S,
                opened_at=now,
                evidence=[Fact(at=now, text=finding.text, source="metric")],
            )
        )

    async def _go_on(self, incident: Incident, finding: Finding) -> None:
        """The last thing did not help, or nothing was done yet: the next rung."""
        now = self._core.clock.now()
        if under_way(incident):
            incident = await self._judge(incident, Outcome.NO_BETTER, finding)
        action = next_action(finding.part, incident)
        if action is None:
            why = "nothing more can be done here" if incident.steps else "Paddock may do nothing about it"
            await self._book.change(incident, state=IncidentState.ESCALATED, note=f"{why}: {finding.text}")
            return
        step = StepTaken(
            number=len(incident.steps) + 1,
            action=action,
            why=finding.text,
            expects=f"{finding.part} well again within {EVERY_S * 3:g} s",
            started_at=now,
            due_at=now + EVERY_S * 3,
        )
        incident = await self._book.change(
            incident,
            state=IncidentState.ACTING,
            steps=[*incident.steps, step],
            acted_at=incident.acted_at or now,
            note=f"{action} because {finding.text}",
        )
        ok, detail = await self._do(action, finding)
        await self._core.events.tell("infra.healed" if ok else "infra.refused", finding.part, f"{action}: {detail}")
        done = msgspec.structs.replace(
            step,
            acted_at=self._core.clock.now(),
            detail=detail,
            outcome=Outcome.PENDING if ok else Outcome.FAILED,
            ended_at=0.0 if ok else self._core.clock.now(),
        )
        steps = [*incident.steps[:-1], done]
        await self._book.change(incident, state=IncidentState.VERIFYING, steps=steps, note=detail)
        self._streaks[finding.part] = Streak()  # it has two looks' time to become well

    async def _do(self, action: Action, finding: Finding) -> tuple[bool, str]:
        if action is Action.SHED_LOAD:
            return True, _shed(finding.text)
        for fleet in self._fleets():
            try:
                told = await self._ask(fleet, "act", {"action": action.value}, ACT_S_MAX)
                return bool(told["ok"]), str(told["detail"])
            except (PaddockError, LookupError, TypeError, msgspec.MsgspecError) as error:
                return False, f"the infrastructure agent did not do it: {error}"
        return False, "no fleet has the capability infrastructure"

    async def _recovered(self, incident: Incident, finding: Finding) -> None:
        now = self._core.clock.now()
        if under_way(incident):
            incident = await self._judge(incident, Outcome.RECOVERED, finding)
        await self._book.change(
            incident, state=IncidentState.RECOVERED, recovered_at=now, closed_at=now, note=finding.text
        )

    async def _judge(self, incident: Incident, outcome: Outcome, finding: Finding) -> Incident:
        now = self._core.clock.now()
        steps = [
            msgspec.structs.replace(step, outcome=outcome, ended_at=now) if step.outcome is Outcome.PENDING else step
            for step in incident.steps
        ]
        return await self._book.change(incident, steps=steps)

    def _incident_changed(self, incident: Incident) -> None:
        """Load is shed while an incident is open in which that was done: also one of the server before this one, and
        no longer when a person closes it."""
        shed = next((step for step in incident.steps if step.action is Action.SHED_LOAD), None)
        if shed is not None and not incident.state.over:
            self._sheds[incident.key] = _shed(shed.why)
        else:
            self._sheds.pop(incident.key, None)


def _shed(why: str) -> str:
    return f"{why}: tasks of priority LOW are refused until that is over"
