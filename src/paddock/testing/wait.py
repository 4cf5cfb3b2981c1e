"""Wait for a state, with a limit: what tests do instead of sleeping."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

Value = TypeVar("Value")


def until(look: Callable[[], Value], *, what: str, limit_s: float = 30.0, every_s: float = 0.02) -> Value:
    """The first truthy value of `look()`; AssertionError naming `what`, with what was last seen, after `limit_s`."""
    pause = threading.Event()
    give_up = time.monotonic() + limit_s
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {limit_s:g} s: {what}; last seen: {seen!r}")
        pause.wait(every_s)


@overload
async def soon(
    look: Callable[[], Awaitable[Value]], *, what: str, limit_s: float = 30.0, every_s: float = 0.01
) -> Value: ...
@overload
async def soon(look: Callable[[], Value], *, what: str, limit_s: float = 30.0, every_s: float = 0.01) -> Value: ...
async def soon(look: Callable[[], Any], *, what: str, limit_s: float = 30.0, every_s: float = 0.01) -> Any:
    """`until`, without holding up the loop; for something that must be awaited to be seen, too."""
    give_up = time.monotonic() + limit_s
    while True:
        found = look()
        seen = await found if isinstance(found, Awaitable) else found
        if seen:
            return seen
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {limit_s:g} s: {what}; last seen: {seen!r}")
        await asyncio.sleep(every_s)
