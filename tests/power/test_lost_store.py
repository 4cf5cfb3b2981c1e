"""What Paddock needs is deleted or damaged: it says so, loses nothing that can be had elsewhere, and stops no agent."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from paddock.fabric import embedded, subjects
from paddock.fabric.client import NatsFabric
from paddock.model.errors import DataDirError
from paddock.model.fleet import FleetSpec
from paddock.testing.broker import RealBroker
from paddock.testing.installation import Installation
from paddock.testing.wait import soon, until

MANIFEST = f"""
paddock: 1
fleets:
  lab: {{agent: "lab_agents:Lab", pythonpath: ["{Path(__file__).parents[1] / "e2e"}"], replicas: 2}}
  sleeper: {{command: ["sleep", "86400"], replicas: 1}}
  short: {{command: ["sleep", "86400"], replicas: 1}}
"""


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    held = Installation(tmp_path / "data")
    yield held
    held.down()
    left = held.processes()
    for process in left:
        process.kill()
    assert left == []


def pids(installation: Installation) -> dict[str, int]:
    return {name: agent["pid"] for name, agent in installation.agents().items()}


def kill(installation: Installation, *roles: str) -> list[int]:
    pids = [installation.running(role)["pid"] for role in roles]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in pids), what=f"{roles} have ended")
    return pids


def is_alive(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def answers(look: Callable[[], object]) -> Callable[[], object]:
    """As `look`, but false while the server is away."""

    def safe() -> object:
        try:
            return look()
        except (httpx.HTTPError, OSError):
            return None

    return safe


def fleets(installation: Installation) -> dict[str, int]:
    with installation.http() as http:
        found = http.get("/api/v1/fleets").raise_for_status().json()
    return {fleet["name"]: fleet["wanted"] for fleet in found["items"]}


def history(installation: Installation, kind: str) -> list[str]:
    with installation.http() as http:
        found = http.get("/api/v1/history", params={"kind": kind}).raise_for_status().json()
    return [stored["event"]["about"] for stored in found["items"]]


WANTED = {"lab": 2, "sleeper": 1}


def wants_again(installation: Installation, server: int) -> Callable[[], object]:
    """Whether a server other than this one knows the fleets, all agents and that they were lost."""
    return answers(
        lambda: (
            installation.running("server")["pid"] != server
            and fleets(installation) == WANTED
            and len(pids(installation)) == 3
            and {*history(installation, "fleet.restored")} == {*WANTED}
        )
    )


@pytest.mark.timeout(400)
def test_a_lost_store_and_a_lost_record_stop_no_agent_and_forget_no_fleet(
    installation: Installation, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    installation.up(tmp_path / "m.yaml")
    installation.ready("lab", 2)
    with installation.http() as http:
        http.delete("/api/v1/fleets/short").raise_for_status()
    until(lambda: len(pids(installation)) == 3, what="a deleted fleet has ended", every_s=0.3)
    before = pids(installation)
    old = installation.json("task", "submit", "lab", "add", "--arg", "x:=1", "--wait")

    # The record alone, while everything runs: the streams tell it again.
    server = installation.running("server")["pid"]
    for name in ("record.db", "record.db-wal", "record.db-shm"):
        (installation.data / name).unlink()

    def told_again() -> object:
        with installation.http() as http:
            if installation.running("server")["pid"] == server:
                http.post("/api/v1/tasks", json={"fleet": "lab", "method": "add", "args": {"x": 2}})
                return None
            return http.get(f"/api/v1/tasks/{old['id']}").json().get("result") == 2

    until(answers(told_again), what="the record was made anew of what the streams hold", limit_s=120, every_s=0.3)
    assert pids(installation) == before

    # The store of the broker, while everything else runs: the keeper brings the broker back, empty.
    server = installation.running("server")["pid"]
    shutil.rmtree(installation.data / "fabric/store")
    kill(installation, "fabric")
    until(wants_again(installation, server), what="what was wanted is wanted again", limit_s=120, every_s=0.3)
    assert pids(installation) == before

    # The store, with nobody but the agents alive.
    (server, *_) = kill(installation, "server", "keeper", "node", "fabric")
    shutil.rmtree(installation.data / "fabric/store")
    for name in ("record.db", "record.db-wal", "record.db-shm"):
        (installation.data / name).unlink(missing_ok=True)
    installation.up()
    until(wants_again(installation, server), what="what was wanted is wanted again", limit_s=120, every_s=0.3)
    assert pids(installation) == before

    installation.ready("lab", 2)
    until(answers(lambda: add(installation, 3) == 4), what="work goes on", every_s=0.3)


def add(installation: Installation, x: int) -> int:
    with installation.http() as http:
        asked = {"fleet": "lab", "method": "add", "args": {"x": x}, "key": f"after-{x}"}
        answer = http.post("/api/v1/tasks", params={"wait_s": 5}, json=asked)
        return int(answer.raise_for_status().json()["result"] or 0)


# The broker's files, one by one


TASKS = 50
DONE = 5
SPECS = (*subjects.STREAMS, subjects.work_stream_spec(FleetSpec(name="mill", runtime="exec", ack_wait_s=2.0)))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RealBroker]:
    held = RealBroker(tmp_path / "fabric")
    await held.start()
    yield held
    await held.close()


async def filled(broker: RealBroker) -> None:
    """Fifty tasks, ten handed out, five of them acknowledged; then the broker is killed."""
    server = await broker.connect()
    await server.ensure(*SPECS)
    for number in range(TASKS):
        await server.store(f"work.mill.p2.t{number}", b"x" * 100)
    for delivery in (await server.pull("WORK_mill", "p2", batch=10))[:DONE]:
        server.publish(delivery.ack, b"+ACK")
    await soon(lambda: holds(server, TASKS - DONE), what="acknowledged is gone")
    await server.close()
    broker.connections.clear()
    assert broker.server is not None
    os.kill(broker.server.pid, signal.SIGKILL)
    await broker.server.stop()


async def holds(server: NatsFabric, count: int) -> bool:
    return (await server.depth("WORK_mill")).messages == count


def deleted(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("part", "damage", "least"),
    [
        ("meta.inf", deleted, TASKS - DONE),
        ("meta.inf", emptied, TASKS - DONE),
        ("obs/p2/meta.inf", deleted, TASKS - DONE),
        ("obs/p2/o.dat", emptied, TASKS - DONE),
        ("obs", deleted, TASKS - DONE),
        ("msgs/1.blk", halved, 1),
        ("msgs", deleted, 0),
    ],
)
async def test_a_damaged_queue_keeps_what_is_whole_and_takes_new_tasks(
    broker: RealBroker, part: str, damage: Callable[[Path], None], least: int
) -> None:
    """The tasks of a whole block are still there; and whatever is lost, what is accepted afterwards is handed out: no
    queue stays deaf. (A new task may get the number of one that was lost while it was handed out; then it waits for
    the time-out of that one.)"""
    await filled(broker)
    damage(next((broker.folder / "store").rglob("WORK_mill")) / part)
    await broker.start()
    server = await broker.connect()
    await server.ensure(*SPECS)

    kept = {stored.subject for stored in await server.read("WORK_mill")}
    new = {f"work.mill.p2.new{number}" for number in range(20)}
    for subject in new:
        await server.store(subject, b"y")
    handed_out: set[str] = set()

    async def all_of_them() -> bool:
        for delivery in await server.pull("WORK_mill", "p2", batch=100):
            handed_out.add(delivery.subject)
            server.publish(delivery.ack, b"+ACK")
        return new <= handed_out

    await soon(all_of_them, what="the new tasks are handed out")
    assert len(kept) >= least


async def test_missing_keys_are_said_and_nothing_is_made_anew_over_the_store(broker: RealBroker) -> None:
    await filled(broker)
    keys = broker.folder / "keys/keys.json"
    content = keys.read_bytes()
    keys.unlink()

    with pytest.raises(DataDirError, match=r"keys.json is missing.*restore it from a backup, or move"):
        await embedded.start(broker.folder)

    assert not keys.exists()
    keys.write_bytes(content)
    await broker.start()
    assert await holds(await broker.connect(), TASKS - DONE)
