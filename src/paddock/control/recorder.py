"""The recorder: everything that happened, from the streams into the record; and what it knows before it is written.

    stream ──tail──> pending rows (seen by `view`) ──batch, one transaction with its cursors──> record

Killed at any line it starts again at the record's cursors; a batch applied twice changes nothing. While the record is
away the rows wait, then the tails; the fabric keeps the rest.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import msgspec
import structlog

from paddock.control import views
from paddock.control.archive import Archive
from paddock.control.changes import Changes
from paddock.control.owner import Wake, within
from paddock.control.pending import NOWHERE, Pending, Place, Row, Running, started, task_of
from paddock.control.rate import Rate
from paddock.control.waiters import Waiters
from paddock.model.agent import AgentStatus, Event
from paddock.model.errors import PaddockError, Unavailable
from paddock.model.task import Task, TaskResult, TaskState, TaskView
from paddock.ports.clock import Clock
from paddock.ports.record import Batch, RecordGone, StoredEvent

log = structlog.get_logger(__name__)

BATCH_ROWS_MAX = 1000
BATCH_S_MAX = 0.05
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.1, 5.0
NOTES_MAX = 10_000
"""Progress notes kept in memory; beyond this the oldest is forgotten."""
SETTLE_S_MAX = 2.0
FORGET_ROUNDS_MAX = 20


class Progress(msgspec.Struct, frozen=True):
    agent: str = ""
    progress: float | None = None
    note: str | None = None


class Recorder:
    def __init__(self, archive: Archive, clock: Clock, changes: Changes) -> None:
        self._archive = archive
        self._clock = clock
        self._changes = changes
        self._pending = Pending()
        self._wake = Wake()
        self._room = asyncio.Event()
        self._room.set()
        self._flushed = asyncio.Event()
        self._progress: dict[str, Progress] = {}
        self._rates: dict[str, Rate] = {}
        self.waiters = Waiters()
        self.on_ended: list[Callable[[TaskResult], None]] = []
        """Called with every result as it is read from its stream; after a restart some may come again."""
        self.on_event: list[Callable[[Event], None]] = []
        """Likewise with every event."""
        self.problem = ""
        """Why nothing can be written now; empty when all is well."""
        self.behind: set[str] = set()
        """Streams that have not been read to their end since this server started."""

    @property
    def waiting(self) -> int:
        """Rows not written yet."""
        return len(self._pending)

    # -- intake ----------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """No more rows now: wait for `room`."""
        return self._pending.full

    async def room(self) -> None:
        """Wait until there is room for more rows."""
        await self._room.wait()

    def queued(self, task: Task, place: Place = NOWHERE) -> None:
        """A task was accepted. Without a place: told by who accepted it, the stream will tell it again."""
        if place is NOWHERE and self._pending.full:
            return  # the tail will bring it once there is room
        self._add(Row(task, place))

    def running(self, note: Running) -> None:
        if not self._pending.full:
            self._add(Row(note))

    def ended(self, result: TaskResult, place: Place = NOWHERE) -> None:
        self._add(Row(result, place))
        self._progress.pop(result.id, None)
        now = self._clock.monotonic()
        rate = self._rates.get(result.fleet)
        if rate is None:
            rate = self._rates[result.fleet] = Rate(now)
        rate.add(now)
        if place is not NOWHERE:
            for callback in self.on_ended:
                callback(result)
        if self.waiters.awaited(result.id):
            self.waiters.resolve(self.pending_view(result.id) or views.of_result(result))

    def happened(self, event: Event, place: Place) -> None:
        self._add(Row(StoredEvent(place.seq, event, place.created), place))
        self._changes.publish("event", event)
        for callback in self.on_event:
            callback(event)

    def passed(self, place: Place) -> None:
        """Something was read that needs no row."""
        self._add(Row(None, place))

    def agent(self, status: AgentStatus) -> None:
        self._pending.add_agent(status)
        self._wake.set()

    def progressed(self, task_id: str, progress: Progress) -> None:
        self._progress.pop(task_id, None)
        if len(self._progress) >= NOTES_MAX:
            del self._progress[next(iter(self._progress))]
        self._progress[task_id] = progress
        view = self._pending.view(task_id)
        if view is not None and self._changes.watched:
            self._changes.publish("task", self.with_progress(view))

    def _add(self, row: Row) -> None:
        told = task_of(row.what) if self._changes.watched else None
        before = self._pending.view(told) if told is not None and not isinstance(row.what, tuple) else None
        self._pending.add(row)
        if self._pending.full:
            self._room.clear()
        self._wake.set()
        view = self._pending.view(told) if told is not None else None
        if view is not None and (before is None or before.state != view.state):
            self._changes.publish("task", view)

    # -- answers ---------------------------------------------------------------------------------------------------

    def pending_view(self, task_id: str) -> TaskView | None:
        """What is known of a task that is not in the record yet."""
        return self._pending.view(task_id)

    async def view(self, task_id: str) -> TaskView | None:
        """The newest known of a task; `Unavailable` when the record does not answer and memory does not know."""
        pending = self._pending.view(task_id)
        if pending is not None and pending.state.ended:
            return pending
        try:
            recorded = await self._archive.read(lambda: self._archive.record.task(task_id))
        except Unavailable:
            if pending is None:
                raise
            recorded = None
        # What was pending may have been written, or more may have come, while the record was asked.
        newest = views.later_of(recorded, self._pending.view(task_id) or pending)
        if newest is not None and not newest.method and recorded is not None:
            newest = started(recorded, newest.agent or "", newest.attempts, newest.started_at or 0.0)
        return self.with_progress(newest) if newest is not None else None

    async def forgotten(self, task_id: str, now: float) -> bool:
        """Forget what is kept no longer, up to this task; True when the record does not know it any more."""
        for _ in range(FORGET_ROUNDS_MAX):
            if await self._archive.read(lambda: self._archive.record.task(task_id)) is None:
                return True
            if not await self._archive.write(lambda: self._archive.record.forget(now)):
                return False
        return False

    def with_progress(self, view: TaskView) -> TaskView:
        note = self._progress.get(view.id)
        if note is None or view.state.ended:
            return view
        view = msgspec.structs.replace(view, progress=note.progress, progress_note=note.note)
        if view.state is TaskState.QUEUED:
            view = msgspec.structs.replace(view, state=TaskState.RUNNING, agent=note.agent or view.agent)
        return view

    def per_s(self, fleet: str) -> float:
        """Ends of tasks per second, lately."""
        rate = self._rates.get(fleet)
        return rate.per_s(self._clock.monotonic()) if rate is not None else 0.0

    async def settle(self) -> None:
        """Wait a moment for what is known to be in the record, so that lists show it."""

        async def written() -> bool:
            batches = 1 + math.ceil(self.waiting / BATCH_ROWS_MAX)  # one may be on its way; and what comes later, waits
            while self._pending and batches:
                self._flushed.clear()
                await self._flushed.wait()
                batches -= 1
            return True

        if self._pending and not self.problem:
            await within(self._clock, written(), SETTLE_S_MAX)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write batches, for ever."""
        while True:
            await self._wake.wait()
            await self._clock.sleep(BATCH_S_MAX)
            while self._pending:
                await self.flush()
                if self.waiting < BATCH_ROWS_MAX:
                    break  # what came meanwhile has woken us again, and gathers first

    async def flush(self) -> None:
        """Write one batch; return when it is written, however long the record is away."""
        backoff_s = BACKOFF_S_MIN
        while True:
            try:
                await self._write(self._pending.take(BATCH_ROWS_MAX))
                break
            except RecordGone:
                raise  # this server cannot go on; the next one opens what is there now, and reads the streams again
            except Unavailable as error:
                self.problem = error.message
                log.warning("record does not answer", error=error.message, rows_waiting=self.waiting)
                await self._clock.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
            except Exception as error:
                log.error("record refuses a batch", error=repr(error))
                if await self._apply_singly():
                    break
        self.problem = ""
        self._pending.done()
        self._flushed.set()
        if not self._pending.full:
            self._room.set()

    async def _apply_singly(self) -> bool:
        """Find the row that the record cannot take, leave out that one, write the others. One bad row must not hold up
        all that comes after it. False: the record went away meanwhile, begin again."""
        for batch in self._pending.taken_singly():
            try:
                await self._write(batch)
            except Unavailable:
                return False  # also when it is gone: the next try says so
            except Exception as error:
                log.error("row left out of the record", row=repr(batch)[:500], error=repr(error))
        return True

    async def _write(self, batch: Batch) -> None:
        batch = msgspec.structs.replace(batch, at=self._clock.now())
        await self._archive.write(lambda: self._archive.record.apply(batch))

    async def drain(self) -> None:
        """At a stop: write what is there if the record answers; what is not written will be read again."""
        try:
            while self._pending:
                await self._write(self._pending.take(BATCH_ROWS_MAX))
                self._pending.done()
        except PaddockError as error:
            log.warning("stopped with rows not written; they will be read again", error=error.message)
