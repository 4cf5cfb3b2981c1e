"""Live changes as server-sent events.

opened ──> change, change, heartbeat, … ──> caller gone: nothing more to say
                                       ├──> server stops: `event: stopping`, then the end
                                       └──> reader too slow: `event: lost`, then the end; read the state anew
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paddock.api.waiting import end_all, gone
from paddock.control.service import Change

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
RETRY_MS = 1000

LOST = (
    b'event: lost\ndata: {"detail":"this stream missed changes: read the state anew, then go on with a new stream"}\n\n'
)
STOPPING = b'event: stopping\ndata: {"detail":"the server stops"}\n\n'


class EventStream(Response):
    """An ASGI answer that sends `changes` until one of the three ends above."""

    media_type = "text/event-stream"

    def __init__(
        self, changes: AsyncIterator[Change], *, stopping: asyncio.Event, heartbeat_s: float, missed: bool
    ) -> None:
        super().__init__()
        self._changes = changes
        self._stopping = stopping
        self._heartbeat_s = heartbeat_s
        self._missed = missed
        self._silent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        opened = asyncio.Event()
        pump = loop.create_task(self._pump(send, opened), name="api events: pump")
        heart = loop.create_task(self._heart(send, opened), name="api events: heartbeat")
        left = loop.create_task(gone(receive), name="api events: caller gone")
        stop = loop.create_task(self._stopping.wait(), name="api events: stopping")
        last = b""
        try:
            await asyncio.sleep(0)  # the pump listens now, so nothing that follows our first bytes is missed
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            # Nothing is kept to go on from where an earlier stream broke off: say so at once.
            await self._emit(send, b"retry: %d\n: open\n\n" % RETRY_MS + (LOST if self._missed else b""))
            opened.set()
            done, _ = await asyncio.wait([pump, heart, left, stop], return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                last = STOPPING
            elif pump in done and not left.done():
                last = LOST
        finally:
            await end_all(pump, heart, left, stop)
            aclose = getattr(self._changes, "aclose", None)  # iterators need not have it; generators must be closed
            if aclose is not None:
                await aclose()
        if left.done() and not left.cancelled():
            return
        for task in (pump, heart):
            if not task.cancelled():
                task.result()
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _pump(self, send: Send, opened: asyncio.Event) -> None:
        encode = msgspec.json.Encoder().encode
        async for change in self._changes:
            await opened.wait()
            await self._emit(send, b"id: %d\nevent: %s\ndata: %s\n\n" % (change.id, _name(change), encode(change.data)))

    async def _heart(self, send: Send, opened: asyncio.Event) -> None:
        """A comment after every silence, so that proxies and callers know that the line is up."""
        await opened.wait()
        while True:
            self._silent = True
            await asyncio.sleep(self._heartbeat_s)
            if self._silent:
                await self._emit(send, b": alive\n\n")

    async def _emit(self, send: Send, data: bytes) -> None:
        self._silent = False
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _name(change: Change) -> bytes:
    """The kind, kept to one line whatever it holds."""
    return change.kind.replace("\n", " ").replace("\r", " ").encode()
