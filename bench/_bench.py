"""What the benchmarks share: a Paddock of its own, percentiles, and rows that say what they compare."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from paddock.agent import connect
from paddock.agent.client import Client
from paddock.fabric.identity import Identities
from paddock.testing.installation import Installation

PAYLOAD = "x" * 100
HERE = Path(__file__).parent


def manifest(name: str, *, replicas: int, concurrency: int = 1) -> str:
    return json.dumps(
        {
            "paddock": 1,
            "fleets": {
                name: {
                    "agent": "_agents:Noop",
                    "pythonpath": [str(HERE)],
                    "replicas": replicas,
                    "concurrency": concurrency,
                    "restart": {"max": 100_000, "stable_s": 0},  # every kill is the first
                }
            },
        }
    )


@contextlib.contextmanager
def running(text: str, *, durability: str = "always") -> Iterator[Installation]:
    """A Paddock of real processes with this manifest, taken down at the end, also when this program is told to end:
    thousands of agents that nobody knows of would spoil what is measured next."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="paddock-bench-") as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(text)
        held = Installation(Path(folder) / "data")
        try:
            held.up(path, options=["--durability", durability])
            yield held
        finally:
            held.down()


@contextlib.asynccontextmanager
async def client(installation: Installation) -> AsyncIterator[Client]:
    """A program of the owner, connected to the fabric itself."""
    creds = installation.data / "bench.creds"
    minter = Identities.open(installation.data / "fabric/keys").minter("client")
    creds.write_text(minter.creds("bench", {"name": "bench"}))
    async with await connect(installation.running("fabric")["url"], str(creds)) as held:
        yield held


def percentiles(values_s: Sequence[float]) -> str:
    """`p50 1.2 ms, p99 3.4 ms (n=…)`."""
    ordered = sorted(values_s)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, max {ordered[-1] * 1e3:.2f} ms (n={len(ordered)})"


def row(measure: str, figure: str) -> None:
    print(f"{measure:<58} {figure}", flush=True)


async def timed_each(call: object, count: int) -> list[float]:
    """Seconds of `count` calls of an async function, one after the other."""
    taken = []
    for _ in range(count):
        before = time.perf_counter()
        await call()  # type: ignore[operator]  # any async function without arguments
        taken.append(time.perf_counter() - before)
    return taken


async def all_of(call: object, count: int, *, at_once: int) -> float:
    """Seconds that `count` calls take with `at_once` of them under way."""
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            await call()  # type: ignore[operator]  # any async function without arguments

    before = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    return time.perf_counter() - before
