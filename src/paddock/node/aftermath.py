"""What follows the end of an incarnation, or a start that did not succeed: evidence, rest, another start or none."""

from __future__ import annotations

import math
from collections import deque

import msgspec

from paddock.decide import blame, restart, signature, storm
from paddock.decide.redact import redact, secrets_of
from paddock.model.agent import AgentState, Evidence, Exit
from paddock.model.errors import PaddockError, TemplateBroken
from paddock.model.fleet import FleetSpec
from paddock.model.policy import Cause
from paddock.node import logs
from paddock.node.host import Host
from paddock.node.journal import Row, RowSet
from paddock.node.running import Incarnation


class Aftermath(Incarnation):
    """The facts of an agent that outlive its incarnations."""

    def __init__(self, host: Host, spec: FleetSpec, name: str, row: Row) -> None:
        super().__init__(host, spec, name, row)
        self.spec = spec
        self.last_exit: Evidence | None = None
        self._deaths: deque[blame.Death] = deque(maxlen=10_000)
        self._refusals = 0
        self._go_at = 0.0
        self._rest_over_at = math.inf
        """Monotonic: a host's clock that is set neither ends a quarantine nor prolongs it."""
        self._begun_at: float | None = None
        """Monotonic; when this node started the incarnation."""
        self._excused = False
        """Somebody asked for its start, whatever others of its kind die of."""

    # --- when it may start

    def _held_back(self) -> bool:
        now = self.host.clock.monotonic()
        if self.row.rest and now >= self._rest_over_at:
            self._pardon()
        if self.row.rest or self._go_at > now:
            return True
        if self._not_before() <= now:
            return False
        if self.state is not AgentState.QUARANTINED:  # one that never died of it
            self._set(AgentState.QUARANTINED, self.host.storms.text(self))
        return True

    def _until(self) -> float:
        """When that is over, as far as it is known."""
        return self._rest_over_at if self.row.rest else max(self._go_at, self._not_before())

    def _not_before(self) -> float:
        return 0.0 if self._excused else self.host.storms.from_when(self)

    # --- for its node's `Storms`

    def held(self, text: str) -> None:
        """What all of them die of is the reason now, and one of them is tried in time: nobody rests by himself."""
        ended = bool(self.row.rest) and self.spec.restart.mode != "always"  # its fleet asks for its rest
        if self.live is not None or self.row.intent or ended:
            return
        if self.row.rest:
            self._save(rest="", rest_until=0.0)
        self._go_at = 0.0
        self._set(AgentState.QUARANTINED, text)

    def look(self) -> None:
        self._wake.set()
        self._watch_stable()

    def released(self) -> None:
        if self.live is None and not self.row.intent and not self.row.rest:
            self._deaths.clear()
            self._go_at = 0.0
            self._set(AgentState.PENDING)
        self._wake.set()

    def _ready(self) -> None:
        super()._ready()
        self._watch_stable()

    def _watch_stable(self) -> None:
        """Its being stable would end a hold: then, and only then, it is looked at when that is due."""
        if self.live is None or self.ready_at is None or not self.host.storms.holds(self, self.row.version):
            return
        left_s = self.ready_at + self.spec.restart.stable_s - self.host.clock.monotonic()
        self.host.deadlines.set((self.id, "stable"), left_s, self._stable)

    def _stable(self, late_s: float) -> None:
        self.host.storms.stable(self, self.row.version)

    # --- what follows

    def _died(self, evidence: Evidence, now: float) -> None:
        policy, exit, tasks = self.spec.restart, evidence.exit, frozenset(evidence.tasks)
        was_stable = self.ready_at is not None and now - self.ready_at >= policy.stable_s
        if self._blame and exit.clean:
            exit = Exit(code=1)  # it had to be stopped: that it then left politely does not make it a success
        death = blame.Death(now, tasks, was_stable)
        self._deaths.append(death)
        blamed = self.host.blamed(self.spec, death)
        times, streak = blame.counting(self._deaths, blamed)
        decision = restart.after_death(
            policy,
            times,
            now,
            was_stable=was_stable or bool(tasks & blamed),
            exit=exit,
            dice=self.host.dice(),
            streak=streak,
        )
        if isinstance(decision, restart.Rest):
            self._rest(AgentState.STOPPED if exit.clean else AgentState.FAILED, decision.reason, math.inf)
            return
        unknown = exit.code is None and exit.signal is None  # it ended unseen: that tells nothing of how
        outside = unknown or signature.outside(evidence)
        text = ""
        if not (outside or was_stable):  # else it is not looked at, and its agent waits for its start
            text = signature.signature(signature.cause_of(evidence), evidence.reason, evidence.last_lines)
        self._storm(text, now, tasks, blamed, stable=was_stable, outside=outside)
        if self._not_before() > now:
            self._set(AgentState.QUARANTINED, self.host.storms.text(self))
        elif isinstance(decision, restart.Again):
            self._go_at = now + decision.delay_s
            again = f"; again in {decision.delay_s:.1f} s" if decision.delay_s else ""
            self._set(AgentState.PENDING, evidence.reason + again)
        else:
            self._rest(AgentState.QUARANTINED, decision.reason, decision.until - now)
            self.host.publisher.event("agent.quarantined", self.id, f"{self.id} is quarantined: {decision.reason}")

    def _storm(
        self, text: str, now: float, tasks: frozenset[str], blamed: frozenset[str], *, stable: bool, outside: bool
    ) -> None:
        death = storm.Death(agent=self.id, signature=text, at=now, stable=stable, outside=outside)
        self.host.storms.died(self.spec, self.row.version, death, tasks, blamed)

    def _not_started(self, error: PaddockError) -> None:
        self._save(intent=False)
        if self.handouts is not None:
            self.handouts.bury()
            self.handouts = None
        now = self.host.clock.monotonic()
        why = redact(error.message, secrets_of(self.spec))  # it may quote what an import or a command said
        if isinstance(error, TemplateBroken):
            # Trying again at once cannot help; a new version or a person can, or time (a disk not mounted yet).
            rest_s = self.spec.restart.quarantine_s or math.inf
            self._rest(AgentState.FAILED, why, rest_s)
            text = signature.signature(Cause.NOT_STARTED, why)
            self._storm(text, now, frozenset(), frozenset(), stable=False, outside=False)
            if self._not_before() > now:
                self.held(self.host.storms.text(self))
        else:
            # The host does not let it start (a full disk, no memory for a fork): that is no death of its own.
            self._refusals += 1
            delay_s = restart.backoff_s(self.spec.restart, self._refusals + 1, self.host.dice())
            self._go_at = now + delay_s
            self._set(AgentState.PENDING, f"{why}; again in {delay_s:.1f} s")
        self.host.publisher.event("agent.not-started", self.id, f"{self.id} could not be started: {why}")

    def _evidence(self, exit: Exit, reason: str, tasks: list[str], at: float) -> Evidence:
        row, hidden = self.row, secrets_of(self.running)
        return Evidence(
            at=at,
            epoch=row.epoch,
            pid=row.handle.pid if row.handle is not None else None,
            exit=exit,
            reason=reason,
            last_lines=logs.last_lines(self.paths.log, hidden),
            tasks=tasks,
            uptime_s=round(self._uptime_s(at), 3),
            probes=[f"{name}: {fact.text}" for name, fact in self.probes.items() if fact.fails],
            version=row.version,
        )

    def _uptime_s(self, now: float) -> float:
        if self._begun_at is not None:
            return self.host.clock.monotonic() - self._begun_at
        return max(0.0, now - self.row.started_at) if self.row.started_at else 0.0

    def _describe(self, exit: Exit) -> str:
        return restart.describe(exit) + ("" if self.ready_at is not None else ", before it was ready")

    # --- resting

    def _rest(self, state: AgentState, reason: str, rest_s: float) -> None:
        until = self.host.clock.now() + rest_s if rest_s < math.inf else 0.0
        self._rest_over_at = self.host.clock.monotonic() + rest_s
        self._save(rest=reason, rest_state=state, rest_until=until)
        self._set(state, reason)

    def _rest_on(self, row: Row) -> None:
        """After a restart of the node: for what is left by the wall clock, which may have been set meanwhile."""
        if row.rest_until:
            left_s = min(row.rest_until - self.host.clock.now(), self.spec.restart.quarantine_s or math.inf)
            self._rest_over_at = self.host.clock.monotonic() + left_s
        self._set(row.rest_state, row.rest)

    def _pardon(self) -> None:
        """Forget the deaths and every reason to wait."""
        self._deaths.clear()
        self._go_at = 0.0
        if self.row.rest:
            self._save(rest="", rest_until=0.0)
            self._set(AgentState.PENDING)
        self._wake.set()

    def _save(self, **changes: object) -> None:
        self.row = msgspec.structs.replace(self.row, **changes)
        self.host.journal.note(RowSet(self.id, self.row))
