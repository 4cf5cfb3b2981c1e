"""Tasks that wait for their time, and tasks that come again and again."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from paddock.fabric import subjects
from paddock.model.errors import Refused
from paddock.model.task import Task, TaskState

from .world import World, world

CRON = """
paddock: 1
fleets:
  critic:
    agent: "lab:Critic"
    schedules: [{name: nightly, cron: "*/10 * * * *", method: review, args: {source: "x"}, priority: LOW}]
"""


def test_a_delayed_task_is_queued_when_its_time_has_come_and_not_before() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(delay_s=30.0)
        assert view.not_before == pytest.approx(lab.clock.now() + 30.0, abs=1.0)
        await asyncio.sleep(29.0)
        assert await lab.queued() == []
        await asyncio.sleep(2.0)
        assert [task.id for task in await lab.queued()] == [view.id]
        assert await lab.fabric.read(subjects.LATER) == []
        await lab.work()
        await lab.until_state(view.id, TaskState.DONE)

    world(scenario)


def test_a_start_that_lies_in_the_past_is_now() -> None:
    async def scenario(lab: World) -> None:
        await lab.submit(not_before=lab.clock.now() - 5.0)
        assert len(await lab.queued()) == 1

    world(scenario)


def test_many_delayed_tasks_come_in_the_order_of_their_times() -> None:
    async def scenario(lab: World) -> None:
        ids = {delay: (await lab.submit(delay_s=float(delay))).id for delay in (40, 10, 30, 20)}
        await asyncio.sleep(60.0)
        assert [task.id for task in await lab.queued()] == [ids[delay] for delay in (10, 20, 30, 40)]

    world(scenario)


def test_a_delayed_task_survives_its_server() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(delay_s=30.0)
        await lab.server.stop()
        await asyncio.sleep(60.0)
        await lab.serve()
        await lab.until_state(view.id, TaskState.QUEUED)
        await lab.work()
        await lab.until_state(view.id, TaskState.DONE)

    world(scenario)


def test_a_task_whose_move_was_cut_short_is_not_run_twice() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(delay_s=30.0)
        [stored] = await lab.fabric.read(subjects.LATER)
        await lab.server.stop()
        task = msgspec.json.decode(stored.data, type=Task)
        # The dead server had stored it in its queue; it ran, and then the next server came.
        await lab.fabric.store(subjects.work(task), stored.data)
        await lab.work()
        await asyncio.sleep(60.0)
        await lab.serve()
        await lab.until_state(view.id, TaskState.DONE)
        await asyncio.sleep(10.0)
        assert await lab.queued() == []
        assert await lab.fabric.read(subjects.LATER) == []

    world(scenario)


def test_a_delayed_task_waits_on_while_its_queue_is_full() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(delay_s=5.0)
        for _ in range(100):
            await lab.submit()
        await asyncio.sleep(20.0)
        assert len(await lab.fabric.read(subjects.LATER)) == 1
        await lab.work()
        await asyncio.sleep(5.0)
        assert view.id in [task.id for task in await lab.queued()]

    world(scenario)


def test_a_delayed_task_that_cannot_be_read_ends_as_dead_with_the_reason() -> None:
    async def scenario(lab: World) -> None:
        await lab.fabric.store(subjects.later("critic", "odd"), b"\xff not json")
        view = await lab.until_state("odd", TaskState.DEAD)
        assert view.error is not None
        assert "cannot be read" in view.error.message
        assert await lab.fabric.read(subjects.LATER) == []

    world(scenario)


def test_a_host_clock_that_is_set_forward_makes_delayed_tasks_due() -> None:
    async def scenario(lab: World) -> None:
        await lab.submit(delay_s=3600.0)
        await asyncio.sleep(1.0)
        lab.clock.jump(4000.0)
        await asyncio.sleep(5.0)
        assert len(await lab.queued()) == 1

    world(scenario)


def test_a_schedule_submits_its_task_each_time() -> None:
    async def scenario(lab: World) -> None:
        await asyncio.sleep(1800.0)
        tasks = await lab.queued()
        assert len(tasks) == 3
        assert {task.submitted_by for task in tasks} == {"schedule nightly"}
        assert {task.priority for task in tasks} == {3}
        assert (await lab.server.task(tasks[0].id)).state is TaskState.QUEUED

    world(scenario, manifest=CRON)


def test_a_clock_that_is_put_right_fires_nothing_twice() -> None:
    """More than a correction: see test_clock.py."""

    async def scenario(lab: World) -> None:
        await asyncio.sleep(-lab.clock.now() % 600.0 + 20.0)  # it has just fired
        before = [task.id for task in await lab.queued()]
        lab.clock.jump(-50.0)
        await asyncio.sleep(600.0)  # past the same time, not yet at the next
        assert [task.id for task in await lab.queued()] == before
        await asyncio.sleep(1200.0)
        assert len(await lab.queued()) > len(before)

    world(scenario, manifest=CRON)


def test_a_jump_forward_and_a_long_absence_catch_up_once() -> None:
    async def scenario(lab: World) -> None:
        await asyncio.sleep(60.0)
        before = len(await lab.queued())
        lab.clock.jump(86_400.0)
        await asyncio.sleep(10.0)
        assert len(await lab.queued()) == before + 1
        await lab.server.stop()
        await asyncio.sleep(7200.0)
        await lab.serve()
        await asyncio.sleep(10.0)
        assert len(await lab.queued()) == before + 2

    world(scenario, manifest=CRON)


def test_a_firing_whose_mark_was_not_stored_is_not_run_twice() -> None:
    async def scenario(lab: World) -> None:
        await asyncio.sleep(600.0)
        result = await lab.work(lane="p3")
        await lab.server.stop()
        key = "$KV.wanted.cron.critic.nightly"
        await lab.fabric.store(key, msgspec.json.encode({"at": lab.clock.now() - 650.0}))
        await lab.serve()
        await asyncio.sleep(10.0)
        assert result.id not in [task.id for task in await lab.queued()]

    world(scenario, manifest=CRON)


def test_a_schedule_that_comes_back_has_missed_nothing() -> None:
    async def scenario(lab: World) -> None:
        await lab.apply('{paddock: 1, fleets: {critic: {agent: "lab:Critic"}}}')
        await asyncio.sleep(7200.0)
        before = len(await lab.queued())
        await lab.apply(CRON)
        await asyncio.sleep(1.0)
        assert len(await lab.queued()) == before

    world(scenario, manifest=CRON)


def test_a_schedule_that_could_never_work_is_refused_when_it_is_applied() -> None:
    async def scenario(lab: World) -> None:
        with pytest.raises(Refused, match="'revew'"):
            await lab.apply(CRON.replace("method: review", "method: revew"))
        with pytest.raises(Refused, match="needs the argument 'source'"):
            await lab.apply(CRON.replace('{source: "x"}', "{}"))
        assert lab.server.fleet("critic").spec.schedules == []

    world(scenario)
