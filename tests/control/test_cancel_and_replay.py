"""Ending a task by hand, and doing one again."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from paddock.fabric import subjects
from paddock.model.errors import Conflict, NotFound, Refused
from paddock.model.task import TaskResult, TaskState

from .world import World, world


def test_a_queued_task_that_is_cancelled_never_runs() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(agent="critic/1", kept_s=60.0)
        ended = await lab.server.cancel(view.id, by="ann")
        assert ended.state is TaskState.CANCELLED
        assert ended.error is not None
        assert ended.error.message == "cancelled by ann"
        assert await lab.queued() == []
        [result] = await lab.results(view.id)
        assert (result.kept_s, result.to_agent) == (60.0, "1")
        assert (await lab.server.task(view.id)).state is TaskState.CANCELLED

    world(scenario)


def test_cancelling_reaches_the_agent_that_runs_the_task() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        await lab.fabric.pull("WORK_critic", "p2")
        await lab.server.cancel(view.id)
        await lab.until(lambda: {"op": "cancel", "task": view.id} in lab.node.asked, "the node is told")

    world(scenario)


def test_a_delayed_task_that_is_cancelled_is_never_queued() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(delay_s=30.0)
        await lab.server.cancel(view.id)
        assert await lab.fabric.read(subjects.LATER) == []
        await asyncio.sleep(60.0)
        assert await lab.queued() == []

    world(scenario)


def test_cancelling_twice_is_no_error() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        first = await lab.server.cancel(view.id)
        assert (await lab.server.cancel(view.id)).finished_at == first.finished_at

    world(scenario)


def test_what_has_ended_cannot_be_cancelled_and_the_error_says_how_it_ended() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        await lab.work()
        await lab.server.wait(view.id, 60.0)
        with pytest.raises(Conflict, match="has ended already: it is done"):
            await lab.server.cancel(view.id)
        with pytest.raises(NotFound):
            await lab.server.cancel("nope")

    world(scenario)


def test_the_result_that_is_stored_first_wins_over_a_cancel_at_the_same_moment() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        [task] = await lab.queued()
        lab.broker.faults.chances["lose"] = 1.0  # the recorder is not woken
        await lab.fabric.store(subjects.result("critic", view.id), msgspec.json.encode(lab.result_of(task)))
        with pytest.raises(Conflict, match="it is done"):
            await lab.server.cancel(view.id)

    world(scenario)


def test_a_cancelled_task_that_stayed_queued_when_its_server_died_is_swept_by_the_next() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        [task] = await lab.queued()
        await lab.server.stop()
        result = msgspec.structs.replace(lab.result_of(task, TaskState.CANCELLED), result=None)
        await lab.fabric.store(subjects.result("critic", view.id), msgspec.json.encode(result))
        await lab.serve()
        await lab.until_state(view.id, TaskState.CANCELLED)
        assert await lab.queued() == []

    world(scenario)


def test_a_dead_task_is_replayed_as_a_new_one_for_the_same_agent() -> None:
    async def scenario(lab: World) -> None:
        for state in (TaskState.DEAD, TaskState.FAILED):
            view = await lab.submit(args={"source": state.value})
            await lab.work(state)
            await lab.server.wait(view.id, 60.0)
            again = await lab.server.replay(view.id, by="bob")
            assert (again.state, again.args, again.submitted_by) == (TaskState.QUEUED, view.args, "bob")
            assert again.id != view.id
            await lab.work()
        mine = await lab.submit(agent="critic/1", priority="LOW", kept_s=90.0)
        await lab.server.cancel(mine.id)
        again = await lab.server.replay(mine.id)
        assert (again.agent, again.to_agent, again.priority) == ("critic/1", "critic/1", "LOW")
        assert again.kept_s == 90.0

    world(scenario)


def test_only_what_failed_can_be_replayed() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        with pytest.raises(Refused, match="is queued; only dead, failed and cancelled"):
            await lab.server.replay(view.id)
        await lab.work()
        await lab.server.wait(view.id, 60.0)
        with pytest.raises(Refused, match="is done"):
            await lab.server.replay(view.id)

    world(scenario)


def test_a_task_of_a_fleet_that_is_gone_cannot_be_replayed() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        await lab.server.cancel(view.id)
        await lab.server.delete_fleet("critic")
        with pytest.raises(NotFound, match="no fleet 'critic'"):
            await lab.server.replay(view.id)

    world(scenario)


def test_every_task_has_one_result_at_the_most() -> None:
    async def scenario(lab: World) -> None:
        ids = [(await lab.submit()).id for _ in range(10)]

        async def cancel(task_id: str) -> None:
            try:
                await lab.server.cancel(task_id)
            except Conflict:
                pass

        async def work() -> None:
            while deliveries := await lab.fabric.pull("WORK_critic", "p2"):
                task_id = deliveries[0].subject.rpartition(".")[2]
                result = TaskResult(id=task_id, fleet="critic", method="review", state=TaskState.DONE)
                try:
                    await lab.fabric.store(subjects.result("critic", task_id), msgspec.json.encode(result))
                except Conflict:
                    pass
                lab.fabric.publish(deliveries[0].ack, b"+ACK")

        async with asyncio.TaskGroup() as group:
            group.create_task(work(), name="work")
            for task_id in ids:
                group.create_task(cancel(task_id), name=task_id)
        for task_id in ids:
            assert len(await lab.results(task_id)) == 1
            assert (await lab.server.wait(task_id, 30.0)).state.ended
        assert await lab.queued() == []

    world(scenario)
