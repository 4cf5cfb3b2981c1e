"""0 → many live Python agents: how long, how much memory each, what the keepers cost while all are idle, and how long
the keepers take to have all of them again after they were killed together while all agents were at work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

import httpx
import psutil
from _bench import client, manifest, row, running

from paddock.testing.installation import Installation
from paddock.testing.wait import until

AGENTS = int(os.environ.get("BENCH_AGENTS", "1000"))
IDLE_S = 20.0
NAP_S = 60.0
ROLES = ("sync", "fabric", "node", "server")


def main() -> None:
    fleets = json.loads(manifest("many", replicas=1)), json.loads(manifest("quick", replicas=1))
    both = {**fleets[0], "fleets": fleets[0]["fleets"] | fleets[1]["fleets"]}
    with running(json.dumps(both)) as installation:
        scaled(installation)
        idle(installation)
        killed(installation)


def scaled(installation: Installation) -> None:
    with installation.http() as http:
        spent = {role: cpu_s(installation.running(role)["pid"]) for role in ROLES}
        before = time.perf_counter()
        http.post("/api/v1/fleets/many/scale", json={"replicas": AGENTS}).raise_for_status()
        until(
            lambda: http.get("/api/v1/fleets/many").json()["ready"] == AGENTS,
            what=f"{AGENTS} agents are ready",
            limit_s=600,
            every_s=0.1,
        )
        row(f"scale 0 → {AGENTS:,} live Python agents", f"{time.perf_counter() - before:.1f} s")
        pids = [
            agent["pid"]
            for agent in http.get("/api/v1/agents", params={"fleet": "many", "limit": 5000}).json()["items"]
        ]
    each = {role: cpu_s(installation.running(role)["pid"]) - before_s for role, before_s in spent.items()}
    parts = [f"{role} {seconds / AGENTS * 1e3:.1f} ms" for role, seconds in each.items()]
    own = statistics.mean(cpu_s(pid) for pid in pids)
    row("processor time of one start, until all were ready", ", ".join([*parts, f"the agent {own * 1e3:.1f} ms"]))
    private = [private_bytes(pid) for pid in pids[:: max(1, len(pids) // 100)]]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    row(f"private memory of one agent, median, Python {python}", f"{statistics.median(private) / 1e6:.1f} MB")


def cpu_s(pid: int) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2])


def private_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Private_"))


def idle(installation: Installation) -> None:
    processes = {role: psutil.Process(installation.running(role)["pid"]) for role in ROLES}
    time.sleep(5)
    before = {role: sum(process.cpu_times()[:2]) for role, process in processes.items()}
    time.sleep(IDLE_S)
    shares = {role: (sum(process.cpu_times()[:2]) - before[role]) / IDLE_S for role, process in processes.items()}
    parts = ", ".join(f"{role} {share:.1%}" for role, share in shares.items())
    row(f"idle with {AGENTS:,} agents, of one core", f"{sum(shares.values()):.1%} ({parts})")
    memory = ", ".join(f"{role} {process.memory_info().rss / 1e6:.0f} MB" for role, process in processes.items())
    row(f"resident memory with {AGENTS:,} agents", memory)


def killed(installation: Installation) -> None:
    """Each agent holds a task when all keepers are killed. Over when the node watches each process again and has each
    line, the server counts all as ready, and a new task is done."""
    asyncio.run(give_work(installation))
    until(lambda: held(installation) == AGENTS, what="every agent holds a task", limit_s=120, every_s=0.2)
    before = agents(installation)
    old = {role: installation.running(role)["pid"] for role in ROLES}
    killed_at = time.perf_counter()
    for pid in old.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(new_pid(installation, role) != pid for role, pid in old.items()), what="the roles are back")
    back_s = time.perf_counter() - killed_at
    until(lambda: adopted(installation), what="all agents are adopted", limit_s=120)
    adopted_s = time.perf_counter() - killed_at
    until(lambda: works(installation), what="a task is done", limit_s=120)
    done_s = time.perf_counter() - killed_at
    assert agents(installation) == before, "an agent was restarted"
    figure = f"{adopted_s - back_s:.1f} s after the roles were back ({back_s:.1f} s after the kill)"
    row(f"fabric, node, server killed at once: {AGENTS:,} adopted", figure)
    row("the same, from the kill to a new task that is done", f"{done_s:.1f} s")


async def give_work(installation: Installation) -> None:
    async with client(installation) as program:
        for first in range(0, AGENTS, 100):
            count = min(100, AGENTS - first)
            await asyncio.gather(*(program.submit("many", "nap", seconds=NAP_S) for _ in range(count)))


def held(installation: Installation) -> int:
    """How many agents run a task, as they told."""
    with installation.http() as http:
        return int(http.get("/status").json()["tasks"].get("many", {}).get("running", 0))


def agents(installation: Installation) -> dict[str, int]:
    with installation.http() as http:
        page = http.get("/api/v1/agents", params={"fleet": "many", "limit": 5000}).json()
    return {agent["id"]: agent["pid"] for agent in page["items"]}


def new_pid(installation: Installation, role: str) -> int:
    try:
        return int(installation.running(role)["pid"])
    except (OSError, ValueError):
        return 0


def adopted(installation: Installation) -> bool:
    """By what the kernel says of the node: a pidfd of each agent (the one of `quick`, too), and a line of each beside
    its own few sockets. And the server counts all as ready."""
    folder = Path(f"/proc/{installation.running('node')['pid']}/fd")
    kinds = [os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()]
    if sum("pidfd" in kind for kind in kinds) <= AGENTS or sum("socket" in kind for kind in kinds) <= AGENTS + 1:
        return False
    try:
        with installation.http() as http:
            return bool(http.get("/api/v1/fleets/many").json()["ready"] == AGENTS)
    except (OSError, KeyError, httpx.HTTPError):
        return False


def works(installation: Installation) -> bool:
    with installation.http() as http:
        body = {"fleet": "quick", "method": "noop", "args": {"payload": ""}}
        return bool(http.post("/api/v1/tasks", params={"wait_s": 10}, json=body).json().get("state") == "done")


if __name__ == "__main__":
    main()
