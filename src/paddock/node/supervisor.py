"""The life of one agent on its node.

                     ┌────────────── back-off ─────────────┐
                     v                                     │ died, hung, too slow: as decide/restart.py says
    (new) ──> pending ──start──> starting ──ready──> ready ┤<──> degraded   (its probe fails)
                     ^              │ └──────────────┬─────┘
                     │              │                ├──> quarantined ──time, heal, new version──> pending
       restart, new  │              v                └──> failed, stopped ──heal, new version────> pending
       version       └── (ended) <── draining | stopping <── wanted no more, restart, new version
                             └──────────────────────────> stopped, and forgotten when wanted no more

One asyncio task per agent walks through its incarnations (`run`); everything else (lines on the socket, deadlines,
requests) only sets facts and lets the running incarnation end. Nothing but a process's end ends an incarnation, so
its tasks are given back only when its death is certain.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

import msgspec

from paddock.decide import blame, restart
from paddock.model.agent import AgentState, AgentStatus, Evidence, Exit
from paddock.model.errors import PaddockError, TemplateBroken
from paddock.model.fleet import FleetSpec
from paddock.node import launching, logs
from paddock.node.handouts import Handouts
from paddock.node.host import Host
from paddock.node.journal import Row, RowGone, RowSet
from paddock.node.running import Incarnation
from paddock.ports.runtime import Handle, Live

HEALTH = {AgentState.READY: 100, AgentState.STARTING: 50, AgentState.DRAINING: 50, AgentState.DEGRADED: 50}


class Supervised(Incarnation):
    """See the module's text. `spec` is what is wanted now; `running` what the incarnation was started from."""

    def __init__(self, host: Host, spec: FleetSpec, name: str, row: Row | None = None) -> None:
        super().__init__(host, spec, name, row or Row())
        self.spec = spec
        self.wanted = True
        self.last_exit: Evidence | None = None
        self.first_start = True
        """Of this agent since this node started."""
        self.paths = launching.Paths.of(host.config.folder, spec.name, name)
        self._deaths: deque[blame.Death] = deque(maxlen=10_000)
        self._refusals = 0
        self._go_at = 0.0
        self._rest_over_at = math.inf
        """Monotonic: a host's clock that is set neither ends a quarantine nor prolongs it."""
        self._begun_at: float | None = None
        """Monotonic; when this node started the incarnation."""
        self._restarted: list[asyncio.Future[None]] = []

    # --- what others ask of it

    @property
    def version(self) -> str:
        """Of the template that runs, or would run."""
        return self.row.version if self.live is not None or self.row.intent else self.spec.version

    @property
    def resting(self) -> bool:
        return bool(self.row.rest)

    def status(self) -> AgentStatus:
        live = self.live
        return AgentStatus(
            id=self.id,
            fleet=self.spec.name,
            state=self.state,
            pid=live.handle.pid if live is not None else None,
            epoch=self.row.epoch,
            restarts=self.row.restarts,
            tasks_done=self.done,
            tasks_failed=self.failed,
            log_lost=self.log_lost,
            health=HEALTH.get(self.state, 0),
            node=self.host.config.id,
            started_at=self.row.started_at or None,
            template=self.version,
            ports=self.row.ports,
            reason=self.reason,
            last_exit=self.last_exit,
        )

    def want(self, spec: FleetSpec) -> None:
        """It is wanted, as this spec says; a running incarnation of an older version goes on until `replace`."""
        changed = spec.version != self.spec.version
        self.spec, self.wanted = spec, True
        if changed and self.live is None:
            self._pardon()
        self._wake.set()

    def unwant(self, why: str) -> None:
        self.wanted = False
        self.stop(why)

    def replace(self, why: str) -> None:
        """Stop the running incarnation gracefully and start another at once; lifts a quarantine and every rest."""
        self._pardon()
        if self.live is not None:
            self.stop(why)

    def restart(self, why: str) -> asyncio.Future[None]:
        """As `replace`; the future is done when the new incarnation was started, or could not be."""
        restarted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._restarted.append(restarted)
        self.replace(why)
        return restarted

    # --- its life

    async def run(self) -> None:
        """Until it is wanted no more and has ended."""
        await self._resume()
        while self.wanted:
            if self._held_back():
                await self._woken()
            else:
                await self._incarnation()
        self._leave()

    async def _resume(self) -> None:
        """After a restart of the node: find the incarnation that the journal tells of."""
        row, held = self.row, dict(self.host.journal.table.holds.get(self.id, {}))
        if row.handle is None and not row.intent:
            if row.rest:
                self._rest_on(row)
            return
        if self.link is None:  # else its hello came first, and knows better
            self.holds = held
        live = await self._find(row)
        if live is None:
            if row.handle is not None or held:
                await self.host.leftovers.ended(self.id, row.epoch)
                self._ended(Exit(), "it ended while its node was away")
            else:
                self.row = msgspec.structs.replace(row, intent=False)
            return
        if row.handle is None:
            self._save(handle=live.handle, intent=False)
        await self._watch(live, adopted=True)

    async def _find(self, row: Row) -> Live | None:
        runtime = self.host.runtimes.get(row.handle.runtime if row.handle else self.spec.runtime)
        if runtime is None:
            return None
        handle = row.handle or await self._handle_by_hello(row)
        return await runtime.adopt(handle) if handle is not None else None

    async def _handle_by_hello(self, row: Row) -> Handle | None:
        """A start was under way when the node died. Either it signed for its start, or it speaks to us, or it shows
        its environment, or it never came to be."""
        signed = launching.signed(self.spec.runtime, self.paths.folder, row.epoch)
        if signed is not None:
            return signed
        self._set(AgentState.STARTING, "its start was under way when its node ended: waiting for its hello")
        due_at = self.host.clock.monotonic() + self.host.config.hello_s
        while self.link is None and (left_s := due_at - self.host.clock.monotonic()) > 0:
            await self._pause(left_s)  # other things than a hello end the pause, too
        pid = self.link.pid if self.link is not None else await asyncio.to_thread(launching.find, self.id, row.epoch)
        return launching.handle(self.spec.runtime, pid, row.epoch) if pid else None

    def _held_back(self) -> bool:
        if self.row.rest and self.host.clock.monotonic() >= self._rest_over_at:
            self._pardon()
        return bool(self.row.rest) or self._go_at > self.host.clock.monotonic()

    async def _woken(self) -> None:
        """Until something changed or its time has come."""
        until = self._rest_over_at if self.row.rest else self._go_at
        await self._pause(until - self.host.clock.monotonic())

    async def _pause(self, delay_s: float) -> None:
        """Until the time is over, or something happens that may end it: look again then."""
        self._wake.clear()
        if delay_s < math.inf:
            self.host.deadlines.set((self.id, "go"), delay_s, lambda late_s: self._wake.set())
        await self._wake.wait()
        self.host.deadlines.drop((self.id, "go"))

    async def _incarnation(self) -> None:
        async with self.host.starts:
            if not self.wanted or self._held_back():
                return
            live = await self._start()
        for restarted in self._restarted:
            if not restarted.done():
                restarted.set_result(None)
        self._restarted.clear()
        if live is not None:
            await self._watch(live)

    async def _start(self) -> Live | None:
        host, clock = self.host, self.host.clock
        self.running = self.spec
        self._begun_at = clock.monotonic()
        self._fresh()
        row = self.row
        try:
            runtime = launching.runtime(host, self.running)
            ports = host.ports.give(self.id, self.running.ports, row.ports)
            self.row = msgspec.structs.replace(
                row,
                epoch=host.journal.next_epoch(clock.now()),
                intent=True,
                version=self.running.version,
                started_at=clock.now(),
                restarts=row.restarts + 1 if row.epoch else 0,
                ports=ports,
            )
            launch = await launching.prepare(self)
            self.handouts = Handouts(host, self.running, self.name, self.row.epoch)
            self._set(AgentState.STARTING)
            await host.journal.put(RowSet(self.id, self.row))
            live = await runtime.start(launch)
        except PaddockError as error:
            self._not_started(error)
            return None
        self._refusals = 0
        self._save(handle=live.handle, intent=False)
        return live

    async def _watch(self, live: Live, *, adopted: bool = False) -> None:
        """From its start (or its adoption) to its end."""
        host, health = self.host, self.running.health
        self.live = live
        if adopted:
            self.handouts = Handouts(host, self.running, self.name, self.row.epoch)
            if self.link is not None:
                self.handouts.greeted()
            self._heard_at = host.clock.monotonic()
            if self.ready_at is not None:
                self._set(AgentState.READY)
            else:
                self._set(AgentState.STARTING, "found again after a restart of its node")
        else:
            host.limiter.take(self.id, live.handle.pid, self.running.limits)
        self.host.publisher.dirty(self)
        if self.ready_at is None:
            host.deadlines.set((self.id, "start"), health.start_s, self._too_slow)
        if health.http:
            host.prober.watch(self)
        elif self.running.runtime != "python" and self.ready_at is None:
            self._ready()  # it may never speak to us; that it runs is all we know
        if not self.wanted or self._order:
            why, self._order = self._order or "it is wanted no more", ""
            self.stop(why)
        try:
            exit = await live.wait()
        finally:
            for what in ("start", "beat", "kill", "go"):
                host.deadlines.drop((self.id, what))
            host.prober.forget(self)
        self._ended(exit)

    # --- its end

    def _ended(self, exit: Exit, found: str = "") -> None:
        """Its process has ended: return its tasks at once, keep the evidence, decide what follows."""
        host, now = self.host, self.host.clock.monotonic()
        holds, self.holds = self.holds, {}
        for hold in holds.values():
            host.fabric.publish(hold.ack, b"-NAK")
        if self.handouts is not None:
            self.handouts.bury()
            self.handouts = None
        pid = self.row.handle.pid if self.row.handle is not None else None
        exit = host.limiter.release(self.id, pid, exit)
        if self.live is not None:
            host.leftovers.died(self.id, self.row.epoch, adopted=self._begun_at is None)
        reason = found or self._blame or self._describe(exit)
        evidence = self._evidence(exit, reason, list(holds))
        link, ordered = self.link, bool(self._order) and not self._blame
        self.live = self.link = None
        if link is not None:
            link.close()
        self._save(handle=None, intent=False)
        if ordered:
            self._set(AgentState.STOPPED if not self.wanted else AgentState.PENDING, self._order)
            host.publisher.event("agent.stopped", self.id, f"{self.id} stopped: {self._order}", {"pid": pid})
        else:
            self.last_exit = evidence
            self._died(exit, reason, now, frozenset(holds))
            text = f"{self.id} (pid {pid}) died: {reason}"
            host.publisher.event("agent.died", self.id, text, msgspec.to_builtins(evidence))
        for task in holds:
            text = f"task {task} went back to the queue: {self.id} {'stopped' if ordered else 'died'}"
            host.publisher.event("task.returned", task, text, {"agent": self.id, "epoch": evidence.epoch})
        self._order = ""

    def _died(self, exit: Exit, reason: str, now: float, tasks: frozenset[str] = frozenset()) -> None:
        policy = self.spec.restart
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
        if isinstance(decision, restart.Again):
            self._go_at = now + decision.delay_s
            again = f"; again in {decision.delay_s:.1f} s" if decision.delay_s else ""
            self._set(AgentState.PENDING, reason + again)
        elif isinstance(decision, restart.Quarantine):
            self._rest(AgentState.QUARANTINED, decision.reason, decision.until - now)
            self.host.publisher.event("agent.quarantined", self.id, f"{self.id} is quarantined: {decision.reason}")
        else:
            self._rest(AgentState.STOPPED if exit.clean else AgentState.FAILED, decision.reason, math.inf)

    def _not_started(self, error: PaddockError) -> None:
        self._save(intent=False)
        if self.handouts is not None:
            self.handouts.bury()
            self.handouts = None
        if isinstance(error, TemplateBroken):
            # Trying again at once cannot help; a new version or a person can, or time (a disk not mounted yet).
            rest_s = self.spec.restart.quarantine_s or math.inf
            self._rest(AgentState.FAILED, error.message, rest_s)
        else:
            # The host does not let it start (a full disk, no memory for a fork): that is no death of its own.
            self._refusals += 1
            delay_s = restart.backoff_s(self.spec.restart, self._refusals + 1, self.host.dice())
            self._go_at = self.host.clock.monotonic() + delay_s
            self._set(AgentState.PENDING, f"{error.message}; again in {delay_s:.1f} s")
        self.host.publisher.event("agent.not-started", self.id, f"{self.id} could not be started: {error.message}")

    def _leave(self) -> None:
        self.host.journal.note(RowGone(self.id))
        self.host.ports.take_back(self.id)
        self._set(AgentState.STOPPED, self.reason)
        for restarted in self._restarted:
            restarted.cancel()
        self.host.left(self)

    def _evidence(self, exit: Exit, reason: str, tasks: list[str]) -> Evidence:
        row, now = self.row, self.host.clock.now()
        return Evidence(
            at=now,
            epoch=row.epoch,
            pid=row.handle.pid if row.handle is not None else None,
            exit=exit,
            reason=reason,
            last_lines=logs.last_lines(self.paths.log, logs.secrets(self.running)),
            tasks=tasks,
            uptime_s=round(self._uptime_s(now), 3),
        )

    def _uptime_s(self, now: float) -> float:
        if self._begun_at is not None:
            return self.host.clock.monotonic() - self._begun_at
        return max(0.0, now - self.row.started_at) if self.row.started_at else 0.0

    def _describe(self, exit: Exit) -> str:
        return restart.describe(exit) + ("" if self.ready_at is not None else ", before it was ready")

    # --- small things

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

    def _changed(self) -> None:
        self.host.changed(self)
