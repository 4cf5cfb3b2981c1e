"""The broker dies again and again under load: all go on, nothing is left over, nobody is deaf."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from paddock.agent import TaskError
from paddock.agent.calls import TaskOptions
from paddock.agent.client import Client
from paddock.fabric.client import NatsFabric
from paddock.model.errors import PaddockError
from paddock.testing.wait import soon

from . import judge
from .conftest import Size
from .rig import Census, Rig, census, manifest

AGENTS = 4
LIMIT_S = 60.0
BETWEEN = 100
"""Tasks that are done between two restarts."""


async def test_nothing_is_left_over_and_nobody_is_deaf_after_many_restarts_of_the_broker(
    rigs: Callable[[str], Rig], size: Size, say: Callable[[str], None]
) -> None:
    rig = rigs(manifest(hand={"replicas": AGENTS, "concurrency": 2}))
    names = sorted(await asyncio.to_thread(rig.well, AGENTS))
    agents = rig.pids()
    client, eye = await rig.client(), await rig.everything()
    try:
        await all_hear(client, rig, names, "before")
        before = await settled(eye, AGENTS)
        load = [asyncio.ensure_future(_load(client, rig, lane)) for lane in range(6)]
        for number in range(1, size("restarts", 3, 20) + 1):
            dead = {"fabric": rig.kill("fabric")}
            await asyncio.to_thread(rig.back, dead)
            due = rig.count("effects") + BETWEEN
            await soon(lambda due=due: _has_run(rig, due), what="work goes on", limit_s=LIMIT_S)
            say(f"  restart {number:2}: work goes on; {rig.count('effects'):,} tasks so far")
        assert not [lane for lane in load if lane.done()], "a client gave up"
        for lane in load:
            lane.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        await all_hear(client, rig, names, "after")
        after = await same_again(eye, before)
        assert rig.pids() == agents
        for what in ("connections", "subscriptions", "consumers", "waiting"):
            count = [sum(getattr(one, what).values()) for one in (before, after)]
            say(f"  {what:<15} before {count[0]:3}, after {count[1]:3}")
    finally:
        await client.close()
        await eye.close()


async def settled(fabric: NatsFabric, agents: int) -> Census:
    """The census once all agents are connected and wait for work in all lanes, and two looks saw the same."""
    seen: list[Census] = []

    async def look() -> bool:
        try:
            seen.append(await census(fabric))
        except PaddockError:
            return False
        lanes = [count for name, count in seen[-1].waiting.items() if name.startswith("WORK_")]
        there = sum(name.startswith("hand/") for name in seen[-1].connections)
        return there == agents and set(lanes) == {agents} and seen[-1:] == seen[-2:-1]

    try:
        await soon(look, what="all agents wait in all lanes", limit_s=LIMIT_S)
    except AssertionError as error:
        raise AssertionError(f"{error}; {seen[-1:]}") from None
    return seen[-1]


async def same_again(fabric: NatsFabric, before: Census) -> Census:
    """The census once it is as before: what leaked never goes away."""
    seen: list[Census] = []

    async def look() -> bool:
        try:
            seen[:] = [await census(fabric)]
        except PaddockError:
            return False
        return seen == [before]

    try:
        await soon(look, what="all is as it was before", limit_s=LIMIT_S)
    except AssertionError:
        raise AssertionError(f"before: {before}\nafter: {seen[-1:]}") from None
    return seen[-1]


async def all_hear(client: Client, rig: Rig, names: list[str], when: str) -> None:
    """Every agent takes work that is for it alone, answers questions, hears topics; tasks can be cancelled."""
    options = TaskOptions(wait_s=LIMIT_S)
    for name in names:
        args = {"line": f"{when}-{name}", "effects": rig.path("effects"), "ms": 0}
        done = await client.run(name, "work", args, options=options)
        assert done["line"] == args["line"]
        assert (await client.ask(name, "work", args))["pid"] == done["pid"]
    news = {"line": f"news-{when}", "effects": rig.path("news")}
    await client.run("hand", "tell", news, options=options)

    def heard() -> bool:
        return {f"news-{when}-{name}" for name in names} <= judge.effects(rig, "news").keys()

    await soon(lambda: asyncio.to_thread(heard), what="all heard the news", limit_s=LIMIT_S)
    gate = {"line": f"cancel-{when}", "effects": rig.path("effects"), "gate": rig.path("never")}
    task = await client.submit("hand", "wait", gate)
    await soon(lambda: asyncio.to_thread(rig.count, "effects", gate["line"]), what="it runs", limit_s=LIMIT_S)
    with rig.held.http() as http:
        http.post(f"/api/v1/tasks/{task}/cancel").raise_for_status()
    ended = await soon(lambda: client.task_result(task, "hand"), what="cancelled", limit_s=LIMIT_S)
    assert ended.state == "cancelled"


async def _has_run(rig: Rig, count: int) -> bool:
    return rig.count("effects") >= count


async def _load(client: Client, rig: Rig, lane: int) -> None:
    """Tasks one after the other, for ever; what the fabric could not answer is asked again."""
    number = 0
    while True:
        number += 1
        args = {"line": f"load-{lane}-{number}", "effects": rig.path("effects"), "ms": 10}
        options = TaskOptions(id=args["line"], wait_s=LIMIT_S)
        while True:
            try:
                await client.run("hand", "work", args, options=options)
                break
            except TaskError:
                raise  # it was accepted, so it must end well
            except PaddockError:
                await asyncio.sleep(0.05)
