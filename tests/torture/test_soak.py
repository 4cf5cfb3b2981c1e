"""Long running: steady load while agents die, and nothing grows.

What is judged in the short form is only what does not depend on how fast a machine is or how warm its caches are:
descriptors, connections, subscriptions, consumers, threads, files. Memory is judged in the long form alone, by its
slope after a warm-up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psutil

from paddock.agent.calls import TaskOptions
from paddock.agent.client import Client
from paddock.model.errors import PaddockError

from .conftest import Size, is_long
from .rig import ROLES, Rig, manifest
from .test_broker import same_again, settled

AGENTS = 4
LANES, PAUSE_S = 4, 0.05
"""Some 60 tasks a second."""
WARM = 0.25
"""Share of the time after which memory is judged."""
MEMORY_MB_AN_HOUR_MAX = 8.0
BROKER_BYTES_A_TASK_MAX = 4_000
"""The broker keeps an index entry in memory for each result that is kept."""
DESCRIPTORS_MORE_MAX, THREADS_MORE_MAX, FILES_MORE_MAX = 10, 40, 20
"""Thread pools fill up to their limit (32 by Python, 40 by the web server), logs and journals are set aside."""


class Sample(msgspec.Struct, frozen=True):
    """Of one process (or of all fork servers together) at one moment."""

    at_s: float
    private_mb: float
    descriptors: int
    threads: int


Samples = dict[str, list[Sample]]


async def test_nothing_grows_while_agents_die_under_steady_load(
    rigs: Callable[[str], Rig], size: Size, say: Callable[[str], None]
) -> None:
    rig = rigs(manifest(hand={"replicas": AGENTS, "concurrency": 2}))
    seconds, every_s = size("soak_s", 12, 3600), 5.0 if is_long() else 0.5
    await asyncio.to_thread(rig.well, AGENTS)
    client, eye = await rig.client(), await rig.everything()
    try:
        await _work_for(client, rig, 2.0, every_s)  # each thing was done once
        before, files = await settled(eye, AGENTS), _files(rig)
        samples, began = _sampled(rig, {}, 0.0), time.monotonic()
        while (at_s := time.monotonic() - began) < seconds:
            await _work_for(client, rig, min(max(seconds / 60, 4.0), seconds - at_s), every_s)
            if is_long() or time.monotonic() - began >= seconds:
                await asyncio.to_thread(rig.well, AGENTS)
                await settled(eye, AGENTS)
            _sampled(rig, samples, time.monotonic() - began)
        after = await same_again(eye, before)
        tasks = rig.count("effects")
        say(f"\nsoak: {time.monotonic() - began:.0f} s, {tasks:,} tasks, {rig.kills['agent']} agents killed")
        for line in table(samples, seconds):
            say(f"  {line}")
        say(f"  files of the data directory without the broker's store: {files} → {_files(rig)}; {_bytes(rig):,} bytes")
        for what in ("connections", "subscriptions", "consumers", "waiting"):
            first, last = getattr(before, what), getattr(after, what)
            say(f"  {what:<14} {sum(first.values())} → {sum(last.values())}")
        assert _files(rig) <= files + FILES_MORE_MAX
        judged(samples, seconds, tasks)
    finally:
        await client.close()
        await eye.close()


async def _work_for(client: Client, rig: Rig, seconds: float, every_s: float) -> None:
    """Load for so long, an agent killed now and then; returns when all that was begun has ended."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for lane in range(LANES):
            group.create_task(_lane(client, rig, lane, over), name=f"lane {lane}")
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            await asyncio.sleep(min(every_s, left_s))
            rig.kill("agent", among=await asyncio.to_thread(rig.agent_processes))
        over.set()


async def _lane(client: Client, rig: Rig, lane: int, over: asyncio.Event) -> None:
    while not over.is_set():
        args = {"line": f"soak-{lane}", "effects": rig.path("effects"), "ms": 10}
        try:
            await client.run("hand", "work", args, options=TaskOptions(wait_s=30.0, kept_s=60.0))
        except PaddockError as error:
            print(f"not done: {error}")
        await asyncio.sleep(PAUSE_S)


def _sampled(rig: Rig, samples: Samples, at_s: float) -> Samples:
    who = {role: [rig.pid(role)] for role in ("keeper", *ROLES)} | {"fork servers": rig.fork_servers()}
    for name, pids in who.items():
        each = [_look(psutil.Process(pid)) for pid in pids]
        sums: list[Any] = [sum(values) for values in zip(*each, strict=True)]
        samples.setdefault(name, []).append(Sample(at_s, *sums))
    return samples


def _look(process: psutil.Process) -> tuple[float, int, int]:
    return process.memory_full_info().uss / 1e6, process.num_fds(), process.num_threads()


def _files(rig: Rig) -> int:
    store = rig.held.data / "fabric" / "store"
    return sum(path.is_file() and store not in path.parents for path in rig.held.data.rglob("*"))


def _bytes(rig: Rig) -> int:
    return sum(path.stat().st_size for path in rig.held.data.rglob("*") if path.is_file())


def slope_an_hour(samples: Sequence[Sample]) -> float:
    """Megabytes an hour, by least squares."""
    if len(samples) < 3:
        return 0.0
    mean_s = sum(sample.at_s for sample in samples) / len(samples)
    mean_mb = sum(sample.private_mb for sample in samples) / len(samples)
    above = sum((sample.at_s - mean_s) * (sample.private_mb - mean_mb) for sample in samples)
    return 3600.0 * above / sum((sample.at_s - mean_s) ** 2 for sample in samples)


def warm(samples: Sequence[Sample], seconds: float) -> list[Sample]:
    return [sample for sample in samples if sample.at_s >= WARM * seconds]


def table(samples: Samples, seconds: float) -> list[str]:
    lines = [f"{'':<13} {'private MB, start, middle, end':>31} {'per hour':>9} {'descriptors':>16} {'threads':>13}"]
    for name, rows in samples.items():
        shown = rows[0], rows[len(rows) // 2], rows[-1]
        memory = " ".join(f"{row.private_mb:8.1f}" for row in shown)
        fds = " ".join(f"{row.descriptors:4}" for row in shown)
        threads = " ".join(f"{row.threads:3}" for row in shown)
        lines.append(f"{name:<13} {memory:>31} {slope_an_hour(warm(rows, seconds)):>+9.1f} {fds:>16} {threads:>13}")
    return lines


def judged(samples: Samples, seconds: float, tasks: int) -> None:
    for name, rows in samples.items():
        first, last = rows[0], rows[-1]
        assert last.descriptors <= first.descriptors + DESCRIPTORS_MORE_MAX, name
        assert last.threads <= first.threads + THREADS_MORE_MAX, name
        if is_long() and name == "fabric":
            assert (last.private_mb - first.private_mb) * 1e6 <= 64e6 + tasks * BROKER_BYTES_A_TASK_MAX, name
        elif is_long() and seconds >= 600:
            assert slope_an_hour(warm(rows, seconds)) <= MEMORY_MB_AN_HOUR_MAX, name
