"""The node dies and comes back; its agents do not notice."""

from __future__ import annotations

import os
import signal
from functools import partial

import msgspec
import pytest

from paddock.model.agent import AgentState, AgentStatus
from paddock.model.errors import DataDirError
from paddock.model.fleet import Placement, Restart
from paddock.node.journal import Placed, Row, RowSet, line, read
from paddock.node.supervisor import Supervised
from paddock.runtimes import starts
from paddock.testing.runtime_contract import alive

from .conftest import LIMIT_S, World, python, script

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def lose_the_handle(world: World, agent: str) -> None:
    """As if the node was killed between the start and its note of it."""
    path = world.folder / "journal"
    table, _ = read(path)
    row = msgspec.structs.replace(table.rows[agent], handle=None, intent=True)
    with path.open("ab") as file:
        file.write(line(RowSet(agent, row)))


def all_ready(agents: list[Supervised]) -> bool:
    return all(agent.state is AgentState.READY for agent in agents)


def all_hold(agents: list[Supervised], task: str) -> bool:
    return all(task in agent.holds for agent in agents)


def same(before: AgentStatus, after: AgentStatus) -> bool:
    return (before.pid, before.epoch, before.restarts) == (after.pid, after.epoch, after.restarts)


async def test_a_node_that_comes_back_adopts_its_agents_and_restarts_nothing(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0", "1")
    await world.place(script(SLEEP), "0")
    before = [await world.ready(agent) for agent in ("crew/0", "crew/1", "tool/0")]
    await world.crash(node)
    node = await world.node()
    await world.until(
        lambda: all(agent.state is AgentState.READY for agent in node.fleets.agents.values()), "all ready again"
    )
    assert len(node.fleets.agents) == 3
    for status in before:
        assert same(status, node.fleets.agents[status.id].status())
        assert await world.events("agent.died", status.id) == []
    assert world.log("crew/0").count("hello from") == 1


async def test_an_adopted_agent_that_dies_is_replaced(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    node = await world.node()
    await world.until(lambda: node.fleets.agents["crew/0"].state is AgentState.READY, "adopted")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    after = await world.ready("crew/0", after=before.epoch)
    assert after.restarts == 1


async def test_what_died_while_the_node_was_away_is_noticed_and_its_tasks_returned(world: World) -> None:
    node = await world.node()
    ack = await world.handed_out("T1")
    await world.place(python(config={"hold": {"T1": ack}}), "0")
    before = await world.ready("crew/0")
    await world.until(lambda: node.fleets.agents["crew/0"].holds, "hold known")
    await world.crash(node)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    await world.until(lambda: not alive(before.pid or 0), "dead")
    await world.node()
    after = await world.ready("crew/0", after=before.epoch)
    assert after.last_exit is not None
    assert after.last_exit.reason == "it ended while its node was away, exit status unknown"
    assert (after.last_exit.exit.code, after.last_exit.exit.signal) == (None, None)
    assert after.last_exit.tasks == ["T1"]
    assert await world.handed_out_again() == "work.x.p2.T1"


async def test_a_start_that_was_under_way_is_found_by_its_hello(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    lose_the_handle(world, "crew/0")
    os.unlink(starts.path_of(str(world.folder / "agents/crew/0")))
    node = await world.node(hello_s=LIMIT_S)
    await world.until(lambda: node.fleets.agents["crew/0"].state is AgentState.READY, "adopted")
    await world.until(lambda: node.fleets.agents["crew/0"].live is not None, "watched")
    assert same(before, node.fleets.agents["crew/0"].status())


async def test_a_forked_agent_whose_start_was_under_way_and_that_says_nothing_is_found_by_what_it_wrote(
    world: World,
) -> None:
    node = await world.node()
    await world.place(python(config={"silent": True}), "0")
    before = await world.agent("crew/0", lambda s: s.pid, "started")
    await world.until(lambda: "hello from" in world.log("crew/0"), "it runs")
    await world.crash(node)
    lose_the_handle(world, "crew/0")
    node = await world.node(hello_s=0.05)
    await world.until(lambda: node.fleets.agents["crew/0"].live is not None, "adopted")
    assert same(before, node.fleets.agents["crew/0"].status())
    assert await world.events("agent.stray", "crew/0") == []


async def test_what_a_forked_child_of_before_wrote_is_not_taken_for_a_start_that_never_came_to_be(
    world: World,
) -> None:
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    await world.until(lambda: not alive(before.pid or 0), "dead")
    lose_the_handle(world, "crew/0")
    await world.node(hello_s=0.05)
    after = await world.ready("crew/0", after=before.epoch)
    start = starts.read(str(world.folder / "agents/crew/0"))
    assert start is not None
    assert (start.pid, start.epoch) == (after.pid, after.epoch)


async def test_wishes_that_come_while_a_hello_is_waited_for_do_not_end_the_wait(world: World) -> None:
    """Else a second incarnation would start beside one that is about to speak."""
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    lose_the_handle(world, "crew/0")
    os.unlink(starts.path_of(str(world.folder / "agents/crew/0")))
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    node = await world.node(hello_s=LIMIT_S)
    agent = node.fleets.agents["crew/0"]
    await world.until(lambda: "waiting for its hello" in agent.reason, "waiting")
    await world.place(python(), "0", "1")
    await world.ready("crew/1")
    assert (agent.live, agent.row.epoch) == (None, before.epoch)
    os.kill(before.pid, signal.SIGCONT)
    await world.until(lambda: agent.live is not None, "adopted")
    assert same(before, agent.status())


async def test_a_start_that_was_under_way_and_says_nothing_is_found_by_its_environment(world: World) -> None:
    node = await world.node()
    await world.place(script(SLEEP), "0")
    before = await world.ready("tool/0")
    await world.crash(node)
    lose_the_handle(world, "tool/0")
    node = await world.node(hello_s=0.05)
    await world.until(lambda: node.fleets.agents["tool/0"].state is AgentState.READY, "adopted")
    assert same(before, node.fleets.agents["tool/0"].status())


async def test_a_start_that_never_came_to_be_is_made_again(world: World) -> None:
    node = await world.node()
    await world.place(script(SLEEP), "0")
    before = await world.ready("tool/0")
    await world.crash(node)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    await world.until(lambda: not alive(before.pid or 0), "dead")
    lose_the_handle(world, "tool/0")
    await world.node(hello_s=0.05)
    after = await world.ready("tool/0", after=before.epoch)
    assert after.pid != before.pid


async def test_a_copy_that_the_node_does_not_know_is_ended(world: World) -> None:
    """The journal tells of another incarnation, and the agent of before lives: there must not be two."""
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    with (world.folder / "journal").open("ab") as file:
        file.write(line(RowSet("crew/0", Row(epoch=before.epoch + 1))))
    await world.node()
    await world.ready("crew/0", after=before.epoch)
    await world.until(lambda: not alive(before.pid or 0), "the old copy is gone")
    assert await world.event("agent.stray", "crew/0")


async def test_a_hello_that_comes_before_the_node_has_looked_is_welcome(world: World) -> None:
    """Agents knock the moment the door opens; none of them may be taken for a stray."""
    node = await world.node()
    names = [str(number) for number in range(12)]
    ack = await world.handed_out("T1")
    await world.place(python(config={"hold": {"T1": ack}}), *names)
    before = [await world.ready(f"crew/{name}") for name in names]
    for _ in range(3):
        await world.crash(node)
        node = await world.node()
        everybody = list(node.fleets.agents.values())
        await world.until(partial(all_ready, everybody), "all ready again")
        await world.until(partial(all_hold, everybody, "T1"), "all holds known")
    for status in before:
        assert same(status, node.fleets.agents[status.id].status())
        assert await world.events("agent.stray", status.id) == []


async def test_a_socket_that_cannot_be_made_is_refused_and_leaves_the_folder_free(world: World) -> None:
    (world.folder / "node.sock").mkdir(parents=True)
    with pytest.raises(DataDirError, match="socket"):
        await world.node()
    world.nodes.clear()
    (world.folder / "node.sock").rmdir()
    await world.node()


async def test_epochs_never_go_back_even_without_the_journal(world: World) -> None:
    node = await world.node()
    await world.place(
        script("raise SystemExit(1)", restart=Restart(max=5, backoff_s_min=0.01, backoff_s_max=0.02)), "0"
    )
    before = await world.agent("tool/0", lambda s: s.state is AgentState.QUARANTINED, "quarantined")
    await world.crash(node)
    node = await world.node()
    assert node.fleets.agents["tool/0"].row.epoch == before.epoch
    assert node._journal.next_epoch(0.0) > before.epoch


async def test_a_quarantine_outlives_the_node(world: World) -> None:
    node = await world.node()
    await world.place(script("raise SystemExit(1)", restart=Restart(max=0)), "0")
    before = await world.agent("tool/0", lambda s: s.state is AgentState.QUARANTINED, "quarantined")
    await world.crash(node)
    node = await world.node()
    await world.until(lambda: node.fleets.agents["tool/0"].state is AgentState.QUARANTINED, "still quarantined")
    assert node.fleets.agents["tool/0"].reason == before.reason


async def test_a_fleet_that_was_deleted_meanwhile_is_stopped(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    await world.server.store("$KV.wanted.place.n1.crew", b"", headers={"KV-Operation": "DEL"})
    node = await world.node()
    await world.gone("crew/0")
    assert not alive(before.pid or 0)
    await world.until(lambda: read(world.folder / "journal")[0].rows == {}, "its row goes when its key has gone")


async def test_a_key_that_could_not_be_deleted_before_the_node_died_is_deleted_later(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0", "1")
    await world.ready("crew/0")
    await world.ready("crew/1")
    agent = node.fleets.agents["crew/1"]
    world.broker.stop()
    agent.unwant("the test says so")
    await world.until(lambda: "crew/1" not in node.fleets.agents, "it left")
    await world.crash(node)
    with (world.folder / "journal").open("ab") as file:  # as if the server had taken it out of the placement, too
        file.write(line(Placed(Placement(spec=python(), names=["0"]))))
    world.broker.start()
    assert await world.status("crew/1") is not None
    await world.place(python(), "0")
    await world.node()
    await world.gone("crew/1")
    await world.until(lambda: not read(world.folder / "journal")[0].gone, "forgotten")
    assert await world.status("crew/0") is not None


async def test_an_agent_that_never_started_leaves_no_key(world: World) -> None:
    node = await world.node(starts_max=0)
    await world.place(python(), "0")
    await world.agent("crew/0", lambda s: s.state is AgentState.PENDING, "told of")
    await world.crash(node)
    with (world.folder / "journal").open("ab") as file:
        file.write(line(Placed(Placement(spec=python(), names=[]))))
    await world.server.store("$KV.wanted.place.n1.crew", b"", headers={"KV-Operation": "DEL"})
    await world.node()
    await world.gone("crew/0")


async def test_a_node_without_fabric_keeps_its_agents_alive(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    world.broker.stop()
    node = await world.node()
    await world.until(lambda: node.fleets.agents["crew/0"].state is AgentState.READY, "adopted")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    await world.until(lambda: node.fleets.agents["crew/0"].row.restarts == 1, "replaced")
    world.broker.start()
    await world.ready("crew/0", after=before.epoch)
    assert (await world.event("agent.died", "crew/0")).data["reason"] == "killed by SIGKILL"


async def test_a_torn_journal_is_read_up_to_the_tear(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    with (world.folder / "journal").open("ab") as file:
        file.write(b'12345678 {"op":"RowS')
    node = await world.node()
    await world.until(lambda: node.fleets.agents["crew/0"].state is AgentState.READY, "adopted")
    assert same(before, node.fleets.agents["crew/0"].status())


async def test_two_nodes_cannot_share_a_folder(world: World) -> None:
    await world.node()
    with pytest.raises(DataDirError, match="in use by another node"):
        await world.node()
    world.nodes.pop()


async def test_a_killed_fork_server_stops_no_agent(world: World) -> None:
    node = await world.node()
    await world.place(python(), "0", "1")
    before = [await world.ready("crew/0"), await world.ready("crew/1")]
    runtime = node._runtimes["python"]
    (server,) = runtime.server_pids()  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    await world.until(lambda: not runtime.server_pids(), "the fork server is gone")  # type: ignore[attr-defined]
    assert all(alive(status.pid or 0) for status in before)
    os.kill(before[0].pid or 0, signal.SIGKILL)
    after = await world.ready("crew/0", after=before[0].epoch)
    assert after.last_exit is not None
    assert after.last_exit.exit.signal == signal.SIGKILL
    assert same(before[1], node.fleets.agents["crew/1"].status())
