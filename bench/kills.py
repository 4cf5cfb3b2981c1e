"""`kill -9` of an idle agent → its replacement takes work, beside supervisord in the same run; and `kill -9` in
mid-task → the same task finished by another agent."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from _bench import client, manifest, percentiles, row, running

KILLS = int(os.environ.get("BENCH_KILLS", "40"))


def main() -> None:
    with running(manifest("noop", replicas=1)) as installation:
        asyncio.run(idle(installation))
    with running(manifest("noop", replicas=2)) as installation:
        asyncio.run(in_mid_task(installation))
    peer = supervisord()
    row("kill -9 → the replacement's own clock, supervisord", percentiles(peer) if peer else "not installed")


async def idle(installation: object) -> None:
    taken = []
    async with client(installation) as program:  # type: ignore[arg-type]  # an Installation
        for _ in range(KILLS):
            await program.run("noop", "noop", payload="")
            pid = pid_of(installation)
            before = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            await program.run("noop", "noop", payload="")
            taken.append(time.perf_counter() - before)
    row("kill -9 of an idle agent → its replacement did a task", percentiles(taken))


def pid_of(installation: object, busy: str = "") -> int:
    for agent in installation.agents().values():  # type: ignore[attr-defined]  # an Installation
        if agent["state"] == "ready" and busy in ("", agent["id"]):
            return int(agent["pid"])
    return pid_of(installation, busy)


async def in_mid_task(installation: object) -> None:
    taken = []
    async with client(installation) as program:  # type: ignore[arg-type]  # an Installation
        with installation.http() as http:  # type: ignore[attr-defined]  # an Installation
            for _ in range(KILLS):
                await program.run("noop", "noop", payload="")
                running_task = asyncio.ensure_future(program.run("noop", "nap", seconds=0.3))
                holder = ""
                while not holder:
                    await asyncio.sleep(0.01)
                    shown = http.get("/api/v1/tasks", params={"state": "running"}).json()["items"]
                    holder = next((task["agent"] for task in shown if task["method"] == "nap"), "")
                pid = pid_of(installation, holder)
                before = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                await running_task
                taken.append(time.perf_counter() - before - 0.3)
    row("kill -9 in mid-task → done by another, less the task's 300 ms", percentiles(taken))


def supervisord() -> list[float]:
    """The same kill under supervisord; [] when it is not installed."""
    if importlib.util.find_spec("supervisor") is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder, "stamp")
        child = f"import os,time; open({str(stamp)!r},'w').write(f'{{os.getpid()}} {{time.time()}}'); time.sleep(9999)"
        Path(folder, "s.conf").write_text(
            textwrap.dedent(f"""
            [supervisord]
            nodaemon=true
            logfile={folder}/s.log
            pidfile={folder}/s.pid
            [program:child]
            command={sys.executable} -c "{child}"
            autorestart=true
            startsecs=0
            """)
        )
        keeper = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", f"{folder}/s.conf"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        taken = []
        try:
            pid, _ = stamped(stamp, 0)
            for _ in range(min(KILLS, 10)):
                before = time.time()
                os.kill(pid, signal.SIGKILL)
                pid, at = stamped(stamp, pid)
                taken.append(at - before)
        finally:
            keeper.terminate()
            keeper.wait(20)
        return taken


def stamped(path: Path, not_pid: int) -> tuple[int, float]:
    """(pid, start) that the child wrote, once it is another than `not_pid`."""
    while True:
        words = path.read_text().split() if path.exists() else []
        if len(words) == 2 and int(words[0]) != not_pid:
            return int(words[0]), float(words[1])
        time.sleep(0.001)


if __name__ == "__main__":
    main()
