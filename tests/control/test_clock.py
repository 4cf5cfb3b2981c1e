"""Somebody sets the clock of the server's host: nothing is thrown away for it, and no schedule storms or stays out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from paddock.control.steady import JUMP_S, LASTS_S, Steady
from paddock.fabric import subjects
from paddock.model.task import TaskState
from paddock.testing.clock import VirtualClock
from paddock.testing.loop import run

from .test_later_and_crons import CRON
from .world import World, world

HOUR_S, DAY_S = 3600.0, 86_400.0


def test_a_jump_is_believed_once_it_has_lasted() -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        steady = Steady(clock)
        clock.jump(DAY_S)
        assert steady.now() == pytest.approx(clock.now() - DAY_S)
        await asyncio.sleep(LASTS_S - 1.0)
        assert steady.now() == pytest.approx(clock.now() - DAY_S)
        await asyncio.sleep(1.0)
        assert steady.now() == clock.now()

    run(scenario)


def test_a_jump_that_is_taken_back_never_was() -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        steady = Steady(clock)
        for _ in range(3):
            clock.jump(DAY_S)
            assert steady.now() == pytest.approx(clock.now() - DAY_S)
            await asyncio.sleep(LASTS_S / 2)
            assert steady.now() == pytest.approx(clock.now() - DAY_S)
            clock.jump(-DAY_S)
            assert steady.now() == clock.now()

    run(scenario)


def test_a_clock_set_back_counts_at_once_and_a_small_correction_too() -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        steady = Steady(clock)
        clock.jump(-HOUR_S)
        assert steady.now() == clock.now()
        clock.jump(HOUR_S + JUMP_S - 1.0)
        assert steady.now() <= clock.now()
        await asyncio.sleep(LASTS_S)
        steady.now()
        assert steady.now() == pytest.approx(clock.now(), abs=JUMP_S)

    run(scenario)


@pytest.mark.parametrize("jump_s", [-HOUR_S, DAY_S, -DAY_S])
def test_a_jump_forgets_no_result_and_closes_no_task(jump_s: float) -> None:
    async def scenario(lab: World) -> None:
        done = await lab.submit(kept_s=HOUR_S, key="kept")
        await lab.work()
        await lab.until_state(done.id, TaskState.DONE)
        queued = await lab.submit()
        lab.clock.jump(jump_s)
        await asyncio.sleep(300.0)
        assert (await lab.server.task(done.id)).state is TaskState.DONE
        assert (await lab.submit(kept_s=HOUR_S, key="kept")).id == done.id
        assert [task.id for task in await lab.queued()] == [queued.id]
        assert len(await lab.fabric.read(subjects.RESULTS)) == 1
        assert (await lab.server.ready())["node"] == "ok"
        assert {agent.state for agent in lab.server.agents().items} == {"ready"}
        lab.clock.jump(-jump_s)
        await asyncio.sleep(300.0)
        assert (await lab.server.task(done.id)).state is TaskState.DONE
        await lab.work()
        await lab.until_state(queued.id, TaskState.DONE)

    world(scenario)


def test_a_schedule_goes_on_after_a_day_ahead_was_taken_back() -> None:
    async def scenario(lab: World) -> None:
        await asyncio.sleep(1200.0)
        before = len(await lab.queued())
        lab.clock.jump(DAY_S)
        await asyncio.sleep(60.0)
        ahead = len(await lab.queued())
        assert ahead == before + 1
        lab.clock.jump(-DAY_S)
        await asyncio.sleep(3600.0)
        tasks = await lab.queued()
        assert len(tasks) == ahead + 6
        assert len({task.id for task in tasks}) == len(tasks)

    world(scenario, manifest=CRON)


def test_a_schedule_by_the_minute_goes_on_when_the_clock_is_set_back_an_hour() -> None:
    async def scenario(lab: World) -> None:
        await asyncio.sleep(3600.0)
        before = len(await lab.queued())
        lab.clock.jump(-HOUR_S)
        await asyncio.sleep(1800.0)
        await lab.replace()  # the next server knows of it
        await asyncio.sleep(1800.0)
        tasks = await lab.queued()
        assert len(tasks) == before + 6
        assert len({task.id for task in tasks}) == len(tasks)

    world(scenario, manifest=CRON)


def test_a_time_of_the_day_that_comes_twice_fires_once() -> None:
    async def scenario(lab: World) -> None:
        at = datetime.fromtimestamp(lab.clock.now() + 1800.0, UTC)
        await lab.apply(CRON.replace("*/10 * * * *", f"{at.minute} {at.hour} * * *"))
        await asyncio.sleep(3000.0)
        assert len(await lab.queued()) == 1
        lab.clock.jump(-HOUR_S)
        await asyncio.sleep(6000.0)
        assert len(await lab.queued()) == 1

    world(scenario)
