"""Following a bucket that may be lost: a tail that knows which stream it reads.

    following ──its stream is another one of the same name──> ended

A broker that lost its store makes its streams anew, and their sequences begin again; who only went on from where it
was would hear nothing for long, and take an empty bucket for one in which nothing is wanted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from paddock.model.errors import PaddockError
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric, Stored

IDENTITY_S = 5.0
"""How often a tail that has caught up looks whether its stream is still the same one."""


class Followed:
    """One stream as read by one reader. `batches` may be called again after an error, and goes on from there."""

    def __init__(self, fabric: Fabric, clock: Clock, stream: str, *, subject: str = ">") -> None:
        self._fabric, self._clock, self._stream, self._subject = fabric, clock, stream, subject
        self._after = 0
        self._created = ""
        """Of the stream that is read; empty while not known."""

    async def batches(self) -> AsyncIterator[Sequence[Stored]]:
        """As `Fabric.tail`, from the beginning; ends when the stream is found to be a new one. Raises as `tail`."""
        if await self._is_another():
            return
        looked_at = self._clock.monotonic()
        tail = self._fabric.tail(self._stream, subject=self._subject, after_seq=self._after)
        try:
            async for batch in tail:
                yield batch
                if batch:
                    self._after = batch[-1].seq
                elif self._clock.monotonic() - looked_at >= IDENTITY_S:
                    looked_at = self._clock.monotonic()
                    if await self._is_another():
                        return
        finally:
            if isinstance(tail, AsyncGenerator):
                await tail.aclose()

    async def _is_another(self) -> bool:
        try:
            created = (await self._fabric.depth(self._stream)).created
        except PaddockError:
            return False  # not to be known now (or by us); a tail of what is not there says so itself
        known, self._created = self._created, self._created or created
        return bool(known) and created != known
