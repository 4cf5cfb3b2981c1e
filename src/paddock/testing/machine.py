"""A simulated host: its processes outlive the node, can be killed one by one, and run the real agent code.

machine = Machine(broker, seed)                      # one host
node = NodeService(..., {"python": machine.runtime}, ...)
machine.live("mill/0").kill()                        # as `kill -9`
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator

from paddock.agent import Agent, task
from paddock.agent.clock import HostClock
from paddock.agent.runner import Runner, Who
from paddock.model.agent import Exit
from paddock.model.errors import TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec, Limits, Method
from paddock.model.policy import Action
from paddock.ports.fabric import Fabric
from paddock.ports.runtime import Handle, Launch
from paddock.testing.clock import VirtualClock
from paddock.testing.fabric import FakeBroker
from paddock.testing.loop import Process, current_process

START_S_MAX = 0.05
"""How long a fork takes at the most."""


class Hand(Agent):
    """The simulated agents: does nothing for a while, and can be told to die."""

    began: Counter[str]
    """text → how often work on it was begun; of the machine it runs on."""

    @task
    async def work(self, text: str, takes_s: float = 0.0) -> str:
        self.began[text] += 1
        await asyncio.sleep(takes_s)
        return text

    @task
    async def die(self) -> None:
        """Kills its own process, as a segmentation fault does."""
        process = current_process()
        if process is not None:
            process.kill()
        await asyncio.sleep(0)


METHODS = [
    Method(
        name="work",
        args={
            "type": "object",
            "properties": {"text": {"type": "string"}, "takes_s": {"type": "number"}},
            "required": ["text"],
            "additionalProperties": False,
        },
    ),
    Method(name="die", args={"type": "object", "properties": {}, "additionalProperties": False}),
]


class AgentClock(HostClock):
    """The agent's clock on virtual time; the machine's own dice."""

    def __init__(self, clock: VirtualClock, dice: random.Random) -> None:
        self._clock, self._dice = clock, dice

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def dice(self) -> float:
        return self._dice.random()


class SimProcess:
    """One incarnation; implements `paddock.ports.runtime.Live`."""

    def __init__(self, launch: Launch, ticks: int) -> None:
        self.agent = launch.agent
        self.handle = Handle(
            runtime=launch.spec.runtime,
            pid=os.getpid(),  # what the kernel says of the other end of the node's socket
            start_ticks=ticks,
            epoch=launch.epoch,
        )
        self.process = Process(f"{launch.agent}#{launch.epoch}")
        self.process.on_kill.append(lambda: self.ended(Exit(signal=signal.SIGKILL)))
        self.exit: Exit | None = None
        self.blocked = False
        self._over = asyncio.Event()

    async def wait(self) -> Exit:
        await self._over.wait()
        return self.exit or Exit()

    def stop(self, number: int) -> None:
        if self.exit is None:
            self.process.signal(number)

    def kill(self) -> None:
        self.process.kill()

    def ended(self, exit: Exit) -> None:
        if self.exit is None:
            self.exit = exit
            self._over.set()


class NoLimits:
    """`paddock.node.limits.Limiter` of a host that has none: the simulated processes are all in this one."""

    kind = "none"

    def take(self, agent: str, pid: int, limits: Limits) -> None:
        """Nothing is limited."""

    def release(self, agent: str, pid: int | None, exit: Exit) -> Exit:
        return exit


class Machine:
    """The processes of one host, and the runtime by which a node starts and finds them."""

    actions = (
        Action.RESTART,
        Action.RESTART_CLEAN,
        Action.RESET_CONNECTION,
        Action.REDEPLOY,
        Action.REDISTRIBUTE,
        Action.DEGRADE,
    )

    def __init__(self, broker: FakeBroker, clock: VirtualClock, *, seed: int = 0, refuse: float = 0.0) -> None:
        """`refuse`: chance that a start fails though nothing is wrong with the template (no memory, no process)."""
        self.broker, self.clock = broker, clock
        self.dice = random.Random(seed)  # noqa: S311 - a seeded game, not a secret
        self.refuse = refuse
        self.broken: dict[str, str] = {}
        """fleet → what is wrong with its template."""
        self.started: dict[str, list[tuple[float, int]]] = {}
        """agent → (monotonic, epoch) of all its starts."""
        self.wrong: list[str] = []
        """Promises that were broken, as they were seen."""
        self.began: Counter[str] = Counter()
        self._hand = type("Hand", (Hand,), {"began": self.began})
        self._processes: dict[int, SimProcess] = {}
        self._ticks = 0

    def limiter(self, node: str) -> NoLimits:
        """For its node."""
        return NoLimits()

    # --- what a test asks

    def alive(self) -> Iterator[SimProcess]:
        return (held for held in self._processes.values() if held.exit is None)

    def live(self, agent: str) -> SimProcess | None:
        """The running incarnation of an agent."""
        return next((held for held in self.alive() if held.agent == agent), None)

    def starts(self) -> int:
        """How many incarnations were ever started."""
        return sum(map(len, self.started.values()))

    # --- paddock.ports.runtime.Runtime

    async def check(self, spec: FleetSpec) -> list[Method] | None:
        if spec.name in self.broken:
            raise TemplateBroken(self.broken[spec.name])
        return METHODS

    async def start(self, launch: Launch) -> SimProcess:
        await asyncio.sleep(self.dice.uniform(0.0, START_S_MAX))
        if launch.spec.name in self.broken:
            raise TemplateBroken(self.broken[launch.spec.name])
        if self.dice.random() < self.refuse:
            raise Unavailable("this host cannot start a process now: no memory")
        self._judge(launch)
        self._ticks += 1
        held = self._processes[launch.epoch] = SimProcess(launch, self._ticks)
        held.process.spawn(self._life(held, launch), "agent")
        await asyncio.sleep(self.dice.uniform(0.0, START_S_MAX))
        return held

    async def adopt(self, handle: Handle) -> SimProcess | None:
        held = self._processes.get(handle.epoch)
        return held if held is not None and held.exit is None else None

    async def close(self) -> None:
        """Stops no agent."""

    def _judge(self, launch: Launch) -> None:
        """What always holds when an incarnation starts."""
        rival = self.live(launch.agent)
        if rival is not None:
            self.wrong.append(f"{launch.agent}: epoch {launch.epoch} starts while {rival.handle.epoch} is alive")
        starts = self.started.setdefault(launch.agent, [])
        if starts and starts[-1][1] >= launch.epoch:
            self.wrong.append(f"{launch.agent}: epoch {launch.epoch} comes after {starts[-1][1]}")
        starts.append((self.clock.monotonic(), launch.epoch))
        policy = launch.spec.restart
        recent = [at for at, _ in starts if at > self.clock.monotonic() - policy.window_s]
        if len(recent) > 2 * (policy.max + 1):
            self.wrong.append(f"{launch.agent}: {len(recent)} starts within {policy.window_s:g} s")

    async def _life(self, held: SimProcess, launch: Launch) -> None:
        fleet, name = launch.spec.name, launch.name
        env = {**launch.env, "PADDOCK_CREDS": ""}

        async def connect() -> Fabric:
            if not self.broker.up.is_set():
                raise Unavailable("no fabric answers")
            return self.broker.agent(fleet, name)

        if ends_s := launch.spec.config.get("ends_s"):
            held.process.spawn(self._fall(held, launch, float(ends_s)), "fall")
        clock = AgentClock(self.clock, self.dice)
        runner = Runner(self._hand, launch.spec, Who.read(env), connect, clock)
        code = await runner.run()
        held.ended(Exit(code=code))
        held.process.kill()

    async def _fall(self, held: SimProcess, launch: Launch, within_s: float) -> None:
        """A bad release: whatever it does, it ends soon after its start, with an error in its log."""
        await asyncio.sleep(self.dice.uniform(0.0, within_s))
        _append(launch.log_path, f"RuntimeError: no table prices of {launch.agent}\n")
        held.ended(Exit(code=1))
        held.process.kill()


def _append(path: str, text: str) -> None:
    with open(path, "a") as log:
        log.write(text)
