"""Tasks that kill their agents are found out before they take the fleet down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from paddock.agent import TaskError
from paddock.agent.calls import TaskOptions
from paddock.agent.client import Client

from . import judge
from .rig import Rig, manifest

USUAL = {"restart": {"max": 5, "window_s": 60}}
"""A sixth death within a minute is a crash loop: then an agent rests for ten minutes."""
POISONS, OTHERS = 12, 150
LIMIT_S = 120.0


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_poison_ends_in_the_dead_letters_while_others_are_served(
    rigs: Callable[[str], Rig], concurrency: int
) -> None:
    rig = rigs(manifest(hand={"replicas": 2, "concurrency": concurrency, **USUAL}))
    await asyncio.to_thread(rig.well, 2)
    client = await rig.client()
    try:
        poisons = [asyncio.ensure_future(_poisoned(client, rig, number)) for number in range(POISONS)]
        others = [asyncio.ensure_future(_served(client, rig, number)) for number in range(OTHERS)]
        for reason in await asyncio.wait_for(asyncio.gather(*poisons), LIMIT_S):
            assert "died" in reason
        assert len(await asyncio.wait_for(asyncio.gather(*others), LIMIT_S)) == OTHERS
        await asyncio.to_thread(rig.well, 2)  # ready, both: none is quarantined
        ran = judge.effects(rig)
        times = {len(ran[f"poison-{number}"]) for number in range(POISONS)}
        # What is in hand when something else kills is not always begun; alone each is tried once at least.
        assert times == {3} if concurrency == 1 else times <= {1, 2, 3}
    finally:
        await client.close()


async def test_a_hung_agents_task_moves_at_its_limit(rigs: Callable[[str], Rig]) -> None:
    rig = rigs(manifest(hand={"replicas": 2, "health": {"hang_s": 1}, "ack_wait_s": 30}))
    await asyncio.to_thread(rig.well, 2)
    client = await rig.client()
    try:
        args = {"line": "hung", "effects": rig.path("effects"), "times": 1}
        assert await client.run("hand", "hang", args, options=TaskOptions(wait_s=LIMIT_S)) == "well"
        first, second = judge.effects(rig)["hung"]
        assert first[1] != second[1]
    finally:
        await client.close()


async def _poisoned(client: Client, rig: Rig, number: int) -> str:
    """Why it was given up."""
    try:
        await client.run("hand", "poison", {"line": f"poison-{number}", "effects": rig.path("effects")})
    except TaskError as error:
        return error.message
    raise AssertionError("poison was survived")


async def _served(client: Client, rig: Rig, number: int) -> Any:
    args = {"line": f"other-{number}", "effects": rig.path("effects"), "ms": 50}
    return await client.run("hand", "work", args)
