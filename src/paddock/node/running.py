"""One running incarnation: what it says, what is ordered of it, and the limits of patience with it.

It only sets facts and sends signals: `supervisor.py` waits for the end of the process, and decides what follows.
"""

from __future__ import annotations

import asyncio

import structlog

from paddock.model.agent import AgentState, AgentStatus
from paddock.model.fleet import FleetSpec
from paddock.node import launching
from paddock.node.handouts import Handouts
from paddock.node.host import Host
from paddock.node.journal import Dropped, Held, Hold, Row
from paddock.node.socket import Link
from paddock.ports.runtime import Live

log = structlog.get_logger(__name__)

HUNG_GRACE_S_MAX = 2.0
UNDEAD_S = 5.0
"""A process that is still there so long after SIGKILL gets another one, and a word in its status."""
LATE_S_MAX = 1.0
"""Was a deadline late by more, this node itself stood still: then silence is not the agent's fault."""


class Incarnation:
    """The facts of the incarnation that runs, or ran last."""

    def __init__(self, host: Host, spec: FleetSpec, name: str, row: Row) -> None:
        self.host = host
        self.name = name
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
        self._heard_at = 0.0
        self._spoke = False
        self._order = ""
        """Why it is to stop; empty: it is not."""
        self._blocked = False
        """It was found waiting in the kernel when it was last looked at for its silence."""
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

    def cancel(self, task: str) -> bool:
        """Pass a cancel on; False when it does not hold that task or cannot be told."""
        if task not in self.holds or self.link is None:
            return False
        self.link.send(op="cancel", task=task)
        return True

    # --- what the agent says (`socket.Listener`)

    def attach(self, link: Link, holds: dict[str, str], ready: bool) -> None:
        """Its hello was accepted."""
        old, self.link = self.link, link
        if old is not None:
            old.close()
        for task in [task for task in self.holds if task not in holds]:
            self.said_drop(task)
        for task, ack in holds.items():
            self.said_hold(task, ack)
        if self.handouts is not None:
            self.handouts.greeted()
        self._spoke = True
        self._heard()
        self._watch_beats()
        if ready:
            self.said_ready()
        if self._order:
            link.send(op="drain")
        self._wake.set()

    def said_ready(self) -> None:
        self._heard()
        if self.ready_at is None:
            self._ready()

    def said_beat(self, done: int, failed: int, lost: int) -> None:
        self._heard()
        if (done, failed, lost) != (self.done, self.failed, self.log_lost):
            self.done, self.failed, self.log_lost = done, failed, lost
            self.host.publisher.counted(self)

    def said_hold(self, task: str, ack: str) -> None:
        self._heard()
        hold = self.holds.get(task)
        if hold is None or hold.ack != ack:
            hold = self.holds[task] = Hold(ack, self.host.clock.now())
            self.host.journal.note(Held(self.id, task, hold))
            if self.handouts is not None:
                self.handouts.noted(ack)

    def said_drop(self, task: str) -> None:
        self._heard()
        if self.holds.pop(task, None) is not None:
            self.host.journal.note(Dropped(self.id, task))

    def asked_holder(self, task: str) -> None:
        """It was handed a task that another agent may be at already."""
        if self.link is not None:
            by, deaths = self.host.holder(self, task)
            self.link.send(op="holder", task=task, by=by, deaths=deaths)

    def said_wait(self, inbox: str) -> None:
        if self.handouts is not None:
            self.handouts.waits(inbox)

    def said_unwait(self, inbox: str) -> None:
        if self.handouts is not None:
            self.handouts.waits_no_more(inbox)

    def hung_up(self, link: Link) -> None:
        if self.link is link:
            self.link = None
            if self.handouts is not None:
                self.handouts.hung_up()

    def said_probe(self, problem: str, fails: int) -> None:
        """The health probe answered (`problem` empty), or failed for the n-th time in a row."""
        if self.live is None or self._order or self._blame:
            return
        if not problem:
            if self.ready_at is None:
                self._ready()
            elif self.state is AgentState.DEGRADED:
                self._set(AgentState.READY)
        elif self.ready_at is not None and fails >= self.running.health.fails:
            self._fault(f"its health probe failed {fails} times in a row, last: {problem}")
        elif self.ready_at is not None:
            self._set(AgentState.DEGRADED, problem)

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
            self._unblocked()
            self.host.deadlines.set((self.id, "beat"), left_s, self._beat_due)
        elif self.live is not None and self.live.blocked:
            self._wait_for_disk()
            self.host.deadlines.set((self.id, "beat"), hang_s, self._beat_due)
        elif not self._order:
            self._fault(f"no beat for {hang_s:.1f} s: hung")

    def _wait_for_disk(self) -> None:
        """To stop it could not work, and it may go on well: it has its whole time again once it can."""
        self._heard_at = self.host.clock.monotonic()
        self._blocked = True
        if self.state is AgentState.READY:
            self._set(AgentState.DEGRADED, "no beat: it waits in the kernel, for a disk that does not answer")

    def _unblocked(self) -> None:
        if self._blocked and self.state is AgentState.DEGRADED:
            self._set(AgentState.READY)
        self._blocked = False

    def _too_slow(self, late_s: float) -> None:
        if late_s > LATE_S_MAX or (self.live is not None and self.live.blocked):
            self.host.deadlines.set((self.id, "start"), LATE_S_MAX, self._too_slow)
        elif self.ready_at is None and not self._order:
            self._fault(f"not ready within {self.running.health.start_s:g} s")

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
        self._blocked = False
        self._heard_at = self.host.clock.monotonic()

    def _ready(self) -> None:
        self.ready_at = self.host.clock.monotonic()
        self.host.deadlines.drop((self.id, "start"))
        if not self._order and not self._blame:
            self._set(AgentState.READY)
            self.host.publisher.event("agent.ready", self.id, f"{self.id} is ready", {"epoch": self.row.epoch})

    def status(self) -> AgentStatus:
        """What it is now, as others see it; `Supervised` knows the whole of it."""
        raise NotImplementedError  # abstract: only `Supervised` is ever made

    def _changed(self) -> None:
        """Its state changed."""

    def _set(self, state: AgentState, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self.host.publisher.dirty(self)
        self._changed()
