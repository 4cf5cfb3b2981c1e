from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.clock import HostClock
from paddock.agent.log import Log
from paddock.agent.nodelink import NodeLink
from paddock.model.agent import AgentState
from paddock.node.socket import HELLO_BYTES_MAX, LINE_BYTES_MAX, PATH_BYTES_MAX, HeldTask, Tokens, socket_path
from paddock.node.socket import Line as SaidLine

from .conftest import LIMIT_S, World, python, script


class Line:
    """The agent's end of a connection, by hand."""

    def __init__(self, world: World) -> None:
        self.path = world.nodes[0]._socket.path

    async def __aenter__(self) -> Line:
        self.reader, self.writer = await asyncio.open_unix_connection(self.path)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass  # the node closed it first

    def say(self, **words: Any) -> None:
        self.writer.write(json.dumps(words).encode() + b"\n")

    async def told(self) -> dict[str, Any] | None:
        """The node's next line; None when it closed."""
        async with asyncio.timeout(LIMIT_S):
            text = await self.reader.readline()
        return json.loads(text) if text else None


async def mute_agent(world: World) -> tuple[str, int, str]:
    """(agent, epoch, token) of a command that leaves the talking to the test."""
    await world.node()
    await world.place(script("import time; time.sleep(600)"), "0")
    status = await world.ready("tool/0")
    return status.id, status.epoch, world.nodes[0]._host.tokens.token(status.id, status.epoch)


async def test_hello_holds_beats_and_cancel(world: World) -> None:
    agent, epoch, token = await mute_agent(world)
    ack = "$JS.ACK.WORK_tool.p2.3.9.1.0.0"
    async with Line(world) as line:
        line.say(
            op="hello", agent=agent, epoch=epoch, token=token, pid=1, holds=[{"task": "T0", "ack": ack}], ready=True
        )
        line.say(op="hold", task="T1", ack=ack)
        line.say(op="drop", task="T0")
        line.say(op="beat", done=7, failed=2)
        line.say(op="a-word-of-a-newer-agent")
        member = world.nodes[0].fleets.agents[agent]
        await world.until(lambda: (member.done, member.failed, list(member.holds)) == (7, 2, ["T1"]), "all heard")
        (hold,) = (await world.ask(op="holds"))["holds"]
        assert (hold["task"], hold["fleet"], hold["agent"], hold["attempt"]) == ("T1", "tool", agent, 3)
        assert await world.ask(op="cancel", task="T1") == {"ok": True, "held": True}
        assert await line.told() == {"op": "cancel", "task": "T1"}
        assert await world.ask(op="cancel", task="T9") == {"ok": True, "held": False}
    assert (await world.agent(agent, lambda s: s.tasks_done == 7, "counted")).tasks_failed == 2


async def test_a_wrong_token_is_refused_and_harms_nobody(world: World) -> None:
    agent, epoch, _ = await mute_agent(world)
    async with Line(world) as line:
        line.say(op="hello", agent=agent, epoch=epoch, token="guessed", pid=os.getpid())
        assert await line.told() == {"op": "refused", "why": "the token does not prove this incarnation"}
        assert await line.told() is None
    assert world.nodes[0].fleets.agents[agent].link is None


async def test_garbage_closes_that_connection_only(world: World) -> None:
    agent, epoch, token = await mute_agent(world)
    async with Line(world) as good:
        good.say(op="hello", agent=agent, epoch=epoch, token=token)
        for garbage in (b"not json\n", b'{"op": 5}\n', b"\xff\xfe\n", b'{"op":"beat"}\n', b"[" * 5000 + b"\n"):
            async with Line(world) as bad:
                bad.writer.write(garbage)
                told = await bad.told()
                assert told is not None
                assert told["op"] == "refused"
                assert await bad.told() is None
        good.say(op="beat", done=1, failed=0)
        await world.until(lambda: world.nodes[0].fleets.agents[agent].done == 1, "the good line lives")


async def test_a_line_without_end_is_refused(world: World) -> None:
    await mute_agent(world)
    async with Line(world) as line:
        line.writer.write(b"x" * (HELLO_BYTES_MAX + 10))
        told = await line.told()
        assert told == {"op": "refused", "why": f"a line is longer than {HELLO_BYTES_MAX} bytes"}


async def test_a_hello_may_name_thousands_of_tasks_and_no_line_after_it_may_be_so_long(world: World) -> None:
    agent, epoch, token = await mute_agent(world)
    holds = [{"task": f"T{number:060}", "ack": f"$JS.ACK.WORK_tool.p2.1.{number}.1.0.0"} for number in range(5000)]
    async with Line(world) as line:
        line.say(op="hello", agent=agent, epoch=epoch, token=token, pid=1, holds=holds, ready=True)
        member = world.nodes[0].fleets.agents[agent]
        await world.until(lambda: len(member.holds) == 5000, "all holds known")
        line.writer.write(b"x" * (LINE_BYTES_MAX + 10))
        told = await line.told()
        assert told == {"op": "refused", "why": f"a line is longer than {LINE_BYTES_MAX} bytes"}


async def test_an_agent_that_holds_thousands_of_tasks_is_welcome_again(world: World) -> None:
    """The agent's own end: its hello is longer than a socket's buffer."""
    agent, epoch, token = await mute_agent(world)
    node, clock = world.nodes[0], HostClock()
    link = NodeLink(
        agent=agent, epoch=epoch, path=node._socket.path, token=token, clock=clock, log=Log(agent, clock.now, str)
    )
    for number in range(5000):
        link.hold(f"T{number:060}", f"$JS.ACK.WORK_tool.p2.1.{number}.1.0.0")
    running = asyncio.create_task(link.run(NoOrders()), name="link")
    member = node.fleets.agents[agent]
    await world.until(lambda: len(member.holds) == 5000, "all holds known")
    link.drop("T" + "0" * 60)
    link.hold("one-more", "$JS.ACK.WORK_tool.p2.1.9.1.0.0")
    await world.until(lambda: "one-more" in member.holds, "the line goes on")
    assert len(member.holds) == 5000
    running.cancel()
    await asyncio.wait([running])


class NoOrders:
    """`paddock.agent.nodelink.Orders` of an agent that does what it likes."""

    def drain(self) -> None:
        """Goes on."""

    def cancel(self, task_id: str) -> None:
        """Goes on."""

    def refused(self, why: str) -> None:
        raise AssertionError(why)


async def test_garbage_after_the_hello_leaves_the_agent_running(world: World) -> None:
    agent, epoch, token = await mute_agent(world)
    async with Line(world) as line:
        line.say(op="hello", agent=agent, epoch=epoch, token=token)
        line.writer.write(b"}{\n")
        told = await line.told()
        assert told is not None
        assert told["op"] == "refused"
    member = world.nodes[0].fleets.agents[agent]
    await world.until(lambda: member.link is None, "hung up")
    assert member.state is AgentState.READY


async def test_a_second_line_of_an_agent_replaces_the_first(world: World) -> None:
    agent, epoch, token = await mute_agent(world)
    async with Line(world) as first, Line(world) as second:
        first.say(op="hello", agent=agent, epoch=epoch, token=token, holds=[{"task": "T1", "ack": "a"}])
        member = world.nodes[0].fleets.agents[agent]
        await world.until(lambda: "T1" in member.holds, "first heard")
        second.say(op="hello", agent=agent, epoch=epoch, token=token, holds=[])
        assert await first.told() is None
        await world.until(lambda: not member.holds, "the newer hello counts")
        assert member.link is not None


async def test_the_last_words_of_a_dead_agent_are_heard_though_it_cannot_be_answered(world: World) -> None:
    agent, epoch, token = await mute_agent(world)
    member = world.nodes[0].fleets.agents[agent]
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(world.nodes[0]._socket.path)
        line.sendall(json.dumps({"op": "hello", "agent": agent, "epoch": epoch, "token": token}).encode() + b"\n")
        link = await world.until(lambda: member.link, "greeted")
        line.sendall(b'{"op":"hold","task":"T1","ack":"$JS.ACK.1"}\n')
    link.send(op="cancel", task="T0")  # the kernel says that nobody is there
    await link.last_words(LIMIT_S)
    assert list(member.holds) == ["T1"]


def test_tokens_stay_the_same_and_prove_one_incarnation(tmp_path: Path) -> None:
    token = Tokens(tmp_path / "key").token("a/0", 5)
    tokens = Tokens(tmp_path / "key")
    assert tokens.proves(token, "a/0", 5)
    assert not tokens.proves(token, "a/0", 6)
    assert not tokens.proves(token, "a/1", 5)
    assert not tokens.proves("é", "a/0", 5)
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


def test_a_long_folder_gets_a_short_socket_path_that_stays(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    path = socket_path(folder)
    assert len(path) <= PATH_BYTES_MAX
    assert path == socket_path(folder)
    assert Path(path).parent.stat().st_mode & 0o077 == 0
    assert socket_path(Path("/short")) == "/short/node.sock"


async def test_the_node_says_who_was_handed_a_task_first(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0", "1")
    await world.ready("crew/0")
    await world.ready("crew/1")
    first, second = node.fleets.agents["crew/0"], node.fleets.agents["crew/1"]
    first.said_hold("T", "$JS.ACK.first")
    second.said_hold("T", "$JS.ACK.second")
    assert node.fleets.holder(second, "T") == ("crew/0", 0)
    assert node.fleets.holder(first, "T") == ("", 0)
    assert node.fleets.holder(second, "U") == ("", 0)
    assert first.live is not None
    first.live.kill()
    await world.until(lambda: node.fleets.holder(second, "T") == ("", 1), "its death is known")


async def test_a_new_node_says_that_nobody_holds_a_task_only_when_all_have_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await world.node()
    await world.place(python(), "0", "1")
    await world.ready("crew/0")
    await world.ready("crew/1")
    first, second = node.fleets.agents["crew/0"], node.fleets.agents["crew/1"]
    told: list[object] = []
    assert second.link is not None
    monkeypatch.setattr(second.link, "send", lambda op, **words: told.append(tuple(words.values())))
    here = node.fleets.fleets["crew"]
    here.unheard = {"0", "1"}  # as after the node was killed

    second.said_hold("T", "$JS.ACK.second")
    second.asked_holder("T")
    node.fleets.heard(second)
    assert told == []
    assert first.link is not None
    held = HeldTask(task="T", ack="$JS.ACK.first", for_s=60.0)  # the note of it died with the last node
    first.attach(first.link, SaidLine("hello", holds=[held], ready=True))
    assert told == [("T", "crew/0", 0)]

    here.unheard = {"0"}
    second.asked_holder("U")
    assert len(told) == 1
    node.fleets._heard_all(here)  # who is not back by now has died
    assert told[1:] == [("U", "", 0)]
