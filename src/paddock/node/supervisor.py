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

import msgspec

from paddock.model.agent import AgentState, AgentStatus, Exit
from paddock.model.errors import PaddockError, Refused
from paddock.model.fleet import FleetSpec
from paddock.model.policy import Action
from paddock.node import folders, launching
from paddock.node.aftermath import Aftermath
from paddock.node.handouts import Handouts
from paddock.node.host import Host
from paddock.node.journal import MENDS, Row, RowGone, RowSet
from paddock.node.vitals import Meter
from paddock.ports.runtime import Handle, Live, Renewing

LAST_WORDS_S = 0.2
NEWER = "already a newer incarnation"
HEALTH = {AgentState.READY: 100, AgentState.STARTING: 50, AgentState.DRAINING: 50, AgentState.DEGRADED: 50}


class Supervised(Aftermath):
    """See the module's text. `spec` is what is wanted now; `running` what the incarnation was started from."""

    def __init__(self, host: Host, spec: FleetSpec, name: str, row: Row | None = None) -> None:
        super().__init__(host, spec, name, row or Row())
        self.wanted = True
        self.first_start = True
        """Of this agent since this node started."""
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
        if self.live is not None and self.row.version in ("", spec.version):
            self.rule(spec)
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
        self._excused = True
        self.replace(why)
        return restarted

    async def heal(self, action: Action, epoch: int, why: str) -> str:
        """Do it to the incarnation `epoch`, which makes doing it twice doing it once; returns what there is to say.
        When it returns it will happen, even if this node dies. Refused: it cannot be done."""
        if self.row.epoch > epoch:
            return NEWER
        if action not in launching.runtime(self.host, self.spec).actions:
            raise Refused(f"{action} is nothing that runtime {self.spec.runtime!r} offers")
        if action not in MENDS:
            return self._tell(action)
        mend = max(action, Action(self.row.mend or action), key=MENDS.index)
        if self.row.mend != mend:
            self.row = msgspec.structs.replace(self.row, mend=mend.value)
            await self.host.journal.put(RowSet(self.id, self.row))
            if self.row.epoch > epoch:
                return f"{mend}: done with a start that was under way"
        self._excused = True
        self.replace(why)
        if self.row.intent:
            self.stop(why)
        return f"{mend}: begun"

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
        if self.row.rest and self.row.mend:
            self._pardon()
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
                self._ended(Exit(), "it ended while its node was away, exit status unknown")
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

    async def _woken(self) -> None:
        """Until something changed or its time has come."""
        await self._pause(self._until() - self.host.clock.monotonic())

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
        self.running, self._excused = self.spec, False
        self._begun_at = clock.monotonic()
        self._fresh()
        row = self.row
        try:
            runtime = launching.runtime(host, self.running)
            if row.mend in (Action.RESTART_CLEAN, Action.REDEPLOY):
                await folders.move_aside(self.paths.folder, row.epoch)
            if row.mend == Action.REDEPLOY and isinstance(runtime, Renewing):
                runtime.renew(self.running, row.epoch)
            before = {} if row.mend == Action.REDEPLOY else row.ports
            ports = host.ports.give(self.id, self.running.ports, before)
            self.row = msgspec.structs.replace(
                row,
                epoch=host.journal.next_epoch(clock.now()),
                intent=True,
                version=self.running.version,
                started_at=clock.now(),
                restarts=row.restarts + 1 if row.epoch else 0,
                ports=ports,
                mend="",
                begun=False,
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
        self.live, self.meter = live, Meter(live, host.clock)
        if adopted:
            self.handouts = Handouts(host, self.running, self.name, self.row.epoch)
            if self.link is not None:
                self.handouts.greeted()
            self._heard_at = host.clock.monotonic()
            if self.ready_at is not None:
                self._set(AgentState.READY)
                self._condition()
            else:
                self._set(AgentState.STARTING, "found again after a restart of its node")
        else:
            host.limiter.take(self.id, live.handle.pid, self.running.limits)
        host.publisher.dirty(self)
        if self.ready_at is None:
            host.deadlines.set((self.id, "start"), health.start_s, self._too_slow)
        self._probe(adopted=adopted)
        if not health.http and self.running.runtime != "python" and self.ready_at is None:
            # It may never speak to us; that it runs is all we know.
            alive_s = min(host.config.alive_s, health.start_s / 2)
            host.deadlines.set((self.id, "alive"), alive_s, lambda late_s: self._comes())
        if self.row.mend and not self._order:
            self._order = f"{self.row.mend} was begun before its node ended"
        if not self.wanted or self._order:
            why, self._order = self._order or "it is wanted no more", ""
            self.stop(why)
        try:
            exit = await live.wait()
        finally:
            for what in ("start", "alive", "beat", "kill", "go", "stable"):
                host.deadlines.drop((self.id, what))
            host.prober.forget(self)
        if self.link is not None:
            await self.link.last_words(LAST_WORDS_S)  # else what it began on last would seem never to have begun
        self._ended(exit)

    # --- its end

    def _ended(self, exit: Exit, found: str = "") -> None:
        """Its process has ended: return its tasks at once, keep the evidence, decide what follows."""
        host, now, at = self.host, self.host.clock.monotonic(), self.host.clock.now()
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
        evidence = self._evidence(exit, reason, list(holds), at)
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
            self._died(evidence, now)
            text = f"{self.id} (pid {pid}) died: {reason}"
            host.publisher.event("agent.died", self.id, text, msgspec.to_builtins(evidence), at=at)
        for task in holds:
            text = f"task {task} went back to the queue: {self.id} {'stopped' if ordered else 'died'}"
            host.publisher.event("task.returned", task, text, {"agent": self.id, "epoch": evidence.epoch})
        self._order = ""

    def _leave(self) -> None:
        self.host.journal.note(RowGone(self.id))
        self.host.ports.take_back(self.id)
        self.host.storms.gone(self)
        self._set(AgentState.STOPPED, self.reason)
        for restarted in self._restarted:
            restarted.cancel()
        self.host.left(self)

    def _changed(self) -> None:
        self.host.changed(self)
