"""Live changes for those who watch (SSE). Bounded: a reader that falls behind is ended and must read state anew."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import Any

from paddock.control.service import Change

BEHIND_MAX = 1000


class Reader:
    """What one watcher has not read yet. Ends when it fell `BEHIND_MAX` behind, and when the server stops."""

    def __init__(self) -> None:
        self._waiting: deque[Change] = deque()
        self._event = asyncio.Event()
        self._ended = False

    def put(self, change: Change) -> bool:
        """False when the reader is too far behind: it is ended."""
        if len(self._waiting) >= BEHIND_MAX:
            self._waiting.clear()
            self.end()
            return False
        self._waiting.append(change)
        self._event.set()
        return True

    def end(self) -> None:
        self._ended = True
        self._event.set()

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Change:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._event.clear()
            await self._event.wait()
        return self._waiting.popleft()

    async def aclose(self) -> None:
        self._waiting.clear()
        self.end()


class Changes:
    """Fan-out to all readers. A reader that nobody holds any more is forgotten by itself."""

    def __init__(self) -> None:
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._ended = False
        self._id = 0

    @property
    def watched(self) -> bool:
        """Whether anybody reads; if not, the work of making changes can be saved."""
        return bool(self._readers)

    def publish(self, kind: str, data: Any) -> None:
        self._id += 1
        if not self._readers:
            return
        change = Change(id=self._id, kind=kind, data=data)
        for reader in list(self._readers):
            if reader._ended or not reader.put(change):
                self._readers.discard(reader)

    def listen(self) -> Reader:
        """A reader of everything from now on."""
        reader = Reader()
        if self._ended:
            reader.end()
        else:
            self._readers.add(reader)
        return reader

    def end(self) -> None:
        """End all readers, and those to come."""
        self._ended = True
        for reader in list(self._readers):
            reader.end()
