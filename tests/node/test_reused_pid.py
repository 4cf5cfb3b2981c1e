"""What the journal tells of is gone, and its pid belongs to a stranger: who is neither adopted, nor hit by a signal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from paddock.model.agent import AgentState, AgentStatus
from paddock.model.fleet import FleetSpec, Health
from paddock.node.journal import RowSet, line, read
from paddock.ports.runtime import Handle
from paddock.runtimes import process, starts
from paddock.testing.runtime_contract import alive
from paddock.testing.wait import until

from .conftest import LIMIT_S, World, python, script

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
UNSEEN = "it ended while its node was away, exit status unknown"

STRANGER = """
import os, signal, sys
def note(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write(f"{number}\\n")
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, note)
print("ready", flush=True)
while True:
    signal.pause()
"""


class Stranger:
    """A process that has nothing to do with Paddock, leads a session, and notes every signal that it is sent."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes
        notes.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-c", STRANGER, str(notes)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.pid = self._process.pid
        self.ticks = process.first_ticks(self.pid)

    @property
    def untouched(self) -> bool:
        return alive(self.pid) and not self._notes.read_text()

    def notes_signals(self) -> bool:
        """That it is untouched means something."""
        os.kill(self.pid, signal.SIGTERM)
        until(lambda: self._notes.read_text() == f"{signal.SIGTERM.value}\n", what="the stranger notes a signal")
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Stranger]:
    stranger = Stranger(tmp_path / "signals")
    yield stranger
    stranger.close()


async def died_unseen(world: World, spec: FleetSpec) -> AgentStatus:
    """An agent that dies while its node is away."""
    node = await world.node()
    await world.place(spec, "0")
    before = await world.ready(f"{spec.name}/0")
    await world.crash(node)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    await world.until(lambda: not alive(before.pid or 0), "dead")
    return before


def name(world: World, agent: str, of: Callable[[Handle], Handle]) -> None:
    """Let the journal name another process."""
    path = world.folder / "journal"
    row = read(path)[0].rows[agent]
    assert row.handle is not None
    with path.open("ab") as file:
        file.write(line(RowSet(agent, msgspec.structs.replace(row, handle=of(row.handle)))))


async def is_left_alone(world: World, stranger: Stranger, before: AgentStatus) -> AgentStatus:
    """The agent is started anew; to its end nothing happens to the stranger. Returns the new incarnation."""
    node = await world.node(hello_s=0.05)
    after = await world.ready(before.id, after=before.epoch)
    assert after.pid not in (stranger.pid, before.pid)
    assert await world.events("agent.stray", before.id) == []
    await node.stop(agents=True)
    world.nodes.remove(node)
    assert not alive(after.pid or 0)
    assert stranger.untouched
    assert stranger.notes_signals()
    return after


@pytest.mark.parametrize("spec", [python(), script(SLEEP)], ids=["forked", "command"])
async def test_a_process_with_its_pid_and_another_start_is_not_taken_for_an_agent(
    world: World, stranger: Stranger, spec: FleetSpec
) -> None:
    before = await died_unseen(world, spec)
    # As near as can be: one tick.
    name(world, before.id, lambda h: msgspec.structs.replace(h, pid=stranger.pid, start_ticks=stranger.ticks - 1))
    after = await is_left_alone(world, stranger, before)
    assert after.last_exit is not None
    assert after.last_exit.reason == UNSEEN


@pytest.mark.parametrize("spec", [python(), script(SLEEP)], ids=["forked", "command"])
async def test_a_process_with_its_pid_and_its_start_in_another_life_of_the_host_is_not_taken_for_an_agent(
    world: World, stranger: Stranger, spec: FleetSpec
) -> None:
    before = await died_unseen(world, spec)
    name(
        world,
        before.id,
        lambda h: msgspec.structs.replace(h, pid=stranger.pid, start_ticks=stranger.ticks, boot="earlier"),
    )
    after = await is_left_alone(world, stranger, before)
    assert after.last_exit is not None
    assert after.last_exit.reason == UNSEEN


@pytest.mark.parametrize(("earlier_ticks", "boot"), [(1, ""), (0, "earlier")], ids=["another start", "another boot"])
@pytest.mark.parametrize("journal", ["tells of a start", "is lost"])
async def test_a_process_with_a_pid_that_a_start_was_signed_with_is_not_taken_for_an_agent(
    world: World, stranger: Stranger, earlier_ticks: int, boot: str, journal: str
) -> None:
    """The node was killed between the start and its note of it; or its journal was lost."""
    before = await died_unseen(world, python())
    path = world.folder / "journal"
    row = read(path)[0].rows[before.id]
    start = starts.Start(before.epoch, stranger.pid, stranger.ticks - earlier_ticks, boot)
    starts.write(str(world.folder / "agents" / before.id), start)
    if journal == "is lost":
        path.unlink()
    else:
        with path.open("ab") as file:
            file.write(line(RowSet(before.id, msgspec.structs.replace(row, handle=None, intent=True))))
    await is_left_alone(world, stranger, before)


async def test_who_is_found_again_and_never_says_hello_is_replaced_and_nobody_else_can_say_it_for_him(
    world: World, stranger: Stranger
) -> None:
    """Its pid and its start are right: it is what was started. But it is not ready before it proves itself."""
    node = await world.node()
    ack = await world.handed_out("T1")
    await world.place(python(health=Health(hang_s=60.0, start_s=3.0), config={"hold": {"T1": ack}}), "0")
    before = await world.ready("crew/0")
    await world.until(lambda: node.fleets.agents["crew/0"].holds, "hold known")
    await world.crash(node)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    node = await world.node()
    agent = node.fleets.agents["crew/0"]
    await world.until(lambda: agent.live is not None, "found again")
    assert agent.state is not AgentState.READY
    assert agent.row.epoch == before.epoch

    token = node._host.tokens.token("crew/0", before.epoch + 1)
    told = await hello(node._socket.path, agent="crew/0", epoch=before.epoch, token=token, pid=stranger.pid, ready=True)
    assert told == {"op": "refused", "why": "the token does not prove this incarnation"}
    assert agent.link is None
    assert agent.state is not AgentState.READY

    after = await world.ready("crew/0", after=before.epoch)
    assert not alive(before.pid)
    assert after.last_exit is not None
    assert after.last_exit.reason == "not ready within 3 s"
    assert await world.handed_out_again() == "work.x.p2.T1"
    assert stranger.untouched


async def test_who_is_found_again_and_cannot_prove_himself_ends_and_is_replaced_once(world: World) -> None:
    """The node's key was lost: no token of before is good any more."""
    node = await world.node()
    await world.place(python(), "0")
    before = await world.ready("crew/0")
    await world.crash(node)
    (world.folder / "socket.key").unlink()
    await world.node()
    after = await world.ready("crew/0", after=before.epoch)
    assert not alive(before.pid or 0)
    assert after.restarts == 1
    assert "the token does not prove this incarnation" in world.log("crew/0")


async def hello(path: str, **words: object) -> object:
    """Say it by hand; what is answered."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(json.dumps({"op": "hello", **words}).encode() + b"\n")
    async with asyncio.timeout(LIMIT_S):
        told = json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return told
