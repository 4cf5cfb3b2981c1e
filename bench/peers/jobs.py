"""What the peers run. The files in this folder run in the peers' environments and know nothing of Paddock."""

from __future__ import annotations

import asyncio
import os
import time


def noop(payload: str) -> int:
    """What every queue is measured with: nothing."""
    return len(payload)


def began(path: str) -> None:
    """Say who runs it, and since when (unix seconds); the kernel keeps lines of several processes apart."""
    with open(path, "a") as held:
        held.write(f"{os.getpid()} {time.time()}\n")


def nap(path: str, seconds: float) -> str:
    began(path)
    time.sleep(seconds)
    return "rested"


async def async_nap(path: str, seconds: float) -> str:
    began(path)
    await asyncio.sleep(seconds)
    return "rested"
