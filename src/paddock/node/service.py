"""One node: its parts put together, started and stopped.

(made) ──start──> journal read, socket open, agents looked for ──> running ──stop(agents=True)──> agents ended, closed
                                                                      └──stop(agents=False), kill──> agents live on
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from paddock import __version__
from paddock.agent.clock import HostClock
from paddock.agent.owner import Owner
from paddock.fabric import subjects
from paddock.fabric.follow import Followed
from paddock.model.agent import NodeStatus
from paddock.model.errors import DataDirError, PaddockError
from paddock.model.fleet import Placement
from paddock.node import limits, recover, room
from paddock.node.deadlines import Deadlines
from paddock.node.fleets import Fleets
from paddock.node.host import Host, NodeConfig
from paddock.node.journal import Forgotten, Journal, Row, RowSet
from paddock.node.leftovers import Leftovers
from paddock.node.limits import Limiter
from paddock.node.logs import Rotation
from paddock.node.ports import Ports
from paddock.node.probes import Prober
from paddock.node.publisher import Publisher
from paddock.node.requests import Requests
from paddock.node.socket import Line, Link, Listener, SocketServer, Tokens
from paddock.node.storms import Storms
from paddock.node.supervisor import Supervised
from paddock.node.vitals import VitalsTeller
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Stored, Subscription
from paddock.ports.runtime import Handle, Runtime
from paddock.runtimes import process

log = structlog.get_logger(__name__)

__all__ = ["NodeConfig", "NodeService"]

ROTATE_EVERY_S = 1.0
LAST_WORDS_S_MAX = 5.0
_PR_SET_CHILD_SUBREAPER = 36
_HOST = HostClock()


class NodeService:
    """`start`, then `run` until it is cancelled or a part of the node fails, then `stop`."""

    def __init__(
        self,
        config: NodeConfig,
        fabric: Fabric,
        runtimes: Mapping[str, Runtime],
        clock: Clock,
        *,
        limiter: Callable[[str], Limiter] = limits.discover,
        dice: Callable[[], float] = _HOST.dice,
    ) -> None:
        """`limiter` says for a node's id how it holds limits; to find out, the usual one moves this process into a
        cgroup of its own where it may. `dice` rolls in [0, 1)."""
        self.config = config
        self._discover, self._dice = limiter, dice
        self._fabric, self._runtimes, self._clock = fabric, runtimes, clock
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = Owner(self._part_failed)
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._subscriptions: list[Subscription] = []
        self._started_at = 0.0

    async def start(self) -> None:
        """Open the journal and the socket, look for the agents that still run, then follow what is wanted."""
        config, clock, fabric = self.config, self._clock, self._fabric
        folder = Path(config.folder)
        self._started_at = clock.now()
        _prepare_process(subreaper=config.subreaper)
        self._journal = _open_journal(folder)
        self._deadlines = Deadlines(clock)
        self.publisher = Publisher(
            config.id,
            fabric,
            clock,
            boot=secrets.token_hex(4),
            forgotten=lambda agent_id: self._journal.note(Forgotten(agent_id)),
        )
        self._socket = SocketServer(folder, self, self._deadlines)
        self._limiter = self._discover(config.id)
        self._host = self._shared(folder)
        self.fleets = Fleets(self._host, self._begin)
        if self._journal.doubtful:
            await self._recover(config.folder)
        # First the agents, then the door: who says hello to a node that does not know it yet would be a stray.
        self.fleets.restore(self._journal.table)
        try:
            await self._socket.start()
        except PaddockError:
            await self.stop(agents=False)
            raise
        self._requests = Requests(fabric, clock, self._owner, self.fleets, self._runtimes)
        for subject, handler in ((config.id, self._requests.to_us), ("all", self._requests.to_all)):
            self._subscriptions.append(fabric.subscribe(subjects.node_op(subject), handler))
        fabric.on_reconnect(self._reconnected)
        self.publisher.everything(list(self.fleets.agents.values()))
        self.publisher.event("node.started", config.id, f"node {config.id} started")
        self._run_loops()

    def _run_loops(self) -> None:
        for name, work in (
            ("publisher", self.publisher.run()),
            ("counts", self.publisher.run_counts()),
            ("wanted", self._follow_wanted()),
            ("status", self._tell_status()),
            ("rotation", self._rotate()),
            ("vitals", self._vitals.run()),
            ("leftovers", self._host.leftovers.run_probes()),
        ):
            self._owner.start(f"node {name}", work)

    def _shared(self, folder: Path) -> Host:
        """What the parts of this node share."""
        config, clock = self.config, self._clock
        leftovers = Leftovers(self._owner, clock, subreaper=config.subreaper)
        self._vitals = VitalsTeller(config.id, self._fabric, clock, lambda: self.fleets.agents.values())
        return Host(
            config=config,
            clock=clock,
            fabric=self._fabric,
            runtimes=self._runtimes,
            journal=self._journal,
            deadlines=self._deadlines,
            publisher=self.publisher,
            ports=Ports(),
            limiter=self._limiter,
            prober=Prober(self._deadlines, self._owner, clock, self._dice, leftovers),
            vitals=self._vitals,
            storms=Storms(
                clock,
                self.publisher,
                lambda fleet: self.fleets.members(fleet),
                lambda fleet: self.fleets.reached(fleet),
                lambda fleet: self.fleets.released(fleet),
            ),
            tokens=Tokens(folder / "socket.key"),
            socket_path=self._socket.path,
            owner=self._owner,
            leftovers=leftovers,
            starts=asyncio.Semaphore(config.starts_max),
            dice=self._dice,
            asked=lambda agent, task: self.fleets.asked(agent, task),
            heard=lambda agent: self.fleets.heard(agent),
            blamed=lambda spec, death: self.fleets.blamed(spec, death),
            changed=lambda agent: self.fleets.changed(agent),
            left=self._left,
        )

    async def _recover(self, folder: str) -> None:
        """Note what runs without the journal knowing: it is looked for, adopted, and never started a second time."""
        table = self._journal.table
        table.epoch = max(table.epoch, await asyncio.to_thread(recover.last_epoch, folder))
        for agent_id, (epoch, _) in (await asyncio.to_thread(recover.incarnations, folder, self._socket.path)).items():
            row = table.rows.get(agent_id)
            if row is None or row.epoch < epoch:
                log.warning("an agent runs that the journal does not know", agent=agent_id, epoch=epoch)
                await self._journal.put(RowSet(agent_id, Row(epoch=epoch, intent=True, started_at=self._started_at)))

    async def run(self) -> None:
        """Until cancelled; raises when a part of the node has failed, which is a bug: start it anew."""
        await asyncio.shield(self._failed)

    async def stop(self, agents: bool) -> None:
        """With `agents`: end them all, in order, and return when they have ended. Else leave them running."""
        if agents:
            self.fleets.stopping = True
            for wave in self.fleets.stop_order():
                lives = [self._lives[agent.id] for agent in wave if agent.id in self._lives]
                for agent in wave:
                    agent.unwant("its node stops")
                if lives:
                    await asyncio.wait(lives)
            await self._host.leftovers.settled()
            self.publisher.event("node.stopped", self.config.id, f"node {self.config.id} stopped with its agents")
            await self._last_words()
        for subscription in self._subscriptions:
            subscription.close()
        for agent in self.fleets.agents.values():
            agent.unheard()
        await self._owner.close()
        await self._host.leftovers.end_probes()
        self._deadlines.close()
        await self._socket.stop()
        for runtime in self._runtimes.values():
            await runtime.close()
        await self._journal.close()
        if not self._failed.done():
            self._failed.cancel()

    # --- for its parts

    def hello(self, line: Line, pid: int, link: Link) -> Listener | str:
        """See `socket.Door`."""
        if not self._host.tokens.proves(line.token, line.agent, line.epoch):
            return "the token does not prove this incarnation"
        agent = self.fleets.agents.get(line.agent)
        if agent is not None and agent.row.epoch == line.epoch and (agent.row.handle or agent.row.intent):
            agent.attach(link, line)
            return agent
        row = self._host.journal.table.rows.get(line.agent)
        if agent is None and row is not None and row.epoch == line.epoch:
            return ""  # found without its placement, which is about to be read: it may ask again
        self._end_stray(line, pid)
        return f"{line.agent} with epoch {line.epoch} is not what this node keeps"

    def _end_stray(self, line: Line, pid: int) -> None:
        """A process that proves to be an incarnation of ours which we do not keep: there must be no second copy."""
        self.publisher.event("agent.stray", line.agent, f"{line.agent} (pid {pid}, epoch {line.epoch}) was ended")
        self._owner.start(f"stray {line.agent}", self._end(line, pid))

    async def _end(self, line: Line, pid: int) -> None:
        ticks = process.start_ticks(pid)
        runtime = next(iter(self._runtimes.values()), None)
        if ticks is None or runtime is None:
            return
        live = await runtime.adopt(Handle(runtime="", pid=pid, start_ticks=ticks, epoch=line.epoch))
        if live is None:
            return
        live.kill()
        await live.wait()
        for hold in line.holds:
            self._fabric.publish(hold.ack, b"-NAK")

    def _begin(self, agent: Supervised) -> None:
        task = self._lives[agent.id] = self._owner.start(f"agent {agent.id}", agent.run())
        task.add_done_callback(lambda done: self._lives.pop(agent.id) if self._lives.get(agent.id) is done else None)

    def _left(self, agent: Supervised) -> None:
        del self._lives[agent.id]
        self.fleets.left(agent)

    def _part_failed(self, name: str, error: BaseException) -> None:
        log.error("a part of the node failed", part=name, error=repr(error), exc_info=error)
        if name.startswith(("node ", "agent ")) and not self._failed.done():
            self._failed.set_exception(error)

    # --- its loops

    async def _follow_wanted(self) -> None:
        """What is no longer told of goes on: only a marker says that something is wanted no more, and a bucket that
        was lost has none."""
        place = f"$KV.wanted.{subjects.wanted_place(self.config.id, '')}"
        while True:
            followed = Followed(self._fabric, self._clock, subjects.WANTED, subject=f"{place}>")
            async for batch in followed.batches():
                for stored in batch:
                    self._wanted(stored, stored.subject.removeprefix(place))
            log.warning("the bucket of what is wanted was made anew: it is read from its beginning, what runs goes on")
            self.publisher.everything(list(self.fleets.agents.values()))

    def _wanted(self, stored: Stored, fleet: str) -> None:
        if stored.deleted:
            self.fleets.remove(fleet)
            return
        try:
            placement = msgspec.json.decode(stored.data, type=Placement)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("a placement cannot be read; what runs goes on", fleet=fleet, error=str(error))
            return
        self.fleets.place(placement)

    async def _tell_status(self) -> None:
        while True:
            await self.publisher.node(self.status())
            if self.config.subreaper:
                process.reap_orphans()
            await self._clock.sleep(self.config.beat_s)

    async def _rotate(self) -> None:
        rotation = Rotation()
        while True:
            await self._clock.sleep(ROTATE_EVERY_S)
            await rotation.look((agent.paths.log, agent.running.logs) for agent in self.fleets.agents.values())

    def status(self) -> NodeStatus:
        agents = self.fleets.agents.values()
        pids = [agent.live.handle.pid for agent in agents if agent.live is not None]
        fits = room.measure(len(pids), room.private_bytes(pids))
        return NodeStatus(
            id=self.config.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            seen_at=self._clock.now(),
            agents=len(self.fleets.agents),
            cpus=os.cpu_count() or 0,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            version=__version__,
            agents_max=fits.agents_max,
            agents_max_why=fits.why,
            attributes={
                "limits": self._limiter.kind,
                "events_dropped": self.publisher.dropped,
                "actions": {name: [str(action) for action in found.actions] for name, found in self._runtimes.items()},
            },
        )

    def _reconnected(self) -> None:
        """What was on its way when the connection broke may be lost: tell the present of all again."""
        self.publisher.everything(list(self.fleets.agents.values()))

    async def _last_words(self) -> None:
        try:
            async with asyncio.timeout(LAST_WORDS_S_MAX):
                await self.publisher.settled()
                await self._fabric.flush()
        except (TimeoutError, PaddockError) as error:
            log.warning("the fabric is away: not all that this node had to tell was told", error=repr(error))


def _open_journal(folder: Path) -> Journal:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Journal(folder / "journal")
    except OSError as error:
        raise DataDirError(f"the node's folder {folder} cannot be used: {error.strerror}") from error


def _prepare_process(*, subreaper: bool) -> None:
    """What agents leave behind comes to us."""
    if subreaper:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
