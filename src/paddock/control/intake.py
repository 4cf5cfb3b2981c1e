"""What feeds the recorder: the tails of RESULTS, EVENTS, LATER and of every fleet's queue, and the notes of agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec
import structlog

from paddock.control.archive import Archive
from paddock.control.mirror import Mirror
from paddock.control.owner import Owner, each
from paddock.control.pending import Place
from paddock.control.recorder import Progress, Recorder
from paddock.fabric import subjects
from paddock.model.agent import Event
from paddock.model.errors import NotFound, PaddockError, Unavailable
from paddock.model.task import Task, TaskFailure, TaskResult, TaskState
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Message, Stored, Subscription

log = structlog.get_logger(__name__)

RETRY_S = 0.5
IDENTITY_S = 5.0
"""How often a tail that has caught up looks whether its stream is still the same one, not one made anew."""

QUEUE_LAG_S = 0.1
"""Queued tasks are read so long after the first of them: of the short ones most have ended by then, and their results
say all there is to record. Who asks for one meanwhile gets the answer from the queue itself."""

Take = Callable[[Place, Stored], Awaitable[None]]


class RunningNote(msgspec.Struct, frozen=True):
    """Body of `note.running.F.T`."""

    agent: str = ""
    attempt: int = 1
    started_at: float = 0.0


class Hold(msgspec.Struct, frozen=True):
    """One task in a node's answer to `holds`."""

    task: str
    fleet: str
    agent: str
    attempt: int = 1
    since: float = 0.0


class Holds(msgspec.Struct, frozen=True):
    holds: Sequence[Hold] = ()


class _Read:
    """How far a stream has been read, and which one of its name."""

    def __init__(self, stream: str) -> None:
        self.stream, self.seq = stream, 0
        self.created: str | None = None
        """None: not looked up yet."""


class Intake:
    def __init__(self, fabric: Fabric, clock: Clock, mirror: Mirror, archive: Archive, recorder: Recorder) -> None:
        self._fabric = fabric
        self._clock = clock
        self._mirror = mirror
        self._archive = archive
        self._recorder = recorder
        self._owner: Owner | None = None
        self._fleets: dict[str, asyncio.Task[None]] = {}
        self._subscriptions: list[Subscription] = []
        mirror.on_fleet.append(self.follow)
        mirror.on_agent.append(recorder.agent)

    def start(self, owner: Owner) -> None:
        self._owner = owner
        self._begin(owner, subjects.RESULTS, self._take_result)
        self._begin(owner, subjects.EVENTS, self._take_event)
        self._begin(owner, subjects.LATER, self._take_task)
        for fleet in self._mirror.fleets:
            self.follow(fleet)
        for subject, take in (("note.running.>", self._note_running), ("note.progress.>", self._note_progress)):
            self._subscriptions.append(self._fabric.subscribe(subject, take))
        for status in self._mirror.agents.values():
            self._recorder.agent(status)
        owner.job("holds", self._ask_holds())

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()

    def follow(self, fleet: str) -> None:
        """Begin to tail the queue of a wanted fleet, if that is not done already."""
        if self._owner is not None and fleet in self._mirror.fleets and fleet not in self._fleets:
            self._fleets[fleet] = self._begin(self._owner, subjects.work_stream(fleet), self._take_task)

    async def stream_gone(self, stream: str) -> None:
        """A fleet's queue was deleted; should there be a new one, it is read from its beginning."""
        fleet = stream.removeprefix("WORK_")
        task = self._fleets.pop(fleet, None)
        if task is not None and self._owner is not None:
            await self._owner.end(task)
            self._recorder.behind.discard(stream)
        self.follow(fleet)

    def _begin(self, owner: Owner, stream: str, take: Take) -> asyncio.Task[None]:
        self._recorder.behind.add(stream)
        return owner.loop(f"tail-{stream}", self._tail(stream, take))

    async def _tail(self, stream: str, take: Take) -> None:
        read = _Read(stream)
        while True:
            try:
                depth = await self._fabric.depth(stream)
                if depth.created != read.created:
                    # At the start; or it was deleted and made anew, and how far the old one was read says nothing.
                    read.seq, read.created = await self._begin_at(stream, depth.created), depth.created
                if depth.last_seq < read.seq:
                    read.seq = 0  # it lost its end: what comes next has sequences that were used before
                await self._read_on(read, take)
            except NotFound:
                # Not made yet, deleted, or the fabric has just come back: which it is, its depth says then.
                self._recorder.behind.discard(stream)
            except Unavailable as error:
                log.warning("tail interrupted", stream=stream, error=error.message)
            await self._clock.sleep(RETRY_S)

    async def _read_on(self, read: _Read, take: Take) -> None:
        """Take all that comes next; return once the stream is found to be another one of the same name."""
        looked_at = self._clock.monotonic()
        lag_s = QUEUE_LAG_S if read.stream.startswith("WORK_") else 0.0
        tail = self._fabric.tail(read.stream, after_seq=read.seq, lag_s=lag_s)
        try:
            async for batch in tail:
                for stored in batch:
                    if self._recorder.full:
                        await self._recorder.room()
                    await take(Place(read.stream, stored.seq, read.created or ""), stored)
                    read.seq = stored.seq
                if batch:
                    continue
                self._recorder.behind.discard(read.stream)
                if self._clock.monotonic() - looked_at >= IDENTITY_S:
                    looked_at = self._clock.monotonic()
                    if (await self._fabric.depth(read.stream)).created != read.created:
                        return
        finally:
            if isinstance(tail, AsyncGenerator):
                await tail.aclose()

    async def _begin_at(self, stream: str, created: str) -> int:
        """Where to go on. A queue is read anew: it is short, and one that was empty may have forgotten with the power
        how far it had counted, so that its numbers come again."""
        if stream == subjects.LATER or stream.startswith("WORK_"):
            return 0
        while True:
            try:
                return await self._archive.read(lambda: self._archive.record.cursor(stream, created))
            except Unavailable as error:
                self._recorder.problem = error.message
                await self._clock.sleep(RETRY_S)

    # -- one stored message ----------------------------------------------------------------------------------------

    async def _take_task(self, place: Place, stored: Stored) -> None:
        fleet, task_id = _fleet_and_id(stored.subject)
        try:
            task = _read_task(stored.data)
        except msgspec.MsgspecError as error:
            if task_id != "closed":  # see `fleets.Fleets._close`
                log.error("unreadable task", subject=stored.subject, error=str(error))
            self._recorder.passed(place)
            return
        # The subject is what the fabric enforces; what the body says of itself does not count.
        if (task.id, task.fleet) != (task_id, fleet) or not task.submitted_at:
            task = msgspec.structs.replace(task, id=task_id, fleet=fleet, submitted_at=task.submitted_at or stored.at)
        self._recorder.queued(task, place)

    async def _take_result(self, place: Place, stored: Stored) -> None:
        fleet, task_id = _fleet_and_id(stored.subject)
        result = read_result(stored)
        if result.state is TaskState.CANCELLED:
            # Who cancelled may have died between the result and this.
            await sweep(self._fabric, fleet, task_id)
        self._recorder.ended(result, place)

    async def _take_event(self, place: Place, stored: Stored) -> None:
        try:
            event = msgspec.json.decode(stored.data, type=Event)
        except msgspec.MsgspecError as error:
            log.error("unreadable event", subject=stored.subject, error=str(error))
            self._recorder.passed(place)
            return
        self._recorder.happened(event, place)

    # -- notes -----------------------------------------------------------------------------------------------------

    def _note_running(self, message: Message) -> None:
        fleet, task_id = _fleet_and_id(message.subject)
        try:
            note = msgspec.json.decode(message.data, type=RunningNote)
        except msgspec.MsgspecError:
            return  # a note is a courtesy; an unreadable one says nothing
        self._recorder.running((task_id, fleet, _full(fleet, note.agent), note.attempt, note.started_at))

    def _note_progress(self, message: Message) -> None:
        fleet, task_id = _fleet_and_id(message.subject)
        try:
            note = msgspec.json.decode(message.data, type=Progress)
        except msgspec.MsgspecError:
            return
        note = msgspec.structs.replace(note, agent=_full(fleet, note.agent))
        self._recorder.progressed(task_id, note)

    async def _ask_holds(self) -> None:
        """Which tasks run now: their notes may have been sent while no server listened."""

        async def ask(node: str) -> None:
            reply = await self._fabric.request(subjects.node_op(node), b'{"op":"holds"}')
            for hold in msgspec.json.decode(reply.data, type=Holds).holds:
                agent = _full(hold.fleet, hold.agent)
                self._recorder.running((hold.task, hold.fleet, agent, hold.attempt, hold.since))

        errors = await each("holds", [node.id for node in self._mirror.live()], ask)
        for error in errors:
            log.warning("a node does not say what it holds", error=str(error))


async def sweep(fabric: Fabric, fleet: str, task_id: str) -> None:
    """Take a task that has ended out of every queue; no harm when it is in none."""
    for subject in subjects.work_anywhere(fleet, task_id):
        try:
            await fabric.purge(subjects.work_stream(fleet), subject)
        except NotFound:
            break
        except PaddockError as error:
            # Whoever is handed it will find that it has ended, and drop it.
            log.warning("ended task stays queued", task=task_id, error=error.message)
            break
    try:
        await fabric.purge(subjects.LATER, subjects.later(fleet, task_id))
    except PaddockError as error:
        log.warning("ended task stays in LATER", task=task_id, error=error.message)


def read_result(stored: Stored) -> TaskResult:
    """The result as stored; one that cannot be read is a failure that says so: the task has ended nevertheless."""
    fleet, task_id = _fleet_and_id(stored.subject)
    try:
        result = _read_result(stored.data)
        if result.state.ended:
            if (result.id, result.fleet) == (task_id, fleet) and result.finished_at:
                return result
            return msgspec.structs.replace(result, id=task_id, fleet=fleet, finished_at=result.finished_at or stored.at)
        why = f"its state is {result.state}, which is no end"
    except msgspec.MsgspecError as error:
        why = str(error)
    failure = TaskFailure(code="bad-result", message=f"an agent stored a result that cannot be read: {why}")
    return TaskResult(
        id=task_id,
        fleet=fleet,
        method="?",
        state=TaskState.FAILED,
        error=failure,
        finished_at=stored.at,
        submitted_at=stored.at,
    )


_read_task = msgspec.json.Decoder(Task).decode
_read_result = msgspec.json.Decoder(TaskResult).decode


def _fleet_and_id(subject: str) -> tuple[str, str]:
    """Of `work.F.….T`, `later.F.T`, `result.F.T`, `note.<kind>.F.T`."""
    tokens = subject.split(".")
    return tokens[2 if tokens[0] == "note" else 1], tokens[-1]


def _full(fleet: str, agent: str) -> str:
    return agent if not agent or "/" in agent else f"{fleet}/{agent}"
