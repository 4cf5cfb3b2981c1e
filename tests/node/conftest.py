"""A real node with real processes, on a fabric in memory."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paddock.agent.clock import HostClock
from paddock.fabric import subjects
from paddock.model.agent import AgentState, AgentStatus, Event
from paddock.model.fleet import FleetSpec, Health, Placement, Restart
from paddock.node.limits import Rlimits
from paddock.node.service import NodeConfig, NodeService
from paddock.ports.fabric import StreamSpec
from paddock.ports.runtime import Runtime
from paddock.runtimes import process
from paddock.runtimes.exec import ExecRuntime
from paddock.runtimes.python import PythonRuntime
from paddock.testing.fabric import FakeBroker
from paddock.testing.runtime_contract import alive

LIMIT_S = 20.0
RUN = "lab_agent:run"
AGENT = Path(__file__).with_name("lab_agent.py")

WORK = StreamSpec(
    name="WORK_x", subjects=["work.x.>"], work_queue=True, lanes={"p2": "work.x.p2.*"}, ack_wait_s=10 * LIMIT_S
)


class World:
    """One host: its node can be killed and started again; agents it left are ended when the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = FakeBroker()
        self.server = self.broker.connect("server")
        self.pids: set[int] = set()
        self.nodes: list[NodeService] = []

    async def handed_out(self, task: str) -> str:
        """Queue a task and take it from its lane; returns its ack subject."""
        await self.server.ensure(WORK)
        await self.server.store(f"work.x.p2.{task}", b"{}")
        (delivery,) = await self.server.pull("WORK_x", "p2")
        return delivery.ack

    async def handed_out_again(self) -> str:
        """The subject of the task that comes back to its lane."""
        (delivery,) = await self.server.pull("WORK_x", "p2", wait_s=LIMIT_S)
        return delivery.subject

    async def node(self, **settings: Any) -> NodeService:
        fabric = self.broker.connect(f"node/n1/{len(self.nodes)}")
        settings = {"starts_max": 8, "hello_s": 3.0, "alive_s": 0.0, **settings}
        config = NodeConfig(
            id="n1",
            folder=str(self.folder),
            nats_url="nats://127.0.0.1:1",
            mint=lambda fleet, name: f"creds of {fleet}/{name}",
            **settings,
        )
        runtimes: dict[str, Runtime] = {"python": PythonRuntime(run=RUN), "exec": ExecRuntime()}
        # Not the usual limiter: it would move the tests themselves into a cgroup.
        node = NodeService(config, fabric, runtimes, HostClock(), limiter=lambda node: Rlimits())
        self.nodes.append(node)
        await node.start()
        return node

    async def place(self, spec: FleetSpec, *names: str) -> None:
        key = subjects.wanted_place("n1", spec.name)
        placement = Placement(spec=spec, names=list(names))
        await self.server.store(f"$KV.wanted.{key}", msgspec.json.encode(placement))

    async def ask(self, **op: Any) -> dict[str, Any]:
        reply = await self.server.request(subjects.node_op("n1"), msgspec.json.encode(op), timeout_s=LIMIT_S)
        answer: dict[str, Any] = msgspec.json.decode(reply.data)
        return answer

    async def status(self, agent: str) -> AgentStatus | None:
        fleet, name = agent.split("/")
        stored = await self.server.last(subjects.NOW, f"$KV.now.{subjects.now_agent('n1', fleet, name)}")
        if stored is None or stored.deleted:
            return None
        found = msgspec.json.decode(stored.data, type=AgentStatus)
        if found.pid:
            self.pids.add(found.pid)
        return found

    async def until(self, look: Callable[[], Any], what: str) -> Any:
        async def looked() -> Any:
            return look()

        return await self.until_told(looked, what)

    async def until_told(self, look: Callable[[], Awaitable[Any]], what: str) -> Any:
        """The first truthy value of `look()`."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    if seen := await look():
                        return seen
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"not within {LIMIT_S:g} s: {what}") from None

    async def agent(self, agent: str, good: Callable[[AgentStatus], object], what: str = "") -> AgentStatus:
        """Its published status, once it is `good`."""
        last: list[AgentStatus | None] = [None]

        async def look() -> AgentStatus | None:
            last[0] = found = await self.status(agent)
            return found if found is not None and good(found) else None

        try:
            found: AgentStatus = await self.until_told(look, f"{agent} is {what}")
        except AssertionError as error:
            log = self.folder / "agents" / agent / "agent.log"
            error.add_note(f"last: {last[0]}; its log: {log.read_text() if log.exists() else 'none'}")
            raise
        return found

    async def ready(self, agent: str, *, after: int = 0) -> AgentStatus:
        return await self.agent(
            agent, lambda s: s.state is AgentState.READY and s.epoch > after and s.pid is not None, "ready"
        )

    async def gone(self, agent: str) -> None:
        async def look() -> bool:
            return await self.status(agent) is None

        await self.until_told(look, f"{agent} is gone")

    async def events(self, kind: str, about: str) -> list[Event]:
        found = await self.server.read(subjects.EVENTS, subject=subjects.event(kind, about))
        return [msgspec.json.decode(stored.data, type=Event) for stored in found]

    async def event(self, kind: str, about: str) -> Event:
        found: list[Event] = await self.until_told(lambda: self.events(kind, about), f"{kind} of {about}")
        return found[-1]

    def log(self, agent: str) -> str:
        return (self.folder / "agents" / agent / "agent.log").read_text()

    async def crash(self, node: NodeService) -> None:
        """As near to SIGKILL as one process allows: nothing is said, nothing is stopped."""
        for agent in node.fleets.agents.values():
            if agent.live is not None:
                self.pids.add(agent.live.handle.pid)
        await node.stop(agents=False)
        self.nodes.remove(node)

    async def close(self) -> None:
        self.broker.start()
        for node in self.nodes:
            await node.stop(agents=True)
        for pid in self.pids:
            process.kill_group(pid)
            await self.until(partial(_dead, pid), f"{pid} is dead")


def _dead(pid: int) -> bool:
    return process.reap_child(pid) is not None or not alive(pid)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "node")
    await world.server.ensure(*subjects.STREAMS)
    yield world
    await world.close()


def python(name: str = "crew", **settings: Any) -> FleetSpec:
    """A fleet of lab agents that speak the protocol; see lab_agent.py."""
    settings.setdefault("health", Health(hang_s=5.0))
    settings.setdefault("version", "v1")
    return FleetSpec(name=name, runtime="python", agent="lab_agent:Lab", pythonpath=[str(AGENT.parent)], **settings)


def command(*args: str, name: str = "tool", **settings: Any) -> FleetSpec:
    settings.setdefault("version", "v1")
    return FleetSpec(name=name, runtime="exec", command=list(args), **settings)


def script(text: str, name: str = "tool", **settings: Any) -> FleetSpec:
    """An exec fleet that runs this Python code, which knows nothing of Paddock."""
    return command(sys.executable, "-c", text, name=name, **settings)


QUICK = Restart(backoff_s_min=0.01, backoff_s_max=0.02)
