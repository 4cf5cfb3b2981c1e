"""The node's journal is lost or spoilt while its agents run: they are found, and nothing runs twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paddock.model.agent import AgentState, AgentStatus
from paddock.node import recover
from paddock.runtimes.process import all_by_env

from .conftest import World, python, script

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
AGENTS = ("crew/0", "crew/1", "tool/0")


def deleted(journal: Path) -> None:
    journal.unlink()


def emptied(journal: Path) -> None:
    journal.write_bytes(b"")


def half_gone(journal: Path) -> None:
    """Its beginning is garbage: what was placed, and the first rows."""
    lines = journal.read_bytes().splitlines(keepends=True)
    spoilt = [b"\0" * len(line) for line in lines[: len(lines) * 2 // 3]]
    journal.write_bytes(b"\n".join(spoilt) + b"\n" + b"".join(lines[len(lines) * 2 // 3 :]))


def torn(journal: Path) -> None:
    """The last entries are half a line."""
    journal.write_bytes(journal.read_bytes()[:-40])


def same(before: AgentStatus, after: AgentStatus) -> bool:
    return (before.pid, before.epoch) == (after.pid, after.epoch)


@pytest.mark.parametrize("damage", [deleted, emptied, half_gone, torn])
async def test_agents_outlive_the_journal_and_none_runs_twice(world: World, damage: Callable[[Path], None]) -> None:
    node = await world.node()
    await world.place(python(), "0", "1")
    await world.place(script(SLEEP), "0")
    before = [await world.ready(agent) for agent in AGENTS]
    await world.crash(node)
    damage(world.folder / "journal")

    node = await world.node()
    await world.until(
        lambda: (
            sorted(node.fleets.agents) == sorted(AGENTS)
            and all(agent.state is AgentState.READY for agent in node.fleets.agents.values())
        ),
        "all are found and ready",
    )

    for status in before:
        assert same(status, node.fleets.agents[status.id].status())
        assert await world.events("agent.stray", status.id) == []
    assert world.log("crew/0").count("hello from") == 1
    log = str(world.folder / "agents/tool/0/agent.log")
    tools = [pid for pid in all_by_env({"PADDOCK_AGENT": "tool/0"}) if os.readlink(f"/proc/{pid}/fd/1") == log]
    assert tools == [before[2].pid]


async def test_without_a_journal_an_epoch_is_still_never_used_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the clock was set back meanwhile, and though the agent that had the epoch has ended."""
    node = await world.node()
    await world.place(python(), "0")
    first = await world.ready("crew/0")
    await world.crash(node)
    assert first.pid is not None
    os.kill(first.pid, 9)
    (world.folder / "journal").unlink()
    monkeypatch.setattr("paddock.agent.clock.HostClock.now", lambda self: 1_000.0)

    await world.node()

    assert (await world.ready("crew/0", after=first.epoch)).epoch > first.epoch


async def test_what_other_nodes_started_is_not_taken_for_ours(world: World, tmp_path: Path) -> None:
    await world.node()
    await world.place(python(), "0")
    await world.place(script(SLEEP), "0")
    for agent in ("crew/0", "tool/0"):
        await world.ready(agent)

    assert set(recover.incarnations(str(world.folder), str(world.folder / "node.sock"))) >= {"crew/0"}
    assert recover.incarnations(str(tmp_path / "another"), str(tmp_path / "another/node.sock")) == {}
