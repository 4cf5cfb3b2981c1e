"""Which streams take no more writes, asked of the server itself, and of the syncer: they alone know.

A stream that failed one write (the disk was full for a moment) refuses every later one until the server is started
anew, in silence: who stores there gets no answer. A write to another stream shows nothing of it. A stream of which the
syncer failed one sync fails all later ones, too, until then.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from paddock.fabric import subjects
from paddock.fabric.connection import Connection
from paddock.fabric.identity import Creds, Identities
from paddock.model.errors import PaddockError
from paddock.ports.fabric import Fabric

ASK_S_MAX = 3.0
_WRITE_ERROR = re.compile(r"stream '\S+ > (\S+)' write error: (.*)", re.DOTALL)


class _Health(msgspec.Struct):
    """The part of the answer that counts; see nats-server's HealthStatus."""

    error: str = ""
    errors: list[dict[str, Any]] = []


class _Answer(msgspec.Struct):
    data: _Health | None = None


class Watcher:
    """Asks one server, over a connection of its own. Made by `Watcher.open`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, url: str, identities: Identities, *, wait: bool = False) -> Watcher:
        """`wait`: keep trying instead of Unavailable."""
        creds = Creds.parse(identities.watcher())
        return cls(await Connection.open(url, creds=creds, inbox="_INBOX.watcher", name="watcher", wait=wait))

    async def broken(self) -> str:
        """Which streams take no writes, and why; empty when all do, or when the server cannot be asked."""
        try:
            reply = await self._connection.request(
                "$SYS.REQ.SERVER.PING.HEALTHZ", b'{"details":true}', timeout_s=ASK_S_MAX
            )
            answer = msgspec.json.decode(reply.data, type=_Answer)
        except (PaddockError, msgspec.MsgspecError):
            return ""
        return describe(answer.data) if answer.data is not None else ""

    async def close(self) -> None:
        await self._connection.close()


def describe(health: _Health) -> str:
    """Of all that may be wrong, the write errors, in words."""
    texts = [health.error, *(str(error.get("error", "")) for error in health.errors)]
    found = [match for text in texts if (match := _WRITE_ERROR.search(text))]
    return "; ".join(f"{match[1]} takes no writes: {match[2].rpartition(': ')[2]}" for match in found)


async def streams(watcher: Watcher, fabric: Fabric) -> str:
    """Which streams take no writes, or cannot be put on disk, and why; empty when none, or when nobody can be asked."""
    if found := await watcher.broken():
        return found
    try:
        return (await fabric.request(subjects.UNSYNCED, timeout_s=ASK_S_MAX)).data.decode(errors="replace")
    except PaddockError:
        return ""
