"""The fleet controller: makes the placements and work streams be what the wanted fleets and live nodes call for.

    wanted ──stream ensured──> waits for what it depends on ──> placed ──(nodes, spec change)──> placed anew
      └──deleted──> placements deleted ──its agents have ended──> queue closed, queued tasks dead, stream deleted

Level-triggered: a wake names a fleet, never what to do; every pass reads the mirror and may be killed at any line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from paddock.control.events import Events
from paddock.control.mirror import Mirror
from paddock.control.owner import Wake
from paddock.decide.place import place
from paddock.fabric import subjects
from paddock.model.agent import AgentState, NodeStatus
from paddock.model.errors import Conflict, NotFound, PaddockError
from paddock.model.fleet import FleetSpec, Placement
from paddock.model.task import Task, TaskFailure, TaskResult, TaskState
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Stored

log = structlog.get_logger(__name__)

TICK_S = 1.0
DEPENDS_S_MAX = 30.0
"""A fleet whose dependencies are not ready is placed after this long nevertheless."""
GONE_S_MAX = 60.0
"""How long the end of a deleted fleet's agents is waited for before its queue is cleared."""
RETRY_S = 1.0

_OVER = (AgentState.STOPPED, AgentState.FAILED, AgentState.QUARANTINED)


class Fleets:
    def __init__(
        self,
        fabric: Fabric,
        clock: Clock,
        mirror: Mirror,
        events: Events,
        stream_gone: Callable[[str], Awaitable[None]],
    ) -> None:
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._events = events
        self._stream_gone = stream_gone
        self._wake = Wake()
        self._dirty: set[str] = set()
        self._ensured: dict[str, tuple[int, float]] = {}
        """fleet → (queue_limit, ack_wait_s) that its stream was given by this process."""
        self._waiting: dict[str, float] = {}
        """fleet → since when it waits for what it depends on."""
        self._clearing: dict[str, float] = {}
        """deleted fleet → since when its agents are waited for."""
        self.found: dict[str, dict[str, list[str]]] = {}
        """fleet → node → agents that were found there, of a fleet whose placements were lost: they stay there."""
        self._nodes: dict[str, NodeStatus] = {}
        self._load: Counter[str] = Counter()
        """node → agents of all fleets placed on it, as this pass knows it."""
        mirror.on_fleet.append(self.touch)
        mirror.on_nodes.append(self._wake.set)

    def touch(self, fleet: str) -> None:
        """Look at this fleet again, and at those that wait (perhaps for it)."""
        self._dirty.add(fleet)
        self._wake.set()

    async def run(self) -> None:
        """For ever. One timer for the whole server: nodes that fall silent and waits that end cause no message."""
        self._dirty = {*self._mirror.fleets, *self._mirror.gone, *self._mirror.placements}
        while True:
            await self.reconcile()
            await self._wake.wait_for(self._clock, TICK_S)

    async def reconcile(self) -> None:
        """One pass over the fleets that changed or wait; all of them when the set of live nodes changed."""
        nodes = {node.id: node for node in self._mirror.live(benefit_of_doubt=True)}
        if nodes.keys() != self._nodes.keys():
            self._dirty.update(self._mirror.fleets)
        self._nodes = nodes
        todo = self._dirty | set(self._waiting) | set(self._clearing)
        self._dirty = set()
        if todo:
            self._load = self._mirror.load()
        for fleet in sorted(todo):
            try:
                if fleet in self._mirror.fleets:
                    await self._keep(self._mirror.fleets[fleet].spec)
                else:
                    await self._clear(fleet)
            except PaddockError as error:
                # The fabric is away or somebody else was quicker; the next tick reads everything anew.
                log.warning("fleet not reconciled yet", fleet=fleet, error=error.message)
                self._dirty.add(fleet)

    # -- a wanted fleet --------------------------------------------------------------------------------------------

    async def ensure_stream(self, spec: FleetSpec) -> None:
        """Make the fleet's work stream be there and open; quick when this process did so before."""
        shape = (spec.queue_limit, spec.ack_wait_s)
        if self._ensured.get(spec.name) == shape:
            return
        await self._fabric.ensure(subjects.work_stream_spec(spec))
        # Left by a deletion that was overtaken by a new apply; see `_close`.
        await self._fabric.purge(subjects.work_stream(spec.name), _closed(spec.name))
        self._ensured[spec.name] = shape

    async def _keep(self, spec: FleetSpec) -> None:
        await self.ensure_stream(spec)
        placed = self._mirror.placements.get(spec.name, {})
        if not placed and not self._may_start(spec):
            return
        self._waiting.pop(spec.name, None)
        self._clearing.pop(spec.name, None)
        if not self._nodes:
            return  # nobody could run it; what is placed stays, for a node that comes back
        there = {node: placement.names for node, placement in placed.items()} or self.found.get(spec.name, {})
        current = {node: list(names) for node, names in there.items() if node in self._nodes}
        target = place(spec.names(), list(self._nodes.values()), current, load=self._load)
        for node in sorted(self._nodes):
            wanted = Placement(spec=spec, names=list(target.get(node, [])))
            before = placed.get(node)
            if before is None and not wanted.names:
                continue
            if before != wanted:
                await self._place(node, spec.name, msgspec.json.encode(wanted))
                # Told by the nodes only once these agents run: the next fleet of this pass must know it now.
                self._load[node] += len(wanted.names) - (len(before.names) if before is not None else 0)
        for node in [node for node in placed if node not in self._nodes]:
            await self._unplace(node, spec.name)

    def _may_start(self, spec: FleetSpec) -> bool:
        """Whether all it depends on has a ready agent, or was waited for long enough."""
        waits = [
            name
            for name in spec.depends_on
            if name in self._mirror.fleets and self._mirror.fleets[name].names and not self._mirror.ready_count(name)
        ]
        if not waits:
            return True
        since = self._waiting.setdefault(spec.name, self._clock.monotonic())
        if self._clock.monotonic() - since < DEPENDS_S_MAX:
            return False
        log.warning("placed though its dependencies are not ready", fleet=spec.name, waits_for=waits)
        return True

    async def _place(self, node: str, fleet: str, data: bytes) -> None:
        seq = await self._fabric.store(f"$KV.wanted.{subjects.wanted_place(node, fleet)}", data)
        await self._mirror.seen(seq)

    async def _unplace(self, node: str, fleet: str) -> None:
        key = f"$KV.wanted.{subjects.wanted_place(node, fleet)}"
        seq = await self._fabric.store(key, b"", headers={"KV-Operation": "DEL"})
        await self._mirror.seen(seq)

    # -- a fleet that is gone --------------------------------------------------------------------------------------

    async def _clear(self, fleet: str) -> None:
        self._waiting.pop(fleet, None)
        for node in list(self._mirror.placements.get(fleet, {})):
            await self._unplace(node, fleet)
        try:
            await self._fabric.depth(subjects.work_stream(fleet))
        except NotFound:
            self._clearing.pop(fleet, None)
            self._ensured.pop(fleet, None)
            return
        since = self._clearing.setdefault(fleet, self._clock.monotonic())
        live = {node.id for node in self._mirror.live()}
        busy = any(
            status.state not in _OVER and status.node in live
            for status in self._mirror.by_fleet.get(fleet, {}).values()
        )
        if busy and self._clock.monotonic() - since < GONE_S_MAX:
            return
        await self._close(fleet)
        if fleet in self._mirror.fleets:
            return  # wanted again meanwhile: the next pass opens the queue again
        await self._fabric.delete_stream(subjects.work_stream(fleet))
        self._ensured.pop(fleet, None)  # an apply may have ensured it while it was being closed
        await self._stream_gone(subjects.work_stream(fleet))
        self._clearing.pop(fleet, None)

    async def _close(self, fleet: str) -> None:
        """Let nothing more in, then end all that is queued as dead. The closing message keeps the stream at its limit
        of one, so that no task can be accepted between the last look and the deletion."""
        self._ensured.pop(fleet, None)
        stream = subjects.work_stream(fleet)
        shape = subjects.work_stream_spec(FleetSpec(name=fleet, runtime="exec", queue_limit=-1))
        await self._fabric.ensure(shape)  # a full queue has to take the closing message too
        try:
            await self._fabric.store(_closed(fleet), b"")
        except Conflict:
            pass  # closed by a pass that was cut short
        await self._fabric.ensure(msgspec.structs.replace(shape, messages_max=1))
        ended = await self._end_all(stream, f"work.{fleet}.>", fleet)
        ended += await self._end_all(subjects.LATER, f"later.{fleet}.*", fleet)
        await self._fabric.purge(subjects.LATER, f"later.{fleet}.*")
        if ended:
            await self._events.tell("fleet.cleared", fleet, f"{ended} queued tasks of {fleet} ended as dead")

    async def _end_all(self, stream: str, subject: str, fleet: str) -> int:
        after = ended = 0
        while batch := await self._fabric.read(stream, after_seq=after, subject=subject):
            for stored in batch:
                after = stored.seq
                if stored.subject != _closed(fleet):
                    ended += await self._end(stored, fleet)
        return ended

    async def _end(self, stored: Stored, fleet: str) -> bool:
        result = dead_result(stored, fleet, f"its fleet {fleet} was deleted", self._clock.now())
        try:
            await self._fabric.store(subjects.result(fleet, result.id), msgspec.json.encode(result))
        except Conflict:
            return False  # it had ended already
        return True


def dead_result(stored: Stored, fleet: str, reason: str, now: float) -> TaskResult:
    """The end, as dead, of a task as it is stored. A body that cannot be read still has its id in its subject."""
    task_id = stored.subject.rpartition(".")[2]
    try:
        task = msgspec.json.decode(stored.data, type=Task)
    except msgspec.MsgspecError:
        task = Task(id=task_id, fleet=fleet, method="?")
    return TaskResult(
        id=task_id,
        fleet=fleet,
        method=task.method,
        state=TaskState.DEAD,
        error=TaskFailure(code="dead", message=reason),
        attempts=task.attempts_before,
        priority=task.priority,
        args=task.args,
        submitted_at=task.submitted_at,
        submitted_by=task.submitted_by,
        finished_at=now,
        kept_s=task.kept_s,
        to_agent=task.agent,
    )


def _closed(fleet: str) -> str:
    """Subject of the message that keeps a deleted fleet's queue full."""
    return f"work.{fleet}.closed"
