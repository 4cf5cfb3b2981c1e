"""A control in memory: what the HTTP edge, the CLI and any client can be tried on without a fabric or a node."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from paddock.control.service import AlertTest, Change, FleetView, TaskRequest
from paddock.model.agent import AgentState, AgentStatus, Event, NodeStatus
from paddock.model.errors import Conflict, NotFound, QueueFull, Refused
from paddock.model.fleet import FleetSpec
from paddock.model.manifest import ManifestSource
from paddock.model.plan import FleetChange, Plan
from paddock.model.task import TaskFailure, TaskState, TaskView
from paddock.ports.record import Page, StoredEvent
from paddock.testing.care import FakeCare, FakeDaily

AT = 1_790_000_000.0
BEHIND_MAX = 1000


class FakeControl:
    """Satisfies `control.service.Control`. Time stands still; tasks end when the test says so (`finish`)."""

    def __init__(self) -> None:
        self.specs: dict[str, FleetSpec] = {}
        self.statuses: dict[str, AgentStatus] = {}
        self.views: dict[str, TaskView] = {}
        self.keys: dict[str, str] = {}
        self.happened: list[StoredEvent] = []
        self.text = ""
        """The log of every agent."""
        self.parts: dict[str, str] = {"fabric": "ok", "record": "ok", "node": "ok"}
        self.channels: dict[str, str] = {"mail": "", "chat": "chat answered 503"}
        """Channel → what is wrong with it."""
        self.fail: BaseException | None = None
        """Raised by `status`, `submit` and `agents` when set."""
        self.readers: list[asyncio.Queue[Change | None]] = []
        self.waiters = 0
        """Calls of `wait` and `logs` that are waiting now."""
        self._moved = asyncio.Condition()
        self.care = FakeCare()
        self.daily = FakeDaily()

    def add_fleet(self, name: str, replicas: int = 1, **more: Any) -> None:
        spec = FleetSpec(name=name, runtime="exec", command=["sleep", "60"], replicas=replicas, version="v1", **more)
        self.specs[name] = spec
        for stale in [one for one in self.statuses if one.startswith(f"{name}/")]:
            del self.statuses[stale]
        for index, agent in enumerate(spec.names()):
            self.statuses[f"{name}/{agent}"] = AgentStatus(
                id=f"{name}/{agent}", fleet=name, state=AgentState.READY, pid=1000 + index, health=100, started_at=AT
            )

    def set_state(self, agent_id: str, state: AgentState, *, restarts: int = 0) -> None:
        self.statuses[agent_id] = msgspec.structs.replace(self.agent(agent_id), state=state, restarts=restarts)

    async def finish(self, task_id: str, result: Any = None, *, error: TaskFailure | None = None) -> None:
        """End a task."""
        state = TaskState.FAILED if error else TaskState.DONE
        view = msgspec.structs.replace(
            self.views[task_id], state=state, result=result, error=error, attempts=1, finished_at=AT + 1
        )
        await self._move(view)

    async def say(self, text: str) -> None:
        """An agent writes to its log."""
        async with self._moved:
            self.text += text
            self._moved.notify_all()

    def publish(self, change: Change) -> None:
        for reader in list(self.readers):
            if reader.qsize() >= BEHIND_MAX:
                self.lose(reader)
            else:
                reader.put_nowait(change)

    def lose(self, reader: asyncio.Queue[Change | None]) -> None:
        """End one reader, as for one that fell behind."""
        self.readers.remove(reader)
        reader.put_nowait(None)

    async def plan(self, sources: Sequence[ManifestSource], *, prune: bool = False) -> Plan:
        if bad := next((one for one in sources if "paddock: 1" not in one.text), None):
            raise Refused(f"{bad.name}, line 1, column 1: 'paddock: 1' is missing at the top")
        changes = [FleetChange(kind="create", fleet="demo", text=f"create demo from {one.name}") for one in sources]
        return Plan(changes=changes, warnings=["prune"] if prune else [])

    async def apply(self, sources: Sequence[ManifestSource], *, prune: bool = False, by: str = "") -> Plan:
        plan = await self.plan(sources, prune=prune)
        self.add_fleet("demo")
        self._tell("fleet.applied", "demo", by)
        return msgspec.structs.replace(plan, applied=True)

    def fleets(self) -> Sequence[FleetView]:
        return [self.fleet(name) for name in sorted(self.specs)]

    def fleet(self, name: str) -> FleetView:
        spec = self.specs.get(name)
        if spec is None:
            raise NotFound(f"there is no fleet {name!r}")
        states = Counter(one.state.value for one in self.statuses.values() if one.fleet == name)
        return FleetView(
            name=name,
            wanted=len(spec.names()),
            ready=states["ready"],
            states=dict(states),
            queued=self._queued(name),
            queue_limit=spec.queue_limit,
            runtime=spec.runtime,
            capabilities=list(spec.capabilities),
            methods=[],
            version=spec.version,
            spec=spec,
        )

    async def scale(self, name: str, replicas: int, *, by: str = "") -> FleetView:
        self.fleet(name)
        self.add_fleet(name, replicas)
        self._tell("fleet.scaled", name, by)
        return self.fleet(name)

    async def delete_fleet(self, name: str, *, by: str = "") -> None:
        self.fleet(name)
        del self.specs[name]
        self._tell("fleet.deleted", name, by)

    def agents(self, *, fleet: str = "", state: str = "", after: str = "", limit: int = 100) -> Page:
        self._maybe_fail()
        found = [
            one
            for key, one in sorted(self.statuses.items())
            if key > after and fleet in ("", one.fleet) and state in ("", one.state)
        ]
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    def agent(self, agent_id: str) -> AgentStatus:
        if agent_id not in self.statuses:
            raise NotFound(f"there is no agent {agent_id!r}")
        return self.statuses[agent_id]

    async def restart(self, agent_id: str, *, by: str = "") -> AgentStatus:
        before = self.agent(agent_id)
        self.set_state(agent_id, AgentState.STARTING, restarts=before.restarts + 1)
        self._tell("agent.restarted", agent_id, by)
        return self.agent(agent_id)

    async def heal_all(self, *, by: str = "") -> Sequence[str]:
        bad = [key for key, one in sorted(self.statuses.items()) if one.state in ("failed", "quarantined")]
        for key in bad:
            await self.restart(key, by=by)
        return bad

    async def logs(self, agent_id: str, *, lines: int = 50, offset: int | None = None, wait_s: float = 0.0) -> Any:
        self.agent(agent_id)
        if offset is None:
            return {"text": "".join(self.text.splitlines(keepends=True)[-lines:]), "offset": len(self.text)}
        await self._until(lambda: len(self.text) > offset, wait_s)
        return {"text": self.text[offset:], "offset": len(self.text)}

    async def submit(self, request: TaskRequest, *, by: str = "") -> TaskView:
        self._maybe_fail()
        fleet = request.fleet or request.agent.partition("/")[0]
        if fleet not in self.specs:
            raise NotFound(f"there is no fleet {fleet!r}")
        if request.key and request.key in self.keys:
            return self.views[self.keys[request.key]]
        if self._queued(fleet) >= self.specs[fleet].queue_limit:
            raise QueueFull(f"the queue of {fleet} is full", retry_after_s=7)
        view = TaskView(
            id=f"t{len(self.views) + 1}",
            fleet=fleet,
            method=request.method,
            state=TaskState.QUEUED,
            agent=request.agent or None,
            args=request.args,
            priority=request.priority,
            submitted_at=AT,
            submitted_by=by,
        )
        self.views[view.id] = view
        if request.key:
            self.keys[request.key] = view.id
        return view

    async def task(self, task_id: str) -> TaskView:
        if task_id not in self.views:
            raise NotFound(f"there is no task {task_id!r}")
        return self.views[task_id]

    async def wait(self, task_id: str, timeout_s: float) -> TaskView:
        await self._until(lambda: self.views[task_id].state.ended, timeout_s)
        return self.views[task_id]

    async def tasks(
        self, *, fleet: str = "", state: str = "", agent: str = "", after: str = "", limit: int = 100
    ) -> Page:
        newest = [
            one
            for one in reversed(self.views.values())
            if fleet in ("", one.fleet) and state in ("", one.state) and agent in ("", one.agent)
        ]
        start = int(after) if after else 0
        return Page(newest[start : start + limit], str(start + limit) if len(newest) > start + limit else None)

    async def cancel(self, task_id: str, *, by: str = "") -> TaskView:
        view = await self.task(task_id)
        if view.state.ended:
            raise Conflict(f"task {task_id} has ended already: {view.state}")
        return await self._move(msgspec.structs.replace(view, state=TaskState.CANCELLED, finished_at=AT + 1))

    async def replay(self, task_id: str, *, by: str = "") -> TaskView:
        view = await self.task(task_id)
        if not view.state.ended or view.state is TaskState.DONE:
            raise Conflict(
                f"task {task_id} is {view.state}: only one that is dead, failed or cancelled can be replayed"
            )
        return await self.submit(TaskRequest(fleet=view.fleet, method=view.method, args=view.args), by=by)

    def nodes(self) -> Sequence[NodeStatus]:
        return [NodeStatus(id="n1", host="here", pid=1, started_at=AT, seen_at=AT, agents=len(self.statuses))]

    async def history(self, *, about: str = "", kind: str = "", after: str = "", limit: int = 100) -> Page:
        found = [
            one
            for one in reversed(self.happened)
            if about in ("", one.event.about)
            and one.event.kind.startswith(kind)
            and (not after or one.seq < int(after))
        ]
        return Page(found[:limit], str(found[limit - 1].seq) if len(found) > limit else None)

    async def status(self) -> Mapping[str, Any]:
        self._maybe_fail()
        tasks: dict[str, Counter[str]] = {}
        for view in self.views.values():
            tasks.setdefault(view.fleet, Counter())[view.state.value] += 1
        agents = Counter(one.state.value for one in self.statuses.values())
        return {
            "agents": dict(agents),
            "tasks": tasks,
            "nodes": ["n1"],
            "uptime_s": 1.0,
            "version": "fake",
        } | self.parts

    async def ready(self) -> Mapping[str, str]:
        return self.parts

    async def test_alerts(self, channel: str = "", *, by: str = "") -> Sequence[AlertTest]:
        if channel not in ("", *self.channels):
            raise NotFound(f"there is no channel {channel!r}")
        names = [channel] if channel else list(self.channels)
        return [AlertTest(channel=name, ok=not self.channels[name], text=self.channels[name]) for name in names]

    def changes(self) -> AsyncIterator[Change]:
        reader: asyncio.Queue[Change | None] = asyncio.Queue()
        self.readers.append(reader)
        return self._read(reader)

    async def _read(self, reader: asyncio.Queue[Change | None]) -> AsyncIterator[Change]:
        try:
            while (change := await reader.get()) is not None:
                yield change
        finally:
            if reader in self.readers:
                self.readers.remove(reader)

    async def _until(self, done: Any, wait_s: float) -> None:
        self.waiters += 1
        try:
            async with asyncio.timeout(wait_s), self._moved:
                await self._moved.wait_for(done)
        except TimeoutError:
            pass  # then it is as it is
        finally:
            self.waiters -= 1

    async def _move(self, view: TaskView) -> TaskView:
        async with self._moved:
            self.views[view.id] = view
            self._moved.notify_all()
        return view

    def _queued(self, fleet: str) -> int:
        return sum(one.fleet == fleet and one.state is TaskState.QUEUED for one in self.views.values())

    def _maybe_fail(self) -> None:
        if self.fail is not None:
            raise self.fail

    def _tell(self, kind: str, about: str, by: str) -> None:
        event = Event(at=AT, kind=kind, about=about, text=f"{kind} {about}", by=by)
        self.happened.append(StoredEvent(len(self.happened) + 1, event))
