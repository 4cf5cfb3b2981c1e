"""Asking and submitting, from agents and from programs."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import Agent, TaskError, task
from paddock.agent.calls import TaskOptions
from paddock.agent.client import Client, connect
from paddock.model.errors import Conflict, NoResponders, NotFound, Refused, TimedOut
from paddock.model.task import TaskState

from .world import World, until


class Helper(Agent):
    def __init__(self) -> None:
        self.gate = asyncio.Event()

    @task
    async def double(self, n: int) -> int:
        return 2 * n

    @task
    async def refuse(self) -> None:
        raise TaskError("not today", code="closed")

    @task
    async def waits(self) -> str:
        await self.gate.wait()
        return "waited"

    @task
    async def ask_other(self, to: str, n: Any) -> Any:
        return await self.ask(to, "double", n=n)

    @task
    async def submit_to(self, to: str) -> Any:
        return await self.submit(to, "double", n=21, wait=True)


def client(world: World) -> Client:
    return Client(world.fabric, inbox="_INBOX.server", who="test")


@pytest.mark.parametrize("to", [None, 5, ["f"]])
async def test_who_is_asked_has_a_name(world: World, to: Any) -> None:
    with pytest.raises(Refused, match="is no fleet and no agent"):
        await client(world).run(to, "double", n=1)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"eyJx.eyJuYXRzIjoi.x", b"eyJx.W10.x"])
async def test_damaged_credentials_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "creds").write_bytes(content)
    with pytest.raises(Refused, match="are damaged"):
        await connect("nats://127.0.0.1:9", str(tmp_path / "creds"))


async def test_an_agent_asks_another(world: World) -> None:
    await world.agent(Helper, "0")
    await world.agent(Helper, "1", ready=False)
    assert (await world.outcome("ask_other", {"to": "f/1", "n": 4}, agent="0")).result == 8
    assert await client(world).ask("f", "double", n=5) == 10


async def test_a_question_is_checked_like_a_task(world: World) -> None:
    await world.agent(Helper)
    with pytest.raises(TaskError, match="Expected `int`") as caught:
        await client(world).ask("f/0", "double", n="x")
    assert caught.value.code == "bad-arguments"
    with pytest.raises(TaskError) as caught:
        await client(world).ask("f/0", "refuse")
    assert (caught.value.code, caught.value.message) == ("closed", "not today")


async def test_a_question_to_nobody_or_without_answer_says_so(world: World) -> None:
    await world.agent(Helper)
    with pytest.raises(NoResponders, match="f/9"):
        await client(world).ask("f/9", "double", n=1)
    with pytest.raises(TimedOut, match="waits"):
        await client(world).ask("f/0", "waits", timeout_s=0.05)


async def test_garbage_as_a_question_is_answered(world: World) -> None:
    await world.agent(Helper)
    reply = await world.fabric.request("ask.f.0", b"\xff")
    assert b"bad-arguments" in reply.data


async def test_an_agent_submits_a_task_and_awaits_it(world: World) -> None:
    await world.agent(Helper, concurrency=2)
    assert (await world.outcome("submit_to", {"to": "f"})).result == 42


async def test_a_program_runs_a_task(world: World) -> None:
    await world.agent(Helper)
    assert await client(world).run("f", "double", n=4) == 8
    with pytest.raises(TaskError) as caught:
        await client(world).run("f/0", "refuse")
    assert caught.value.code == "closed"


async def test_arguments_named_like_options_go_in_a_mapping(world: World) -> None:
    class Odd(Agent):
        @task
        async def odd(self, options: int, timeout_s: int, to: int) -> int:
            return options + timeout_s + to

    await world.agent(Odd)
    assert await client(world).run("f", "odd", {"options": 1, "timeout_s": 2}, to=3) == 6


async def test_a_lost_notice_does_not_lose_the_result(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.agent(Helper)
    running = asyncio.get_running_loop().create_task(client(world).run("f", "waits"), name="run")
    await until(lambda: world.node.ops("hold"))
    world.broker.stop()
    world.runners[0][0]._worker._caller._agent.gate.set()  # type: ignore[union-attr,attr-defined]
    world.broker.start()
    assert await asyncio.wait_for(running, 15) == "waited"


async def test_waiting_for_a_result_has_a_limit_and_the_task_goes_on(world: World) -> None:
    await world.agent(Helper)
    with pytest.raises(TimedOut, match="goes on"):
        await client(world).run("f", "waits", options=TaskOptions(wait_s=0.05, id="mine"))
    world.runners[0][0]._worker._caller._agent.gate.set()  # type: ignore[union-attr,attr-defined]
    result = await until(lambda: client(world).task_result("mine"))
    assert result.state is TaskState.DONE


async def test_a_task_with_an_id_of_ones_own_runs_once(world: World) -> None:
    await world.agent(Helper)
    options = TaskOptions(id="once")
    assert await client(world).run("f", "double", n=1, options=options) == 2
    assert await client(world).run("f", "double", n=50, options=options) == 2


async def test_the_same_id_twice_in_the_queue_is_a_conflict(world: World) -> None:
    runner, running = await world.agent(Helper)
    runner.drain()
    await running
    await client(world).submit("f", "double", n=1, options=TaskOptions(id="same"))
    with pytest.raises(Conflict):
        await client(world).submit("f", "double", n=1, options=TaskOptions(id="same"))


async def test_bad_submissions_are_refused_before_they_leave(world: World) -> None:
    await world.agent(Helper)
    with pytest.raises(Refused, match="finite"):
        await client(world).submit("f", "double", n=math.nan)
    with pytest.raises(Refused, match="name of a method"):
        await client(world).submit("f", "no method", n=1)
    with pytest.raises(Refused, match="not a name"):
        await client(world).submit("F!", "double", n=1)
    with pytest.raises(NotFound, match="nowhere"):
        await client(world).submit("nowhere", "double", n=1)


async def test_a_program_that_does_not_say_where_the_fabric_is_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDOCK_NATS_URL", raising=False)
    with pytest.raises(Refused, match="PADDOCK_NATS_URL"):
        await connect()
