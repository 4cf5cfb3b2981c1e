"""Queues after a broker forgot that it took tasks out of them."""

from __future__ import annotations

import msgspec

from paddock.fabric import subjects
from paddock.model.task import Task, TaskState

from .world import World, world


async def _left_over(lab: World, task_id: str) -> None:
    """A task that has ended and is queued still."""
    task = Task(id=task_id, fleet="critic", method="review")
    result = msgspec.json.encode(lab.result_of(task))
    await lab.fabric.store(subjects.work(task), msgspec.json.encode(task))
    await lab.fabric.store(subjects.result("critic", task_id), result)


async def _queued(lab: World) -> list[str]:
    return sorted(task.id for task in await lab.queued())


def test_what_has_ended_is_taken_out_of_the_queues_once_the_fabric_is_back() -> None:
    async def scenario(lab: World) -> None:
        waits = await lab.submit()
        await lab.clock.sleep(10.0)  # the round of the start is over
        for number in range(60):
            await _left_over(lab, f"t{number}")
        await lab.clock.sleep(10.0)
        assert len(await _queued(lab)) == 61  # nobody looks without a reason
        lab.broker.stop()
        lab.broker.start()
        await lab.clock.sleep(30.0)
        assert await _queued(lab) == [waits.id]
        assert (await lab.server.task(waits.id)).state is TaskState.QUEUED

    world(scenario)


def test_what_has_ended_is_taken_out_of_the_queues_at_the_start_of_a_server() -> None:
    async def scenario(lab: World) -> None:
        await lab.server.stop()
        await _left_over(lab, "t1")
        await lab.serve()
        await lab.clock.sleep(30.0)
        assert await _queued(lab) == []

    world(scenario)
