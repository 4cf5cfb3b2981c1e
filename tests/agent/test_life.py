"""Starting, draining, stopping; the node's socket; what an agent does without one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import Agent, every, nodelink, on, task
from paddock.agent.runner import Who, load_class
from paddock.model.errors import Refused, TemplateBroken
from paddock.model.task import TaskState

from .world import World, until


class Calm(Agent):
    stopped = False

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def stop(self) -> None:
        type(self).stopped = True

    @task
    async def quick(self) -> str:
        return self.id

    @task
    async def waits(self) -> str:
        await self.gate.wait()
        return "done"


def instance(world: World, index: int = 0) -> Any:
    worker = world.runners[index][0]._worker
    assert worker is not None
    return worker._caller._agent


async def test_the_node_hears_hello_ready_beats_holds_and_drops(world: World) -> None:
    await world.agent(Calm)
    task_ = await world.put("quick")
    await world.result(task_)
    await until(lambda: world.node.ops("drop"))
    hello = world.node.ops("hello")[0]
    assert {k: hello[k] for k in ("agent", "epoch", "token", "pid", "holds", "ready")} == {
        "agent": "f/0", "epoch": 7, "token": "secret", "pid": os.getpid(), "holds": [], "ready": False,
    }  # fmt: skip
    hold = world.node.ops("hold")[0]
    assert hold["task"] == task_.id
    assert hold["ack"]
    assert world.node.ops("drop") == [{"op": "drop", "task": task_.id}]
    assert world.node.ops("beat")


async def test_after_a_restart_of_the_node_the_agent_says_what_it_holds(world: World) -> None:
    await world.agent(Calm)
    task_ = await world.put("waits")
    await until(lambda: world.node.ops("hold"))
    await world.node.stop()
    world.node.lines.clear()
    await world.node.start()
    hello = (await until(lambda: world.node.ops("hello")))[0]
    assert [held["task"] for held in hello["holds"]] == [task_.id]
    assert hello["ready"] is True
    instance(world).gate.set()
    assert (await world.result(task_)).state is TaskState.DONE


async def test_an_agent_works_while_there_is_no_node(world: World) -> None:
    await world.agent(Calm)
    await world.node.stop()
    assert (await world.outcome("quick")).result == "f/0"
    await world.node.start()
    await until(lambda: len(world.node.ops("hello")) > 1)


async def test_no_task_begins_while_a_hello_is_on_its_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node would not know; and the hello names what is in hand, so that it goes back if the agent dies."""
    monkeypatch.setattr(nodelink, "ANSWER_S_MAX", 60.0)
    runner, _ = await world.agent(Calm, concurrency=2)
    await world.node.stop()
    for number in range(5000):  # more than a socket's buffer takes
        runner._link.hold(f"T{number:060}", f"$JS.ACK.WORK_f.p2.1.{number}.1.0.0")
    runner._link.in_hand = lambda: ["$JS.ACK.in-hand"]
    Path(world.node.path).unlink(missing_ok=True)  # Python 3.13 takes it away with its server
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(world.node.path)
        door.listen(1)
        await until(lambda: runner._link.greeting, "it says hello to who does not listen yet")
        put = await world.put("quick", submitted_at=4e9)  # surely not handed out to anybody before
        worker = runner._worker
        assert worker is not None
        await until(lambda: worker._held, "it has the task in hand")
        for _ in range(100):
            await asyncio.sleep(0)  # turns of the loop, no time: what must not happen would have by then
        assert [held.call for held in worker._held.values()] == [None]
        line, _ = door.accept()
    reader, writer = await asyncio.open_unix_connection(sock=line, limit=2**21)
    hello = json.loads(await reader.readline())
    assert (len(hello["holds"]), hello["has"]) == (5000, ["$JS.ACK.in-hand"])
    after = [json.loads(await reader.readline())]
    while after[-1]["op"] != "hold":
        after.append(json.loads(await reader.readline()))
    assert after[-1]["task"] == put.id
    assert (await world.result(put)).state is TaskState.DONE
    writer.close()


async def test_drain_ends_what_is_held_and_takes_no_more(world: World) -> None:
    Calm.stopped = False
    _, running = await world.agent(Calm)
    held = await world.put("waits")
    await until(lambda: world.node.ops("hold"))
    world.node.say(op="drain")
    runner = world.runners[0][0]
    await until(runner._drain.is_set)
    left = await world.put("quick")
    instance(world).gate.set()
    assert await asyncio.wait_for(running, 10) == 0
    assert (await world.result(held)).result == "done"
    assert await world.queued() == 1
    assert Calm.stopped
    await world.agent(Calm, "1", ready=False)
    assert (await world.result(left)).agent == "f/1"


async def test_sigterm_puts_back_what_does_not_end_within_the_grace(world: World) -> None:
    _, running = await world.agent(Calm, stop_grace_s=0.7)
    held = await world.put("waits")
    await until(lambda: world.node.ops("hold"))
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 10) == 0
    await world.agent(Calm, "1", ready=False)
    await until(lambda: len(world.node.ops("hold")) == 2)
    instance(world, 1).gate.set()
    result = await world.result(held)
    assert (result.agent, result.attempts) == ("f/1", 2)


async def test_an_idle_agent_leaves_at_once_on_sigterm(world: World) -> None:
    _, running = await world.agent(Calm)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 10) == 0


async def test_a_refused_incarnation_leaves(world: World) -> None:
    _, running = await world.agent(Calm)
    world.node.say(op="refused", why="epoch 8 lives")
    assert await asyncio.wait_for(running, 10) == 0


async def test_garbage_from_the_node_breaks_the_line_and_not_the_agent(world: World) -> None:
    await world.agent(Calm)
    for writer in world.node._writers:
        writer.write(b"{not json\n")
    await until(lambda: len(world.node.ops("hello")) > 1)
    assert (await world.outcome("quick")).state is TaskState.DONE


async def test_an_agent_whose_start_raises_exits_with_1_and_says_why(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Agent):
        async def start(self) -> None:
            raise RuntimeError("no database")

    _, running = await world.agent(Broken, ready=False)
    assert await asyncio.wait_for(running, 10) == 1
    assert "RuntimeError: no database" in capsys.readouterr().out


async def test_an_agent_whose_stop_raises_exits_with_1(world: World) -> None:
    class Sticky(Agent):
        async def stop(self) -> None:
            raise RuntimeError("stuck")

    runner, running = await world.agent(Sticky)
    runner.drain()
    assert await asyncio.wait_for(running, 10) == 1


async def test_every_goes_on_after_an_error_and_never_overlaps(world: World) -> None:
    calls: list[str] = []

    class Ticking(Agent):
        @every(seconds=0.005, jitter=0.001)
        async def tick(self) -> None:
            assert calls.count("in") == calls.count("out")
            calls.append("in")
            await asyncio.sleep(0.01)  # the work takes longer than its interval
            calls.append("out")
            raise ValueError("every time")

        @every(seconds=0.005)
        def blocking(self) -> None:
            calls.append("thread")

    await world.agent(Ticking)
    await until(lambda: calls.count("out") >= 3 and calls.count("thread") >= 2)


async def test_topics_reach_those_who_listen(world: World) -> None:
    heard: list[Any] = []

    class Listening(Agent):
        @on("market.*")
        async def tick(self, message: Any) -> None:
            heard.append((message.topic, message.value))
            if message.value == "bad":
                raise ValueError

        @task
        async def shout(self, value: Any) -> None:
            self.publish("market.tick", value)

        @task
        def shout_from_a_thread(self) -> None:
            self.publish("market.thread", 1)

    await world.agent(Listening)
    world.fabric.publish("topic.market.raw", b"not json")
    for value in ("bad", {"price": 3}):
        await world.outcome("shout", {"value": value})
    await world.outcome("shout_from_a_thread")
    await until(lambda: len(heard) == 3)
    assert heard == [("market.tick", "bad"), ("market.tick", {"price": 3}), ("market.thread", 1)]


async def test_state_outlives_the_agent(world: World) -> None:
    class Keeping(Agent):
        @task
        async def save(self, key: str, value: Any) -> list[str]:
            await self.state.put(key, value)
            return await self.state.keys()

        @task
        async def load(self, key: str) -> Any:
            return await self.state.get(key, "nothing")

        @task
        async def forget(self, key: str) -> list[str]:
            await self.state.delete(key)
            return await self.state.keys()

    runner, running = await world.agent(Keeping)
    saved = await world.outcome("save", {"key": "a.b", "value": {"x": 1}})
    assert saved.result == ["a.b"], saved.error
    runner.drain()
    await running
    await world.agent(Keeping, ready=False)
    assert (await world.outcome("load", {"key": "a.b"})).result == {"x": 1}
    assert (await world.outcome("forget", {"key": "a.b"})).result == []
    assert (await world.outcome("load", {"key": "a.b"})).result == "nothing"
    error = (await world.outcome("save", {"key": "a b", "value": 1})).error
    assert error is not None
    assert "letters" in error.message


async def test_without_an_identity_in_the_environment_it_says_so() -> None:
    with pytest.raises(Refused, match="PADDOCK_AGENT"):
        Who.read({})
    with pytest.raises(Refused, match="PADDOCK_EPOCH"):
        Who.read({"PADDOCK_AGENT": "f/0", "PADDOCK_EPOCH": "x"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", "module:Class"),
        ("no_such_module_here:X", "No module named"),
        ("json:Nope", "has no Nope"),
        ("json:JSONDecoder", "not a subclass"),
        ("broken_agent_a:X", "broken_agent_a.py:1"),
        ("broken_agent_b:X", "ZeroDivisionError"),
    ],
)
def test_a_class_that_cannot_be_loaded_is_told_with_its_reason(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_agent_a.py").write_text("def (:\n")
    (tmp_path / "broken_agent_b.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TemplateBroken, match=words):
        load_class(text)
