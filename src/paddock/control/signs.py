"""From signs to incidents: what nodes tell and scores say opens an incident, or is noted in the one that is open.

    event agent.died · not-started · quarantined ─┬──> queue ──> incident opened, or evidence added ──> `healing` woken
    score with a sign ────────────────────────────┘

At most one incident of an agent is open. Its node's own quick restart becomes its first step: whether that helped is
verified like every other step. Events may come again after a restart of the server: the key of an incident holds the
epoch of the incarnation and the time of the sign, and a key is used once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from paddock.control.incidents import Book
from paddock.control.mirror import Mirror
from paddock.decide.health import Sign
from paddock.decide.rungs import unjudged
from paddock.decide.signature import cause_of, signature
from paddock.model.agent import AgentState, AgentStatus, Event, Evidence
from paddock.model.errors import Conflict, PaddockError
from paddock.model.health import Score
from paddock.model.incident import Fact, Incident, IncidentState, Severity
from paddock.model.policy import Cause, Policy
from paddock.ports.clock import Clock

log = structlog.get_logger(__name__)

WAITING_MAX = 50_000
"""Signs not looked at yet; beyond it the oldest goes. What is still wrong shows again."""
OLD_S = 600.0
"""An event older than this, of an agent that is well, is history: it opens nothing."""
LINES_MAX = 5
RETRY_S = 0.5
QUIET = (AgentState.DRAINING, AgentState.STOPPING, AgentState.STOPPED)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One sign, ready to be looked at."""

    about: str
    fleet: str
    epoch: int
    at: float
    cause: Cause
    signature: str
    title: str
    severity: Severity
    facts: list[Fact]
    release: str
    """Version of the template that ran."""


class Signs:
    def __init__(self, clock: Clock, mirror: Mirror, book: Book) -> None:
        self._clock, self._mirror, self._book = clock, mirror, book
        self._waiting: deque[Found] = deque(maxlen=WAITING_MAX)
        self._wake = asyncio.Event()
        self._ended: dict[str, float] = {}
        """Agent → when its last incident ended: what was measured before that belongs to it."""
        book.on_change.append(self._incident_changed)
        mirror.on_gone.append(self._forget)
        self.changes_of: Callable[[str, str], list[Fact]] = lambda fleet, node: []
        """What changed lately that may be why; for the incident's page."""

    async def run(self) -> None:
        """For ever: open or continue incidents, one sign after the other."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                found = self._waiting.popleft()
                try:
                    await self._take(found)
                except Conflict:
                    self._waiting.append(found)
                except PaddockError as error:
                    log.warning("a sign waits: the fabric is away", about=found.about, error=error.message)
                    self._waiting.appendleft(found)
                    await self._clock.sleep(RETRY_S)

    def put(self, found: Found) -> None:
        self._waiting.append(found)
        self._wake.set()

    # -- what is told ----------------------------------------------------------------------------------------------

    def happened(self, event: Event) -> None:
        """An event of a node about one of its agents."""
        if event.kind not in ("agent.died", "agent.not-started", "agent.quarantined"):
            return
        fleet = event.about.partition("/")[0]
        status, wanted = self._mirror.agents.get(event.about), self._mirror.fleets.get(fleet)
        if wanted is None or status is None:
            return
        if self._clock.now() - event.at > OLD_S and status.state is AgentState.READY:
            return
        evidence = _evidence(event, status)
        quarantined = event.kind == "agent.quarantined"
        cause = cause_of(evidence, quarantined=quarantined, dependencies_down=self._down(wanted.spec.depends_on))
        if event.kind == "agent.not-started" and cause is not Cause.DEPENDENCY:
            cause = Cause.NOT_STARTED
        facts = [Fact(at=event.at, text=event.text, source="exit")]
        facts += [Fact(at=event.at, text=line, source="log") for line in evidence.last_lines[-LINES_MAX:]]
        self.put(
            Found(
                about=event.about,
                fleet=fleet,
                epoch=evidence.epoch,
                at=event.at,
                cause=cause,
                signature=signature(cause, evidence.reason, evidence.last_lines),
                title=event.text,
                severity=Severity.ERROR if quarantined else Severity.WARNING,
                facts=facts,
                release=evidence.version or status.template,
            )
        )

    def stands_out(self, status: AgentStatus, score: Score, sign: Sign) -> None:
        """A judgement of an agent's health with something in it. Only what is to be healed opens an incident."""
        known = any(held.release in ("", status.template) for held in self._book.about(status.id))
        if not sign.heal or status.state in QUIET or known:
            return
        since = max(sign.since, self._ended.get(status.id, 0.0)) if sign.since else score.at
        self.put(
            Found(
                about=status.id,
                fleet=status.fleet,
                epoch=status.epoch,
                at=min(since, score.at),
                cause=sign.cause,
                signature=signature(sign.cause, sign.text),
                title=f"{status.id}: {sign.text}",
                severity=Severity.INFO if sign.cause is Cause.FORECAST else Severity.WARNING,
                facts=list(sign.evidence) or [Fact(at=score.at, text=sign.text, source="score")],
                release=status.template,
            )
        )

    # -- looking at them -------------------------------------------------------------------------------------------

    async def _take(self, found: Found) -> None:
        for held in self._book.about(found.about):
            if held.kind == "agent" and not self._is_another(held, found):
                await self._continue(held, found)
                return
            if held.kind == "agent":
                await self._leave(held)
        await self.open(found)

    def _is_another(self, held: Incident, found: Found) -> bool:
        """Whether it speaks of another version than that which the incident is about: its failures are no evidence of
        that one."""
        other = held.release and found.release and held.release != found.release
        return bool(other) and found.epoch > held.epoch

    async def _leave(self, held: Incident) -> None:
        """End the incident of a version that does not run any more."""
        now, why = self._clock.now(), f"{held.about} is another version now, and ill for itself"
        steps = unjudged(held, now, why)
        await self._book.change(held, state=IncidentState.CLOSED, closed_at=now, steps=steps, note=why)

    def _forget(self, agent: str) -> None:
        self._ended.pop(agent, None)

    def _incident_changed(self, incident: Incident) -> None:
        if incident.kind == "agent" and incident.state.over and incident.about in self._mirror.agents:
            self._ended[incident.about] = max(incident.closed_at, self._ended.get(incident.about, 0.0))

    async def _continue(self, held: Incident, found: Found) -> None:
        """It is known to be ill; this is more of the same, or why a step did not help."""
        facts = [fact for fact in found.facts if fact not in held.evidence]
        if not facts or found.epoch < held.epoch:
            return
        fields: dict[str, Any] = {"epoch": max(held.epoch, found.epoch)}
        if found.cause is not held.cause and found.cause in (Cause.CRASH_LOOP, Cause.OOM, Cause.NOT_STARTED):
            fields |= {"cause": found.cause, "severity": found.severity}
        if held.state in (IncidentState.VERIFYING, IncidentState.WAITING):
            fields["next_at"] = self._clock.now()
        for fact in facts[:-1]:
            held = await self._book.note(held, fact)
        await self._book.note(held, facts[-1], **fields)

    async def open(self, found: Found) -> Incident | None:
        """Open an incident, whatever else is open; None when its agent is gone, or this sign has opened one before."""
        now = self._clock.now()
        fleet, _, name = found.about.partition("/")
        status, wanted = self._mirror.agents.get(found.about), self._mirror.fleets.get(fleet)
        if status is None or wanted is None:
            return None
        return await self._book.begin(
            Incident(
                id=0,
                key=f"agent.{fleet}.{name}.{found.epoch}.{int(found.at * 1000)}",
                about=found.about,
                fleet=fleet,
                node=status.node,
                release=found.release,
                cause=found.cause,
                signature=found.signature,
                title=found.title,
                severity=found.severity,
                epoch=found.epoch,
                sign_at=found.at,
                opened_at=now,
                next_at=now,
                evidence=found.facts,
                changes=self.changes_of(fleet, status.node),
            )
        )

    def _down(self, fleets: list[str]) -> list[str]:
        return [name for name in fleets if not self._mirror.ready_count(name)]


def policy_of(mirror: Mirror, fleet: str) -> Policy:
    """The policy of a fleet; the default one when it is gone."""
    wanted = mirror.fleets.get(fleet)
    return wanted.spec.policy if wanted is not None else Policy()


def _evidence(event: Event, status: AgentStatus) -> Evidence:
    """What the node told of the end; of older nodes and other events what can be known."""
    try:
        return msgspec.convert(event.data, Evidence)
    except msgspec.ValidationError:
        last = status.last_exit
        if last is not None:
            return msgspec.structs.replace(last, reason=last.reason or event.text)
        return msgspec.convert(
            {"at": event.at, "epoch": status.epoch, "pid": None, "exit": {}, "reason": event.text}, Evidence
        )
