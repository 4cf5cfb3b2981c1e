"""One running incarnation: what it says, what is ordered of it, and the limits of patience with it.

It only sets facts and sends signals: `supervisor.py` waits for the end of the process, and decides what follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from paddock.model.agent import AS_TOLD, AgentState, AgentStatus
from paddock.model.errors import Refused
from paddock.model.fleet import FleetSpec
from paddock.model.health import Probe, ProbeFact, Vitals
from paddock.model.policy import Action
from paddock.node import launching, probes
from paddock.node.handouts import Handouts
from paddock.node.host import Host
from paddock.node.journal import Dropped, Held, Hold, Row
from paddock.node.launching import Paths
from paddock.node.socket import Line, Link
from paddock.node.vitals import Meter
from paddock.ports.runtime import Live, Usage

log = structlog.get_logger(__name__)

HUNG_GRACE_S_MAX = 2.0
UNDEAD_S = 5.0
"""A process that is still there so long after SIGKILL gets another one, and a word in its status."""
RESTS = f"it takes no more work, {AS_TOLD}: a restart ends that"
DEGRADED = f"it does less, {AS_TOLD}: a restart ends that"
LATE_S_MAX = 1.0
"""Was a deadline late by more, this node itself stood still: then silence is not the agent's fault."""


class Incarnation:
    """The facts of the incarnation that runs, or ran last."""

    def __init__(self, host: Host, spec: FleetSpec, name: str, row: Row) -> None:
        self.host = host
        self.name = name
        self.paths = Paths.of(host.config.folder, spec.name, name)
        self.id = f"{spec.name}/{name}"
        self.running = spec
        self.row = row
        self.state = AgentState.PENDING
        self.reason = ""
        self.live: Live | None = None
        self.link: Link | None = None
        self.holds: dict[str, Hold] = {}
        self.handouts: Handouts | None = None
        self.done = 0
        self.failed = 0
        self.log_lost = 0
        self.ready_at: float | None = None
        """Monotonic; of this incarnation."""
        self.probes: dict[str, ProbeFact] = {}
        """The last outcome of each."""
        self.meter: Meter | None = None
        self._came = False
        """As far as it says itself it is ready; its startup probes may not have passed."""
        self._troubles: dict[str, str] = {}
        """What degrades it, and in which words."""
        self._heard_at = 0.0
        self._spoke = False
        self._order = ""
        """Why it is to stop; empty: it is not."""
        self._blame = ""
        """Why it had to be stopped, when that counts as a death."""
        self._wake = asyncio.Event()

    # --- what is asked of it

    def stop(self, why: str) -> None:
        """Let the running incarnation end what it holds and go."""
        if self.live is None or self._order:
            self._order = self._order or (why if self.row.intent else "")
            self._wake.set()
            return
        self._order = why
        self._stop(self.running.stop_grace_s, why)

    def _tell(self, action: Action) -> str:
        """An action that the agent does itself; it only has to be told."""
        if self.live is None or self.link is None:
            raise Refused(f"{self.id} does not speak to its node now, so it cannot be told to {action}")
        if action is Action.RESET_CONNECTION:
            self.link.send(op="reset")
            return "its connection to the fabric is made anew"
        if action is Action.REDISTRIBUTE:
            self.link.send(op="rest", on=True)
            self._trouble("rest", RESTS)
            return "it takes no more work and gives back what it holds, until it is restarted"
        if action is Action.DEGRADE:
            self.link.send(op="degrade")
            self._trouble("degrade", DEGRADED)
            return "it does less, until it is restarted"
        raise Refused(f"{action} is nothing that an agent can be told to do")

    def cancel(self, task: str) -> bool:
        """Pass a cancel on; False when it does not hold that task or cannot be told."""
        if task not in self.holds or self.link is None:
            return False
        self.link.send(op="cancel", task=task)
        return True

    # --- what the agent says (`socket.Listener`)

    def attach(self, link: Link, hello: Line) -> None:
        """Its hello was accepted."""
        old, self.link = self.link, link
        if old is not None:
            old.close()
        told = {held.task for held in hello.holds}
        for task in [task for task in self.holds if task not in told]:
            self.said_drop(task)
        for held in hello.holds:
            self.said_hold(held.task, held.ack, max(0.0, held.for_s))
        if self.handouts is not None:
            self.handouts.greeted(set(hello.has))
            for inbox in hello.waits:
                self.handouts.waits(inbox)
        self._spoke = True
        self._heard()
        self.host.heard(self)
        self._watch_beats()
        if hello.ready:
            self.said_ready()
        self._trouble("rest", RESTS if hello.rests else "")
        self._trouble("degrade", DEGRADED if hello.degraded else "")
        if self._order:
            link.send(op="drain")
        self._wake.set()

    def said_ready(self) -> None:
        self._heard()
        self._comes()

    def said_beat(self, done: int, failed: int, lost: int) -> None:
        self._heard()
        if (done, failed, lost) != (self.done, self.failed, self.log_lost):
            self.done, self.failed, self.log_lost = done, failed, lost
            self.host.publisher.counted(self)

    def said_hold(self, task: str, ack: str, for_s: float = 0.0) -> None:
        self._heard()
        hold = self.holds.get(task)
        if hold is None or hold.ack != ack:
            hold = self.holds[task] = Hold(ack, self.host.clock.now() - for_s)
            self.host.journal.note(Held(self.id, task, hold))
            if self.handouts is not None:
                self.handouts.noted(ack)

    def said_drop(self, task: str) -> None:
        self._heard()
        if self.holds.pop(task, None) is not None:
            self.host.journal.note(Dropped(self.id, task))

    def asked_holder(self, task: str) -> None:
        """It was handed a task that another agent may be at already."""
        self.host.asked(self, task)

    def said_wait(self, inbox: str) -> None:
        if self.handouts is not None:
            self.handouts.waits(inbox)

    def said_unwait(self, inbox: str, has: Sequence[str]) -> None:
        if self.handouts is not None:
            self.handouts.waits_no_more(inbox, has)

    def hung_up(self, link: Link) -> None:
        if self.link is link:
            self.link = None
            if self.handouts is not None:
                self.handouts.hung_up()

    # --- what its probes say

    def said_probe(self, probe: Probe, fact: ProbeFact) -> None:
        """One of its probes was answered, or failed. Only of `health.http` follows more than a word of it: liveness is
        the server's to judge."""
        if self.live is None or self._order or self._blame:
            return
        before = self.probes.get(probe.name)
        self.probes[probe.name] = fact
        failed = fact.fails >= fact.limit
        if probe.name == probes.SHORTHAND:
            self._said_shorthand(fact, failed=failed)
        elif probe.phase == "readiness":
            self._trouble(probe.name, f"its probe {probe.name} failed: {fact.text}" if failed else "")
        elif probe.phase == "startup" and not fact.fails:
            self._ready_if()
        if before is None or (bool(before.fails), before.fails >= before.limit) != (bool(fact.fails), failed):
            self.host.vitals.soon(self)

    def _said_shorthand(self, fact: ProbeFact, *, failed: bool) -> None:
        if not fact.fails:
            self._comes()
            self._trouble(probes.SHORTHAND)
        elif self.ready_at is not None and failed:
            self._fault(f"its health probe failed {fact.fails} times in a row, last: {fact.text}")
        elif self.ready_at is not None:
            self._trouble(probes.SHORTHAND, fact.text)

    def _probe(self, *, adopted: bool = False) -> None:
        """Have asked of it what is to be asked now."""
        health = self.running.health
        wanted = [probes.shorthand(health)] if health.http else []
        if self.ready_at is None:
            wanted += self._startup()
        else:
            wanted += [probe for probe in health.probes if probe.phase != "startup"]
        if wanted:
            self.host.prober.watch(self, wanted, first_s=None if adopted else probes.first_s(self))

    def _startup(self) -> list[Probe]:
        """The startup probes that have not passed yet."""
        if self.row.begun:
            return []
        known = self.probes
        asked = [probe for probe in self.running.health.probes if probe.phase == "startup" and probe.kind != "task"]
        return [probe for probe in asked if probe.name not in known or known[probe.name].fails]

    def rule(self, spec: FleetSpec) -> None:
        """Its spec is another now, but not in what it was made from: from now on it is judged by this one."""
        probed, self.running = self.running.health, spec
        if spec.health == probed or self.live is None:
            return
        self.host.prober.forget(self)
        names = {probe.name for probe in spec.health.probes} | ({probes.SHORTHAND} if spec.health.http else set())
        self.probes = {name: fact for name, fact in self.probes.items() if name in names}
        self._troubles = {what: text for what, text in self._troubles.items() if what in names | {"rest", "degrade"}}
        self._condition()
        self._probe(adopted=True)
        self._ready_if()

    # --- what is measured of it

    def usage(self) -> Usage | None:
        return self.meter.read() if self.meter is not None else None

    def vitals(self, now: float) -> Vitals | None:
        """All that is measured of it, at this time by the wall clock; None when it does not run."""
        if self.live is None:
            return None
        used, health = self.usage() or Usage(), self.running.health
        linked, share = None, 0.0
        if self._spoke or (self.running.runtime == "python" and self.ready_at is not None):
            silent_s = self.host.clock.monotonic() - self._heard_at
            linked = self.link is not None or silent_s < health.hang_s / 2  # it may be just connecting again
            share = silent_s / health.hang_s if health.beat else 0.0
        return Vitals(
            self.id,
            self.row.epoch,
            now,
            dict(self.probes),
            linked,
            round(share, 3),
            used.memory_bytes,
            round(used.cpus, 4),
            used.open_files,
            used.threads,
        )

    def unheard(self) -> None:
        """The node stops without it: what it is handed is the next node's business."""
        if self.handouts is not None:
            self.handouts.close()
            self.handouts = None

    # --- faults and deadlines

    def _watch_beats(self) -> None:
        if self._spoke and self.running.health.beat:
            self.host.deadlines.set((self.id, "beat"), self.running.health.hang_s, self._beat_due)

    def _beat_due(self, late_s: float) -> None:
        """Not moved at every beat: looked at when it would be due."""
        clock, hang_s = self.host.clock, self.running.health.hang_s
        if late_s > LATE_S_MAX:
            self._heard_at = clock.monotonic()
        left_s = self._heard_at + hang_s - clock.monotonic()
        if left_s > 0:
            self._trouble("disk")
            self.host.deadlines.set((self.id, "beat"), left_s, self._beat_due)
        elif self.live is not None and self.live.blocked:
            self._wait_for_disk()
            self.host.deadlines.set((self.id, "beat"), hang_s, self._beat_due)
        elif not self._order:
            self._fault(f"no beat for {hang_s:.1f} s: hung")

    def _wait_for_disk(self) -> None:
        """To stop it could not work, and it may go on well: it has its whole time again once it can."""
        self._heard_at = self.host.clock.monotonic()
        self._trouble("disk", "no beat: it waits in the kernel, for a disk that does not answer")

    def _too_slow(self, late_s: float) -> None:
        if late_s > LATE_S_MAX or (self.live is not None and self.live.blocked):
            self.host.deadlines.set((self.id, "start"), LATE_S_MAX, self._too_slow)
        elif self.ready_at is None and not self._order:
            failed = [
                f"; its probe {probe.name}: {self.probes[probe.name].text}"
                for probe in self._startup()
                if probe.name in self.probes
            ]
            self._fault(f"not ready within {self.running.health.start_s:g} s{''.join(failed[:1])}")

    def _fault(self, blame: str) -> None:
        """It runs, but not well: replace it."""
        if self.live is None or self._blame:
            return
        self._blame = blame
        self.host.publisher.event("agent.hung", self.id, f"{self.id}: {blame}")
        self._stop(min(self.running.stop_grace_s, HUNG_GRACE_S_MAX), blame)

    def _stop(self, grace_s: float, why: str) -> None:
        live = self.live
        if live is None:
            return
        self._set(AgentState.DRAINING if self.link is not None and not self._blame else AgentState.STOPPING, why)
        if self.link is not None:
            self.link.send(op="drain")
        live.stop(launching.stop_signal(self.running))
        self.host.deadlines.set((self.id, "kill"), grace_s, self._kill)

    def _kill(self, late_s: float) -> None:
        live = self.live
        if live is not None:
            live.kill()
            self.host.deadlines.set((self.id, "kill"), UNDEAD_S, self._undead)

    def _undead(self, late_s: float) -> None:
        self._set(AgentState.STOPPING, "it does not die after SIGKILL: the kernel holds it; its tasks stay its own")
        self._kill(late_s)

    # --- small things

    def _heard(self) -> None:
        self._heard_at = self.host.clock.monotonic()

    def _fresh(self) -> None:
        """The facts of the last incarnation are over."""
        self.link, self.ready_at, self._spoke = None, None, False
        self.holds, self.done, self.failed, self.log_lost = {}, 0, 0, 0
        self._blame = self._order = ""
        self.probes, self._troubles, self._came, self.meter = {}, {}, False, None
        self._heard_at = self.host.clock.monotonic()

    def _comes(self) -> None:
        """As far as it says itself it is ready."""
        self._came = True
        self._ready_if()

    def _ready_if(self) -> None:
        if self.ready_at is None and self._came and not self._startup():
            self._ready()

    def _ready(self) -> None:
        self.ready_at = self.host.clock.monotonic()
        self.host.deadlines.drop((self.id, "start"))
        if self._order or self._blame:
            return
        self._set(AgentState.READY)
        self._condition()
        self.host.publisher.event("agent.ready", self.id, f"{self.id} is ready", {"epoch": self.row.epoch})
        if self.live is not None:
            self._probe()
            self.host.vitals.soon(self)

    def _trouble(self, what: str, text: str = "") -> None:
        """Something degrades it, or (without a text) does no more."""
        if text:
            self._troubles[what] = text
        elif self._troubles.pop(what, None) is None:
            return
        self._condition()

    def _condition(self) -> None:
        """Ready or degraded, by what troubles it."""
        if self.state not in (AgentState.READY, AgentState.DEGRADED):
            return
        reason = "; ".join(self._troubles.values())
        state = AgentState.DEGRADED if reason else AgentState.READY
        if (state, reason) != (self.state, self.reason):
            self._set(state, reason)

    def status(self) -> AgentStatus:
        """What it is now, as others see it; `Supervised` knows the whole of it."""
        raise NotImplementedError  # abstract: only `Supervised` is ever made

    def _changed(self) -> None:
        """Its state changed."""

    def _set(self, state: AgentState, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self.host.publisher.dirty(self)
        self._changed()
