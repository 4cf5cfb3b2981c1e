"""The simulated world sees what is wrong: a check that cannot fail checks nothing."""

from __future__ import annotations

import msgspec
import pytest

from paddock.model.fleet import FleetSpec
from paddock.ports.runtime import Launch
from paddock.testing.faults import Faults
from paddock.testing.loop import SimulationError, simulate
from paddock.testing.world import World


def launch(epoch: int, name: str = "0") -> Launch:
    env = {"PADDOCK_AGENT": f"hand/{name}", "PADDOCK_EPOCH": str(epoch)}
    spec = FleetSpec(name="hand", runtime="python")
    return Launch(spec=spec, name=name, epoch=epoch, folder="", log_path="", env=env)


def test_a_second_copy_of_an_agent_is_seen_at_once() -> None:
    async def second_copy(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=1)
            await world.calm()
            await world.machine.start(launch(epoch=2_000_000_000_000))
            await world.wait(0.1)

    with pytest.raises(SimulationError, match="hand/0 is alive 2 times"):
        simulate(1, second_copy)


def test_an_epoch_that_does_not_grow_is_seen() -> None:
    async def old_epoch(seed: int) -> None:
        async with World(seed) as world:
            for epoch in (8, 7):
                held = await world.machine.start(launch(epoch))
                held.kill()
            world.look()

    with pytest.raises(SimulationError, match="epoch 7 comes after 8"):
        simulate(1, old_epoch)


def test_more_restarts_than_the_policy_allows_are_seen() -> None:
    async def many_starts(seed: int) -> None:
        async with World(seed) as world:
            for epoch in range(1, 30):
                held = await world.machine.start(launch(epoch))
                held.kill()
            world.look()

    with pytest.raises(SimulationError, match=r"starts within 60 s"):
        simulate(1, many_starts)


def test_an_orphan_is_seen_once_all_should_be_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock.testing.world.CALM_S_MAX", 20.0)

    async def orphan(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=1)
            await world.machine.start(launch(epoch=5, name="nobody"))
            await world.calm()

    with pytest.raises(SimulationError, match="orphans"):
        simulate(1, orphan)


def test_an_accepted_task_that_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock.testing.world.CALM_S_MAX", 20.0)

    async def lost_task(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=1)
            world.accepted["nobody-has-it"] = "hand"
            await world.calm()

    with pytest.raises(SimulationError, match=r"without a result: .*nobody-has-it"):
        simulate(1, lost_task)


def test_a_task_that_ran_twice_though_it_may_not_is_seen() -> None:
    async def twice(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=1)
            await world.submit(1, repeatable=False)
            world.machine.began["1"] += 2
            world.look()

    with pytest.raises(SimulationError, match="task 1 ran twice"):
        simulate(1, twice)


def test_the_same_seed_plays_the_same_story() -> None:
    stories: list[object] = []

    async def story(seed: int) -> None:
        async with World(seed, faults=Faults(seed, latency_s_max=0.003, lose=0.05, double=0.05)) as world:
            await world.apply("hand", replicas=2)
            await world.havoc(for_s=10.0)
            await world.submit(5)
            await world.calm()
            starts = {agent: [at for at, _ in starts] for agent, starts in world.machine.started.items()}
            stories.append((world.clock.monotonic(), world.kills, starts, world.faults.happened))

    for seed in (3, 3, 4):
        simulate(seed, story)
    assert stories[0] == stories[1]
    assert stories[0] != stories[2]
    assert msgspec.json.encode(stories[0])
