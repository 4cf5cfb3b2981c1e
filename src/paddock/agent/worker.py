"""The tasks that an agent holds: from the hand-out to the acknowledgement.

handed out ──> somebody else at it? ──> judged (a last chance: alone) ──> held (the node knows)
held ──> ended before? ──yes──────────────────────────────> acked
             ├──> to be given up ──┐
             └──> runs ────────────┴──> result stored ──> notified ──> acked ──> dropped
                    ├──> again: put back with a delay ─────────────────────────> dropped
                    └──> the agent stops: put back ────────────────────────────> dropped
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import msgspec

from paddock.agent.call import Call, Caller, Outcome
from paddock.agent.clock import HostClock
from paddock.agent.context import Context
from paddock.agent.nodelink import NodeLink
from paddock.agent.owner import Owner
from paddock.decide.attempt import Start, after_error, before_run
from paddock.fabric import subjects
from paddock.model.errors import Conflict, PaddockError, Unavailable
from paddock.model.task import PAYLOAD_BYTES_MAX, Task, TaskFailure, TaskResult, TaskState
from paddock.ports.fabric import Delivery, Stored

RUNNING_NOTE_S = 0.05
"""Shorter tasks are not announced as running: their result comes before anybody could look."""
STORE_RETRY_S_MIN, STORE_RETRY_S_MAX = 0.1, 5.0
UNSTORABLE_DELAY_S = 5.0
SKEW_S = 2.0
"""How far the clocks of who submits and of this host may be apart."""
RETURN_S = 5.0
"""After the fabric came back the node may be on its way, too: so long a hand-out that may be a second one waits."""
HERE_LOOK_S = 0.02
"""How often what this process has in hand is looked at."""
LOOK_S_MIN, LOOK_S_MAX = 0.002, 0.5
"""How often a second hand-out looks whether the first one is over: soon at first, for most are over in a moment."""
ALONE_S = 30.0
"""So long a last chance waits for what else is in hand to end."""


class Held:
    """One task in hand."""

    def __init__(self, delivery: Delivery, task: Task, clock: HostClock) -> None:
        self.delivery, self.task = delivery, task
        self.started_at, self._clock, self._began = clock.now(), clock, clock.monotonic()
        self.call: Call | None = None
        self.cancelled = False
        self.put_back = False
        self.noted = False
        """Whether the node was told that it is held."""
        self.deaths = 0
        """How many agents of this node died while they held it, as far as that was asked."""
        self.settled = False
        """Stored and acknowledged, or put back; only an overrun of its code may still keep the slot."""

    @property
    def stopped(self) -> bool:
        return self.cancelled or self.put_back

    def times(self) -> tuple[float, float]:
        """When it began and when it ends now, both by the clock as it is now: it may have been set meanwhile, and how
        long a task took must not be told wrongly for that."""
        now = self._clock.now()
        return now - (self._clock.monotonic() - self._began), now


class Worker:
    """Runs what the puller hands it; `free` says how many more it takes."""

    def __init__(self, context: Context, caller: Caller, link: NodeLink, owner: Owner, *, slots: int) -> None:
        self._context, self._caller, self.link, self._owner = context, caller, link, owner
        self._slots = slots
        self._held: dict[int, Held] = {}
        """In the order of their hand-outs. Not by ack subject: a fabric that forgot one makes the same again."""
        self._same: dict[str, list[Held]] = {}
        """Task → its hand-outs in hand, in their order: more than one when the fabric forgot the first."""
        self._alone: list[Held] = []
        """Those that run with nothing else in hand, or wait for that."""
        self._busy = 0
        self.done = self.failed = 0
        self._connected_at, self._connected = context.clock.now(), context.clock.monotonic()
        self._loop = asyncio.get_running_loop()
        context.fabric.on_reconnect(self._reconnected)
        link.in_hand = lambda: self.unnoted
        self.changed: Callable[[], None] = lambda: None
        """Called when a slot became free or a task was settled."""

    @property
    def free(self) -> int:
        return 0 if self._alone else self._slots - self._busy

    @property
    def unsettled(self) -> int:
        return sum(not held.settled for held in self._held.values())

    @property
    def unnoted(self) -> list[str]:
        """Ack subjects of what is in hand but not held yet, as far as the node knows."""
        return [held.delivery.ack for held in self._held.values() if not held.noted]

    def take(self, delivery: Delivery) -> None:
        """Start on a hand-out; the caller saw a free slot."""
        self._busy += 1
        held = Held(delivery, self._decode(delivery), self._context.clock)
        self._held[id(held)] = held
        self._same.setdefault(held.task.id, []).append(held)
        self._owner.start(f"task-{held.task.id}", self._serve(held))

    def still_working(self) -> None:
        """Tell the fabric that the held tasks are alive, so that it does not hand them out again."""
        for held in self._held.values():
            if not held.settled:
                self._context.fabric.publish(held.delivery.ack, b"+WPI")

    def cancel(self, task_id: str) -> None:
        for held in self._held.values():
            if held.task.id == task_id:
                held.cancelled = True
                self._stop(held)

    def put_back_all(self) -> None:
        """The agent stops now: what it still runs is cancelled and goes back to the queue."""
        for held in self._held.values():
            held.put_back = True
            self._stop(held)

    def _reconnected(self) -> None:
        self._connected_at, self._connected = self._context.clock.now(), self._context.clock.monotonic()

    def _stop(self, held: Held) -> None:
        if held.call is not None:
            held.call.cancel()

    async def _serve(self, held: Held) -> None:
        try:
            # Not noted as held before its code may run: what only waits goes back uncounted should this process die.
            await self._first_here(held)
            await self._first_on_node(held)
            start = self._judge(held)
            if start.alone:
                await self._nothing_beside(held)
            self.link.hold(held.task.id, held.delivery.ack)
            held.noted = True
            await self.link.told()
            try:
                await self._work(held, start)
            except Exception as error:  # our own bug; the task must not be lost with it
                self._context.log.error("handling a task failed", id=held.task.id, error=repr(error))
                self._put_back(held, UNSTORABLE_DELAY_S)
            # A cancelled one is not dropped: its node gives it back when this process has ended.
            held.settled = True
            self.link.drop(held.task.id)
            self.changed()
            if held.call is not None and held.call.work is not None and not held.call.work.done():
                await asyncio.wait((held.call.work,))  # its time is over but its code is not: it keeps the slot
        finally:
            del self._held[id(held)]
            same = self._same[held.task.id]
            same.remove(held)
            if not same:
                del self._same[held.task.id]
            if held in self._alone:
                self._alone.remove(held)
            self._busy -= 1
            self.changed()

    def _decode(self, delivery: Delivery) -> Task:
        """The task; one that cannot be read becomes a task without a method, which ends as failed."""
        try:
            return _read_task(delivery.data)
        except msgspec.DecodeError as error:
            self._context.log.warning("a task cannot be read", subject=delivery.subject, error=str(error))
            return Task(id=delivery.subject.rpartition(".")[2], fleet=self._context.fleet, method="")

    # A fabric that was killed may have forgotten the hand-outs of its last tenth of a second, and hands them out again
    # while they are being worked on; so does one whose ack time-out passed an agent that stood still. What may be such
    # a second hand-out waits in hand until the first is over.

    async def _first_here(self, held: Held) -> None:
        while not held.stopped and self._same[held.task.id][0] is not held:
            await self._context.clock.sleep(HERE_LOOK_S)

    async def _first_on_node(self, held: Held) -> None:
        told, look_s = False, LOOK_S_MIN
        while self._may_be_second(held) and not held.stopped:
            patience_s = self._connected + RETURN_S - self._context.clock.monotonic()
            holder = await self.link.holder(held.task.id, patience_s)
            held.deaths = holder.deaths
            if not holder.by:
                return
            if not told:
                self._context.log.warning("handed out twice: waiting for the first", id=held.task.id, by=holder.by)
            told = True
            await self._context.clock.sleep(look_s)
            look_s = min(look_s * 2, LOOK_S_MAX)

    async def _nothing_beside(self, held: Held) -> None:
        """The last chance: nothing dies with it that is not to blame, and it is not given up for what another did. Not
        waited for for ever: what is in hand may be waiting for this very task."""
        self._alone.append(held)
        until = self._context.clock.monotonic() + ALONE_S
        while not held.stopped and (self._alone[0] is not held or any(self._beside(held))):
            if self._context.clock.monotonic() >= until:
                self._context.log.warning("runs beside others: they do not end", id=held.task.id)
                return
            await self._context.clock.sleep(HERE_LOOK_S)

    def _beside(self, held: Held) -> Iterator[bool]:
        return (not other.settled and other not in self._alone for other in self._held.values())

    def _may_be_second(self, held: Held) -> bool:
        """Not when it is younger than the connection: then the fabric has not been away since it was queued."""
        return held.delivery.delivered > 1 or held.task.submitted_at < self._connected_at + SKEW_S

    def _judge(self, held: Held) -> Start:
        method = self._caller.methods.get(held.task.method)
        retries = method.mark.retries if method is not None else 0
        return before_run(held.task, delivered=held.delivery.delivered, deaths=held.deaths, retries=retries)

    async def _work(self, held: Held, start: Start) -> None:
        task = held.task
        if self._may_have_ended(held) and await self._ended(held) is not None:
            self._ack(held)
            return
        if not task.method:
            failure = TaskFailure(code="bad-task", message="the message on this task's subject is not a task")
            await self._store(held, self._result(held, TaskState.FAILED, 1, error=failure))
            return
        if start.give_up:
            failure = TaskFailure(code="gave-up", message=start.give_up)
            await self._store(held, self._result(held, TaskState.DEAD, start.attempts - 1, error=failure))
            return
        outcome = await self._run(held, start.attempts)
        if outcome.cancelled and not held.cancelled:
            self._put_back(held, 0.0)
        elif outcome.cancelled:
            failure = TaskFailure(code="cancelled", message="cancelled while it was running")
            await self._store(held, self._result(held, TaskState.CANCELLED, start.attempts, error=failure))
        elif outcome.error is None:
            await self._store(held, self._result(held, TaskState.DONE, start.attempts, value=outcome))
        else:
            await self._failed(held, start.attempts, outcome, outcome.error)

    def _may_have_ended(self, held: Held) -> bool:
        task = held.task
        return task.keyed or held.delivery.delivered > 1 or task.attempts_before > 0 or self._may_be_second(held)

    async def _run(self, held: Held, attempts: int) -> Outcome:
        held.call = Call(held.task.method, held.task.args, task_id=held.task.id, timeout_s=held.task.timeout_s)
        if held.cancelled or held.put_back:  # asked for while the fabric was looked into
            return Outcome(cancelled=True)
        note = self._loop.call_later(RUNNING_NOTE_S, self._note_running, held, attempts)
        try:
            return await self._caller.call(held.call)
        finally:
            note.cancel()

    def _note_running(self, held: Held, attempts: int) -> None:
        value = {"agent": self._context.id, "attempt": attempts, "started_at": held.started_at}
        subject = subjects.running(held.task.fleet, held.task.id)
        self._context.fabric.publish(subject, msgspec.json.encode(value))

    async def _failed(self, held: Held, attempts: int, outcome: Outcome, error: TaskFailure) -> None:
        state = TaskState.FAILED
        if outcome.retry:
            method = self._caller.methods[held.task.method]
            following = after_error(
                held.task,
                attempts=attempts,
                retries=method.mark.retries,
                backoff_s=method.mark.backoff_s,
                asked=outcome.asked,
                dice=self._context.clock.dice(),
            )
            if following.action == "again":
                self._context.log.warning(
                    "a task failed and is tried again", id=held.task.id, attempt=attempts, error=error.message
                )
                self._put_back(held, following.delay_s)
                return
            state = TaskState(following.action)
            if following.reason:
                error = msgspec.structs.replace(error, message=f"{error.message} ({following.reason})")
        await self._store(held, self._result(held, state, attempts, error=error))

    def _result(
        self,
        held: Held,
        state: TaskState,
        attempts: int,
        *,
        value: Outcome | None = None,
        error: TaskFailure | None = None,
    ) -> TaskResult:
        task, (started_at, finished_at) = held.task, held.times()
        return TaskResult(
            id=task.id,
            fleet=self._context.fleet,
            method=task.method,
            state=state,
            result=value.value if value is not None else None,
            error=error,
            attempts=attempts,
            agent=self._context.id,
            epoch=self._context.epoch,
            priority=task.priority,
            args=task.args,
            submitted_at=task.submitted_at,
            submitted_by=task.submitted_by,
            started_at=started_at,
            finished_at=finished_at,
            kept_s=task.kept_s,
            timeout_s=task.timeout_s,
            max_attempts=task.max_attempts,
            repeatable=task.repeatable,
            to_agent=task.agent,
        )

    async def _store(self, held: Held, result: TaskResult) -> None:
        """Store the outcome, then tell who waits, then acknowledge. Goes on for as long as the fabric is away: the
        task stays held, and should somebody else get and end it meanwhile, ours is dropped."""
        result, data = fit(result)
        unsure = False
        delay_s = STORE_RETRY_S_MIN
        while not held.put_back or not unsure:  # one try at least, also when the agent stops
            try:
                await self._context.fabric.store(subjects.result(result.fleet, result.id), data)
                self._finish(held, result, data)
                return
            except Conflict:
                stored = await self._ended(held) if unsure else None
                if stored is not None and stored.data == data:
                    self._finish(held, result, data)  # an earlier try had arrived after all
                else:
                    self._ack(held)
                return
            except Unavailable:
                unsure = True
                await self._context.clock.sleep(delay_s * (0.5 + self._context.clock.dice()))
                delay_s = min(delay_s * 2, STORE_RETRY_S_MAX)
            except PaddockError as error:
                self._context.log.error("a result was refused by the fabric", id=result.id, error=str(error))
                self._put_back(held, UNSTORABLE_DELAY_S)
                return
        self._put_back(held, 0.0)

    def _finish(self, held: Held, result: TaskResult, data: bytes) -> None:
        if result.state is TaskState.DONE:
            self.done += 1
        elif result.state is not TaskState.CANCELLED:
            self.failed += 1
        if notify := held.delivery.headers.get("Paddock-Notify"):
            self._context.fabric.publish(notify, data)
        self._ack(held)

    async def _ended(self, held: Held) -> Stored | None:
        """The stored result of this task, waiting for the fabric if it is away."""
        while True:
            try:
                subject = subjects.result(self._context.fleet, held.task.id)
                return await self._context.fabric.last(subjects.RESULTS, subject)
            except Unavailable:
                if held.put_back:
                    return None
                await self._context.clock.sleep(STORE_RETRY_S_MIN + self._context.clock.dice())

    def _ack(self, held: Held) -> None:
        self._context.fabric.publish(held.delivery.ack, b"+ACK")

    def _put_back(self, held: Held, delay_s: float) -> None:
        put_back(self._context, held.delivery, delay_s)


_read_task = msgspec.json.Decoder(Task).decode


def put_back(context: Context, delivery: Delivery, delay_s: float = 0.0) -> None:
    """Give a hand-out back to the queue, for now or for later."""
    delay = b' {"delay": %d}' % int(delay_s * 1e9) if delay_s > 0 else b""
    context.fabric.publish(delivery.ack, b"-NAK" + delay)


def fit(result: TaskResult) -> tuple[TaskResult, bytes]:
    """The result and its JSON within the limit: without its arguments if they are what is too much, else failed."""
    data = msgspec.json.encode(result)
    if len(data) <= PAYLOAD_BYTES_MAX:
        return result, data
    slim = msgspec.structs.replace(result, args={})
    data_slim = msgspec.json.encode(slim)
    if len(data_slim) <= PAYLOAD_BYTES_MAX:
        return slim, data_slim
    text = f"the result has {len(data_slim)} bytes; {PAYLOAD_BYTES_MAX} are allowed: store it elsewhere, return where"
    failure = TaskFailure(code="too-large", message=text)
    return fit(msgspec.structs.replace(result, state=TaskState.FAILED, result=None, error=failure))
