"""What a node may tell an agent that is not well: a new connection, rest, less work."""

from __future__ import annotations

import asyncio

from paddock.agent import Agent, task
from paddock.fabric import subjects
from paddock.testing.fabric import FakeFabric

from .world import World, until


class Works(Agent):
    told = 0

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def degrade(self) -> None:
        self.told += 1

    @task
    async def waits(self) -> str:
        await self.gate.wait()
        return self.name

    @task
    async def less(self) -> list[int]:
        return [int(self.degraded), self.told]


class Unhappy(Works):
    async def degrade(self) -> None:
        raise ValueError("I cannot do less")


def fabric_of(world: World) -> FakeFabric:
    fabric = world.runners[0][0]._fabric
    assert isinstance(fabric, FakeFabric)
    return fabric


async def test_told_to_degrade_twice_it_is_told_once_and_says_so_to_a_new_node(world: World) -> None:
    await world.agent(Works)
    assert (await world.outcome("less")).result == [0, 0]
    world.node.say(op="degrade")
    world.node.say(op="degrade")
    await until(lambda: world.runners[0][0]._link.degraded)
    assert (await world.outcome("less")).result == [1, 1]
    await world.node.stop()
    await world.node.start()
    hello = await until(lambda: [line for line in world.node.ops("hello") if line["degraded"]])
    assert not hello[-1]["rests"]


async def test_a_hook_that_raises_ends_nothing(world: World) -> None:
    await world.agent(Unhappy)
    world.node.say(op="degrade")
    await until(lambda: world.runners[0][0]._link.degraded)
    assert (await world.outcome("less")).result == [1, 0]


async def test_told_to_rest_it_gives_back_what_it_holds_and_takes_nothing_until_told_otherwise(world: World) -> None:
    await world.agent(Works)
    first = await world.put("waits")
    await until(lambda: world.node.ops("hold"), "it is at work")
    world.node.say(op="rest", on=True)
    await until(lambda: world.node.ops("drop"), "it gave back what it held")
    second = await world.put("less")
    other, _ = await world.agent(Works, "1", ready=False, concurrency=2)
    assert (await world.result(second)).agent == "f/1"
    await until(lambda: other._worker is not None and other._worker.unsettled, "the other one has what it gave back")
    assert other._agent is not None
    other._agent.gate.set()  # type: ignore[attr-defined]  # of Works
    assert (await world.result(first)).result == "1"
    other.drain()
    await until(lambda: world.runners[1][1].done(), "the other one has left")
    third = await world.put("less")
    assert await world.fabric.last(subjects.RESULTS, subjects.result("f", third.id)) is None
    world.node.say(op="rest", on=False)
    assert (await world.result(third)).agent == "f/0"


async def test_told_to_reset_it_makes_its_connection_anew_and_works_on(world: World) -> None:
    await world.agent(Works)
    world.node.say(op="reset")
    await until(lambda: fabric_of(world).resets == 1)
    assert (await world.outcome("less")).result == [0, 0]
