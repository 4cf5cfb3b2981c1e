"""Work that was handed out goes on while every keeper dies, alone, in pairs and all together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from paddock.agent.calls import TaskOptions
from paddock.testing.wait import until

from .conftest import Size
from .rig import ROLES, Rig, manifest

KINDS = ("server", "node", "fork server", "fabric", "keeper")
SHORT = [("fork server",), ("keeper",), ("fabric",), ("node", "server"), ("node", "fork server"), KINDS]
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
            running = asyncio.ensure_future(client.run("hand", "wait", args))
            runs = partial(_runs_or_failed, rig, name, running)
            await asyncio.to_thread(until, runs, what="the task runs", every_s=0.002)
            assert not running.done(), await running  # or why it could not be submitted
            dead = {kind: rig.kill(kind) for kind in victims}
            await asyncio.to_thread(rig.back, dead)
            Path(args["gate"]).touch()
            done = await asyncio.wait_for(running, 60)
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


def _runs_or_failed(rig: Rig, name: str, running: asyncio.Future[Any]) -> bool:
    return running.done() or rig.count("effects", name) == 1
