"""An agent of a class of your own in a fabric in memory: the real runner, in the test's event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from paddock.agent import Agent
from paddock.agent.runner import Runner, Who
from paddock.fabric import subjects
from paddock.model.fleet import FleetSpec
from paddock.model.task import Task, TaskResult
from paddock.testing.fabric import FakeBroker, FakeFabric
from paddock.testing.wait import soon

LIMIT_S = 20.0


async def until(check: Callable[[], Any], what: str = "") -> Any:
    """Wait for a state, with a limit."""
    return await soon(check, what=what or repr(check), limit_s=LIMIT_S, every_s=0.005)


class Node:
    """A node's socket, as far as an agent sees it: keeps every line that came."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self.holders: dict[str, str] = {}
        """Task → who else holds it, should an agent ask."""
        self.deaths: dict[str, int] = {}
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        Path(self.path).unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """As if it was killed: the socket file stays."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.close()
            self._writers.clear()
            await self._server.wait_closed()
            self._server = None

    def ops(self, op: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["op"] == op]

    def say(self, **line: Any) -> None:
        for writer in self._writers:
            writer.write(json.dumps(line).encode() + b"\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while line := await reader.readline():
                said = json.loads(line)
                self.lines.append(said)
                if said["op"] == "holder":
                    answer = {"op": "holder", "task": said["task"], "by": self.holders.get(said["task"], "")}
                    answer |= {"deaths": self.deaths.get(said["task"], 0)}
                    writer.write(json.dumps(answer).encode() + b"\n")
        finally:
            writer.close()


class World:
    """One fabric, one node socket, any agents."""

    def __init__(self, folder: Path) -> None:
        self.broker = FakeBroker()
        self.fabric: FakeFabric = self.broker.connect("server")
        self.node = Node(str(folder / "node.sock"))
        self.runners: list[tuple[Runner, asyncio.Task[int]]] = []
        self._serial = 0

    async def agent(
        self, agent_class: type[Agent], name: str = "0", *, ready: bool = True, **spec: Any
    ) -> tuple[Runner, asyncio.Task[int]]:
        """Start an agent of the fleet `f`; returns when it takes work."""
        fleet = FleetSpec(**{"name": "f", "runtime": "python", "stop_grace_s": 2.0, **spec})
        await self.fabric.ensure(*subjects.STREAMS, subjects.work_stream_spec(fleet))
        who = Who(fleet=fleet.name, name=name, epoch=7, url="", creds="", socket=self.node.path, token="secret")

        async def connect() -> FakeFabric:
            return self.broker.agent(fleet.name, name)

        before = len(self.node.ops("ready"))
        runner = Runner(agent_class, fleet, who, connect)
        running = asyncio.get_running_loop().create_task(runner.run(), name=f"agent-{name}")
        self.runners.append((runner, running))
        if ready:
            await until(lambda: len(self.node.ops("ready")) > before or self._ready_hello(), "ready")
        return runner, running

    def _ready_hello(self) -> bool:
        return any(line["ready"] for line in self.node.ops("hello"))

    async def put(self, method: str, args: dict[str, Any] | None = None, *, headers: Any = None, **fields: Any) -> Task:
        """Queue a task for the fleet `f`."""
        self._serial += 1
        task = Task(**{"id": f"t{self._serial}", "fleet": "f", "method": method, "args": args or {}, **fields})
        await self.fabric.store(subjects.work(task), msgspec.json.encode(task), headers=headers)
        return task

    async def result(self, task: Task) -> TaskResult:
        """Its outcome, once it is there."""
        stored = await until(
            lambda: self.fabric.last(subjects.RESULTS, subjects.result(task.fleet, task.id)), f"result of {task.id}"
        )
        return msgspec.json.decode(stored.data, type=TaskResult)

    async def outcome(self, method: str, args: dict[str, Any] | None = None, **fields: Any) -> TaskResult:
        return await self.result(await self.put(method, args, **fields))

    async def queued(self) -> int:
        return (await self.fabric.depth(subjects.work_stream("f"))).messages
