"""What the tests of the edge share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from paddock.testing.wait import soon

TOKEN = "the-token-of-the-tests"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


async def turn_until(look: Callable[[], object], limit_s: float = 20.0) -> None:
    """Give the loop its turns until `look()` is true."""
    await soon(look, what="what the test waits for", limit_s=limit_s, every_s=0.001)


@dataclass
class Running:
    port: int
    task: asyncio.Task[None]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        self.stopping.set()
        async with asyncio.timeout(30):
            await self.task
