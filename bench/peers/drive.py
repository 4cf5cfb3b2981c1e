"""A program that uses a peer: `python drive.py on_celery rate '{"seconds": 12, "most": 20000}'`; prints JSON.

rate   submit a number of no-op tasks, then read every result; {"per_s", "count"}
idle   submit one, read its result, the next; {"taken_s": […]}
nap    submit one that takes its time, and say which end it came to and when (unix seconds); {"outcome", "at"}
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
import time
from typing import Any

PAYLOAD = "x" * 100
RESULT_S = 60.0
"""How long a result of a no-op may take."""


class Peer:
    """The functions of a peer's module, whether they are async or not."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.lanes: int = module.LANES

    async def submit(self, name: str, *args: Any) -> Any:
        handle = self._module.submit(name, *args)
        return await handle if inspect.isawaitable(handle) else handle

    async def result(self, handle: Any, limit_s: float = RESULT_S) -> Any:
        """Wait again after a time-out: some clients have one of their own that is shorter."""
        give_up = time.monotonic() + limit_s
        while True:
            try:
                value = self._module.result(handle, max(1.0, give_up - time.monotonic()))
                return await value if inspect.isawaitable(value) else value
            except Exception as error:  # each peer has its own kind of time-out
                if "Timeout" not in type(error).__name__ or time.monotonic() > give_up:
                    raise


async def rate(peer: Peer, seconds: float, most: int) -> dict[str, Any]:
    count, took_s = 50, await batch(peer, 50)
    while took_s < 1.0 and count < most:
        count = min(most, count * 4)
        took_s = await batch(peer, count)
    count = int(min(most, max(50, seconds * count / took_s)))
    return {"per_s": count / await batch(peer, count), "count": count}


async def batch(peer: Peer, count: int) -> float:
    """Seconds from the first submit to the last result; each result is looked at."""
    before = time.perf_counter()
    handles: list[Any] = []

    async def submit(_: int) -> None:
        handles.append(await peer.submit("noop", PAYLOAD))

    async def read(handle: Any) -> None:
        value = await peer.result(handle)
        if value != len(PAYLOAD):
            raise RuntimeError(f"a result is {value!r}")

    await lanes(submit, list(range(count)), peer.lanes)
    await lanes(read, handles, peer.lanes)
    return time.perf_counter() - before


async def lanes(call: Any, values: list[Any], width: int) -> None:
    left = iter(values)

    async def lane() -> None:
        for value in left:
            await call(value)

    await asyncio.gather(*(lane() for _ in range(width)))


async def idle(peer: Peer, seconds: float, most: int) -> dict[str, Any]:
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < most and time.perf_counter() - begin < seconds:
        before = time.perf_counter()
        value = await peer.result(await peer.submit("noop", PAYLOAD))
        taken.append(time.perf_counter() - before)
        if value != len(PAYLOAD):
            raise RuntimeError(f"a result is {value!r}")
    return {"taken_s": taken}


async def nap(peer: Peer, path: str, seconds: float, limit_s: float) -> dict[str, Any]:
    try:
        outcome = str(await peer.result(await peer.submit("nap", path, seconds), limit_s))
    except Exception as error:  # what a user of the peer would see, whatever it is
        outcome = f"{type(error).__name__}: {error}"
    return {"outcome": outcome, "at": time.time()}


async def main(module: str, what: str, options: str) -> None:
    peer = Peer(importlib.import_module(module))
    if what != "nap":
        for _ in range(5):
            await peer.result(await peer.submit("noop", PAYLOAD))
    print(json.dumps(await {"rate": rate, "idle": idle, "nap": nap}[what](peer, **json.loads(options))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
