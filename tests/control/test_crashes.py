"""The server is killed at every await of what it does; the next one, on the same fabric and record, converges."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from paddock.control.door import keyed_id
from paddock.control.service import TaskRequest
from paddock.fabric import subjects
from paddock.model.errors import NotFound
from paddock.model.manifest import ManifestSource
from paddock.model.task import TaskState
from paddock.testing.loop import run

from .world import MANIFEST, World

Act = Callable[[World], Awaitable[object]]
Check = Callable[[World], Awaitable[None]]

STEPS_MAX = 400
"""More steps than anything here takes."""
STRIDE = 7
"""Every seventh await of a long act; coprime to the rhythm of its rounds. Short acts are killed at every one."""


def killed_everywhere(prepare: Act, act: Act, check: Check, *, stride: int = 1, span_s: float = 0.0) -> int:
    """Kill the server after 0, 1, 2, … of its steps since `act` began, until it got through; returns how often."""
    for kills, steps in enumerate(range(0, STEPS_MAX * stride, stride)):
        if not run(lambda steps=steps: _one_life(prepare, act, check, steps, span_s)):  # type: ignore[misc]
            return kills
    raise AssertionError(f"still not through after {STEPS_MAX} lives")


async def _one_life(prepare: Act, act: Act, check: Check, steps: int, span_s: float) -> bool:
    """True when the server was killed before the act, and `span_s` after it, were over."""
    lab = World()
    try:
        await lab.fabric.ensure(*subjects.STREAMS)
        await lab.node.start()
        process = await lab.serve_mortal()
        await process.spawn(_apply(lab), "apply")
        await prepare(lab)
        process.kill_after(steps)
        acting = process.spawn(_all(act, lab, span_s), "act")
        await lab.until(lambda: not process.alive or acting.done(), "the act is over", limit_s=span_s + 60.0)
        killed = not process.alive
        assert killed or acting.done()
        process.kill()
        await lab.serve()
        await check(lab)
        await lab.end()
        return killed
    finally:
        lab.record.close()


async def _all(act: Act, lab: World, span_s: float) -> None:
    await act(lab)
    await asyncio.sleep(span_s)


async def _apply(lab: World) -> None:
    await lab.server.apply([ManifestSource(name="lab.yaml", text=MANIFEST)])


async def nothing(lab: World) -> None:
    """No preparation."""


async def finish_all(lab: World) -> list[str]:
    """Work until the queue is empty; returns the ids in the order they were done."""
    done: list[str] = []
    while await lab.queued():
        done.append((await lab.work()).id)
    return done


def test_a_submission_with_a_key_can_be_cut_short_anywhere_and_tried_again() -> None:
    task_id = keyed_id("critic", "k")
    request = TaskRequest(method="review", fleet="critic", args={"source": "x"}, key="k")

    async def act(lab: World) -> None:
        await lab.server.submit(request)

    async def check(lab: World) -> None:
        assert (await lab.server.submit(request)).id == task_id
        assert await finish_all(lab) == [task_id]
        assert (await lab.server.wait(task_id, 60.0)).state is TaskState.DONE

    assert killed_everywhere(nothing, act, check) > 5


def test_a_cancel_can_be_cut_short_anywhere_and_the_task_ends_once() -> None:
    async def prepare(lab: World) -> None:
        await lab.process.spawn(lab.submit(key="k"), "submit")  # type: ignore[union-attr]  # it is mortal

    async def act(lab: World) -> None:
        await lab.server.cancel(keyed_id("critic", "k"))

    async def check(lab: World) -> None:
        task_id = keyed_id("critic", "k")
        view = await lab.server.wait(task_id, 5.0)
        if view.state is TaskState.CANCELLED:
            assert await lab.queued() == []
        else:  # it died before the result was stored: as if the cancel had never been asked for
            assert (await lab.server.cancel(task_id)).state is TaskState.CANCELLED
            assert await lab.queued() == []
        assert len(await lab.results(task_id)) == 1

    assert killed_everywhere(prepare, act, check) > 5


def test_the_move_of_a_delayed_task_can_be_cut_short_anywhere_and_it_runs_once() -> None:
    async def prepare(lab: World) -> None:
        await lab.process.spawn(lab.submit(key="k", delay_s=2.0), "submit")  # type: ignore[union-attr]  # it is mortal
        await asyncio.sleep(1.5)

    async def check(lab: World) -> None:
        task_id = keyed_id("critic", "k")
        await asyncio.sleep(5.0)
        assert await finish_all(lab) == [task_id]
        await asyncio.sleep(5.0)
        assert await lab.queued() == []
        assert await lab.fabric.read(subjects.LATER) == []
        assert (await lab.server.wait(task_id, 60.0)).state is TaskState.DONE

    assert killed_everywhere(prepare, nothing, check, span_s=1.0) > 5


def test_the_recorder_can_be_cut_short_anywhere_and_records_everything_once() -> None:
    async def prepare(lab: World) -> None:
        for index in range(3):
            await lab.process.spawn(lab.submit(key=f"k{index}"), "submit")  # type: ignore[union-attr]  # it is mortal
        await lab.work()

    async def act(lab: World) -> None:
        await lab.server.cancel(keyed_id("critic", "k2"))

    async def check(lab: World) -> None:
        first, second, third = (keyed_id("critic", f"k{index}") for index in range(3))
        await lab.until_state(first, TaskState.DONE)
        await lab.until_state(second, TaskState.QUEUED)
        await lab.server.cancel(third)
        page = await lab.server.tasks()
        assert {view.id: view.state for view in page.items} == {
            first: TaskState.DONE,
            second: TaskState.QUEUED,
            third: TaskState.CANCELLED,
        }

    assert killed_everywhere(prepare, act, check, span_s=0.5, stride=STRIDE) > 5


def test_the_deletion_of_a_fleet_can_be_cut_short_anywhere_and_no_task_is_lost() -> None:
    async def prepare(lab: World) -> None:
        for index in range(3):
            await lab.process.spawn(lab.submit(key=f"k{index}", delay_s=index * 60.0), "submit")  # type: ignore[union-attr]  # it is mortal

    async def act(lab: World) -> None:
        await lab.server.delete_fleet("critic")

    async def check(lab: World) -> None:
        if lab.server.fleets():
            await lab.server.delete_fleet("critic")
        for index in range(3):
            view = await lab.until_state(keyed_id("critic", f"k{index}"), TaskState.DEAD)
            assert view.fleet == "critic"
        await lab.until(lambda: "WORK_critic" not in lab.broker.streams, "the queue is gone")
        with pytest.raises(NotFound):
            await lab.submit()

    assert killed_everywhere(prepare, act, check, span_s=3.0, stride=STRIDE) > 5


def test_an_apply_can_be_cut_short_anywhere_and_applied_again() -> None:
    async def act(lab: World) -> None:
        text = MANIFEST.replace("replicas: 2", "replicas: 4")
        await lab.server.apply([ManifestSource(name="lab.yaml", text=text)])

    async def check(lab: World) -> None:
        await act(lab)
        await lab.until(lambda: lab.server.fleet("critic").ready == 4, "four are ready")

    assert killed_everywhere(nothing, act, check, stride=3) > 5
