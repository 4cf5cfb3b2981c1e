"""The life of one agent process.

made ──> connecting ──> start() ──> working ──drain · SIGTERM · refused──> draining ──> stop() ──> exit 0
             │             └── raises ──> exit 1             └── code that never ends ──> exit 75: replace me
             └── refused for good ──> exit 1
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from paddock.agent import lossy
from paddock.agent.asking import Answering
from paddock.agent.background import Background
from paddock.agent.base import Agent
from paddock.agent.call import Caller, describe_error
from paddock.agent.clock import HostClock
from paddock.agent.context import Context
from paddock.agent.log import Log
from paddock.agent.methods import task_methods
from paddock.agent.nodelink import NodeLink
from paddock.agent.owner import Owner
from paddock.agent.puller import Puller
from paddock.agent.threads import Threads
from paddock.agent.worker import Worker
from paddock.model.errors import PaddockError, Refused, TemplateBroken, Unavailable
from paddock.model.fleet import FleetSpec
from paddock.model.names import split_agent
from paddock.ports.fabric import Fabric

EXIT_REPLACE = 75
"""Exit code by which an agent asks for a new process: code that it cannot stop goes on in this one."""
ASK_SLOTS_MIN = 8
STOP_S_MIN = 0.3
CONNECT_RETRY_S_MAX = 2.0

Connect = Callable[[], Awaitable[Fabric]]
_HOST = HostClock()


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's environment, read once."""

    fleet: str
    name: str
    epoch: int
    url: str
    creds: str
    inbox: str = "_INBOX.none"
    socket: str
    token: str

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Who:
        """Refused says which variable is missing or wrong; see docs/protocol.md."""
        if not env.get("PADDOCK_AGENT"):
            raise Refused(
                "PADDOCK_AGENT is not set: an agent is started by its node, or with the variables of the protocol"
            )
        fleet, name = split_agent(env["PADDOCK_AGENT"])
        epoch = env.get("PADDOCK_EPOCH", "0")
        if not epoch.isdecimal():
            raise Refused(f"PADDOCK_EPOCH must be a number, not {epoch!r}")
        return cls(
            fleet=fleet,
            name=name,
            epoch=int(epoch),
            url=env.get("PADDOCK_NATS_URL", "nats://127.0.0.1:4222"),
            creds=env.get("PADDOCK_CREDS", ""),
            inbox=env.get("PADDOCK_INBOX", f"_INBOX.agent.none.{fleet}.{name}"),
            socket=env.get("PADDOCK_SOCKET", ""),
            token=env.get("PADDOCK_SOCKET_TOKEN", ""),
        )


class Runner:
    """One agent, from connecting to its exit code. Obeys the node and the signals (`Orders`)."""

    def __init__(
        self, agent_class: type[Agent], spec: FleetSpec, who: Who, connect: Connect, clock: HostClock = _HOST
    ) -> None:
        self._class, self._spec, self._who, self._connect = agent_class, spec, who, connect
        self._clock = clock
        self._log = Log(f"{who.fleet}/{who.name}", self._clock.now, lambda: "")
        self._owner = Owner(self._bug)
        self._drain = asyncio.Event()
        self._progress = asyncio.Event()
        """Something that a drain waits for has changed."""
        self._deadline: float | None = None
        self._exit = 0
        self._fabric: Fabric | None = None
        self._agent: Agent | None = None
        self._worker: Worker | None = None
        self._puller: Puller | None = None
        self._link = NodeLink(
            agent=f"{who.fleet}/{who.name}",
            epoch=who.epoch,
            path=who.socket,
            token=who.token,
            clock=self._clock,
            log=self._log,
        )

    async def run(self) -> int:
        """The whole life; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.terminate)
        try:
            self._owner.start("node", self._link.run(self))
            self._owner.start("beats", self._link.beats(max(self._spec.health.hang_s / 3, 0.05)))
            fabric = await self._until_drain(self._connected())
            if fabric is None:
                return self._exit
            try:
                await self._live(fabric)
            finally:
                await self._owner.close(1.0)
                await fabric.close()
            return self._exit
        finally:
            await self._owner.close(1.0)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def drain(self) -> None:
        """Take no more work, end what is held, then leave."""
        self._drain.set()

    def terminate(self) -> None:
        """Drain within the template's grace."""
        if self._deadline is None:
            self._deadline = self._clock.monotonic() + max(self._spec.stop_grace_s - 0.5, 0.1)
        self._drain.set()
        self._progress.set()

    def cancel(self, task_id: str) -> None:
        if self._worker is not None:
            self._worker.cancel(task_id)

    def reset(self) -> None:
        """Make the connection to the fabric anew; while there is none yet, it is being made."""
        if self._fabric is not None:
            self._log.warning("the connection to the fabric is made anew: it was asked for")
            self._fabric.reset()

    def rest(self, on: bool) -> None:
        """Take no more tasks and give back those in hand; with `on` False take some again."""
        if self._puller is not None:
            self._puller.rest(on)
        if self._worker is not None and on:
            self._worker.put_back_all()

    def degrade(self) -> None:
        """Do less, from now on. Said again, it changes nothing."""
        agent = self._agent
        if agent is not None and not agent.degraded:
            agent._live.degraded = True
            self._owner.start("ask to degrade", self._degraded(agent))

    async def _degraded(self, agent: Agent) -> None:
        try:
            await agent.degrade()
        except Exception as error:  # the author's code; it goes on as it did
            failure = describe_error(error)
            self._log.error(f"degrade failed: {failure.message}", where=failure.where, trace=failure.trace)

    def refused(self, why: str) -> None:
        """The node knows a newer incarnation: this one must leave, and has no time."""
        self._log.error("the node refused this incarnation", why=why)
        self.terminate()

    def _stuck(self, why: str) -> None:
        self._log.error(why)
        self._exit = EXIT_REPLACE
        self.terminate()

    def _bug(self, name: str, error: BaseException) -> None:
        failure = describe_error(error)
        self._log.error(f"{name} ended: {failure.message}", trace=failure.trace)
        if not name.startswith(("task-", "call-", "ask")):
            self._exit = self._exit or 1  # a loop that should run for ever: better a new process than half an agent
            self.terminate()

    async def _connected(self) -> Fabric | None:
        """The connection; waits for as long as the fabric is away. None when it refused this agent for good."""
        delay_s = 0.05
        while True:
            try:
                return await self._connect()
            except Unavailable as error:
                self._log.warning("the fabric is away", error=str(error))
                await self._clock.sleep(delay_s * (0.5 + self._clock.dice()))
                delay_s = min(delay_s * 2, CONNECT_RETRY_S_MAX)
            except PaddockError as error:
                self._log.error("the fabric refused this agent", error=str(error), code=error.code)
                self._exit = 1
                return None

    async def _until_drain(self, work: Any) -> Any:
        """The result of `work`, or None when a drain comes first."""
        task = self._owner.start("connecting", work)
        drain = self._owner.start("drain", self._drain.wait())
        await asyncio.wait((task, drain), return_when=asyncio.FIRST_COMPLETED)
        drain.cancel()
        if not task.done():
            task.cancel()
            return None
        return task.result()

    async def _live(self, fabric: Fabric) -> None:
        context = Context(self._spec, self._who.name, self._who.epoch, fabric, self._clock, inbox=self._who.inbox)
        self._fabric = fabric
        agent = await self._made(context)
        if agent is None:
            return
        self._agent = agent
        slots = max(self._spec.concurrency, 1)
        ask_slots = max(ASK_SLOTS_MIN, slots)
        # Beyond the slots: @every and @on methods that are plain `def` need threads of their own.
        threads = Threads(slots + ask_slots + 8)
        caller = Caller(agent, task_methods(self._class), threads, self._owner, self._stuck)
        worker = self._worker = Worker(context, caller, self._link, self._owner, slots=slots)
        puller = self._puller = Puller(context, worker, self._owner, ack_wait_s=self._spec.ack_wait_s)
        answering = Answering(context, caller, self._owner, slots=ask_slots)
        background = Background(agent, context, threads, self._owner)
        self._link.counters = lambda: (worker.done, worker.failed)

        def changed() -> None:
            puller.freed()
            self._progress.set()

        worker.changed = changed
        puller.rest(self._link.rests)
        if self._link.degraded:
            self.degrade()
        background.start()
        pulling = self._owner.start("puller", puller.run())
        self._owner.start("still-working", self._still_working(worker))
        self._link.ready()
        await self._drain.wait()

        puller.stop()
        answering.stop()
        background.stop()
        await asyncio.wait((pulling,), timeout=self._left_s())
        await self._settled(worker, answering)
        await self._stopped(agent)
        await self._flushed(fabric)

    async def _made(self, context: Context) -> Agent | None:
        """The author's object, started; None when that failed, said in the log, or a drain came first."""
        agent = self._class.__new__(self._class)
        agent._context = context
        try:
            agent.__init__()  # type: ignore[misc]  # the context must be there before, so that __init__ can log
            started = self._owner.start("start", agent.start(), told=False)
            drain = self._owner.start("drain", self._drain.wait())
            await asyncio.wait((started, drain), return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
            if not started.done():
                started.cancel()
                return None
            started.result()
        except Exception as error:  # the author's code
            failure = describe_error(error)
            self._log.error(f"start failed: {failure.message}", where=failure.where, trace=failure.trace)
            self._exit = 1
            return None
        return agent

    async def _still_working(self, worker: Worker) -> None:
        while True:
            await self._clock.sleep(self._spec.ack_wait_s / 3)
            worker.still_working()

    async def _settled(self, worker: Worker, answering: Answering) -> None:
        """Wait for what is held; after the deadline it is cancelled and goes back to the queue."""
        while worker.unsettled or answering.unanswered:
            self._progress.clear()
            left_s = self._left_s()
            if left_s is not None and left_s <= 0:
                break
            try:
                async with asyncio.timeout(min(left_s, 0.5) if left_s is not None else 0.5):
                    await self._progress.wait()
            except TimeoutError:
                pass  # look again: a deadline may have come meanwhile, and questions end without a word
        else:
            return
        worker.put_back_all()
        answering.cancel()
        try:
            async with asyncio.timeout(STOP_S_MIN):
                while worker.unsettled:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            pass  # the node gives back what is still held when this process has ended

    async def _stopped(self, agent: Agent) -> None:
        """The author's stop(), within what is left of the grace."""
        left_s = self._left_s()
        stopping = self._owner.start("stop", agent.stop(), told=False)
        await asyncio.wait((stopping,), timeout=max(left_s, STOP_S_MIN) if left_s is not None else None)
        if not stopping.done():
            stopping.cancel()
            self._log.error("stop() did not end within the grace")
        elif not stopping.cancelled() and (error := stopping.exception()) is not None:
            failure = describe_error(error)
            self._log.error(f"stop failed: {failure.message}", where=failure.where, trace=failure.trace)
            self._exit = self._exit or 1

    async def _flushed(self, fabric: Fabric) -> None:
        try:
            await fabric.flush(timeout_s=1.0)
        except PaddockError as error:
            self._log.warning("the last words may not have reached the fabric", error=str(error))

    def _left_s(self) -> float | None:
        return None if self._deadline is None else self._deadline - self._clock.monotonic()


def run_forked(agent_class: type[Agent], env: dict[str, str], spec_json: bytes) -> int:
    """The life of an agent in a freshly forked process; returns its exit code. Leave by `os._exit`: threads of
    methods that never return are daemons."""
    lossy.install()
    os.environ.update(env)
    spec = msgspec.json.decode(spec_json, type=FleetSpec)
    who = Who.read(env)
    import uvloop  # here, not above: who only imports an agent's class needs no event loop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(agent_class, spec, who))


def run_standalone() -> int:
    """`python -m paddock.agent module:Class`: the same life with the environment of this process. `PADDOCK_SPEC`, if
    set, is the fleet's spec as JSON; else a spec with the defaults."""
    if len(sys.argv) != 2:
        print("usage: python -m paddock.agent module:Class", file=sys.stderr)
        return 2
    try:
        agent_class = load_class(sys.argv[1])
        who = Who.read(os.environ)
        spec_json = os.environ.get("PADDOCK_SPEC", "").encode() or msgspec.json.encode(
            FleetSpec(name=who.fleet, runtime="python", agent=sys.argv[1])
        )
        return run_forked(agent_class, dict(os.environ), spec_json)
    except (PaddockError, msgspec.DecodeError) as error:
        print(f"paddock.agent: {error}", file=sys.stderr)
        return 1


def load_class(text: str) -> type[Agent]:
    """The class of `module:Class`; TemplateBroken says what is wrong, with the place in the author's code."""
    module_name, colon, class_name = text.partition(":")
    if not colon or not module_name or not class_name.isidentifier():
        raise TemplateBroken(f"{text!r} is not of the form module:Class, such as paddock.foundry:Critic")
    try:
        module = importlib.import_module(module_name)
    except SyntaxError as error:
        raise TemplateBroken(f"{text}: {error.filename}:{error.lineno}: {error.msg}") from error
    except BaseException as error:  # the author's module may raise anything, SystemExit too
        failure = describe_error(error)
        raise TemplateBroken(f"{text}: importing {module_name} failed: {failure.message}") from error
    found = getattr(module, class_name, None)
    if found is None:
        raise TemplateBroken(f"{text}: the module {module_name} has no {class_name}")
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise TemplateBroken(f"{text}: {class_name} is not a subclass of paddock.agent.Agent")
    return found


async def _run(agent_class: type[Agent], spec: FleetSpec, who: Who) -> int:
    from paddock.fabric.client import connect  # here: it brings the keys and the wire, which only a running agent needs

    async def connected() -> Fabric:
        agent = f"{who.fleet}/{who.name}"
        return await connect(who.url, creds_path=who.creds or None, inbox=who.inbox, name=agent)

    return await Runner(agent_class, spec, who, connected).run()
