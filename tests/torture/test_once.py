"""An accepted task is done, once: whatever is killed, however often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from . import judge
from .conftest import Size
from .rig import Rig, manifest
from .storm import Storm

AGENTS = 4


async def test_every_accepted_task_ends_once_whatever_is_killed(
    rigs: Callable[[str], Rig], size: Size, say: Callable[[str], None]
) -> None:
    rig = rigs(manifest(hand={"replicas": AGENTS, "concurrency": 8}))
    names = sorted(await asyncio.to_thread(rig.well, AGENTS))
    began = time.monotonic()
    storm = Storm(rig, names, tasks=size("tasks", 1_200, 100_000), rounds=size("rounds", 5, 100), say=say)
    say(f"\nseed {rig.seed}: {storm.tasks:,} tasks, {storm.rounds} rounds of kills")
    await storm.run()
    took_s = time.monotonic() - began
    await asyncio.to_thread(rig.revive)
    await asyncio.to_thread(rig.well, AGENTS)
    fabric = await rig.everything()
    try:
        told = await judge.judge(rig, storm, fabric)
    finally:
        await fabric.close()
    await asyncio.to_thread(judge.rebuild, rig, AGENTS)
    told |= {"rows of the record made anew": f"{storm.tasks:,}, all the same", "took": f"{took_s:.0f} s"}
    for what, figure in told.items():
        say(f"  {what:<40} {figure}")
