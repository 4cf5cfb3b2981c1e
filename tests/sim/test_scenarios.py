"""The real server, node and agents in a simulated world that breaks: what must hold, holds; then all becomes well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import structlog

from paddock.model.agent import AgentState
from paddock.testing.faults import Faults
from paddock.testing.loop import simulate
from paddock.testing.world import World

LATENCY_S = 0.003
BUSY_S = 12.0
STARTS_MAX = 3 + 2 + 7 + 6
"""Of a bad release of twelve agents in 90 s. Without a hold each would be started eleven times."""


def troubles(seed: int) -> Faults:
    """A network that loses, doubles and delays, and a broker that does not always say what it did."""
    return Faults(
        seed,
        latency_s_max=LATENCY_S,
        lose=0.05,
        double=0.05,
        delay=0.05,
        lost_ack=0.03,
        conflict=0.03,
        unavailable=0.03,
        lost_delivery=0.02,
    )


async def together(*acts: Awaitable[None]) -> None:
    """All at once; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(act) for act in acts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def storm(world: World, targets: Sequence[str]) -> None:
    """Kill `targets` while there is work; then all must become well."""
    await world.apply("hand", replicas=3)
    await together(world.load(for_s=BUSY_S), world.havoc(for_s=BUSY_S, targets=targets))
    await world.calm()


def play(seed: int, scenario: object) -> None:
    with structlog.testing.capture_logs():  # what dies loudly a thousand times would drown the one line that counts
        simulate(seed, scenario)  # type: ignore[arg-type]


def test_without_trouble_all_is_well(seed: int) -> None:
    async def no_trouble(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=3)
            await world.load(for_s=BUSY_S, dying=0.0)
            await world.calm()
            assert all(len(starts) == 1 for starts in world.machine.started.values())

    play(seed, no_trouble)


def test_a_restart_storm_of_agents_ends_well(seed: int) -> None:
    async def restart_storm(seed: int) -> None:
        async with World(seed, refuse=0.1) as world:
            await storm(world, ["agent"])

    play(seed, restart_storm)


def test_lost_doubled_and_late_messages_change_nothing_in_the_end(seed: int) -> None:
    async def bad_network(seed: int) -> None:
        async with World(seed, faults=troubles(seed)) as world:
            await world.apply("hand", replicas=3)
            await world.load(for_s=BUSY_S)
            await world.calm()

    play(seed, bad_network)


def test_a_server_that_dies_between_act_and_record_loses_nothing(seed: int) -> None:
    async def mortal_server(seed: int) -> None:
        async with World(seed) as world:
            await storm(world, ["server"])

    play(seed, mortal_server)


def test_a_node_that_dies_between_act_and_record_makes_no_second_copy(seed: int) -> None:
    async def mortal_node(seed: int) -> None:
        async with World(seed) as world:
            await storm(world, ["node", "agent"])

    play(seed, mortal_node)


def test_a_broker_that_comes_and_goes_stops_nothing(seed: int) -> None:
    async def mortal_broker(seed: int) -> None:
        async with World(seed) as world:
            await storm(world, ["broker"])

    play(seed, mortal_broker)


def test_everything_at_once_ends_well(seed: int) -> None:
    async def everything(seed: int) -> None:
        async with World(seed, faults=troubles(seed), refuse=0.05) as world:
            await storm(world, ["server", "node", "agent", "broker"])

    play(seed, everything)


def test_a_jump_of_the_clock_kills_nobody(seed: int) -> None:
    async def clock_jump(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=3)
            await world.submit(4)
            await world.wait(5.0)
            for seconds in (3600.0, -7200.0, world.dice.uniform(-5e5, 5e5)):
                world.clock.jump(seconds)
                await world.submit(2)
                await world.wait(world.dice.uniform(1.0, 40.0))
            await world.calm()
            assert all(len(starts) == 1 for starts in world.machine.started.values())

    play(seed, clock_jump)


def test_agents_outlive_a_long_absence_of_server_and_node(seed: int) -> None:
    async def keepers_away(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=3)
            await world.submit(10)
            world.kill("server")
            world.kill("node")
            await world.wait(world.dice.uniform(15.0, 60.0))
            assert len(await world.results()) == len(world.accepted), "work goes on without keepers"
            await world.calm()
            assert all(len(starts) == 1 for starts in world.machine.started.values())

    play(seed, keepers_away)


def test_scaling_up_and_down_during_havoc_ends_with_the_last_word(seed: int) -> None:
    async def scaling(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=2)

            async def scale() -> None:
                for _ in range(4):
                    await world.wait(world.dice.uniform(0.0, 4.0))
                    await world.apply("hand", replicas=world.dice.randint(1, 5))

            await together(scale(), world.load(for_s=BUSY_S), world.havoc(for_s=BUSY_S))
            await world.calm()
            assert world.server is not None
            states = [status.state for status in world.server.agents().items]
            assert states == [AgentState.READY] * world.fleets["hand"]

    play(seed, scaling)


def test_a_bad_release_is_named_after_three_deaths_and_but_for_a_canary_nothing_is_restarted(seed: int) -> None:
    async def bad_release(seed: int) -> None:
        async with World(seed) as world:
            await world.apply("hand", replicas=12)
            await world.calm()
            before = world.machine.starts()
            await world.apply("hand", replicas=12, config={"ends_s": 0.5})
            await world.wait(90.0)
            held = await world.events("node.held", "hand")
            assert [len(event.data["agents"]) for event in held] == [3]
            # Three were replaced, the first quarter; two come back before the third death; then a canary after 1, 2, 4,
            # 8 … s, and after a minute the server's own healing of one alone.
            begun = world.machine.starts() - before
            assert begun <= STARTS_MAX, f"{begun} starts in 90 s"
            await world.apply("hand", replicas=12)
            await world.calm()
            assert len(await world.events("node.released", "hand")) == 1

    play(seed, bad_release)
