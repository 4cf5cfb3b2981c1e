"""The server's picture of what is wanted (bucket `wanted`) and what is (bucket `now`), fed by tails.

It answers in memory, keeps counts by state as changes come (O(1) each), and decides nothing.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import structlog

from paddock.control.changes import Changes
from paddock.control.owner import Owner, within
from paddock.control.views import nearest
from paddock.decide.redact import secrets_of
from paddock.fabric import subjects
from paddock.fabric.follow import Followed
from paddock.model.agent import AgentState, AgentStatus, NodeStatus
from paddock.model.errors import NotFound, TimedOut, Unavailable
from paddock.model.fleet import FleetSpec, Placement
from paddock.model.notify import Notifications
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Stored

log = structlog.get_logger(__name__)
S = TypeVar("S")

NODE_LIVE_S = 35.0
"""A node that was not heard of for so long counts as gone."""
SEEN_S_MAX = 10.0
RETRY_S = 0.5
TRIES_MAX = 120
"""In a row, before a bucket is given up and with it the server."""

_WANTED = "$KV.wanted."
_NOW = "$KV.now."
_OUT = (AgentState.STOPPED, AgentState.FAILED, AgentState.QUARANTINED)


class BucketLost(Unavailable):
    """A bucket is not the one that was read: what is known of it says nothing of what is there now."""


class CronMark(msgspec.Struct, frozen=True):
    """When a schedule fired last: the key `cron.<fleet>.<name>` of the bucket `wanted`."""

    at: float
    turn: int = 0
    """How often the clock was set back behind `at`: times of its face that come again are others then."""


class Former(msgspec.Struct, frozen=True):
    """What a fleet was before its version changed: the key `former.<fleet>` of the bucket `wanted`, for a rollback."""

    spec: FleetSpec
    at: float
    """When it was replaced."""
    by: str = ""


class WantedFleet(msgspec.Struct, frozen=True):
    """A wanted fleet and the sequence under which it was stored, for compare-and-set."""

    spec: FleetSpec
    seq: int
    names: frozenset[str]


class Mirror:
    def __init__(self, fabric: Fabric, clock: Clock, changes: Changes) -> None:
        self._fabric = fabric
        self._clock = clock
        self._changes = changes
        self.fleets: dict[str, WantedFleet] = {}
        self.former: dict[str, Former] = {}
        self.gone: dict[str, int] = {}
        """Fleets that were deleted, with the sequence of their marker."""
        self.placements: dict[str, dict[str, Placement]] = {}
        """fleet → node → what is placed there."""
        self.crons: dict[tuple[str, str], CronMark] = {}
        self.notifications = Notifications()
        self.notifications_seq = 0
        """The `expect_seq` for a change of them."""
        self.agents: dict[str, AgentStatus] = {}
        self.by_fleet: dict[str, dict[str, AgentStatus]] = {}
        self.counts: dict[str, Counter[str]] = {}
        self.by_state: dict[AgentState, dict[str, None]] = {state: {} for state in AgentState}
        self.nodes: dict[str, NodeStatus] = {}
        self.on_fleet: list[Callable[[str], None]] = []
        """Called with the fleet whose spec, placement, or first ready agent changed."""
        self.on_notifications: list[Callable[[], None]] = []
        self.on_nodes: list[Callable[[], None]] = []
        """Called when a node came or was deleted; that one fell silent is seen by asking `live`."""
        self.on_agent: list[Callable[[AgentStatus], None]] = []
        self.on_gone: list[Callable[[str], None]] = []
        """Called with the id of an agent that is there no more."""
        self.rate: Callable[[AgentStatus], int] = lambda status: status.health
        """Says the health of an agent, for every status that is taken in."""
        self._copies: dict[str, dict[str, AgentStatus]] = {}
        self._heard: dict[str, float] = {}
        self._order: list[tuple[tuple[str, int, str], str]] = []
        """(sort key, id) of all agents, kept in order as they come and go."""
        self._wanted_seq = 0
        self._moved = asyncio.Event()
        self._caught_up: set[str] = set()
        self._started_at = clock.monotonic()

    async def start(self, owner: Owner) -> bool:
        """Begin to follow; return, with True, when all that is stored now is known."""
        ready = {name: asyncio.Event() for name in (subjects.WANTED, subjects.NOW)}
        for stream, take in ((subjects.WANTED, self._take_wanted), (subjects.NOW, self._take_now)):
            owner.loop(f"mirror-{stream}", self._follow(stream, take, ready[stream]))
        for event in ready.values():
            await event.wait()
        return True

    async def seen(self, seq: int) -> None:
        """Return when what was stored in the bucket `wanted` as `seq` is known here."""

        async def reach() -> bool:
            while self._wanted_seq < seq:
                self._moved.clear()
                await self._moved.wait()
            return True

        if self._wanted_seq < seq and not await within(self._clock, reach(), SEEN_S_MAX):
            raise TimedOut("it is stored, but the server has not seen its own change in time; look again in a moment")

    # -- answers ---------------------------------------------------------------------------------------------------

    def fleet(self, name: str) -> WantedFleet:
        if name in self.fleets:
            return self.fleets[name]
        raise NotFound(f"there is no fleet {name!r}{nearest(name, self.fleets)}")

    def secrets(self, fleet: str = "") -> list[str]:
        """What this fleet, or (empty) any fleet calls secret."""
        return secrets_of(*(held.spec for name, held in self.fleets.items() if fleet in ("", name)))

    def fleet_seq(self, name: str) -> int:
        """The `expect_seq` for a change of this fleet; 0 when it never was."""
        return self.fleets[name].seq if name in self.fleets else self.gone.get(name, 0)

    def ready_count(self, fleet: str) -> int:
        return self.counts[fleet][AgentState.READY] if fleet in self.counts else 0

    def live(self, *, benefit_of_doubt: bool = False) -> list[NodeStatus]:
        """Nodes heard of lately. With `benefit_of_doubt` also those that were known when this server started, until
        they had their time to be heard: so that a restart of everything moves no agents about."""
        young = benefit_of_doubt and self._clock.monotonic() - self._started_at < NODE_LIVE_S
        return [node for name, node in self.nodes.items() if young or self._is_live(name)]

    def load(self) -> Counter[str]:
        """node → agents of all fleets that are placed on it."""
        load: Counter[str] = Counter()
        for placed in self.placements.values():
            for node, placement in placed.items():
                load[node] += len(placement.names)
        return load

    def _is_live(self, node: str) -> bool:
        return node in self._heard and self._clock.monotonic() - self._heard[node] < NODE_LIVE_S

    def agents_after(self, after: str, *, fleet: str = "") -> Iterator[AgentStatus]:
        """Agents in order, numbers by their value, behind the id `after`, which need not exist any more."""
        start = bisect.bisect_right(self._order, (agent_order(after), after)) if after else 0
        if fleet:
            start = max(start, bisect.bisect_left(self._order, (agent_order(f"{fleet}/"), "")))
        for index in range(start, len(self._order)):
            status = self.agents[self._order[index][1]]
            if fleet and status.fleet != fleet:
                return
            yield status

    # -- intake ----------------------------------------------------------------------------------------------------

    async def _follow(self, stream: str, take: Callable[[Stored], None], ready: asyncio.Event) -> None:
        followed, tries = Followed(self._fabric, self._clock, stream), 0
        while True:
            try:
                async for batch in followed.batches():
                    tries = 0
                    for stored in batch:
                        self._take(stream, take, stored)
                    if not batch:
                        self._caught_up.add(stream)
                        ready.set()
                if stream in self._caught_up:
                    raise BucketLost(f"the fabric lost its store and has made {stream} anew: the server starts anew")
            except BucketLost:
                raise
            except (NotFound, Unavailable) as error:
                # A fabric that has just come back may not know its streams yet; one that lost them stays without.
                tries += 1
                if tries > TRIES_MAX:
                    raise
                log.warning("bucket not readable", stream=stream, error=error.message)
            await self._clock.sleep(RETRY_S)

    def _take(self, stream: str, take: Callable[[Stored], None], stored: Stored) -> None:
        try:
            take(stored)
        except msgspec.MsgspecError as error:
            # Written by another version or by hand: what cannot be read changes nothing.
            log.error("unreadable entry", subject=stored.subject, seq=stored.seq, error=str(error))
        if stream == subjects.WANTED:
            self._wanted_seq = stored.seq
            self._moved.set()

    def _take_wanted(self, stored: Stored) -> None:
        kind, _, rest = stored.subject.removeprefix(_WANTED).partition(".")
        if kind == "fleet":
            self._take_fleet(rest, stored)
        elif kind == "place":
            node, _, fleet = rest.partition(".")
            self._take_place(node, fleet, stored)
        elif kind == "former":
            if stored.deleted:
                self.former.pop(rest, None)
            else:
                self.former[rest] = msgspec.json.decode(stored.data, type=Former)
        elif kind == subjects.wanted_notifications():
            self.notifications_seq = stored.seq
            self.notifications = (
                Notifications() if stored.deleted else msgspec.json.decode(stored.data, type=Notifications)
            )
            for callback in self.on_notifications:
                callback()
        elif kind == "cron":
            fleet, _, name = rest.partition(".")
            if stored.deleted:
                self.crons.pop((fleet, name), None)
            else:
                self.crons[fleet, name] = msgspec.json.decode(stored.data, type=CronMark)

    def _take_fleet(self, name: str, stored: Stored) -> None:
        if stored.deleted:
            self.fleets.pop(name, None)
            self.gone[name] = stored.seq
        else:
            spec = msgspec.json.decode(stored.data, type=FleetSpec)
            self.gone.pop(name, None)
            self.fleets[name] = WantedFleet(spec, stored.seq, frozenset(spec.names()))
        self._tell_fleet(name)

    def _take_place(self, node: str, fleet: str, stored: Stored) -> None:
        if stored.deleted:
            placed = self.placements.get(fleet, {})
            placed.pop(node, None)
            if not placed:
                self.placements.pop(fleet, None)
        else:
            self.placements.setdefault(fleet, {})[node] = msgspec.json.decode(stored.data, type=Placement)
        self._tell_fleet(fleet)

    def _take_now(self, stored: Stored) -> None:
        kind, _, rest = stored.subject.removeprefix(_NOW).partition(".")
        if kind == "node":
            self._take_node(rest, stored)
        elif kind == "agent":
            node, _, agent = rest.partition(".")
            fleet, _, name = agent.partition(".")
            status = None if stored.deleted else msgspec.json.decode(stored.data, type=AgentStatus)
            self._take_agent(node, f"{fleet}/{name}", fleet, status)

    def _take_node(self, name: str, stored: Stored) -> None:
        if stored.deleted:
            changed = self.nodes.pop(name, None) is not None
            self._heard.pop(name, None)
        else:
            status = msgspec.json.decode(stored.data, type=NodeStatus)
            # An old entry is as old as it says; a new one is heard now, whatever the clocks of the hosts say.
            live = subjects.NOW in self._caught_up
            age_s = 0.0 if live else max(0.0, self._clock.now() - stored.at)
            changed = not self._is_live(name)
            self.nodes[name] = status
            self._heard[name] = self._clock.monotonic() - age_s
            self._publish("node", status)
        if changed:
            for callback in self.on_nodes:
                callback()

    def _take_agent(self, node: str, agent: str, fleet: str, status: AgentStatus | None) -> None:
        copies = self._copies.setdefault(agent, {})
        if status is None:
            copies.pop(node, None)
        else:
            copies[node] = status
        # A moved agent is told of by two nodes for a while: the one that lives and has it alive is right.
        best = (
            max(copies.values(), key=lambda copy: (self._is_live(copy.node), copy.state not in _OUT, copy.epoch))
            if copies
            else None
        )
        if best is None:
            del self._copies[agent]
        self._count(agent, fleet, best)

    def rescore(self, agent: str) -> None:
        """Its health may be another one now."""
        status = self.agents.get(agent)
        if status is None:
            return
        health = self.rate(status)
        if health != status.health:
            status = msgspec.structs.replace(status, health=health)
            self.agents[agent] = self.by_fleet[status.fleet][agent] = status
            self._publish("agent", status)

    def _count(self, agent: str, fleet: str, status: AgentStatus | None) -> None:
        old = self.agents.pop(agent, None) if status is None else self.agents.get(agent)
        counts = self.counts.setdefault(fleet, Counter())
        members = self.by_fleet.setdefault(fleet, {})
        was_ready = counts[AgentState.READY] > 0
        if old is not None:
            counts[old.state] -= 1
            self.by_state[old.state].pop(agent, None)
        if old is None and status is not None:
            bisect.insort(self._order, (agent_order(agent), agent))
        elif old is not None and status is None:
            del self._order[bisect.bisect_left(self._order, (agent_order(agent), agent))]
        if status is None:
            members.pop(agent, None)
            if not members:
                self.by_fleet.pop(fleet, None)
                self.counts.pop(fleet, None)
            for gone in self.on_gone:
                gone(agent)
            if old is not None:
                self._publish("agent", msgspec.structs.replace(old, state=AgentState.STOPPED, pid=None, health=0))
        else:
            status = msgspec.structs.replace(status, health=self.rate(status))
            self.agents[agent] = members[agent] = status
            counts[status.state] += 1
            self.by_state[status.state][agent] = None
            self._publish("agent", status)
            for callback in self.on_agent:
                callback(status)
        if (not was_ready and counts[AgentState.READY] > 0) or fleet not in self.by_fleet:
            self._tell_fleet(fleet)

    def _tell_fleet(self, fleet: str) -> None:
        for callback in self.on_fleet:
            callback(fleet)

    def _publish(self, kind: str, data: Any) -> None:
        if len(self._caught_up) == 2:
            self._changes.publish(kind, data)


def agent_order(agent: str) -> tuple[str, int, str]:
    """Sort key of an agent's id: `executor/2` before `executor/10`."""
    fleet, _, name = agent.partition("/")
    return (fleet, int(name), "") if name.isascii() and name.isdigit() else (fleet, -1, name)
