"""Core messages in memory: who listens to what, queue groups, replies. Knows no streams."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from paddock.ports.fabric import Message
from paddock.testing.faults import Faults
from paddock.testing.streams import later, matches


class Subscription:
    def __init__(self, at: Switchboard | None, subject: str, queue: str, handler: Callable[[Message], None]) -> None:
        self.subject, self.queue = subject, queue
        self._at, self._handler = at, handler
        self._open = at is not None
        self._context = contextvars.copy_context()

    def deliver(self, message: Message) -> None:
        """Hand it to the subscriber, in the context of who subscribed."""
        if self._open:
            asyncio.get_running_loop().call_soon(self._hand_over, message, context=self._context)

    def _hand_over(self, message: Message) -> None:
        if self._open:
            self._handler(message)

    def close(self, *, late: bool = False) -> None:
        if self._open and self._at is not None:
            self._open = False
            self._at.unsubscribe(self)


class Switchboard:
    """`acknowledge` gets what is published on ack subjects."""

    def __init__(self, faults: Faults, acknowledge: Callable[[Message], None]) -> None:
        self._faults, self._acknowledge = faults, acknowledge
        self._exact: dict[str, list[Subscription]] = {}
        self._wild: list[Subscription] = []
        self._replies: dict[str, asyncio.Future[Message]] = {}

    def subscribe(self, subject: str, queue: str, handler: Callable[[Message], None]) -> Subscription:
        subscription = Subscription(self, subject, queue, handler)
        if "*" in subscription.subject or subscription.subject.endswith(">"):
            self._wild.append(subscription)
        else:
            self._exact.setdefault(subscription.subject, []).append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        held = self._exact.get(subscription.subject, self._wild)
        if subscription in held:
            held.remove(subscription)
            if not held:
                self._exact.pop(subscription.subject, None)

    def send(self, message: Message) -> None:
        """A core message has come in, with what the faults make of it."""
        if message.subject.startswith("$JS.ACK."):
            for delay_s in self._faults.copies():
                later(delay_s, self._acknowledge, message)
        elif message.subject in self._replies:
            for delay_s in self._faults.copies():
                later(delay_s, self.answer, message)
        else:
            for receiver in self._receivers(message.subject):
                for delay_s in self._faults.copies():
                    later(delay_s, receiver.deliver, message)

    def listens(self, subject: str) -> bool:
        return subject.startswith("$JS.ACK.") or bool(self._receivers(subject))

    def expect_reply(self, subject: str) -> asyncio.Future[Message]:
        self._replies[subject] = future = asyncio.get_running_loop().create_future()
        return future

    def forget_reply(self, subject: str) -> None:
        self._replies.pop(subject, None)

    def fail_replies(self, error: Exception) -> None:
        """Everybody who waits for an answer hears `error`."""
        for future in self._replies.values():
            if not future.done():
                future.set_exception(error)

    def answer(self, message: Message) -> None:
        future = self._replies.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    def _receivers(self, subject: str) -> list[Subscription]:
        """Everybody who subscribed; of a queue group only one."""
        found = list(self._exact.get(subject, ()))
        found += [subscription for subscription in self._wild if matches(subscription.subject, subject)]
        groups: dict[str, list[Subscription]] = {}
        for subscription in found:
            if subscription.queue:
                groups.setdefault(subscription.queue, []).append(subscription)
        chosen = [subscription for subscription in found if not subscription.queue]
        return chosen + [self._faults.dice.choice(group) for group in groups.values()]
