"""Work that was handed out goes on while every keeper dies, alone, in pairs and all together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from paddock.agent.calls import TaskOptions, value_of
from paddock.agent.client import Client
from paddock.model.errors import Unavailable
from paddock.testing.wait import soon, until

from .conftest import Size
from .rig import ROLES, Rig, manifest

KINDS = ("server", "node", "fork server", "fabric", "sync", "keeper")
SHORT = [("fork server",), ("keeper",), ("fabric",), ("sync",), ("node", "server"), ("node", "fork server"), KINDS]
LONG = [*((kind,) for kind in KINDS), *combinations(KINDS, 2), KINDS]


async def test_a_task_in_hand_ends_once_by_its_own_process_whoever_else_dies(
    rigs: Callable[[str], Rig], size: Size, say: Callable[[str], None]
) -> None:
    rig = rigs(manifest(hand={"replicas": 3, "ack_wait_s": 300}))
    before = rig.well(3)
    client = await rig.client()
    try:
        for victims in LONG if size("all", 0, 1) else SHORT:
            name = "+".join(victims).replace(" ", "-")
            args = {"line": name, "effects": rig.path("effects"), "gate": rig.path(name)}
            task = await client.submit("hand", "wait", args)
            runs = partial(rig.count, "effects", name)
            await asyncio.to_thread(until, runs, what="the task runs", every_s=0.002)
            dead = {kind: rig.kill(kind) for kind in victims}
            await asyncio.to_thread(rig.back, dead)
            Path(args["gate"]).touch()
            done = await soon(lambda task=task: _result(client, task), what="the task ends", limit_s=60.0)
            after = await asyncio.to_thread(rig.well, 3)
            assert after == before, name
            assert done["pid"] in before.values(), name
            assert rig.count("effects", name) == 1, name
            assert all(agent["restarts"] == 0 for agent in rig.agents().values()), name
            say(f"  killed {name}: no agent restarted, the task ended once by the process that had it")
        keepers = {role: rig.pid(role) for role in ("keeper", *ROLES)}
        await asyncio.to_thread(rig.up)  # over what lives: it attaches
        assert keepers == {role: rig.pid(role) for role in keepers}
        # And everybody still takes work that is for them alone.
        for agent, pid in before.items():
            done = await client.run(
                agent, "work", {"line": "last", "effects": rig.path("effects"), "ms": 0}, options=TaskOptions(wait_s=30)
            )
            assert done["pid"] == pid
    finally:
        await client.close()


async def _result(client: Client, task: str) -> Any:
    """What it returned, once it has ended; None before, and while the fabric is away."""
    with contextlib.suppress(Unavailable):
        if found := await client.task_result(task, "hand"):
            return value_of(found)
    return None
