"""Who tails a stream is woken after a store: at once if the last wake was a while ago, else a little later, once."""

from __future__ import annotations

import asyncio

from paddock.fabric.connection import Connection
from paddock.fabric.subjects import wake

WAKE_EVERY_S = 0.003
"""Wakes of one stream by one connection are at least this far apart."""


class Wakes:
    """Those of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._woken: dict[str, float] = {}
        """By stream; when, by the loop's clock."""
        self._due: set[str] = set()

    def stored(self, stream: str) -> None:
        last = self._woken.get(stream, 0.0)
        if self._loop.time() - last >= WAKE_EVERY_S:
            self._wake(stream)
        elif stream not in self._due:
            self._due.add(stream)
            self._loop.call_at(last + WAKE_EVERY_S, self._wake, stream)

    def close(self) -> None:
        """What is due is said now."""
        for stream in list(self._due):
            self._wake(stream)

    def _wake(self, stream: str) -> None:
        self._due.discard(stream)
        self._woken[stream] = self._loop.time()
        self._connection.publish(wake(stream))
