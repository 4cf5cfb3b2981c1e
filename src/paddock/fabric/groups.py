"""Who stores something waits until it is on disk, many of one connection together.

    stored ──nobody of us asks now──> asking ──answer──> on disk
       └── we ask already: waits for the next question, which begins when that one is answered

The question goes to the syncer (`syncer.py`), at `sync.<stream>`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from paddock.fabric.subjects import sync
from paddock.model.errors import NoResponders, PaddockError, TimedOut, Unavailable, Unsynced
from paddock.ports.fabric import Message

ASK_S_MAX = 2.0
"""How long one question waits; the syncer may be stopped, or its disk may be slow."""
GIVE_UP_S = 10.0
RETRY_S = 0.02
"""Between questions that nobody heard: a syncer that died is back in some 300 ms."""

ALL = b"all"
"""As the body of a question: everything of the stream, its config and its lanes, too; and that it is gone, if it is."""

CLOSED = "the connection to the fabric was closed"

Ask = Callable[..., Awaitable[Message]]


class Groups:
    """The questions of one connection, at most one a stream at a time."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        """By stream: who waits for the next question."""
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def on_disk(self, stream: str) -> None:
        """Return when all that `stream` acknowledged or showed by now is on disk. `Unavailable` when it cannot be put
        there or the connection is lost, `Unsynced` when nobody answers."""
        if self._closed:
            raise Unavailable(CLOSED)
        held: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(stream, []).append(held)
        if stream not in self._asking:
            self._asking[stream] = self._loop.create_task(self._go(stream), name=f"sync {stream}")
        await held

    async def _go(self, stream: str) -> None:
        """Ask for as long as somebody waits. What waits now is in one turn of the loop asked for together."""
        group: list[asyncio.Future[None]] = []
        try:
            while group := self._waiting.pop(stream, []):
                try:
                    await self.ask(stream)
                except PaddockError as error:
                    _answer(group, error)
                else:
                    _answer(group)
        finally:
            del self._asking[stream]
            _answer([*group, *self._waiting.pop(stream, [])], Unavailable(CLOSED))

    async def ask(self, stream: str, what: bytes = b"") -> None:
        """One question of its own; `what`: nothing, or ALL. Raises as `on_disk`."""
        give_up = self._loop.time() + GIVE_UP_S
        while True:
            try:
                answer = await self._ask(sync(stream), what, timeout_s=ASK_S_MAX)
                break
            except (NoResponders, TimedOut):
                if self._loop.time() >= give_up:
                    raise Unsynced(f"nobody says whether {stream} is on disk: the syncer does not answer") from None
            await asyncio.sleep(RETRY_S)
        if answer.data:
            raise Unavailable(f"{stream} cannot be put on disk: {answer.data.decode(errors='replace')}")

    def close(self) -> None:
        self._closed = True
        for task in self._asking.values():
            task.cancel()
        for group in self._waiting.values():
            _answer(group, Unavailable(CLOSED))  # a task that is cancelled before its first step answers nobody
        self._waiting.clear()


def _answer(group: Iterable[asyncio.Future[None]], error: PaddockError | None = None) -> None:
    for held in group:
        if not held.done():
            held.set_exception(error) if error else held.set_result(None)
