"""The requests of a connection that wait for their one answer. One timer serves all their time-outs: nearly every
answer comes long before, and a timer each would cost more than the rest of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from paddock.model.errors import NoResponders, TimedOut
from paddock.ports.fabric import Message

SWEEP_S = 0.05
"""A request may time out later than asked for by so much."""


class Request:
    """Waits for one answer."""

    __slots__ = ("answer", "give_up_at", "subject")

    def __init__(self, answer: asyncio.Future[Message], subject: str, give_up_at: float) -> None:
        self.answer, self.subject, self.give_up_at = answer, subject, give_up_at

    def take(self, subject: str, reply: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
        if self.answer.done():
            return
        if status.startswith("503"):
            self.answer.set_exception(NoResponders(f"nobody answers on {self.subject}"))
        else:
            headers = {**headers, "Status": status} if status else headers
            self.answer.set_result(Message(subject, data, reply, headers))


class Requests:
    """By the last token of the reply subject. Who adds one ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._requests: dict[str, Request] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._requests.values()))

    def add(self, token: str, subject: str, timeout_s: float) -> Request:
        request = self._requests[token] = Request(self._loop.create_future(), subject, self._loop.time() + timeout_s)
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        return request

    def get(self, token: str) -> Request | None:
        return self._requests.get(token)

    def end(self, token: str) -> None:
        del self._requests[token]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        for request in self:
            if request.give_up_at <= now and not request.answer.done():
                request.answer.set_exception(TimedOut())
        self._timer = self._loop.call_later(SWEEP_S, self._sweep) if self._requests else None
