"""The methods that run beside tasks: `@every` and `@on`, one owned asyncio task each."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from paddock.agent.base import Agent, EveryMark, OnMark, marks
from paddock.agent.base import Message as TopicMessage
from paddock.agent.call import describe_error
from paddock.agent.context import Context
from paddock.agent.owner import Owner
from paddock.agent.threads import Threads
from paddock.fabric import subjects
from paddock.ports.fabric import Message, Subscription

TOPIC_QUEUE_MAX = 1000
"""Messages that may wait for one `@on` method; beyond it the oldest are dropped, and the log says how many."""


class Background:
    """Runs from `start` until its owner is closed."""

    def __init__(self, agent: Agent, context: Context, threads: Threads, owner: Owner) -> None:
        self._agent, self._context, self._threads, self._owner = agent, context, threads, owner
        self._subscriptions: list[Subscription] = []

    def start(self) -> None:
        for name, (function, mark) in marks(type(self._agent), EveryMark).items():
            self._owner.start(f"every-{name}", self._every(name, function, mark))
        for name, (function, mark) in marks(type(self._agent), OnMark).items():
            inbox = _Inbox()
            self._subscriptions.append(self._context.fabric.subscribe(subjects.topic(mark.topic), inbox.put))
            self._owner.start(f"on-{name}", self._on(name, function, inbox))

    def stop(self) -> None:
        """Hear no more topics; the loops end with their owner."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()

    async def _every(self, name: str, function: Callable[..., Any], mark: EveryMark) -> None:
        while True:
            await self._context.clock.sleep(mark.seconds + mark.jitter * self._context.clock.dice())
            await self._call(f"@every {name}", function)

    async def _on(self, name: str, function: Callable[..., Any], inbox: _Inbox) -> None:
        while True:
            message = await inbox.get()
            if inbox.dropped:
                self._context.log.warning(f"@on {name}: too slow, messages dropped", dropped=inbox.dropped)
                inbox.dropped = 0
            try:
                value = msgspec.json.decode(message.data) if message.data else None
            except msgspec.DecodeError as error:
                self._context.log.warning(
                    f"@on {name}: a message is not JSON", subject=message.subject, error=str(error)
                )
                continue
            await self._call(f"@on {name}", function, TopicMessage(message.subject.removeprefix("topic."), value))

    async def _call(self, what: str, function: Callable[..., Any], *args: Any) -> None:
        try:
            if inspect.iscoroutinefunction(function):
                await function(self._agent, *args)
            else:
                await self._threads.run(lambda: function(self._agent, *args))
        except Exception as error:  # the author's code; logged, and the loop goes on
            failure = describe_error(error)
            self._context.log.error(f"{what} failed: {failure.message}", where=failure.where, trace=failure.trace)


class _Inbox:
    def __init__(self) -> None:
        self._messages: deque[Message] = deque(maxlen=TOPIC_QUEUE_MAX)
        self._filled = asyncio.Event()
        self.dropped = 0

    def put(self, message: Message) -> None:
        self.dropped += len(self._messages) == TOPIC_QUEUE_MAX
        self._messages.append(message)
        self._filled.set()

    async def get(self) -> Message:
        while not self._messages:
            self._filled.clear()
            await self._filled.wait()
        return self._messages.popleft()
