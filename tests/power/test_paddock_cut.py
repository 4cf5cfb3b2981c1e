"""A power cut of a whole Paddock: broker, node, server, record and agents, all on the disk that loses its power."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from paddock.app.data import DataDir
from paddock.fabric import embedded, subjects
from paddock.fabric.client import connect
from paddock.fabric.identity import Identities
from paddock.fabric.kept import STARTED
from paddock.model.errors import NotFound
from paddock.node import journal
from paddock.testing.installation import Installation
from paddock.testing.wait import until

from .disk import Disk, end, freeze
from .traced import TracedDisk

ROUNDS = int(os.environ.get("PADDOCK_POWER_INSTALLATION_ROUNDS", "1"))
SEED = int(os.environ.get("PADDOCK_POWER_SEED", "0")) or random.randrange(1, 1_000_000)
SUBMITTERS = 4
AGENTS = 3
MANIFEST = f"""
paddock: 1
fleets:
  lab:
    agent: "lab_agents:Lab"
    pythonpath: ["{Path(__file__).parents[1] / "e2e"}"]
    replicas: {AGENTS}
    restart: {{max: 1000}}
"""


class Powered(Installation):
    """An installation on a disk whose power can be cut."""

    def __init__(self, disk: Disk | TracedDisk) -> None:
        super().__init__(disk.path / "data")
        self.disk = disk

    def power_up(self, manifest: Path) -> None:
        command = [*self.disk.prefix(), sys.executable, "-m", "paddock", "up", str(manifest)]
        command += ["--detach", "--port", "0", "--data", str(self.data)]
        said = self.disk.path.parent / "said"
        with said.open("w") as file:  # not a pipe: strace would keep it open
            done = subprocess.run(command, stdout=file, stderr=file, timeout=120, check=False, env=self._env)
        assert done.returncode == 0, said.read_text()

    def cut(self) -> None:
        pids = [self.running(role)["pid"] for role in ("fabric", "sync", "server", "node", "keeper")]
        freeze(pids)
        self.disk.cut()
        end(pids)

        def all_ended() -> bool:
            left = self.processes()
            end(process.pid for process in left)
            return not left

        until(all_ended, what="nothing runs any more")
        self.disk.restore()
        (self.data / "fabric" / STARTED).unlink(missing_ok=True)  # it is another start of the host

    def processes(self) -> list[psutil.Process]:
        return [process for process in super().processes() if not _is_strace(process)]


def _is_strace(process: psutil.Process) -> bool:
    """It ends by itself, when all that it traced has."""
    try:
        return process.name() == "strace"
    except psutil.NoSuchProcess:
        return True


class Client(threading.Thread):
    """Submits tasks and asks for their results until the power goes."""

    def __init__(self, installation: Installation, name: str, enough: threading.Semaphore) -> None:
        super().__init__(name=name)
        self.accepted: dict[str, int] = {}
        """Task → its argument."""
        self.reported: set[str] = set()
        """Tasks whose result was told."""
        self.ending = False
        self.wrong: str = ""
        self._installation, self._enough = installation, enough

    def run(self) -> None:
        with self._installation.http() as http:
            while not self.ending:
                try:
                    self._turn(http, len(self.accepted))
                except httpx.HTTPError:
                    return

    def _turn(self, http: httpx.Client, number: int) -> None:
        wanted = {"fleet": "lab", "method": "add", "args": {"x": number}, "key": f"{self.name}-{number}"}
        task = http.post("/api/v1/tasks", json=wanted).raise_for_status().json()
        self.accepted[task["id"]] = number
        self._enough.release()
        if number % 3 == 0:
            task = http.get(f"/api/v1/tasks/{task['id']}", params={"wait_s": 1}).raise_for_status().json()
            if task["state"] == "done":
                self.reported.add(task["id"])


@pytest.fixture
def powered(disk: Disk | TracedDisk) -> Iterator[Powered]:
    held = Powered(disk)
    yield held
    end(process.pid for process in held.processes())
    until(lambda: not held.processes(), what="nothing runs any more")


def epochs(installation: Installation) -> dict[str, int]:
    return {name: agent["epoch"] for name, agent in installation.agents("lab").items()}


def under_load(powered: Powered, dice: random.Random, name: str) -> tuple[list[Client], int]:
    """Load it and kill agents meanwhile; returns the clients and the highest epoch seen, some moments after `count`
    tasks were accepted, with the clients still at work."""
    enough = threading.Semaphore(0)
    clients = [Client(powered, f"{name}-{number}", enough) for number in range(SUBMITTERS)]
    for client in clients:
        client.start()
    highest = 0
    for _ in range(dice.randint(2, 4)):
        for _ in range(dice.randint(10, 60)):
            assert enough.acquire(timeout=60), "tasks are accepted"
        agents = powered.agents("lab")
        highest = max(highest, *(agent["epoch"] for agent in agents.values()))
        victim = agents[f"lab/{dice.randrange(AGENTS)}"]["pid"]
        end([victim] if victim else [])
    return clients, highest


async def cursors_behind_streams(data: Path) -> dict[str, tuple[int, int]]:
    """stream → (the record's cursor, its last sequence) where the record claims more than there is; by the broker
    alone, before anything can have been added. Without queues: of these no cursor is believed."""
    with sqlite3.connect(f"file:{data / 'record.db'}?mode=rw", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        cursors: list[Any] = database.execute("SELECT stream, created, seq FROM cursors").fetchall()
    database.close()
    assert cursors, "the recorder had written before the cut"
    server = await embedded.start(data / "fabric")
    try:
        creds = Identities.open(data / "fabric/keys").minter("server").creds("server", {})
        fabric = await connect(server.url, creds=creds, inbox="_INBOX.server", name="test")
        ahead = {}
        for stream, created, seq in cursors:
            if stream == subjects.LATER or stream.startswith("WORK_"):
                continue
            try:
                depth = await fabric.depth(stream)
            except NotFound:
                ahead[stream] = (seq, -1)
                continue
            if depth.created == created and depth.last_seq < seq:
                ahead[stream] = (seq, depth.last_seq)
        await fabric.close()
    finally:
        await server.stop()
    return ahead


@pytest.mark.timeout(180 + 60 * ROUNDS)
async def test_a_power_cut_of_everything_loses_no_accepted_task_and_no_reported_result(
    powered: Powered, tmp_path: Path
) -> None:
    dice = random.Random(SEED)
    manifest = tmp_path / "m.yaml"
    manifest.write_text(MANIFEST)
    powered.power_up(manifest)
    powered.ready("lab", AGENTS)
    total = reported = 0
    for number in range(ROUNDS):
        clients, highest = under_load(powered, dice, f"r{number}")
        powered.cut()
        for client in clients:
            client.join()
        table, _ = journal.read(DataDir.open(powered.data).node("local") / "journal")
        assert table.epoch >= highest, f"the journal has forgotten an epoch; seed {SEED}"
        assert await cursors_behind_streams(powered.data) == {}, f"seed {SEED}"
        powered.power_up(manifest)
        powered.ready("lab", AGENTS)
        assert min(epochs(powered).values()) > highest, f"an epoch was used twice; seed {SEED}"
        for client in clients:
            check(powered, client)
            total += len(client.accepted)
            reported += len(client.reported)
    print(f"{ROUNDS} power cuts of everything, {total} accepted, {reported} reported as done, 0 lost; seed {SEED}")


def check(powered: Powered, client: Client) -> None:
    """All that this client was told is true still, and ends."""
    with powered.http() as http:
        for task_id, x in client.accepted.items():
            answer = http.get(f"/api/v1/tasks/{task_id}", params={"wait_s": 0 if task_id in client.reported else 30})
            assert answer.status_code in (200, 202), f"{task_id} was accepted: {answer.text}; seed {SEED}"
            task = answer.json()
            assert (task["state"], task["result"]) == ("done", x + 1), f"{task}; seed {SEED}"
