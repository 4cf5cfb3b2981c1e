"""Tasks of an agent, from the queue to the stored result."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from typing import Any

import msgspec
import pytest

from paddock.agent import Agent, Retry, TaskError, task
from paddock.agent.clock import HostClock
from paddock.fabric import subjects
from paddock.model.fleet import Health
from paddock.model.task import PAYLOAD_BYTES_MAX, TaskResult, TaskState

from .world import World, until


class Worker(Agent):
    def __init__(self) -> None:
        self.log.info("made", config=dict(self.config))
        self.tries = 0
        self.gate = asyncio.Event()
        self.released = threading.Event()

    @task
    async def add(self, a: int, b: int = 1) -> int:
        return a + b

    @task
    def blocking(self, text: str) -> dict[str, Any]:
        return {"text": text, "thread": threading.current_thread() is not threading.main_thread()}

    @task
    async def wrong(self) -> None:
        raise ValueError("no such luck")

    @task
    async def clear(self) -> None:
        raise TaskError("the printer is on fire", code="on-fire")

    @task(retries=2, backoff_s=0.001)
    async def flaky(self, fails: int) -> int:
        self.tries += 1
        if self.tries <= fails:
            raise OSError("again")
        return self.tries

    @task(backoff_s=0.001)
    async def asks_again(self) -> None:
        raise Retry("not yet")

    @task(timeout_s=0.05)
    async def slow(self) -> None:
        await self.gate.wait()

    @task(timeout_s=0.05)
    def slow_thread(self) -> None:
        self.released.wait(20)

    @task
    async def forever(self) -> None:
        self.progress(0.25, "quarter")
        await self.gate.wait()

    @task
    async def gives(self, what: str) -> Any:
        loop: list[Any] = []
        loop.append(loop)
        return {
            "nan": {"x": [1.0, math.nan]},
            "inf": math.inf,
            "object": object(),
            "loop": loop,
            "surrogate": "\ud800",
            "large": "x" * (PAYLOAD_BYTES_MAX + 1),
            "half": "x" * (PAYLOAD_BYTES_MAX // 2 + 1),
        }[what]

    @task
    async def exits(self) -> None:
        raise SystemExit(3)

    @task
    def sleepy(self, seconds: float) -> float:
        time.sleep(seconds)  # the work: it blocks its thread
        return seconds


async def test_a_task_is_done_and_its_result_says_by_whom(world: World) -> None:
    await world.agent(Worker)
    result = await world.outcome("add", {"a": 2, "b": 3}, submitted_by="me", priority=1)
    assert (result.state, result.result, result.agent, result.epoch) == (TaskState.DONE, 5, "f/0", 7)
    assert (result.args, result.submitted_by, result.priority, result.attempts) == ({"a": 2, "b": 3}, "me", 1, 1)
    await until(lambda: _empty(world), "the task is acknowledged")


async def _empty(world: World) -> bool:
    return await world.queued() == 0


async def test_a_plain_method_runs_in_a_thread(world: World) -> None:
    await world.agent(Worker)
    assert (await world.outcome("blocking", {"text": "hi"})).result == {"text": "hi", "thread": True}


async def test_beats_go_on_while_a_plain_method_blocks(world: World) -> None:
    await world.agent(Worker, health=Health(hang_s=0.15))
    task_ = await world.put("sleepy", {"seconds": 0.6})
    await until(lambda: world.node.ops("hold"), "held")
    before = len(world.node.ops("beat"))
    await world.result(task_)
    assert len(world.node.ops("beat")) - before >= 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, ["'a'", "needs"]),
        ({"a": "x"}, ["'a'", "int", "str"]),
        ({"a": 1, "c": 2}, ["'c'", "a: int, b: int = 1"]),
        ({"a": 1.5}, ["'a'", "int", "float"]),
    ],
)
async def test_bad_arguments_fail_the_task_before_its_code_runs(
    world: World, args: dict[str, Any], words: list[str]
) -> None:
    await world.agent(Worker)
    result = await world.outcome("add", args)
    assert result.state is TaskState.FAILED
    assert result.error is not None
    assert result.error.code == "bad-arguments"
    assert all(word in result.error.message for word in words), result.error.message


async def test_an_unknown_method_fails_the_task_and_names_those_there_are(world: World) -> None:
    await world.agent(Worker)
    error = (await world.outcome("ad")).error
    assert error is not None
    assert error.code == "no-method"
    assert "add" in error.message


async def test_a_message_that_is_no_task_ends_as_failed(world: World) -> None:
    await world.agent(Worker)
    await world.fabric.store("work.f.p2.broken", b"\xff not json")
    stored = await until(lambda: world.fabric.last(subjects.RESULTS, "result.f.broken"))
    assert json.loads(stored.data)["error"]["code"] == "bad-task"


async def test_an_exception_says_what_and_where(world: World) -> None:
    await world.agent(Worker)
    result = await world.outcome("wrong")
    assert result.state is TaskState.FAILED
    assert result.error is not None
    assert (result.error.code, result.error.message) == ("raised", "ValueError: no such luck")
    assert "test_tasks.py:" in result.error.where
    assert result.error.where.endswith("in wrong")
    assert "raise ValueError" in result.error.trace


async def test_a_task_error_comes_with_its_own_code_and_no_trace(world: World) -> None:
    await world.agent(Worker)
    error = (await world.outcome("clear")).error
    assert error is not None
    assert (error.code, error.message, error.trace) == ("on-fire", "the printer is on fire", "")


async def test_a_method_that_raises_system_exit_fails_and_the_agent_lives(world: World) -> None:
    await world.agent(Worker)
    assert (await world.outcome("exits")).state is TaskState.FAILED
    assert (await world.outcome("add", {"a": 1})).result == 2


async def test_an_error_is_tried_again_until_it_goes_well(world: World) -> None:
    await world.agent(Worker)
    result = await world.outcome("flaky", {"fails": 2})
    assert (result.state, result.attempts) == (TaskState.DONE, 3)


async def test_a_task_whose_attempts_are_used_up_is_dead_with_its_reason(world: World) -> None:
    await world.agent(Worker)
    result = await world.outcome("flaky", {"fails": 99})
    assert (result.state, result.attempts) == (TaskState.DEAD, 3)
    assert result.error is not None
    assert "all 3 attempts are used up" in result.error.message
    assert "OSError: again" in result.error.message


async def test_a_retry_that_the_code_asks_for_ends_at_its_limit(world: World) -> None:
    await world.agent(Worker)
    result = await world.outcome("asks_again", max_attempts=2)
    assert (result.state, result.attempts) == (TaskState.DEAD, 2)


async def test_a_task_whose_agents_died_too_often_is_dead_unseen(world: World) -> None:
    await world.agent(Worker)
    result = await world.outcome("add", {"a": 1}, attempts_before=5)
    assert result.state is TaskState.DEAD
    assert result.error is not None
    assert result.error.code == "gave-up"
    assert "died" in result.error.message


@pytest.mark.parametrize("what", ["nan", "inf", "object", "loop", "surrogate"])
async def test_a_result_that_is_no_json_fails_the_task(world: World, what: str) -> None:
    await world.agent(Worker)
    result = await world.outcome("gives", {"what": what})
    assert result.state is TaskState.FAILED
    assert result.error is not None
    assert result.error.code == "bad-result"


async def test_a_result_over_the_limit_fails_the_task(world: World) -> None:
    await world.agent(Worker)
    result = await world.outcome("gives", {"what": "large"})
    assert result.error is not None
    assert result.error.code == "too-large"


async def test_large_arguments_are_left_out_rather_than_the_result(world: World) -> None:
    class Echo(Agent):
        @task
        async def echo(self, text: str) -> str:
            return text

    await world.agent(Echo)
    result = await world.outcome("echo", {"text": "x" * (PAYLOAD_BYTES_MAX // 2 + 1)})
    assert (result.state, result.args) == (TaskState.DONE, {})


@pytest.mark.parametrize("method", ["slow", "slow_thread"])
async def test_a_task_that_takes_too_long_is_timed_out(world: World, method: str) -> None:
    runner, _ = await world.agent(Worker)
    result = await world.outcome(method)
    assert result.state is TaskState.FAILED
    assert result.error is not None
    assert result.error.code == "timed-out"
    agent = runner._worker._caller._agent  # type: ignore[union-attr]
    agent.released.set()  # type: ignore[attr-defined]


async def test_code_that_outlives_its_time_out_keeps_its_slot(world: World) -> None:
    runner, _ = await world.agent(Worker)
    await world.outcome("slow_thread")
    task_ = await world.put("add", {"a": 1})
    assert runner._worker is not None
    assert runner._worker.free == 0
    runner._worker._caller._agent.released.set()  # type: ignore[attr-defined]
    assert (await world.result(task_)).result == 2


async def test_an_agent_with_code_that_never_ends_asks_to_be_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddock.agent.call.OVERRUN_S_MIN", 0.05)
    runner, running = await world.agent(Worker)
    await world.outcome("slow_thread")
    assert await asyncio.wait_for(running, 10) == 75
    runner._worker._caller._agent.released.set()  # type: ignore[union-attr,attr-defined]


async def test_a_cancelled_task_stops_and_its_agent_goes_on(world: World) -> None:
    await world.agent(Worker)
    task_ = await world.put("forever")
    await until(lambda: world.node.ops("hold"))
    world.node.say(op="cancel", task=task_.id)
    assert (await world.result(task_)).state is TaskState.CANCELLED
    assert (await world.outcome("add", {"a": 1})).result == 2


async def test_the_result_of_a_task_that_somebody_else_ended_is_dropped(world: World) -> None:
    await world.agent(Worker)
    task_ = await world.put("forever")
    await until(lambda: world.node.ops("hold"))
    await world.fabric.store(subjects.result("f", task_.id), b'{"id":"x","fleet":"f","method":"m","state":"cancelled"}')
    world.node.say(op="cancel", task=task_.id)
    await until(lambda: _empty(world), "it is acknowledged all the same")
    assert (await world.result(task_)).id == "x"


async def test_a_task_that_ended_before_is_not_run_again(world: World) -> None:
    await world.fabric.ensure(*subjects.STREAMS)
    await world.fabric.store(subjects.result("f", "k"), b'{"id":"k","fleet":"f","method":"flaky","state":"done"}')
    runner, _ = await world.agent(Worker)
    await world.put("flaky", {"fails": 0}, id="k", keyed=True)
    await until(lambda: _empty(world))
    assert runner._worker._caller._agent.tries == 0  # type: ignore[union-attr,attr-defined]


async def test_who_asked_to_be_notified_gets_the_result(world: World) -> None:
    await world.agent(Worker)
    got: list[bytes] = []
    world.fabric.subscribe("_INBOX.server.x", lambda message: got.append(message.data))
    await world.put("add", {"a": 1}, headers={"Paddock-Notify": "_INBOX.server.x"})
    await until(lambda: got)
    assert json.loads(got[0])["result"] == 2


async def test_a_running_task_is_announced_with_its_progress(world: World) -> None:
    await world.agent(Worker)
    notes: dict[str, Any] = {}
    world.fabric.subscribe("note.>", lambda message: notes.update({message.subject: json.loads(message.data)}))
    task_ = await world.put("forever")
    await until(lambda: len(notes) == 2)
    assert notes[f"note.running.f.{task_.id}"]["attempt"] == 1
    assert notes[f"note.progress.f.{task_.id}"] == {"agent": "f/0", "progress": 0.25, "note": "quarter"}


async def test_held_tasks_are_not_handed_out_again(world: World) -> None:
    await world.agent(Worker, ack_wait_s=0.3)
    seen: list[bytes] = []
    world.fabric.subscribe("$JS.ACK.>", lambda message: seen.append(message.data))
    task_ = await world.put("sleepy", {"seconds": 0.8})
    assert (await world.result(task_)).attempts == 1


async def test_a_result_waits_for_a_fabric_that_is_away(world: World) -> None:
    await world.agent(Worker)
    task_ = await world.put("sleepy", {"seconds": 0.2})
    await until(lambda: world.node.ops("hold"))
    world.broker.stop()
    await asyncio.to_thread(time.sleep, 0.4)  # the code ends meanwhile
    assert not world.node.ops("drop")
    world.broker.start()
    assert (await world.result(task_)).result == 0.2
    await until(lambda: world.node.ops("drop"))


async def test_an_agent_takes_no_more_than_its_concurrency(world: World) -> None:
    running = most = 0

    class Counting(Agent):
        @task
        async def work(self) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.005)  # the work: others may begin meanwhile
            running -= 1

    await world.agent(Counting, concurrency=3)
    tasks = [await world.put("work", priority=i % 4) for i in range(30)]
    for one in tasks:
        assert (await world.result(one)).attempts == 1
    assert most == 3


async def test_urgent_tasks_go_first_and_low_ones_do_not_starve(world: World) -> None:
    order: list[int] = []

    class Ordered(Agent):
        @task
        async def work(self, n: int) -> None:
            order.append(n)

    await world.agent(Worker)  # makes the streams
    world.runners[0][0].terminate()
    await world.runners[0][1]
    tasks = [await world.put("work", {"n": p}, priority=p) for p in (3, 2, 1, 0) for _ in range(20)]
    await world.agent(Ordered, "1", ready=False)
    for one in tasks:
        await world.result(one)
    assert order[0] == 0
    assert 3 in order[:40]
    assert order.index(3) > 5


async def test_a_task_for_one_agent_goes_to_it_alone(world: World) -> None:
    await world.agent(Worker, "0")
    await world.agent(Worker, "1")
    for _ in range(5):
        assert (await world.outcome("add", {"a": 1}, agent="1")).agent == "f/1"
    assert (await world.outcome("add", {"a": 1}, agent="0", priority=0)).agent == "f/0"


async def test_a_task_queued_for_an_agent_before_its_start_is_found(world: World) -> None:
    await world.agent(Worker, "0")
    task_ = await world.put("add", {"a": 1}, agent="later")
    await world.agent(Worker, "later")
    assert (await world.result(task_)).agent == "f/later"


async def test_a_task_that_another_agent_is_still_at_waits_until_it_is_over(world: World) -> None:
    await world.agent(Worker)
    world.node.holders["t1"] = "f/9"
    task = await world.put("add", {"a": 1})
    await until(lambda: len(world.node.ops("holder")) > 1, "asked more than once")
    assert await world.queued() == 1
    first = TaskResult(id=task.id, fleet="f", method="add", state=TaskState.DONE, result="of the first")
    await world.fabric.store(subjects.result("f", task.id), msgspec.json.encode(first))
    del world.node.holders["t1"]
    await until(lambda: world.node.ops("drop"), "dropped")
    assert (await world.result(task)).result == "of the first"
    assert world.runners[0][0]._worker.done == 0


async def test_a_task_whose_first_agent_died_meanwhile_is_done_by_the_second(world: World) -> None:
    await world.agent(Worker)
    world.node.holders["t1"] = "f/9"
    task = await world.put("add", {"a": 1})
    await until(lambda: world.node.ops("holder"), "asked")
    del world.node.holders["t1"]
    assert (await world.result(task)).result == 2


async def test_deaths_that_the_fabric_forgot_are_known_by_the_node(world: World) -> None:
    await world.agent(Worker)
    world.node.deaths |= {"t1": 1, "t2": 3}
    once = await world.outcome("add", {"a": 1}, repeatable=False)
    assert (once.state, once.attempts) == (TaskState.DEAD, 1)
    poison = await world.outcome("add", {"a": 1})
    assert (poison.state, poison.attempts) == (TaskState.DEAD, 3)


async def test_what_two_agents_died_of_runs_with_nothing_else_in_hand(world: World) -> None:
    runner, _ = await world.agent(Counting, concurrency=3)
    worker = runner._worker
    world.node.deaths["t2"] = 2
    first = await world.put("wait")
    await until(lambda: len(world.node.ops("hold")) == 1, "the first is held")
    suspect = await world.put("wait")
    await until(lambda: worker._alone, "the suspect waits")
    third = await world.put("wait")
    assert worker.free == 0
    assert await world.queued() == 3
    Counting.gate.set()
    for each in (first, suspect, third):
        assert (await world.result(each)).state is TaskState.DONE
    await until(lambda: worker.free == 3, "all is free again")
    assert [line["task"] for line in world.node.ops("hold")] == ["t1", "t2", "t3"]


async def test_what_was_handed_out_twice_in_vain_runs_alone_even_if_the_node_knows_of_no_death(world: World) -> None:
    runner, _ = await world.agent(Counting, concurrency=3)
    worker = runner._worker
    await world.put("wait")
    await until(lambda: len(world.node.ops("hold")) == 1, "the first is held")
    await world.put("wait", attempts_before=2)  # as one that came back twice from agents of another node
    await until(lambda: worker._alone, "the suspect waits")
    assert len(world.node.ops("hold")) == 1
    Counting.gate.set()
    await until(lambda: len(world.node.ops("hold")) == 2, "it is held once the first is over")


async def test_a_last_chance_does_not_wait_for_ever_for_what_waits_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddock.agent.worker.ALONE_S", 0.2)
    runner, _ = await world.agent(Counting, concurrency=2)
    first = await world.put("wait")
    await until(lambda: len(world.node.ops("hold")) == 1, "the first is held")
    suspect = await world.put("quick", attempts_before=2)
    await until(lambda: runner._worker._alone, "the suspect waits")
    assert (await world.result(suspect)).result == 2
    assert len(world.node.ops("drop")) == 1  # the first is in hand still
    Counting.gate.set()
    assert (await world.result(first)).state is TaskState.DONE


async def test_a_task_in_hand_that_is_handed_out_again_runs_once(world: World) -> None:
    runner, _ = await world.agent(Counting, concurrency=2)
    task = await world.put("wait")
    await until(lambda: world.node.ops("hold"), "held")
    (first,) = runner._worker._held.values()
    runner._worker.take(first.delivery)  # the very same hand-out, as a fabric makes it that forgot the first
    await until(lambda: len(runner._worker._held) == 2, "both in hand")
    Counting.gate.set()
    await until(lambda: not runner._worker._held, "both are over")
    assert (await world.result(task)).result == 1
    assert Counting.runs == 1


async def test_how_long_a_task_took_is_told_rightly_though_the_clock_was_set_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would seem to be a slow agent, whose health is bad."""
    await world.agent(Counting)
    for jump_s in (-3600.0, 86_400.0):
        waiting = await world.put("wait")
        await until(lambda: Counting.runs, "it runs")
        monkeypatch.setattr(HostClock, "now", lambda self, jump_s=jump_s: time.time() + jump_s)
        Counting.gate.set()
        result = await world.result(waiting)
        assert 0 <= result.finished_at - result.started_at < 3600.0
        assert abs(result.finished_at - time.time() - jump_s) < 3600.0  # when it ended is said by the clock as it is
        monkeypatch.undo()
        Counting.runs = 0
        Counting.gate.clear()


class Counting(Agent):
    runs = 0
    gate: asyncio.Event

    async def start(self) -> None:
        type(self).runs, type(self).gate = 0, asyncio.Event()

    @task
    async def wait(self) -> int:
        type(self).runs += 1
        await self.gate.wait()
        return self.runs

    @task
    async def quick(self) -> int:
        return 2
