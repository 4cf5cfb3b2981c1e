"""The door for tasks: what is let in, what is refused and with which words, and what an accepted task then is."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from paddock.control.door import keyed_id
from paddock.fabric import subjects
from paddock.model.errors import Conflict, NotFound, PaddockError, QueueFull, Refused, TooLarge, Unavailable
from paddock.model.fleet import Method
from paddock.model.task import TaskState

from .world import World, world


def test_a_submitted_task_is_queued_and_can_be_asked_for_at_once() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        assert view.state is TaskState.QUEUED
        assert (await lab.server.task(view.id)).args == {"source": "x = 1"}
        [task] = await lab.queued()
        assert (task.id, task.submitted_by, task.keyed) == (view.id, "ann", False)

    world(scenario)


def test_a_waiter_gets_the_result() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        waiting = asyncio.create_task(lab.server.wait(view.id, 60.0), name="wait")
        await lab.work()
        ended = await waiting
        assert (ended.state, ended.result, ended.agent) == (TaskState.DONE, {"fine": True}, "critic/0")
        assert (await lab.server.wait(view.id, 60.0)).state is TaskState.DONE

    world(scenario)


def test_a_waiter_whose_time_is_over_gets_the_task_as_it_is() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit()
        assert (await lab.server.wait(view.id, 5.0)).state is TaskState.QUEUED

    world(scenario)


def test_a_task_for_one_agent_is_queued_for_that_agent() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(agent="critic/1", priority="high")
        stored = await lab.fabric.read("WORK_critic")
        assert stored[0].subject == f"work.critic.a.1.p1.{view.id}"
        assert view.agent == "critic/1"

    world(scenario)


def test_a_task_for_a_capability_goes_to_a_fleet_that_has_it() -> None:
    async def scenario(lab: World) -> None:
        assert (await lab.submit(capability="review")).fleet == "critic"
        with pytest.raises(NotFound, match="reviw"):
            await lab.submit(capability="reviw")

    world(scenario)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


BAD: list[tuple[str, dict[str, Any], type[PaddockError], str]] = [
    ("no target", {"fleet": ""}, Refused, "exactly one of fleet, agent and capability; there is none"),
    ("two targets", {"fleet": "critic", "agent": "critic/0"}, Refused, "there is fleet and agent"),
    ("unknown fleet", {"fleet": "critik"}, NotFound, "no fleet 'critik'; did you mean 'critic'"),
    ("a fleet that is no name", {"fleet": "Crit*c"}, Refused, "is not a name"),
    ("unknown agent", {"agent": "critic/7"}, NotFound, "fleet 'critic' has no agent '7'"),
    ("an agent without fleet", {"agent": "critic"}, Refused, "not of the form fleet/name"),
    ("unknown method", {"method": "revew"}, NotFound, "no method 'revew'; did you mean 'review'"),
    ("a missing argument", {"args": {}}, Refused, "critic.review needs the argument 'source'"),
    ("an unknown argument", {"args": {"source": "", "dept": 1}}, Refused, "no argument 'dept'; did you mean 'depth'"),
    ("a wrong type", {"args": {"source": 5}}, Refused, "argument 'source' of critic.review: 5 is not of type"),
    ("NaN", {"args": {"source": math.nan}}, Refused, "argument 'source' is nan"),
    ("infinity, deep inside", {"args": {"source": [{"a": [math.inf]}]}}, Refused, r"'source'\[0\].a\[0\] is inf"),
    ("a lone surrogate", {"args": {"source": "\ud800"}}, Refused, "not valid Unicode"),
    ("a surrogate as a key", {"args": {"source": {"\ud800": 1}}}, Refused, "not valid Unicode"),
    ("a surrogate in the key", {"key": "\ud800"}, Refused, "key holds characters"),
    ("endless nesting", {"args": {"source": nested(200)}}, Refused, "nested more than 100 deep"),
    ("a key that is no text", {"args": {"source": {1: 2}}}, Refused, "which is not text"),
    ("a payload over the limit", {"args": {"source": "x" * 900_001}}, TooLarge, "900000 is the limit"),
    ("unknown priority", {"priority": "hihg"}, Refused, "did you mean 'HIGH'"),
    ("a negative time-out", {"timeout_s": -1.0}, Refused, "timeout_s is -1"),
    ("an endless time-out", {"timeout_s": math.inf}, Refused, "timeout_s is inf"),
    ("a delay that is no number", {"delay_s": math.nan}, Refused, "delay_s is nan"),
    ("a delay of ten years", {"delay_s": 10 * 366 * 86_400.0}, Refused, "delay_s is"),
    ("a start in the far future", {"not_before": 9e12}, Refused, "not_before is"),
    ("two delays", {"delay_s": 5.0, "not_before": 1_790_000_100.0}, Refused, "not both"),
    ("kept for nothing", {"kept_s": 0.0}, Refused, "kept_s is 0"),
    ("kept for a year", {"kept_s": 366 * 86_400.0}, Refused, "kept_s is"),
    ("negative attempts", {"max_attempts": -1}, Refused, "max_attempts is -1"),
    ("a key of a thousand characters", {"key": "k" * 1000}, Refused, "200 is the limit"),
]


def test_bad_tasks_are_refused_with_the_reason_and_nothing_is_queued() -> None:
    async def scenario(lab: World) -> None:
        for what, fields, kind, words in BAD:
            with pytest.raises(kind, match=words) as caught:
                await lab.submit(**fields)
            assert type(caught.value) is kind, what
            assert len(caught.value.message) < 600, what
        assert await lab.queued() == []

    world(scenario)


def test_a_fleet_of_unknown_methods_lets_any_name_through_but_no_other_text() -> None:
    async def scenario(lab: World) -> None:
        lab.node.methods = None
        await lab.apply('{paddock: 1, fleets: {mailer: {runtime: exec, command: ["true"]}}}')
        assert (await lab.submit(fleet="mailer", method="anything")).method == "anything"
        with pytest.raises(Refused, match="is not a name"):
            await lab.submit(fleet="mailer", method="a b")

    world(scenario, manifest="")


def test_arguments_are_checked_against_the_newest_version_of_a_method() -> None:
    async def scenario(lab: World) -> None:
        await lab.submit()
        lab.node.methods = [Method(name="review", args={"type": "object", "required": ["path"]})]
        await lab.apply('{paddock: 1, fleets: {critic: {agent: "lab:Other"}}}')
        with pytest.raises(Refused, match="needs the argument 'path'"):
            await lab.submit()

    world(scenario)


def test_the_same_key_is_the_same_task() -> None:
    async def scenario(lab: World) -> None:
        first = await lab.submit(key="order-7")
        again = await lab.submit(key="order-7")
        assert first.id == again.id == keyed_id("critic", "order-7")
        assert len(await lab.queued()) == 1
        await lab.work()
        await lab.server.wait(first.id, 60.0)
        assert (await lab.submit(key="order-7")).state is TaskState.DONE
        assert await lab.queued() == []

    world(scenario)


def test_the_same_key_with_other_arguments_is_a_conflict() -> None:
    async def scenario(lab: World) -> None:
        await lab.submit(key="order-7")
        with pytest.raises(Conflict, match="use another key"):
            await lab.submit(key="order-7", args={"source": "y = 2"})

    world(scenario)


def test_the_same_key_at_the_same_moment_makes_one_task_even_at_other_priorities() -> None:
    async def scenario(lab: World) -> None:
        async with asyncio.TaskGroup() as group:
            for index in range(8):
                priority = ("LOW", "HIGH")[index % 2]
                group.create_task(lab.submit(key="k", priority=priority, delay_s=float(index % 3)), name=f"s{index}")
        later = await lab.fabric.read(subjects.LATER)
        assert len(await lab.queued()) + len(later) == 1

    world(scenario)


def test_a_key_is_known_to_the_next_server_before_anything_was_recorded() -> None:
    async def scenario(lab: World) -> None:
        view = await lab.submit(key="k", priority="LOW")
        await lab.server.stop()
        await lab.serve()
        assert (await lab.submit(key="k", priority="HIGH")).id == view.id
        assert len(await lab.queued()) == 1

    world(scenario)


def test_a_key_is_free_again_when_its_result_is_kept_no_longer() -> None:
    async def scenario(lab: World) -> None:
        first = await lab.submit(key="k", kept_s=5.0)
        await lab.work()
        await lab.server.wait(first.id, 60.0)
        await asyncio.sleep(6.0)
        again = await lab.submit(key="k")
        assert (again.id, again.state) == (first.id, TaskState.QUEUED)
        assert len(await lab.queued()) == 1
        await lab.work()
        await lab.until_state(first.id, TaskState.DONE)

    world(scenario)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def scenario(lab: World) -> None:
        for _ in range(100):
            await lab.submit()
        with pytest.raises(QueueFull, match=r"queue of critic is full \(100 tasks\)") as caught:
            await lab.submit()
        assert caught.value.retry_after_s == 60
        for _ in range(50):
            await lab.work()
        await lab.until(lambda: lab.server.fleet("critic").queued == 50, "the depth is seen")
        for _ in range(50):
            await lab.submit()
        with pytest.raises(QueueFull) as caught:
            await lab.submit()
        assert 1 <= caught.value.retry_after_s < 60

    world(scenario)


def test_delayed_tasks_count_against_the_limit_of_the_queue() -> None:
    async def scenario(lab: World) -> None:
        for _ in range(100):
            await lab.submit(delay_s=600.0)
        await asyncio.sleep(1.0)
        with pytest.raises(QueueFull, match="wait for their time"):
            await lab.submit(delay_s=600.0)

    world(scenario)


def test_a_lost_answer_of_the_fabric_does_not_lose_or_double_the_task() -> None:
    async def scenario(lab: World) -> None:
        lab.broker.faults.chances["lost_ack"] = 0.5
        for _ in range(20):
            await lab.submit()
        lab.broker.faults.chances["lost_ack"] = 0.0
        assert len(await lab.queued()) == 20

    world(scenario)


def test_when_the_fabric_does_not_take_it_the_error_names_the_task_to_ask_for() -> None:
    async def scenario(lab: World) -> None:
        lab.broker.faults.chances["unavailable"] = 1.0
        with pytest.raises(Unavailable, match=r"took task [0-9a-f]{32}: ask for its state before"):
            await lab.submit()
        lab.broker.faults.calm()
        assert await lab.queued() == []

    world(scenario)


def test_a_task_that_ran_before_the_second_try_is_not_run_twice() -> None:
    async def scenario(lab: World) -> None:
        lab.broker.faults.chances["lost_ack"] = 1.0
        submitting = asyncio.create_task(lab.submit(), name="submit")
        [delivery] = await lab.fabric.pull("WORK_critic", "p2", wait_s=5.0)
        lab.broker.faults.calm()
        lab.fabric.publish(delivery.ack, b"+ACK")  # gone from the queue, so it can be stored again
        view = await submitting
        [task] = await lab.queued()
        assert (task.id, task.keyed) == (view.id, True)  # its agent is to look for a result first

    world(scenario)


def test_while_the_fabric_is_away_submitting_says_so() -> None:
    async def scenario(lab: World) -> None:
        lab.broker.stop()
        with pytest.raises(Unavailable):
            await lab.submit()
        assert (await lab.server.ready())["fabric"] != "ok"
        lab.broker.start()
        await lab.submit()
        assert (await lab.server.ready())["fabric"] == "ok"

    world(scenario)


def test_an_unknown_task_is_not_found_and_a_bad_id_refused() -> None:
    async def scenario(lab: World) -> None:
        with pytest.raises(NotFound, match="no task 'nope'"):
            await lab.server.task("nope")
        with pytest.raises(Refused, match="task id"):
            await lab.server.task("no.pe")

    world(scenario)
