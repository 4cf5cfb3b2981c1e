"""A Paddock to torture: who its processes are, how to kill them by lot, and what there is of everything."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from paddock.agent import connect
from paddock.agent.client import Client
from paddock.fabric import client as fabric_client
from paddock.fabric.client import NatsFabric
from paddock.fabric.identity import Identities
from paddock.testing.installation import Installation
from paddock.testing.wait import until

ROLES = ("sync", "fabric", "node", "server")
FORK_SERVER = "paddock.runtimes.python.server"
BACK_S_MAX = 90.0
"""A role that dies often comes back with a delay that doubles, up to 30 s."""


def manifest(**fleets: Mapping[str, Any]) -> str:
    """Fleets of Hands; an agent that is killed all the time is not taken for a crash loop."""
    usual = {
        "agent": "hands:Hand",
        "pythonpath": [str(Path(__file__).parent)],
        "ack_wait_s": 4,
        "restart": {"max": 100_000, "stable_s": 0},
    }
    return json.dumps({"paddock": 1, "fleets": {name: {**usual, **fields} for name, fields in fleets.items()}})


class Rig:
    """One installation under torture. The dice are the seed's: the same seed, the same choices."""

    def __init__(self, folder: Path, seed: int, text: str) -> None:
        self.folder, self.seed = folder, seed
        self.dice = random.Random(seed)
        self.held = Installation(folder / "data")
        self._manifest = folder / "torture.yaml"
        self._manifest.write_text(text)
        self.kills: Counter[str] = Counter()

    def up(self) -> None:
        """Start it, or attach to what runs."""
        self.held.up(self._manifest)

    def up_again(self) -> None:
        """After the keeper was killed: `up`, until it succeeds, as a service manager does it."""
        until(self._is_up, what="paddock up succeeds", limit_s=BACK_S_MAX, every_s=0.5)

    def _is_up(self) -> bool:
        try:
            self.up()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            print(f"up did not succeed: {error}")
            return False
        return True

    def revive(self) -> None:
        """At the end of a storm: everything runs, at once."""
        if not self.pid("keeper"):
            self.up_again()
        until(lambda: all(map(self.pid, ROLES)), what="all roles run", limit_s=BACK_S_MAX)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def count(self, name: str, line: str = "") -> int:
        """How often a task with this line (or any) ran, by its lines in a file."""
        path = Path(self.path(name))
        texts = path.read_text().splitlines() if path.exists() else []
        return sum(not line or text.startswith(f"{line} ") for text in texts)

    # --- who runs

    def pid(self, role: str) -> int:
        """Of a role that runs; 0 when it does not."""
        try:
            running = self.held.running(role)
            process = psutil.Process(running["pid"])
            if process.status() == psutil.STATUS_ZOMBIE or not any(str(self.held.data) in w for w in process.cmdline()):
                return 0
        except (OSError, ValueError, psutil.NoSuchProcess):
            return 0
        return int(running["pid"])

    def fork_servers(self) -> list[int]:
        """Of this installation: those that the node started, and the parents of its agents."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError):
            for child in psutil.Process(self.held.running("node")["pid"]).children():
                if FORK_SERVER in child.cmdline() and child.children():
                    found[child.pid] = True
        return sorted(found)

    def agents(self) -> dict[str, dict[str, Any]]:
        """Agents by id; empty while nobody answers."""
        try:
            return self.held.agents()
        except Exception:  # the server is being killed all the time
            return {}

    def pids(self) -> dict[str, int]:
        return {name: agent["pid"] for name, agent in self.agents().items()}

    def agent_processes(self) -> list[psutil.Process]:
        """Each stands for that very process, also when its pid is given to another one later."""
        found = []
        for _, pid in sorted(self.pids().items()):
            with contextlib.suppress(psutil.NoSuchProcess, TypeError):
                found.append(psutil.Process(pid))
        return found

    # --- killing

    def kill(self, kind: str, *, among: Sequence[psutil.Process] = ()) -> int:
        """kill -9 of one process of that kind; its pid, or 0 when there is none just now."""
        found = list(among)
        try:
            if kind != "agent":
                pids = self.fork_servers() if kind == "fork server" else [self.pid(kind)]
                found = [psutil.Process(pid) for pid in pids if pid]
            if not found:
                return 0
            process = self.dice.choice(found)
            process.kill()
        except psutil.NoSuchProcess:
            return 0
        self.kills[kind] += 1
        return process.pid

    def back(self, dead: Mapping[str, int]) -> None:
        """Wait until each of these roles runs again with another pid; a keeper is started again by hand."""
        if "keeper" in dead:
            self.up_again()
        for role, pid in dead.items():
            if role in ROLES:
                until(lambda role=role, pid=pid: self.pid(role) not in (0, pid), what=f"{role} is back", limit_s=90.0)

    def well(self, count: int) -> dict[str, int]:
        """Wait until `count` agents are ready by what the API says; their pids."""

        def look() -> dict[str, int]:
            agents = self.agents()
            good = len(agents) == count and all(agent["state"] == "ready" for agent in agents.values())
            return {name: agent["pid"] for name, agent in agents.items()} if good else {}

        return until(look, what=f"{count} agents are ready", limit_s=BACK_S_MAX, every_s=0.05)

    # --- connections

    async def client(self) -> Client:
        """A program of the owner."""
        return await connect(self.held.running("fabric")["url"], str(self.held.data / "client.creds"))

    async def everything(self) -> NatsFabric:
        """A connection that may look at everything."""
        creds = Identities.open(self.held.data / "fabric/keys").minter("server").creds("server", {})
        url = self.held.running("fabric")["url"]
        return await fabric_client.connect(url, creds=creds, inbox="_INBOX.server", name="census")


class Census(msgspec.Struct, frozen=True):
    """What there is of everything that could leak."""

    connections: dict[str, int]
    """By name: agents, node, server."""
    subscriptions: dict[str, int]
    """By name of the connection; without the replies of single pulls and requests, which come and go."""
    consumers: dict[str, int]
    """By stream."""
    waiting: dict[str, int]
    """Pulls that wait, by stream and consumer."""


async def census(fabric: NatsFabric) -> Census:
    """Count, as the broker sees it."""
    ask = msgspec.json.encode({"subscriptions": True, "limit": 10_000})
    told = msgspec.json.decode((await fabric.request("$SYS.REQ.SERVER.PING.CONNZ", ask)).data)
    held = [one for one in told["data"]["connections"] if one["name"] != "census"]
    subscriptions: Counter[str] = Counter()
    for one in held:
        subscriptions[one["name"]] += sum(not _passing(subject) for subject in one.get("subscriptions_list", ()))
    streams = msgspec.json.decode((await fabric.request("$JS.API.STREAM.NAMES")).data)["streams"]
    consumers, waiting = {}, {}
    for stream in streams:
        reply = msgspec.json.decode((await fabric.request(f"$JS.API.CONSUMER.LIST.{stream}")).data)
        lanes = [one for one in reply["consumers"] or () if not one["name"].startswith("a-")]
        consumers[stream] = len(lanes)
        waiting.update({f"{stream} {one['name']}": one["num_waiting"] for one in lanes})
    return Census(
        connections=dict(Counter(one["name"] for one in held)),
        subscriptions=dict(subscriptions),
        consumers=consumers,
        waiting=waiting,
    )


def _passing(subject: str) -> bool:
    """A wait for work or a single pull: one of these is open or not, as it comes."""
    parts = subject.split(".")
    return parts[0] == "_INBOX" and len(parts) > 2 and parts[-2] in ("n", "w")
