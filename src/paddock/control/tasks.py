"""What people do with tasks: submit, look up, wait for, cancel, replay.

A task is accepted once the fabric has it on disk; from then on nothing here is needed for it to end.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import msgspec
import structlog

from paddock.control import views
from paddock.control.door import Door, encoded
from paddock.control.intake import read_result, sweep
from paddock.control.later import Later
from paddock.control.mirror import Mirror
from paddock.control.owner import within
from paddock.control.rate import retry_after_s
from paddock.control.recorder import Recorder
from paddock.control.service import TaskRequest
from paddock.fabric import subjects
from paddock.model.errors import Conflict, NoResponders, NotFound, QueueFull, Refused, Unavailable
from paddock.model.names import check_task_id
from paddock.model.task import Priority, Task, TaskFailure, TaskResult, TaskState, TaskView
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

log = structlog.get_logger(__name__)

STORE_TRIES = 3
STORE_S_MAX = 10.0
KEYS_MAX = 10_000
"""Submissions with a key that may be under way at once."""


class Parts(msgspec.Struct, frozen=True):
    """What Tasks works with."""

    fabric: Fabric
    clock: Clock
    steady: Clock
    """By which a key is free again."""
    mirror: Mirror
    recorder: Recorder
    later: Later
    door: Door


def _new_id() -> str:
    return uuid.uuid4().hex


class Tasks:
    def __init__(self, parts: Parts, *, new_id: Callable[[], str] = _new_id) -> None:
        self._fabric = parts.fabric
        self._clock, self._steady = parts.clock, parts.steady
        self._mirror = parts.mirror
        self._recorder = parts.recorder
        self._later = parts.later
        self._door = parts.door
        self._new_id = new_id
        self._keys: dict[str, tuple[asyncio.Lock, int]] = {}
        """task id → lock and number of its users, for submissions with a key that are under way."""

    # -- submit ----------------------------------------------------------------------------------------------------

    async def submit(self, request: TaskRequest, *, by: str = "") -> TaskView:
        task = self._door.task(request, now=self._clock.now(), new_id=self._new_id, by=by)
        if not task.keyed:
            return await self._accept(task)
        async with _Held(self._keys, task.id):
            # Two submissions of one key at the same moment must not both find nothing.
            known = await self._known(task)
            return known if known is not None else await self._accept(task)

    async def _known(self, task: Task) -> TaskView | None:
        """The task that this key names already, or None."""
        try:
            view = await self._recorder.view(task.id)
        except Unavailable:
            view = None  # the fabric keeps results at least as long as they may be asked for
        now = self._steady.now()
        if view is not None and view.kept_until is not None and view.kept_until <= now:
            view = None if await self._recorder.forgotten(task.id, now) else view
        if view is None:
            view = await self._in_fabric(task.fleet, task.id)
        if view is None:
            return None
        if view.kept_until is not None and view.kept_until <= now:
            # Its result is kept no longer, so the key is free again.
            await self._fabric.purge(subjects.RESULTS, subjects.result(task.fleet, task.id))
            return None
        if (view.method, view.args) != (task.method, msgspec.json.decode(msgspec.json.encode(task.args))):
            raise Conflict(
                f"this key belongs to task {task.id}, which calls {view.method} with other arguments: "
                "use another key for another task"
            )
        return view

    async def _accept(self, task: Task) -> TaskView:
        later = task.not_before > self._clock.now()
        if later:
            limit = self._mirror.fleet(task.fleet).spec.queue_limit
            if self._later.count(task.fleet) >= limit:
                raise QueueFull(
                    f"{limit} tasks of {task.fleet} wait for their time already; that is the limit of its queue",
                    retry_after_s=retry_after_s(limit, self._recorder.per_s(task.fleet)),
                )
        try:
            await self._store(subjects.later(task.fleet, task.id) if later else subjects.work(task), task)
        except QueueFull as error:
            wanted = self._mirror.fleet(task.fleet)  # NotFound when it is full because its fleet goes away just now
            raise QueueFull(
                f"the queue of {task.fleet} is full ({wanted.spec.queue_limit} tasks); try again later",
                retry_after_s=retry_after_s(wanted.spec.queue_limit, self._recorder.per_s(task.fleet)),
            ) from error
        self._recorder.queued(task)
        return self._recorder.pending_view(task.id) or views.of_task(task)

    async def _store(self, subject: str, task: Task) -> None:
        """Store it once, even when the answer to a first try was lost."""
        for attempt in range(1, STORE_TRIES + 1):
            try:
                await self._fabric.store(subject, encoded(task), timeout_s=STORE_S_MAX)
                return
            except Conflict:
                # With a new id, or behind the lock of its key: this is our own earlier try, or somebody who
                # stores the same task directly. Either way it is accepted.
                return
            except NoResponders:
                wanted = self._mirror.fleet(task.fleet)
                if attempt == STORE_TRIES:
                    raise
                # The fleet is so new that nobody made its queue yet.
                await self._fabric.ensure(subjects.work_stream_spec(wanted.spec))
            except Unavailable as error:
                if attempt == STORE_TRIES:
                    raise Unavailable(
                        f"the fabric did not say whether it took task {task.id}: ask for its state before submitting "
                        f"it again ({error.message})"
                    ) from error
                # The first copy may have been taken, and even have run: the next one is to look for a result first.
                task = msgspec.structs.replace(task, keyed=True)

    # -- look up ---------------------------------------------------------------------------------------------------

    async def task(self, task_id: str) -> TaskView:
        """By memory, record, and, for what was not recorded yet, the fabric."""
        check_task_id(task_id)
        try:
            view = await self._recorder.view(task_id)
        except Unavailable:
            view = await self._search(task_id)
            if view is None:
                raise
            return view
        if view is None:
            view = await self._search(task_id)
        if view is None:
            raise NotFound(f"there is no task {task_id!r}: it never was, or its kept-for time is over")
        return view

    async def _search(self, task_id: str) -> TaskView | None:
        """Find a task by its id alone, fleet by fleet: the recorder may not have read of it yet."""
        for fleet in [*self._mirror.fleets, *self._mirror.gone]:
            view = await self._in_fabric(fleet, task_id)
            if view is not None:
                return view
        return None

    async def _in_fabric(self, fleet: str, task_id: str) -> TaskView | None:
        """What the fabric holds of a task. The order matters: a task moves from LATER to its queue to RESULTS, and is
        stored in the next place before it leaves the one before."""
        task = await self._queued_task(fleet, task_id)
        stored = await self._fabric.last(subjects.RESULTS, subjects.result(fleet, task_id))
        if stored is not None:
            return views.of_result(read_result(stored))
        return views.of_task(task) if task is not None else None

    async def _queued_task(self, fleet: str, task_id: str) -> Task | None:
        places = [(subjects.LATER, subjects.later(fleet, task_id))]
        places += [(subjects.work_stream(fleet), subject) for subject in subjects.work_anywhere(fleet, task_id)]
        for stream, subject in places:
            try:
                batch = await self._fabric.read(stream, subject=subject, limit=1)
                if batch:
                    return msgspec.json.decode(batch[0].data, type=Task)
            except (NotFound, msgspec.MsgspecError):
                continue
        return None

    async def wait(self, task_id: str, timeout_s: float) -> TaskView:
        future = self._recorder.waiters.add(task_id)
        try:
            view = await self.task(task_id)
            if view.state.ended:
                return view
            ended = await within(self._clock, _outcome(future), timeout_s)
            return ended if ended is not None else await self.task(task_id)
        finally:
            self._recorder.waiters.remove(task_id, future)

    # -- cancel and replay -----------------------------------------------------------------------------------------

    async def cancel(self, task_id: str, *, by: str = "") -> TaskView:
        """The result first: from then on nothing else can end it. What follows only saves work, and is done again by
        the recorder should this process die here."""
        view = await self.task(task_id)
        if view.state.ended and view.state is not TaskState.CANCELLED:
            raise Conflict(f"task {task_id} has ended already: it is {view.state}")
        if view.state is TaskState.CANCELLED:
            return view
        result = self._cancelled(view, await self._queued_task(view.fleet, task_id), by)
        try:
            await self._fabric.store(subjects.result(view.fleet, task_id), msgspec.json.encode(result))
        except Conflict:
            stored = await self._fabric.last(subjects.RESULTS, subjects.result(view.fleet, task_id))
            result = read_result(stored) if stored is not None else result
            if result.state is not TaskState.CANCELLED:
                raise Conflict(f"task {task_id} has ended already: it is {result.state}") from None
        self._recorder.ended(result)
        ended = self._recorder.pending_view(task_id) or views.of_result(result)
        await sweep(self._fabric, view.fleet, task_id)
        self._fabric.publish(subjects.node_op("all"), msgspec.json.encode({"op": "cancel", "task": task_id}))
        return ended

    def _cancelled(self, view: TaskView, task: Task | None, by: str) -> TaskResult:
        return TaskResult(
            id=view.id,
            fleet=view.fleet,
            method=view.method,
            state=TaskState.CANCELLED,
            error=TaskFailure(code="cancelled", message=f"cancelled by {by}" if by else "cancelled"),
            attempts=view.attempts,
            agent=view.agent or "",
            priority=Priority[view.priority],
            args=view.args,
            submitted_at=view.submitted_at,
            submitted_by=view.submitted_by,
            started_at=view.started_at or 0.0,
            finished_at=self._clock.now(),
            kept_s=task.kept_s if task is not None else view.kept_s,
            timeout_s=task.timeout_s if task is not None else 0.0,
            max_attempts=task.max_attempts if task is not None else 0,
            repeatable=task.repeatable if task is not None else True,
            to_agent=task.agent if task is not None else view.to_agent.partition("/")[2],
        )

    async def replay(self, task_id: str, *, by: str = "") -> TaskView:
        view = await self.task(task_id)
        if view.state not in (TaskState.DEAD, TaskState.FAILED, TaskState.CANCELLED):
            raise Refused(f"task {task_id} is {view.state}; only dead, failed and cancelled tasks can be replayed")
        stored = await self._fabric.last(subjects.RESULTS, subjects.result(view.fleet, task_id))
        if stored is None:
            raise Refused(f"task {task_id} ended too long ago: how it was to be run is known no more; submit it anew")
        ended = read_result(stored)
        request = TaskRequest(
            method=view.method,
            fleet="" if view.to_agent else view.fleet,
            agent=view.to_agent,
            args=view.args,
            priority=view.priority,
            kept_s=view.kept_s,
            timeout_s=ended.timeout_s,
            max_attempts=ended.max_attempts,
            repeatable=ended.repeatable,
        )
        return await self.submit(request, by=by)


class _Held:
    """Holds the lock of one key; the lock is forgotten with its last user."""

    def __init__(self, locks: dict[str, tuple[asyncio.Lock, int]], key: str) -> None:
        self._locks, self._key = locks, key

    async def __aenter__(self) -> None:
        if self._key not in self._locks and len(self._locks) >= KEYS_MAX:
            raise Unavailable("too many submissions with a key are under way; try again in a moment")
        lock, users = self._locks.get(self._key, (asyncio.Lock(), 0))
        self._locks[self._key] = (lock, users + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._locks[self._key][0].release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._locks[self._key]
        if users > 1:
            self._locks[self._key] = (lock, users - 1)
        else:
            del self._locks[self._key]


async def _outcome(future: asyncio.Future[TaskView]) -> TaskView:
    return await future
