"""The server's controllers, composed: `ControlServer` is what the HTTP edge talks to. One file for each controller.

(made) ──start──> mirror caught up ──> recorder, fleets, later, crons, janitor run ──stop──> all ended, rows written
                                         └── one of them ends by itself: `failed` is set
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from paddock.agent.clock import HostClock
from paddock.control.alerts import Alerts, no_senders
from paddock.control.apply import Apply
from paddock.control.archive import Archive
from paddock.control.care import Care
from paddock.control.changes import Changes, Reader
from paddock.control.core import Core
from paddock.control.crons import Crons
from paddock.control.daily import Daily
from paddock.control.door import Door
from paddock.control.events import Events
from paddock.control.fleets import Fleets
from paddock.control.infrastructure import Infrastructure
from paddock.control.intake import Intake
from paddock.control.janitor import Janitor
from paddock.control.later import Later
from paddock.control.leftovers import Leftovers
from paddock.control.lost import Lost
from paddock.control.mirror import Mirror
from paddock.control.nodes import Nodes
from paddock.control.owner import Owner, each, within
from paddock.control.recorder import Recorder
from paddock.control.restore import Restore
from paddock.control.service import AlertTest, FleetView, TaskRequest
from paddock.control.status import Status, nothing_broken
from paddock.control.steady import Steady
from paddock.control.tasks import Parts, Tasks
from paddock.control.telling import Teller
from paddock.control.views import nearest
from paddock.decide.route import choose_fleet
from paddock.fabric import subjects
from paddock.model.agent import AgentState, AgentStatus, NodeStatus
from paddock.model.errors import NotFound, Refused, TimedOut, Unavailable
from paddock.model.manifest import ManifestSource
from paddock.model.names import split_agent
from paddock.model.plan import Plan
from paddock.model.task import Priority, TaskState, TaskView
from paddock.ports.alerts import Senders
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric
from paddock.ports.record import Page, Record

PAGE_MAX = 1000
AGENTS_PAGE_MAX = 5000
"""Of agents: they come from memory, not from the record."""
RESTART_S_MAX = 60.0
LOG_LINES_MAX = 10_000
LOG_WAIT_S_MAX = 60.0
START_S_MAX = 30.0
_HOST = HostClock()


class ControlServer:
    """Implements `paddock.control.service.Control`. The fabric and the record stay the caller's: it closes them."""

    def __init__(
        self,
        fabric: Fabric,
        record: Record,
        clock: Clock,
        *,
        no_room: Callable[[], str] = lambda: "",
        dice: Callable[[], float] = _HOST.dice,
        senders: Senders = no_senders,
        broken: Callable[[], Awaitable[str]] = nothing_broken,
    ) -> None:
        """`no_room`: why nothing more can be accepted (the disk is full), or empty; asked for every task. `dice` rolls
        in [0, 1). `senders` makes the channels by which people are told. `broken`: which streams of the fabric take no
        more writes, or empty."""
        self._no_room = no_room
        self._fabric = fabric
        self._clock = clock
        self._changes = Changes()
        self._archive = Archive(record)
        self._events = Events(fabric, clock)
        self._mirror = Mirror(fabric, clock, self._changes)
        self._nodes = Nodes(fabric, self._mirror)
        self._recorder = Recorder(self._archive, clock, self._changes)
        self._intake = Intake(fabric, clock, self._mirror, self._archive, self._recorder)
        self._fleets = Fleets(fabric, clock, self._mirror, self._events, self._intake.stream_gone)
        self._restore = Restore(fabric, clock, self._mirror, self._nodes, self._events, self._fleets)
        self._apply = Apply(fabric, clock, self._mirror, self._nodes, self._events, self._fleets.ensure_stream)
        self._later = Later(fabric, clock, self._mirror)
        steady = Steady(clock)
        door = Door(self._mirror, self._choose)
        self._tasks = Tasks(Parts(fabric, clock, steady, self._mirror, self._recorder, self._later, door))
        self._crons = Crons(fabric, clock, self._mirror, self._recorder)
        lost = Lost(fabric, steady, self._mirror, self._archive, self._recorder)
        self._janitor = Janitor(self._archive, steady, self._mirror, self._recorder, lost)
        self._leftovers = Leftovers(fabric, clock, self._mirror)
        self._status = Status(fabric, clock, self._mirror, self._archive, self._recorder, broken, no_room)
        self.alerts = Alerts(fabric, clock, self._mirror, self._events, senders)
        core = Core(
            fabric,
            clock,
            self._archive,
            self._mirror,
            self._recorder,
            self._nodes,
            self._apply,
            self._events,
            self._changes,
            dice,
        )
        self.care = Care(core)
        self._infrastructure = Infrastructure(core, self.care.book, self._status)
        self.daily = Daily(core, self.care, self._janitor, self._status)
        care = self.care
        self._teller = Teller(clock, care.health.scores, care.book.about, care.reports.alarms, self.alerts.tell)
        self.care.book.on_change.append(self._teller.incident_changed)
        self.care.health.on_sign.append(self._teller.stands_out)
        self._owner: Owner | None = None

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Ensure the streams, catch up with what is wanted and what is, then start every controller."""
        self._owner = owner = Owner()
        try:
            await self._fabric.ensure(*subjects.STREAMS)
            if not await within(self._clock, self._mirror.start(owner), START_S_MAX):
                raise TimedOut(f"the fabric did not tell within {START_S_MAX:g} s what is wanted and what is")
        except BaseException:
            await owner.stop()
            await self._archive.close()
            raise
        self._mirror.on_fleet.append(self._fleet_changed)
        self._intake.start(owner)
        owner.loop("recorder", self._recorder.run())
        owner.loop("fleets", self._fleets.run())
        owner.loop("restore", self._restore.run())
        self._later.start(owner)
        owner.loop("crons", self._crons.run())
        owner.loop("janitor", self._janitor.run())
        owner.loop("leftovers", self._leftovers.run())
        owner.loop("status", self._status.run())
        self.alerts.start(owner)
        owner.loop("daily", self.daily.run())
        try:
            await self.care.start(owner)
            owner.loop("infrastructure", self._infrastructure.run())
            owner.loop("telling", self._teller.run())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """In the reverse order of start; returns when everything has ended and what was known is written."""
        if self._owner is None:
            return
        owner, self._owner = self._owner, None
        self._changes.end()
        self._intake.close()
        await owner.stop()
        await self._recorder.drain()
        await self.care.stop()
        await self._archive.close()

    async def failed(self) -> BaseException:
        """Return, with the reason, once a controller has ended that should run for ever; then stop the server."""
        if self._owner is None:
            raise RuntimeError("the server was not started")
        return await asyncio.shield(self._owner.failed)

    # -- fleets ----------------------------------------------------------------------------------------------------

    async def plan(self, sources: Sequence[ManifestSource], *, prune: bool = False) -> Plan:
        return await self._apply.plan(sources, prune=prune)

    async def apply(self, sources: Sequence[ManifestSource], *, prune: bool = False, by: str = "") -> Plan:
        self._need_room()
        return await self._apply.apply(sources, prune=prune, by=by)

    def fleets(self) -> Sequence[FleetView]:
        return [self._status.fleet(self._mirror.fleets[name]) for name in sorted(self._mirror.fleets)]

    def fleet(self, name: str) -> FleetView:
        return self._status.fleet(self._mirror.fleet(name))

    async def scale(self, name: str, replicas: int, *, by: str = "") -> FleetView:
        self._need_room()
        await self._apply.scale(name, replicas, by=by)
        return self.fleet(name)

    def _need_room(self) -> None:
        if why := self._no_room():
            raise Unavailable(why)

    async def delete_fleet(self, name: str, *, by: str = "") -> None:
        """It is wanted no longer. Its agents stop; what is queued then ends as dead, with that reason."""
        await self._apply.delete(name, by=by)

    # -- agents ----------------------------------------------------------------------------------------------------

    def agents(self, *, fleet: str = "", state: str = "", after: str = "", limit: int = 100) -> Page:
        _check_state(state, AgentState)
        limit = _check_limit(limit, AGENTS_PAGE_MAX)
        found: list[AgentStatus] = []
        for status in self._mirror.agents_after(after, fleet=fleet):
            if state and status.state != state:
                continue
            if len(found) == limit:
                return Page(found, found[-1].id)
            found.append(status)
        return Page(found)

    def agent(self, agent_id: str) -> AgentStatus:
        fleet, _ = split_agent(agent_id)
        status = self._mirror.agents.get(agent_id)
        if status is None:
            wanted = self._mirror.fleet(fleet)
            if agent_id.partition("/")[2] in wanted.names:
                return AgentStatus(id=agent_id, fleet=fleet, state=AgentState.PENDING, reason="no node runs it yet")
            raise NotFound(f"there is no agent {agent_id!r}{nearest(agent_id, self._mirror.by_fleet.get(fleet, {}))}")
        return status

    async def restart(self, agent_id: str, *, by: str = "") -> AgentStatus:
        status = self._placed(agent_id)
        grace_s = self._mirror.fleets[status.fleet].spec.stop_grace_s if status.fleet in self._mirror.fleets else 10.0
        await self._nodes.ask(status.node, {"op": "restart", "agent": agent_id}, timeout_s=RESTART_S_MAX + grace_s)
        await self._events.tell("agent.restart", agent_id, f"{agent_id} restarted on request", by=by)
        return self.agent(agent_id)

    async def heal_all(self, *, by: str = "") -> Sequence[str]:
        ill = [name for state in (AgentState.FAILED, AgentState.QUARANTINED) for name in self._mirror.by_state[state]]
        healed: list[str] = []

        async def heal(agent_id: str) -> None:
            await self.restart(agent_id, by=by)
            healed.append(agent_id)

        errors = await each("heal", ill, heal)
        if errors and not healed:
            raise errors[0]
        return sorted(healed)

    async def logs(self, agent_id: str, *, lines: int = 50, offset: int | None = None, wait_s: float = 0.0) -> Any:
        """{"text": str, "offset": int}, as the node answers."""
        if not 1 <= lines <= LOG_LINES_MAX:
            raise Refused(f"lines is {lines}; it must be from 1 to {LOG_LINES_MAX}")
        if not 0 <= wait_s <= LOG_WAIT_S_MAX:
            raise Refused(f"wait_s is {wait_s:g}; it must be from 0 to {LOG_WAIT_S_MAX:g}")
        status = self._placed(agent_id)
        op: dict[str, Any] = {"op": "logs", "agent": agent_id, "lines": lines}
        if offset is not None:
            op = {"op": "logs", "agent": agent_id, "offset": offset, "wait_s": wait_s}
        answer = msgspec.json.decode(await self._nodes.ask(status.node, op, timeout_s=wait_s + 10.0))
        return {"text": answer.get("text", ""), "offset": answer.get("offset", 0)}

    def _placed(self, agent_id: str) -> AgentStatus:
        status = self.agent(agent_id)
        if not status.node:
            raise NotFound(f"agent {agent_id!r} is not on any node yet; is a node running?")
        return status

    # -- tasks -----------------------------------------------------------------------------------------------------

    async def submit(self, request: TaskRequest, *, by: str = "") -> TaskView:
        low = request.priority.upper() == Priority.LOW.name
        if why := self._no_room() or (self._infrastructure.shedding if low else ""):
            raise Unavailable(why)
        try:
            return await self._tasks.submit(request, by=by)
        except TimedOut as error:
            if broken := await self._status.broken():
                raise Unavailable(f"the fabric did not take the task: {broken}; it is being started anew") from error
            raise

    async def task(self, task_id: str) -> TaskView:
        return await self._tasks.task(task_id)

    async def wait(self, task_id: str, timeout_s: float) -> TaskView:
        return await self._tasks.wait(task_id, timeout_s)

    async def tasks(
        self, *, fleet: str = "", state: str = "", agent: str = "", after: str = "", limit: int = 100
    ) -> Page:
        _check_state(state, TaskState)
        limit = _check_limit(limit)
        await self._recorder.settle()
        read = self._archive.record.tasks
        page = await self._archive.read(lambda: read(fleet=fleet, state=state, agent=agent, after=after, limit=limit))
        return Page([self._recorder.with_progress(view) for view in page.items], page.next)

    async def cancel(self, task_id: str, *, by: str = "") -> TaskView:
        return await self._tasks.cancel(task_id, by=by)

    async def replay(self, task_id: str, *, by: str = "") -> TaskView:
        return await self._tasks.replay(task_id, by=by)

    # -- the whole -------------------------------------------------------------------------------------------------

    def nodes(self) -> Sequence[NodeStatus]:
        return sorted(self._mirror.nodes.values(), key=lambda node: node.id)

    async def history(self, *, about: str = "", kind: str = "", after: str = "", limit: int = 100) -> Page:
        limit = _check_limit(limit)
        await self._recorder.settle()
        read = self._archive.record.events
        return await self._archive.read(lambda: read(about=about, kind=kind, after=after, limit=limit))

    async def status(self) -> Mapping[str, Any]:
        incidents = Counter(incident.state.value for incident in self.care.book.open.values())
        return {**await self._status.totals(), "incidents": dict(incidents), "alerts": self.alerts.channels()}

    async def ready(self) -> Mapping[str, str]:
        return await self._status.ready()

    async def test_alerts(self, channel: str = "", *, by: str = "") -> Sequence[AlertTest]:
        return await self.alerts.test(channel, by=by)

    def changes(self) -> Reader:
        return self._changes.listen()

    # -- wiring ----------------------------------------------------------------------------------------------------

    def _choose(self, capability: str) -> str:
        fleets = [
            (name, wanted.spec.capabilities, self._mirror.ready_count(name), self._status.queued(name))
            for name, wanted in self._mirror.fleets.items()
        ]
        name = choose_fleet(capability, fleets)
        if name is None:
            known = {known for wanted in self._mirror.fleets.values() for known in wanted.spec.capabilities}
            raise NotFound(f"no fleet has the capability {capability[:80]!r}{nearest(capability, known)}")
        return name

    def _fleet_changed(self, name: str) -> None:
        if self._changes.watched:
            wanted = self._mirror.fleets.get(name)
            self._changes.publish("fleet", self._status.fleet(wanted) if wanted else {"name": name, "gone": True})


def _check_limit(limit: int, limit_max: int = PAGE_MAX) -> int:
    if not 1 <= limit <= limit_max:
        raise Refused(f"limit is {limit}; it must be from 1 to {limit_max}")
    return limit


def _check_state(state: str, states: type[AgentState] | type[TaskState]) -> None:
    names = [str(known) for known in states]
    if state and state not in names:
        raise Refused(f"state {state[:80]!r} is none of {', '.join(names)}{nearest(state, names)}")
