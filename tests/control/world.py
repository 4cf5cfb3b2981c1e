"""The world of the controllers' tests: a fabric in memory, a real record, a scripted node, all in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from paddock.control.alerts import no_senders
from paddock.control.server import ControlServer
from paddock.control.service import TaskRequest
from paddock.fabric import subjects
from paddock.model.agent import AgentState, AgentStatus, NodeStatus
from paddock.model.fleet import FleetSpec, Method, Placement
from paddock.model.manifest import ManifestSource
from paddock.model.task import Task, TaskResult, TaskState, TaskView
from paddock.ports.alerts import Senders
from paddock.ports.fabric import Message
from paddock.record.sql import SqlRecord
from paddock.testing.clock import VirtualClock
from paddock.testing.fabric import FakeBroker
from paddock.testing.loop import Process, run, settle

T = TypeVar("T")

REVIEW = Method(
    name="review",
    args={
        "type": "object",
        "properties": {"source": {"type": "string"}, "depth": {"type": "integer"}},
        "required": ["source"],
        "additionalProperties": False,
    },
)
MANIFEST = """
paddock: 1
fleets:
  critic: {agent: "lab:Critic", replicas: 2, capabilities: [review], queue_limit: 100}
"""


class FakeNode:
    """A node as the server sees it: answers requests, tells of itself, and makes what is placed on it ready."""

    def __init__(self, world: World, name: str = "n1") -> None:
        self.world, self.name = world, name
        self.fabric = world.broker.connect(f"node/{name}")
        self.methods: list[Method] | None = [REVIEW]
        self.broken: dict[str, str] = {}
        """fleet → what is wrong with its template."""
        self.holds: list[dict[str, Any]] = []
        self.keeps: dict[str, Placement] = {}
        """What it remembers to have been placed on it."""
        self.asked: list[dict[str, Any]] = []
        self.errors: dict[str, dict[str, str]] = {}
        """op → the error it is answered with."""
        self.makes_ready = True
        self.agents_max = 0
        """How many agents it says it can hold; 0: it does not say."""
        self._process = Process(f"node-{name}")

    async def start(self) -> None:
        for subject in (self.name, "all"):
            self._process.call(self.fabric.subscribe, subjects.node_op(subject), self._answer)
        await self.tell()
        self._process.spawn(self._beat(), "beat")
        self._process.spawn(self._follow(), "follow")

    def kill(self) -> None:
        self.fabric.cut()
        self._process.kill()

    async def tell(self) -> None:
        now = self.world.clock.now()
        status = NodeStatus(
            id=self.name,
            host="lab",
            pid=1,
            started_at=now,
            seen_at=now,
            agents_max=self.agents_max,
            agents_max_why="its limit of 266 open files; raise it",
        )
        await self.fabric.store(f"$KV.now.{subjects.now_node(self.name)}", msgspec.json.encode(status))

    async def agent(self, fleet: str, name: str, state: AgentState = AgentState.READY, *, epoch: int = 1) -> None:
        status = AgentStatus(id=f"{fleet}/{name}", fleet=fleet, state=state, node=self.name, epoch=epoch)
        await self.fabric.store(f"$KV.now.{subjects.now_agent(self.name, fleet, name)}", msgspec.json.encode(status))

    async def gone(self, fleet: str, name: str) -> None:
        key = f"$KV.now.{subjects.now_agent(self.name, fleet, name)}"
        await self.fabric.store(key, b"", headers={"KV-Operation": "DEL"})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(10)
            await self.tell()

    async def _follow(self) -> None:
        running: dict[str, list[str]] = {}
        async for batch in self.fabric.tail(subjects.WANTED, subject=f"$KV.wanted.place.{self.name}.*"):
            for stored in batch:
                fleet = stored.subject.rpartition(".")[2]
                names = [] if stored.deleted else msgspec.json.decode(stored.data, type=Placement).names
                if self.makes_ready:
                    for name in names:
                        await self.agent(fleet, name)
                for name in running.get(fleet, []):
                    if name not in names:
                        await self.gone(fleet, name)
                running[fleet] = names

    def _answer(self, message: Message) -> None:
        op = msgspec.json.decode(message.data)
        self.asked.append(op)
        answer: dict[str, Any] = {"ok": True}
        if op["op"] in self.errors:
            answer = {"ok": False, "error": self.errors[op["op"]]}
        elif op["op"] == "check" and op["spec"]["name"] in self.broken:
            answer = {
                "ok": False,
                "error": {"code": "template-broken", "message": self.broken[op["spec"]["name"]]},
            }
        elif op["op"] == "check":
            answer["methods"] = msgspec.to_builtins(self.methods)
        elif op["op"] == "holds":
            answer["holds"] = self.holds
        elif op["op"] == "placements":
            answer["fleets"] = list(self.keeps)
        elif op["op"] == "placement":
            answer["placement"] = msgspec.to_builtins(self.keeps[op["fleet"]])
        elif op["op"] == "logs":
            answer |= {"text": "one line\n", "offset": 9}
        if message.reply:
            self.fabric.publish(message.reply, msgspec.json.encode(answer))


class World:
    """Everything that outlives a server, and the servers that live in it."""

    def __init__(self, url: str = "sqlite:///:memory:") -> None:
        self.clock = VirtualClock()
        self.broker = FakeBroker(clock=self.clock)
        self.record = SqlRecord.open(url)
        self.fabric = self.broker.connect("test")
        self.node = FakeNode(self)
        self.senders: Senders = no_senders
        self.server: ControlServer
        self.process: Process | None = None

    async def start(self, *, manifest: str = MANIFEST) -> None:
        """A node and a server, and what the manifest wants is ready."""
        await self.fabric.ensure(*subjects.STREAMS)
        await self.node.start()
        await self.serve()
        if manifest:
            await self.apply(manifest)
            await self.until(lambda: all(f.ready == f.wanted for f in self.server.fleets()), "all agents are ready")

    async def serve(self) -> None:
        self.server = ControlServer(self.broker.connect("server"), self.record, self.clock, senders=self.senders)
        await self.server.start()

    async def serve_mortal(self) -> Process:
        """A server in a process of its own, which can be killed at any await."""
        fabric = self.broker.connect("server")
        self.process = process = Process("server")
        process.on_kill.append(fabric.cut)

        async def begin() -> ControlServer:
            server = ControlServer(fabric, self.record, self.clock, senders=self.senders)
            await server.start()
            return server

        self.server = await process.spawn(begin(), "start")
        return process

    async def replace(self) -> None:
        """Stop this server in order, start another on the same fabric and record."""
        await self.server.stop()
        await self.serve()

    async def apply(self, text: str, *, prune: bool = False, by: str = "ann") -> Any:
        return await self.server.apply([ManifestSource(name="lab.yaml", text=text)], prune=prune, by=by)

    async def submit(self, **fields: Any) -> TaskView:
        given = {"method": "review", "args": {"source": "x = 1"}} | fields
        if not given.keys() & {"fleet", "agent", "capability"}:
            given["fleet"] = "critic"
        return await self.server.submit(TaskRequest(**given), by="ann")

    async def queued(self, fleet: str = "critic") -> list[Task]:
        """What is in the fleet's queue."""
        stored = await self.fabric.read(subjects.work_stream(fleet), limit=10_000)
        return [msgspec.json.decode(message.data, type=Task) for message in stored if message.data]

    async def results(self, task_id: str, fleet: str = "critic") -> list[TaskResult]:
        stored = await self.fabric.read(subjects.RESULTS, subject=subjects.result(fleet, task_id))
        return [msgspec.json.decode(message.data, type=TaskResult) for message in stored]

    async def work(self, state: TaskState = TaskState.DONE, *, fleet: str = "critic", lane: str = "p2") -> TaskResult:
        """Do the next task as an agent does: pull, store the result, acknowledge."""
        agent = self.fabric
        [delivery] = await agent.pull(subjects.work_stream(fleet), lane, wait_s=60.0)
        task = msgspec.json.decode(delivery.data, type=Task)
        result = self.result_of(task, state)
        await agent.store(subjects.result(fleet, task.id), msgspec.json.encode(result))
        agent.publish(delivery.ack, b"+ACK")
        await agent.flush()
        return result

    def result_of(self, task: Task, state: TaskState = TaskState.DONE) -> TaskResult:
        return TaskResult(
            id=task.id,
            fleet=task.fleet,
            method=task.method,
            state=state,
            result={"fine": True},
            agent=f"{task.fleet}/0",
            args=task.args,
            priority=task.priority,
            submitted_at=task.submitted_at,
            finished_at=self.clock.now(),
            kept_s=task.kept_s,
            to_agent=task.agent,
        )

    async def until(self, condition: Callable[[], bool], what: str, *, limit_s: float = 120.0) -> None:
        await settle(condition, limit_s=limit_s, what=what)

    async def until_state(self, task_id: str, state: TaskState, *, limit_s: float = 120.0) -> TaskView:
        give_up = self.clock.monotonic() + limit_s
        while (view := await self.server.task(task_id)).state is not state:
            assert self.clock.monotonic() < give_up, f"{task_id} is {view.state}, not {state}"
            await asyncio.sleep(0.05)
        return view

    async def end(self) -> None:
        await self.server.stop()
        self.node.kill()


def world(
    scenario: Callable[[World], Coroutine[Any, Any, T]], *, manifest: str = MANIFEST, url: str = "sqlite:///:memory:"
) -> T:
    """Run `scenario(world)` in virtual time, in a world with a node and a server."""

    async def main() -> T:
        lab = World(url)
        try:
            await lab.start(manifest=manifest)
            outcome = await scenario(lab)
            await lab.end()
            return outcome
        finally:
            lab.record.close()

    return run(main)


def spec(name: str = "critic", **fields: Any) -> FleetSpec:
    return FleetSpec(**({"name": name, "runtime": "python", "agent": "lab:Critic"} | fields))


__all__ = ["MANIFEST", "REVIEW", "FakeNode", "World", "spec", "world"]
