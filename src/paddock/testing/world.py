"""A whole Paddock in one event loop: the real server, the real node and real agents; broker, host and time simulated.

async def scenario(seed):
    async with World(seed, faults=Faults(seed, lose=0.05)) as world:
        await world.apply("hand", replicas=3)
        ids = await world.submit(20)
        await world.havoc(for_s=30.0)       # kills server, node, agents and broker, at any await
        await world.calm(ids)               # the faults end: all is as wanted, every accepted task has ended
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import msgspec

from paddock.control.server import ControlServer
from paddock.control.service import TaskRequest
from paddock.fabric import subjects
from paddock.model.agent import AgentState, Event
from paddock.model.errors import PaddockError
from paddock.model.manifest import ManifestSource
from paddock.model.task import TaskResult
from paddock.node.service import NodeConfig, NodeService
from paddock.record.sql import SqlRecord
from paddock.testing.clock import VirtualClock
from paddock.testing.fabric import FakeBroker
from paddock.testing.faults import Faults
from paddock.testing.loop import Process, SimulationError
from paddock.testing.machine import Machine

LOOK_EVERY_S = 0.05
"""The promises are checked this often, and wherever the machine starts something."""
CALM_S_MAX = 900.0
"""Simulated time within which all must be well after the last fault: quarantine and ack waits fit in."""


class World:
    """See the module's text. `violations` are fatal at the next look."""

    def __init__(self, seed: int, *, faults: Faults | None = None, refuse: float = 0.0) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - a seeded game, not a secret
        self.clock = VirtualClock()
        self.faults = faults or Faults(seed, latency_s_max=0.003)
        self.broker = FakeBroker(clock=self.clock, faults=self.faults)
        self.machine = Machine(self.broker, self.clock, seed=seed, refuse=refuse)
        self.server: ControlServer | None = None
        self.node: NodeService | None = None
        self.fleets: dict[str, int] = {}
        """What is wanted: fleet → replicas."""
        self.accepted: dict[str, str] = {}
        """Task id → fleet, of every submission that was answered with a yes."""
        self.once: set[str] = set()
        """Texts of tasks that may not run twice."""
        self.kills: list[str] = []
        """What was killed, in order: printed with a failure."""
        self._processes: dict[str, Process] = {}
        self._specs: dict[str, dict[str, Any]] = {}
        self._stack = AsyncExitStack()
        self._folder = Path()
        self._serial = 0

    async def __aenter__(self) -> Self:
        shm = Path("/dev/shm")  # noqa: S108 - memory, so that an fsync costs nothing
        parent = str(shm) if shm.is_dir() else None
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="paddock-sim-", dir=parent)))
        self.record = SqlRecord.open("sqlite:///:memory:")
        self._stack.callback(self.record.close)
        self.looker = self.broker.connect("looker")
        await self._patiently(lambda: self.looker.ensure(*subjects.STREAMS))
        await self.start_server()
        await self.start_node()
        return self

    async def __aexit__(self, *error: object) -> None:
        for name in list(self._processes):
            self.kill(name)
        for held in list(self.machine.alive()):
            held.kill()
        await self._stack.aclose()

    # --- starting and killing

    async def start_server(self) -> None:
        async def begin() -> None:
            server = ControlServer(self.broker.connect("server"), self.record, self.clock)
            await server.start()
            self.server = server
            error = await server.failed()
            raise SimulationError("a part of the server ended") from error

        await self._boot("server", begin, lambda: self.server is not None)

    async def start_node(self) -> None:
        config = NodeConfig(
            id="n1",
            folder=str(self._folder / "node"),
            nats_url="nats://in.memory:4222",
            mint=lambda fleet, name: f"creds of {fleet}/{name}\n",
        )

        async def begin() -> None:
            node = NodeService(
                config,
                self.broker.node("n1"),
                {"python": self.machine},
                self.clock,
                limiter=self.machine.limiter,
                dice=self.machine.dice.random,
            )
            await node.start()
            self.node = node
            await node.run()

        await self._boot("node", begin, lambda: self.node is not None)

    def kill(self, name: str) -> None:
        """`kill -9` of the server or the node."""
        self._processes[name].kill()
        self._buried(name)

    async def restart(self, name: str) -> None:
        """Start it anew, from what it left on disk and in the fabric."""
        await (self.start_node() if name == "node" else self.start_server())

    # --- using it

    async def apply(self, fleet: str, *, replicas: int, **more: Any) -> None:
        """Want a fleet of `Hand`s; goes on until a server has taken it."""
        self._specs[fleet] = {"agent": "paddock.testing.machine:Hand", "replicas": replicas, **more}
        text = msgspec.json.encode({"paddock": 1, "fleets": self._specs}).decode()
        await self._patiently(lambda: self._server().apply([ManifestSource(name="sim.yaml", text=text)]))
        self.fleets[fleet] = replicas

    async def submit(self, count: int, *, fleet: str = "hand", method: str = "work", **more: Any) -> list[str]:
        """Submit tasks, each until it is accepted (its key makes trying again safe); returns their ids."""
        ids: list[str] = []
        for _ in range(count):
            self._serial += 1
            args = {"text": str(self._serial), "takes_s": self.dice.uniform(0.0, 2.0)} if method == "work" else {}
            if not more.get("repeatable", True):
                self.once.add(str(self._serial))
            request = TaskRequest(fleet=fleet, method=method, args=args, key=f"k{self._serial}", **more)
            view = await self._patiently(lambda request=request: self._server().submit(request))  # type: ignore[misc]  # bound early
            self.accepted[view.id] = fleet
            ids.append(view.id)
        return ids

    async def load(self, *, for_s: float, dying: float = 0.1) -> None:
        """Submit tasks now and then: most may run again, some may not, some (`dying`) kill who runs them."""
        over = self.clock.monotonic() + for_s
        while self.clock.monotonic() < over:
            await self.submit(self.dice.randint(1, 4), repeatable=self.dice.random() < 0.8)
            if self.dice.random() < dying:
                await self.submit(1, method="die")
            await self.wait(self.dice.uniform(0.0, 3.0))

    async def havoc(self, *, for_s: float, targets: Sequence[str] = ("server", "node", "agent", "broker")) -> None:
        """Kill things, at random awaits, and start them again a little later."""
        over = self.clock.monotonic() + for_s
        while self.clock.monotonic() < over:
            await self.wait(self.dice.expovariate(1 / 3.0))
            target = self.dice.choice(list(targets))
            self.kills.append(f"{self.clock.monotonic():.3f} s {target}")
            await self._strike(target)

    async def wait(self, seconds: float) -> None:
        """Let time pass, and look whether all promises hold."""
        over = self.clock.monotonic() + seconds
        while self.clock.monotonic() < over:
            self.look()
            await asyncio.sleep(min(LOOK_EVERY_S, max(over - self.clock.monotonic(), 0.0)))
        self.look()

    def look(self) -> None:
        """What must hold at every moment."""
        wrong = list(self.machine.wrong)
        alive = [held.agent for held in self.machine.alive()]
        wrong += [
            f"{agent} is alive {alive.count(agent)} times" for agent in sorted(set(alive)) if alive.count(agent) > 1
        ]
        wrong += [f"task {text} ran twice, but it may not" for text in self.once if self.machine.began[text] > 1]
        if wrong:
            raise SimulationError("; ".join(wrong) + self._story())

    async def calm(self) -> None:
        """The faults end. Then all must become well: what is wanted runs, nothing else does, every accepted task has
        ended once, and the record says the same as the fabric."""
        self.faults.calm()
        self.machine.refuse = 0.0
        self.broker.start()
        for name in ("server", "node"):
            if name not in self._processes:
                await self.restart(name)
        over = self.clock.monotonic() + CALM_S_MAX
        while problem := await self._problem():
            if self.clock.monotonic() > over:
                raise SimulationError(f"{CALM_S_MAX:g} s after the last fault: {problem}{self._story()}")
            await self.wait(1.0)

    async def events(self, kind: str, about: str) -> list[Event]:
        """What was told of, oldest first."""
        found = await self._patiently(lambda: self.looker.read(subjects.EVENTS, subject=subjects.event(kind, about)))
        return [msgspec.json.decode(stored.data, type=Event) for stored in found]

    async def results(self) -> dict[str, list[TaskResult]]:
        """Every result in the fabric, by task."""
        found: dict[str, list[TaskResult]] = {}
        after = 0
        while batch := await self.looker.read(subjects.RESULTS, after_seq=after):
            after = batch[-1].seq
            for stored in batch:
                result = msgspec.json.decode(stored.data, type=TaskResult)
                found.setdefault(result.id, []).append(result)
        return found

    # --- inside

    async def _problem(self) -> str:
        """What is not well yet; empty when all is."""
        server = self.server
        if server is None:
            return "the server does not come up"
        wanted = {f"{fleet}/{number}" for fleet, replicas in self.fleets.items() for number in range(replicas)}
        alive = {held.agent for held in self.machine.alive()}
        if alive != wanted:
            return f"missing {sorted(wanted - alive)}, orphans {sorted(alive - wanted)}"
        told = {status.id: status for status in server.agents(limit=1000).items}
        if told.keys() != wanted:
            return f"the server tells of {sorted(told)}, wanted are {sorted(wanted)}"
        ill = [str(told.get(agent)) for agent in sorted(wanted) if not self._ready(told.get(agent))]
        if ill:
            return f"not ready: {ill}"
        results = await self.results()
        doubled = [task for task, outcomes in results.items() if len(outcomes) > 1]
        if doubled:
            raise SimulationError(f"tasks with more than one result: {doubled}{self._story()}")
        missing = [task for task in self.accepted if task not in results]
        if missing:
            return f"accepted, but without a result: {missing}"
        for task, [outcome] in results.items():
            view = await server.task(task)
            if view.state is not outcome.state:
                return f"task {task} ended as {outcome.state}, but the record says {view.state}"
        for fleet in self.fleets:
            queued = (await self.looker.depth(subjects.work_stream(fleet))).messages
            if queued:
                return f"{queued} messages are left in the queue of {fleet}"
        return ""

    def _ready(self, status: Any) -> bool:
        if status is None or status.state is not AgentState.READY:
            return False
        live = self.machine.live(status.id)
        return live is not None and live.handle.epoch == status.epoch

    async def _strike(self, target: str) -> None:
        if target == "agent":
            alive = list(self.machine.alive())
            if alive:
                self.dice.choice(alive).process.kill_after(self.dice.randrange(30))
        elif target == "broker":
            self.broker.stop()
            await self.wait(self.dice.uniform(0.01, 3.0))
            self.broker.start()
        else:
            process = self._processes[target]
            process.kill_after(self.dice.randrange(200))
            await self._gone(process)
            self.kill(target)
            await self.wait(self.dice.uniform(0.0, 3.0))
            await self.restart(target)

    async def _gone(self, process: Process) -> None:
        """It dies at the await that was drawn, or after a while if it is too quiet to get there."""
        over = self.clock.monotonic() + 2.0
        while process.alive and self.clock.monotonic() < over:
            await self.wait(LOOK_EVERY_S)

    async def _boot(self, name: str, begin: Callable[[], Any], up: Callable[[], bool]) -> None:
        """Start a process as its keeper does: again, when the broker is away."""
        while True:
            process = self._processes[name] = Process(name)
            main = process.spawn(begin(), "main")
            while not up() and not main.done():
                await self.wait(0.01)
            if not main.done():
                self._watch(name, process, main)
                return
            error = main.exception()
            self.kill(name)
            if not isinstance(error, PaddockError):
                raise SimulationError(f"the {name} does not start{self._story()}") from error
            await self.wait(0.2)

    def _watch(self, name: str, process: Process, main: asyncio.Task[Any]) -> None:
        def ended(done: asyncio.Task[Any]) -> None:
            if self._processes.get(name) is process and process.alive:
                error = None if done.cancelled() else done.exception()
                cause = getattr(error, "__cause__", None)
                self.machine.wrong.append(f"the {name} ended by itself: {error!r}, because of {cause!r}")

        main.add_done_callback(ended)

    def _buried(self, name: str) -> None:
        self._processes.pop(name)
        if name == "node":
            self.node = None
            # The system lets go of a dead process's locks; ours lives on, so the next node gets another file to lock.
            (self._folder / "node" / "journal.lock").unlink(missing_ok=True)
        else:
            self.server = None

    def _server(self) -> ControlServer:
        if self.server is None:
            raise PaddockError("the server is away")
        return self.server

    async def _patiently(self, call: Callable[[], Any]) -> Any:
        """As a user does it: again, until it is done. What is called runs in the server's process, and dies with it."""
        over = self.clock.monotonic() + CALM_S_MAX
        while True:
            process = self._processes.get("server") or Process("user")
            try:
                task = process.spawn(call(), "a user's call")
                while not task.done() and process.alive:
                    await self.wait(0.01)
                if task.done():
                    return task.result()
            except PaddockError as error:
                if self.clock.monotonic() > over:
                    raise SimulationError(f"still refused: {error}{self._story()}") from error
            await self.wait(0.1)

    def _story(self) -> str:
        happened = ", ".join(f"{count} x {fault}" for fault, count in sorted(self.faults.happened.items()))
        return f"\n  at {self.clock.monotonic():.3f} s; faults: {happened or 'none'}; killed: {self.kills[-12:]}"
