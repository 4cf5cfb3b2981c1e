"""What the benchmarks share: a Paddock of its own, percentiles, and rows that say what they compare."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from paddock.agent import connect
from paddock.agent.client import Client
from paddock.fabric.identity import Identities
from paddock.testing.installation import Installation

PAYLOAD = "x" * 100
HERE = Path(__file__).parent
ROWS = "PADDOCK_BENCH_ROWS"
"""Names the file that collects rows for the table of `./dev bench`; each line is one row in JSON."""


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


def p50_p99(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def percentiles(values_s: Sequence[float]) -> str:
    """`p50 1.20, p99 3.40 ms (n=…)`."""
    p50, p99 = p50_p99(values_s)
    return f"p50 {milliseconds(p50)}, p99 {milliseconds(p99)} ms (n={len(values_s)})"


def milliseconds(value_s: float) -> str:
    """With two decimals where they mean something."""
    return f"{value_s * 1e3:,.2f}" if value_s < 0.1 else f"{value_s * 1e3:,.0f}"


def row(
    measure: str,
    figure: str,
    *,
    who: str = "paddock",
    value: float | None = None,
    target: str = "",
    met: bool | None = None,
    said: bool = False,
) -> None:
    """Print one figure (unless it is `said` already), and keep it for the table.

    `value` is what the table divides by that of the best peer: a rate (a measure with `/s` in its name: more is
    better) or a time. `target` and `met` are for our own rows.
    """
    verdict = "" if met is None else "  met" if met else "  MISSED"
    if not said:
        print(f"{measure:<56} {who:<22} {figure}{f'  [{target}{verdict}]' if target else ''}", flush=True)
    if path := os.environ.get(ROWS):
        held = {"measure": measure, "figure": figure, "who": who, "value": value, "target": target, "met": met}
        with Path(path).open("a") as rows:
            rows.write(json.dumps(held) + "\n")


def times(
    measure: str, taken_s: Sequence[float], *, who: str = "paddock", p50_ms: float = 0.0, p99_ms: float = 0.0
) -> None:
    """A row of a median and a 99th percentile, with the target for each (0: none)."""
    p50, p99 = p50_p99(taken_s)
    wanted = [(name, held * 1e3, most) for name, held, most in (("p50", p50, p50_ms), ("p99", p99, p99_ms)) if most]
    row(
        measure,
        percentiles(taken_s),
        who=who,
        value=p50,
        target=", ".join(f"{name} ≤ {most:g} ms" for name, _, most in wanted),
        met=all(held <= most for _, held, most in wanted) if wanted else None,
    )


def note(text: str) -> None:
    """A line under the table: how something was run."""
    print(f"  ({text})", flush=True)
    if path := os.environ.get(ROWS):
        with Path(path).open("a") as rows:
            rows.write(json.dumps({"note": text}) + "\n")


INTERRUPTED = threading.Event()
"""What waits in a thread looks at it: only the main thread is unwound."""


def run(main: Callable[[], object]) -> NoReturn:
    """The main of a file. SIGTERM and Ctrl-C unwind it, once: a second one must not disturb the taking down of what
    was started."""

    def unwind(*_: object) -> None:
        if not INTERRUPTED.is_set():
            INTERRUPTED.set()
            raise KeyboardInterrupt

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, unwind)
    try:
        sys.exit(main())  # type: ignore[arg-type]  # None or a number
    except KeyboardInterrupt:
        sys.exit(130)


async def timed_each(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Seconds of `count` calls of an async function, one after the other."""
    taken = []
    for _ in range(count):
        before = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - before)
    return taken


async def all_of(call: Callable[[], Awaitable[object]], count: int, *, at_once: int) -> float:
    """Seconds that `count` calls take with `at_once` of them under way."""
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            await call()

    before = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    return time.perf_counter() - before
