"""What a program or an agent asks of others: durable tasks, with or without waiting, and direct questions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from paddock.agent.clock import HostClock
from paddock.agent.values import BadValue, encoded
from paddock.fabric import subjects
from paddock.model.errors import (
    Conflict,
    Denied,
    NoResponders,
    NotFound,
    Refused,
    TaskError,
    TimedOut,
    TooLarge,
    Unavailable,
)
from paddock.model.names import METHOD, check_name, check_task_id, split_agent
from paddock.model.task import PAYLOAD_BYTES_MAX, Priority, Task, TaskFailure, TaskResult, TaskState
from paddock.ports.fabric import Fabric, Message

LOOK_S = 5.0
"""While a result is awaited, it is also looked for this often: a notice can be lost, a stored result cannot."""


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a task is to be handled; every field has the meaning it has in a Task."""

    priority: Priority = Priority.MEDIUM
    timeout_s: float = 0.0
    delay_s: float = 0.0
    max_attempts: int = 0
    kept_s: float = 604_800.0
    repeatable: bool = True
    id: str = ""
    """Your own id for the task: the same id is the same task, and runs once."""
    wait_s: float = 0.0
    """For `run`: give up waiting after this; 0: wait for ever. The task goes on."""


class Calls:
    """Submits, awaits and asks over one connection; `who` is noted as the submitter."""

    def __init__(self, fabric: Fabric, *, inbox: str, who: str, clock: HostClock | None = None) -> None:
        self._fabric, self._who = fabric, who
        self._clock = clock or HostClock()
        self._inbox = f"{inbox}.run.{os.urandom(6).hex()}"
        self._waiting: dict[str, set[asyncio.Future[TaskResult | None]]] = {}
        """Task id → who waits for its result; None wakes them to look for it."""
        self._listening = False

    async def submit(
        self, to: str, method: str, args: Mapping[str, Any] | None = None, options: TaskOptions | None = None
    ) -> str:
        """Store a task for a fleet or an agent; returns its id once it is on disk. `Conflict`: this id is queued."""
        task = self._task(to, method, args or {}, options or TaskOptions())
        await self._store(task, {})
        return task.id

    async def run(
        self, to: str, method: str, args: Mapping[str, Any] | None = None, options: TaskOptions | None = None
    ) -> Any:
        """Submit and await the result; a task that ends otherwise raises TaskError with its code and message."""
        options = options or TaskOptions()
        task = self._task(to, method, args or {}, options)
        if not options.wait_s:
            return value_of(await self._run(task))
        try:
            async with asyncio.timeout(options.wait_s) as limit:
                return value_of(await self._run(task))
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimedOut(f"task {task.id} of {to} had no result after {options.wait_s} s; it goes on") from None

    async def task_result(self, task_id: str, fleet: str = "") -> TaskResult | None:
        """The stored outcome of a task, or None while it has none. Without the fleet the results are searched, which
        only the server's identity may do."""
        check_task_id(task_id)
        if fleet:
            stored = await self._fabric.last(subjects.RESULTS, subjects.result(check_name("fleet", fleet), task_id))
            return msgspec.json.decode(stored.data, type=TaskResult) if stored is not None else None
        found = await self._fabric.read(subjects.RESULTS, subject=f"result.*.{task_id}", limit=1)
        return msgspec.json.decode(found[0].data, type=TaskResult) if found else None

    async def ask(self, to: str, method: str, args: Mapping[str, Any], *, timeout_s: float = 30.0) -> Any:
        """A direct question; TaskError with the other's code when it refuses, NoResponders when nobody is there."""
        fleet, name = _address(to)
        data = _encode({"method": _method(method), "args": args}, f"the question {method!r} to {to}")
        try:
            reply = await self._fabric.request(subjects.ask(fleet, name), data, timeout_s=timeout_s)
        except NoResponders:
            raise NoResponders(f"no agent answers for {to}: it does not run, or not yet") from None
        except TimedOut:
            raise TimedOut(f"{to} did not answer {method!r} within {timeout_s} s") from None
        answer = msgspec.json.decode(reply.data)
        if "error" in answer:
            raise TaskError(answer["error"]["message"], code=answer["error"]["code"])
        return answer["ok"]

    def _task(self, to: str, method: str, args: Mapping[str, Any], options: TaskOptions) -> Task:
        fleet, name = _address(to)
        now = self._clock.now()
        return Task(
            id=check_task_id(options.id) if options.id else os.urandom(16).hex(),
            fleet=fleet,
            method=_method(method),
            args=dict(args),
            agent=name,
            priority=int(Priority(options.priority)),
            submitted_at=now,
            submitted_by=self._who,
            not_before=now + options.delay_s if options.delay_s > 0 else 0.0,
            timeout_s=options.timeout_s,
            max_attempts=options.max_attempts,
            kept_s=options.kept_s,
            keyed=bool(options.id),
            repeatable=options.repeatable,
        )

    async def _store(self, task: Task, headers: Mapping[str, str]) -> None:
        what = f"the task {task.method!r} for {task.fleet}"
        data = _encode(task, what)
        subject = subjects.later(task.fleet, task.id) if task.not_before else subjects.work(task)
        try:
            await self._fabric.store(subject, data, headers=headers or None)
        except NoResponders:
            raise NotFound(f"there is no fleet {task.fleet!r}") from None

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._fabric.subscribe(f"{self._inbox}.*", self._notified)
            self._fabric.on_reconnect(self._look_now)

    def _notified(self, message: Message) -> None:
        for future in self._waiting.get(message.subject.rpartition(".")[2], ()):
            if not future.done():
                try:
                    future.set_result(_read_result(message.data))
                except msgspec.DecodeError as error:
                    future.set_exception(Unavailable(f"a result came that cannot be read: {error}"))

    def _look_now(self) -> None:
        for futures in self._waiting.values():
            for future in futures:
                _look(future)

    async def _run(self, task: Task) -> TaskResult:
        """Submit, and wait for what the notice brings or a look finds; a keyed task may have ended before it was asked
        for. Who waits is on the list from before the store until it looks, so no notice falls between."""
        loop = asyncio.get_running_loop()
        subject = subjects.result(task.fleet, task.id)
        self._listen()
        futures = self._waiting.setdefault(task.id, set())
        future: asyncio.Future[TaskResult | None] = loop.create_future()
        futures.add(future)
        try:
            try:
                await self._store(task, {"Paddock-Notify": f"{self._inbox}.{task.id}"})
            except Conflict:
                if not task.keyed:
                    raise  # else it is queued already: the same task, whose result is looked for
            look = task.keyed
            while True:
                if look and (found := await self._find(subject)) is not None:
                    return found
                timer = loop.call_later(LOOK_S * (0.8 + 0.4 * self._clock.dice()), _look, future)
                try:
                    if (brought := await future) is not None:
                        return brought
                finally:
                    timer.cancel()
                futures.discard(future)
                future = loop.create_future()
                futures.add(future)
                look = True
        finally:
            futures.discard(future)
            if not futures:
                self._waiting.pop(task.id, None)

    async def _find(self, subject: str) -> TaskResult | None:
        try:
            stored = await self._fabric.last(subjects.RESULTS, subject)
        except (Denied, Unavailable):
            return None  # not now, or not for this identity; the notice still comes, or the next look finds it
        return msgspec.json.decode(stored.data, type=TaskResult) if stored is not None else None


def _look(future: asyncio.Future[TaskResult | None]) -> None:
    """Wake who waits, to look whether the result is there."""
    if not future.done():
        future.set_result(None)


_read_result = msgspec.json.Decoder(TaskResult).decode


def value_of(result: TaskResult) -> Any:
    """The value of a task that is done; TaskError with the code and message of one that ended otherwise."""
    if result.state is TaskState.DONE:
        return result.result
    failure = result.error or TaskFailure(code=str(result.state), message=f"task {result.id} is {result.state}")
    raise TaskError(failure.message, code=failure.code)


def _address(to: str) -> tuple[str, str]:
    if not isinstance(to, str):
        raise Refused(f"{to!r} is no fleet and no agent: give a name such as 'critic' or 'critic/0'")
    return split_agent(to) if "/" in to else (check_name("fleet", to), "")


def _method(method: str) -> str:
    if not METHOD.fullmatch(method):
        raise Refused(f"{method!r} is not the name of a method")
    return method


def _encode(value: Any, what: str) -> bytes:
    try:
        data = encoded(value)
    except BadValue as error:
        raise Refused(f"{what}: {error}") from error
    if len(data) > PAYLOAD_BYTES_MAX:
        raise TooLarge(f"{what} has {len(data)} bytes; {PAYLOAD_BYTES_MAX} are allowed")
    return data
