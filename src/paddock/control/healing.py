"""Healing: for every open incident, what `decide/ladder.py` says, written first and then done.

    woken (incident, agent or score changed · time has come) ──> world read ──next_step──> written ──> act ──> written

An action is meant for one incarnation: the node does it only while the agent's epoch is not larger than the step's. So
a server that dies between writing and acting, or between acting and writing, finds the step pending and does it again,
and the second time changes nothing. What may be done at all is rationed by the fleet's budget, by common causes
(`control/common.py`) and by the healer's own breaker.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Sequence
from functools import partial

import structlog

from paddock.control.actions import Actions
from paddock.control.core import Core
from paddock.control.health import HealthKeeper
from paddock.control.incidents import Book
from paddock.control.owner import within
from paddock.control.signs import policy_of
from paddock.control.vitals import VitalsBook
from paddock.decide import ladder, storm
from paddock.decide.health import HEALED_BY_NODE
from paddock.decide.learn import HALF_LIFE_S
from paddock.decide.rungs import World, pending_step
from paddock.decide.signs import confirmed, refuted, told_late
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.errors import Conflict, PaddockError
from paddock.model.health import Score, Vitals
from paddock.model.incident import Incident, IncidentState, StepTaken
from paddock.model.kpi import StepTally
from paddock.model.policy import Action, Policy

log = structlog.get_logger(__name__)

AT_ONCE = 32
RETRY_S = 1.0
TRIES_MAX = 10
"""To begin with what a person asks for, while others go on with the incident."""
AGAIN_S = 10.0
"""An open incident is looked at after so long, whatever happens."""
UNDER_TREATMENT = (IncidentState.ACTING, IncidentState.VERIFYING)
TALLIES_S = 60.0
PEERS_MAX = 20
STEPS_KEPT = 200
"""Ended steps of one fleet that the breaker looks at."""
ACTED_KEPT = 1000
"""Times of actions of one fleet that its budget looks at."""


class Healer:
    def __init__(self, core: Core, vitals: VitalsBook, health: HealthKeeper, book: Book, actions: Actions) -> None:
        self._clock, self._archive, self._mirror, self._vitals = core.clock, core.archive, core.mirror, vitals
        self._health, self._book, self._actions, self._dice = health, book, actions, core.dice
        self._due: dict[str, None] = {}
        self._timers: list[tuple[float, str]] = []
        self._when: dict[str, float] = {}
        """Key → when it is looked at again; a timer of another time counts for nothing."""
        self._busy: set[str] = set()
        """Keys of those that are being looked at."""
        self._again: set[str] = set()
        """Of these, those to which something happened meanwhile."""
        self._wake = asyncio.Event()
        self._tallies: Sequence[StepTally] = ()
        self._acted: dict[str, deque[float]] = {}
        self._ended: dict[str, deque[StepTaken]] = {}
        """By fleet, for the breaker: one that nothing helps must not stop the healing of others."""
        self._taken: dict[str, deque[tuple[float, str]]] = {}
        """agent → when its policy took a step for it and in which incident, for the recovery window."""
        self._under: dict[str, set[str]] = {}
        """fleet → keys of the incidents in which something is being done."""
        self._locks: dict[str, asyncio.Lock] = {}
        """One decision at a time for each incident: what is being done to it changes it."""
        book.on_change.append(self._incident_changed)
        core.mirror.on_agent.append(self._agent_changed)
        core.mirror.on_gone.append(self._wake_about)
        health.on_score.append(self._score_changed)
        vitals.on_vitals.append(self._measured)

    # -- loops -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: look at the incidents that are due. One that waits for its node holds up no other."""
        slots = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._pause()
                await slots.acquire()
                key = next(iter(self._due))
                del self._due[key]
                self._busy.add(key)
                looking = group.create_task(self._look(key), name=f"control:heal-{key}")
                looking.add_done_callback(partial(self._looked, key, slots))

    def _looked(self, key: str, slots: asyncio.Semaphore, done: asyncio.Task[None]) -> None:
        slots.release()
        self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.look_at(key)

    async def run_tallies(self) -> None:
        """For ever: keep what helped before at hand."""
        while True:
            try:
                self._tallies = await self._archive.read(self._read_tallies)
            except PaddockError as error:
                log.warning("what helped before is not known now", error=error.message)
            await self._clock.sleep(TALLIES_S)

    def _read_tallies(self) -> Sequence[StepTally]:
        return self._archive.record.tallies(self._clock.now(), half_life_s=HALF_LIFE_S)

    def look_at(self, key: str) -> None:
        """This incident may go on; one that is being looked at is looked at once more."""
        if key in self._busy:
            self._again.add(key)
            return
        self._due[key] = None
        self._wake.set()

    async def _pause(self) -> None:
        """Until something is due."""
        while not self._due:
            now = self._clock.now()
            while self._timers and self._timers[0][0] <= now:
                when, key = heapq.heappop(self._timers)
                if self._when.get(key) == when:
                    self.look_at(key)
            if self._due:
                break
            self._wake.clear()
            # By the wall clock, which may be set: never sleep through more than a moment of it.
            left_s = min(self._timers[0][0] - now, RETRY_S) if self._timers else RETRY_S
            await within(self._clock, self._woken(), max(left_s, 0.0))

    async def _woken(self) -> bool:
        return await self._wake.wait()

    async def take(self, key: str, action: Action, *, who: str) -> Incident | None:
        """Take a step that a person asks for, now, after what is being done to this incident; returns the incident as
        it is afterwards. None: it is over."""
        async with self._lock(key):
            for _ in range(TRIES_MAX):
                incident = self._book.open.get(key)
                if incident is None:
                    break
                policy, now = policy_of(self._mirror, incident.fleet), self._clock.now()
                act = ladder.by_hand(policy, incident, action, self.world(incident, policy), who=who, now=now)
                try:
                    changed = await self._begin(incident, ladder.apply(incident, act, now))
                except Conflict:
                    continue  # a sign came in between
                try:
                    await self._do(policy, changed, act.step)
                except Conflict:
                    self.look_at(key)  # likewise: it is done, and asked for again to write that down
                return self._book.open.get(key, changed)
        return None

    # -- one incident ----------------------------------------------------------------------------------------------

    async def _look(self, key: str) -> None:
        async with self._lock(key):
            await self._look_alone(key)

    def _lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    async def _look_alone(self, key: str) -> None:
        incident = self._book.open.get(key)
        if incident is None or incident.kind != "agent":
            self._locks.pop(key, None)
            self._when.pop(key, None)
            return
        try:
            await self._go_on(incident)
        except Conflict:
            self.look_at(key)  # somebody else went on with it: read it again
        except PaddockError as error:
            log.warning("healing waits", incident=incident.id, error=error.message)
            self._at(self._clock.now() + RETRY_S, key)

    async def _go_on(self, incident: Incident) -> None:
        now = self._clock.now()
        policy = policy_of(self._mirror, incident.fleet)
        decision = ladder.next_step(policy, incident, self.world(incident, policy), now, self._dice)
        changed = ladder.apply(incident, decision, now)
        if isinstance(decision, ladder.Act):
            changed = await self._begin(incident, changed)
        elif changed != incident:
            changed = await self._write(incident, changed)
        if decision.ended is not None:
            self._note_ended(incident.fleet, decision.ended)
        if isinstance(decision, ladder.Act):
            await self._do(policy, changed, decision.step)
        elif not changed.state.over:
            # Also what waits: that it is well again need not show as a change, as after a restart.
            self._at(min(changed.next_at, now + AGAIN_S) if changed.next_at > now else now + AGAIN_S, changed.key)

    async def _begin(self, before: Incident, after: Incident) -> Incident:
        """Write that it is acted on. It counts before that is written: others are decided on meanwhile."""
        now = self._clock.now()
        step = pending_step(after)
        if after != before:  # else it is asked for again
            self._acted.setdefault(before.fleet, deque(maxlen=ACTED_KEPT)).append(now)
            if step is not None and step.by == "policy":
                self._taken.setdefault(before.about, deque(maxlen=ACTED_KEPT)).append((now, before.key))
        self._under.setdefault(before.fleet, set()).add(before.key)
        try:
            return await self._write(before, after) if after != before else before
        finally:
            self._treated(self._book.open.get(before.key, before))

    async def _do(self, policy: Policy, incident: Incident, step: StepTaken) -> None:
        ok, detail = await self._actions.do(incident, step)
        changed = ladder.acted(policy, incident, self._clock.now(), ok=ok, detail=detail)
        changed = await self._write(incident, changed)
        for done in changed.steps:
            if done.number == step.number and not ok:
                self._note_ended(incident.fleet, done)
        self._at(changed.next_at, changed.key)

    def _note_ended(self, fleet: str, step: StepTaken) -> None:
        self._ended.setdefault(fleet, deque(maxlen=STEPS_KEPT)).append(step)

    async def _write(self, before: Incident, after: Incident) -> Incident:
        fields = {
            name: getattr(after, name)
            for name in Incident.__struct_fields__
            if getattr(after, name) != getattr(before, name)
        }
        return await self._book.change(before, **fields)

    # -- what a decision goes by -----------------------------------------------------------------------------------

    def world(self, incident: Incident, policy: Policy) -> World:
        """All that is known now of the agent of an incident, and of what may be done."""
        now = self._clock.now()
        status, wanted = self._mirror.agents.get(incident.about), self._mirror.fleets.get(incident.fleet)
        score = self._health.scores.get(incident.about)
        name = incident.about.partition("/")[2]
        standby = self._mirror.fleets.get(policy.standby) if policy.standby else None
        return World(
            wanted=status is not None and wanted is not None and name in wanted.names,
            epoch=status.epoch if status is not None else 0,
            state=self._state(incident, status),
            score=score.score if score is not None else -1,
            confirmed=self._confirmed(incident, status, score),
            refuted=self._refuted(incident, status),
            peers=self._peers(incident),
            offers=self._actions.offers(status) if status is not None else frozenset(),
            standby=standby is not None,
            budget=self._budget(incident, policy, now),
            breaker=storm.breaker([*self._ended.get(incident.fleet, ()), *self._pending(incident.fleet)], now),
            steps_before=self._steps_before(incident, policy, now),
            held=self._held(incident, status),
            tallies=self._tallies,
        )

    def _state(self, incident: Incident, status: AgentStatus | None) -> AgentState:
        if status is None:
            return AgentState.STOPPED
        return AgentState.PENDING if told_late(incident.cause, incident.epoch, status) else status.state

    def _confirmed(self, incident: Incident, status: AgentStatus | None, score: Score | None) -> bool:
        """Whether what was ill was measured again since the last step."""
        wanted = self._mirror.fleets.get(incident.fleet)
        if status is None or score is None or wanted is None:
            return False
        last = max(incident.steps, key=lambda step: step.acted_at, default=None)
        since, epoch = (last.acted_at, last.epoch) if last and last.acted_at else (incident.opened_at, incident.epoch)
        if status.epoch > epoch:
            since = 0.0
        facts, now = self._health.facts(incident.about), self._clock.now()
        return confirmed(incident.cause, wanted.spec, status, self._vitals.of(status), facts, since, now)

    def _held(self, incident: Incident, status: AgentStatus | None) -> bool:
        """By its common cause; or by its node, when no common cause has it tried alone."""
        if incident.parent:
            return incident.parent in self._book.open
        if status is None or not status.reason.startswith(HEALED_BY_NODE):
            return False
        return not any(other.offer.get("canary") == incident.about for other in self._book.open.values())

    def _refuted(self, incident: Incident, status: AgentStatus | None) -> bool:
        pending = pending_step(incident)
        if pending is None or status is None:
            return False
        return refuted(status, self._vitals.of(status), pending.epoch)

    def _pending(self, fleet: str) -> list[StepTaken]:
        """Steps under way in a fleet."""
        held = [self._book.open[key] for key in self._under.get(fleet, ()) if key in self._book.open]
        return [step for incident in held if (step := pending_step(incident)) is not None]

    def _peers(self, incident: Incident) -> float:
        """How agents of the same fleet are that nothing is done with; a few of them are enough."""
        others = [agent for agent in self._mirror.by_fleet.get(incident.fleet, {}) if agent not in self._book.by_about]
        scores = [self._health.scores[agent].score for agent in others[:PEERS_MAX] if agent in self._health.scores]
        return sum(scores) / len(scores) if scores else -1.0

    def _budget(self, incident: Incident, policy: Policy, now: float) -> storm.Answer:
        agents = self._mirror.by_fleet.get(incident.fleet, {})
        under = self._under.get(incident.fleet, set()) - {incident.key}
        acted_at = list(self._acted.get(incident.fleet, ()))
        return storm.allowed(policy.budget, size=len(agents), acted_at=acted_at, healing=len(under), now=now)

    def _steps_before(self, incident: Incident, policy: Policy, now: float) -> int:
        """Steps taken for this agent in earlier incidents within the recovery window."""
        taken = self._taken.get(incident.about, deque())
        while taken and now - taken[0][0] > policy.window_s:
            taken.popleft()
        return sum(key != incident.key for _, key in taken)

    # -- wakes -----------------------------------------------------------------------------------------------------

    def _treated(self, incident: Incident) -> None:
        """Whether something is being done in it."""
        under = self._under.setdefault(incident.fleet, set())
        if incident.kind == "agent" and incident.state in UNDER_TREATMENT:
            under.add(incident.key)
        else:
            under.discard(incident.key)

    def _incident_changed(self, incident: Incident) -> None:
        self._treated(incident)
        if not incident.state.over:
            self.look_at(incident.key)
        elif incident.kind != "agent":
            for member in [other.key for other in self._book.open.values() if other.parent == incident.key]:
                self.look_at(member)

    def _agent_changed(self, status: AgentStatus) -> None:
        self._wake_about(status.id)

    def _score_changed(self, score: Score) -> None:
        self._wake_about(score.id)

    def _measured(self, vitals: Vitals) -> None:
        """Also what is as good as before is what an incident may wait for, and not for the next round of judgements."""
        if vitals.id in self._book.by_about:
            self._mirror.rescore(vitals.id)
            self._wake_about(vitals.id)

    def _wake_about(self, agent: str) -> None:
        for key in self._book.by_about.get(agent, ()):
            self.look_at(key)

    def _at(self, when: float, key: str) -> None:
        self._when[key] = when
        heapq.heappush(self._timers, (when, key))
        self._wake.set()
