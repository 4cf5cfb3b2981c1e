"""`kill -9` of an idle agent → its replacement takes work, beside supervisord, circus and pm2; and `kill -9` in
mid-task → the same task finished by another agent, beside what task queues do about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from _bench import client, manifest, p50_p99, percentiles, row, run, running, times
from _queues import ARQ, CELERY, DRAMATIQ, HUEY, RQ, TASKIQ, all_after_a_kill, tell_how, wanted
from _supervisors import rows as supervisors

from paddock.agent.calls import TaskOptions
from paddock.agent.client import Client
from paddock.fabric.client import connect
from paddock.fabric.identity import Identities
from paddock.model.errors import PaddockError
from paddock.testing.installation import Installation
from paddock.testing.wait import soon, until

IDLE_KILLS = int(os.environ.get("BENCH_IDLE_KILLS", "200"))
KILLS = int(os.environ.get("BENCH_KILLS", "500"))
ALL_KILLS = min(KILLS, 100)
SETTLE_S = 0.02
"""After an agent has answered, so that it has acknowledged what it did and waits for work."""
LOST_S = 30.0
"""A task without a result for so long counts as lost."""
AGENTS = 2
IDLE = "kill -9 of an idle agent → the replacement takes work"
MID_TASK = "kill -9 in mid-task → the task finished by another"
ALL = "kill -9 of all workers in mid-task → the task finished"


def main() -> None:
    supervisors(IDLE)
    with running(manifest("noop", replicas=1)) as installation:
        asyncio.run(idle(installation))
    queues = wanted((CELERY, DRAMATIQ, RQ, ARQ, TASKIQ, HUEY))
    tell_how(queues)
    for (name, everybody), text in all_after_a_kill(queues).items():
        row(ALL if everybody else MID_TASK, text, who=name)
    with running(manifest("noop", replicas=AGENTS)) as installation:
        asyncio.run(MidTask(installation).run())
        asyncio.run(MidTask(installation, everybody=True).run())


async def idle(installation: Installation) -> None:
    """The time includes a whole task: submitted at the kill, its result read by the program."""
    taken = []
    async with client(installation) as program:
        pid = await program.run("noop", "pid")
        for _ in range(IDLE_KILLS):
            await asyncio.sleep(SETTLE_S)
            before = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            pid = await program.run("noop", "pid")
            taken.append(time.perf_counter() - before)
    times(IDLE, taken, p50_ms=25, p99_ms=150)


class MidTask:
    """Kills whoever says on the socket that it has begun a task, and lets the next who says it finish."""

    def __init__(self, installation: Installation, *, everybody: bool = False) -> None:
        self._installation = installation
        self._everybody = everybody
        self._pids: list[int] = []
        self._killed_at: dict[str, float] = {}
        self._finished: Counter[str] = Counter()

    async def run(self) -> None:
        taken, lost = [], 0
        with tempfile.TemporaryDirectory(prefix="paddock-bench-") as folder:
            socket = str(Path(folder) / "socket")
            async with await asyncio.start_unix_server(self._begun, socket), client(self._installation) as program:
                for number in range(ALL_KILLS if self._everybody else KILLS):
                    self._pids = await all_answer(program)
                    name = f"{'all' if self._everybody else 'one'}-{number}"
                    try:
                        options = TaskOptions(id=name, wait_s=LOST_S)
                        await program.run("noop", "held", {"socket": socket, "name": name}, options=options)
                        taken.append(time.perf_counter() - self._killed_at[name])
                    except (PaddockError, TimeoutError) as error:
                        print(f"{name}: {type(error).__name__} {error}", flush=True)
                        lost += 1
        p50, p99 = p50_p99(taken)
        stored = await self._stored()
        recorded = await asyncio.to_thread(self._recorded)
        again = sum(count - 1 for count in stored.values())
        missing = sum(name not in stored or name not in recorded for name in self._killed_at)
        row(
            ALL if self._everybody else MID_TASK,
            f"{percentiles(taken)}; {max(lost, missing)} lost, {again} recorded twice, "
            f"{sum(count > 1 for count in self._finished.values())} finished twice",
            value=p50,
            target="0 lost, 0 recorded twice"
            if self._everybody
            else "p50 ≤ 10 ms, p99 ≤ 50 ms; 0 lost, 0 recorded twice",
            met=not lost and not missing and not again and (self._everybody or (p50 <= 0.010 and p99 <= 0.050)),
        )

    async def _begun(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name, pid = (await reader.readline()).decode().split()
        if name not in self._killed_at:
            self._killed_at[name] = time.perf_counter()
            for each in self._pids if self._everybody else [int(pid)]:
                os.kill(each, signal.SIGKILL)
        else:
            self._finished[name] += 1
            writer.write(b"go\n")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()

    async def _stored(self) -> Counter[str]:
        """How many results the stream holds of each task."""
        creds = self._installation.data / "reader.creds"
        creds.write_text(Identities.open(self._installation.data / "fabric/keys").minter("server").creds("bench", {}))
        url = self._installation.running("fabric")["url"]
        fabric = await connect(url, creds_path=str(creds), inbox="_INBOX.bench", name="bench")
        found: Counter[str] = Counter()
        try:
            after = 0
            while page := await fabric.read("RESULTS", after_seq=after, subject="result.noop.>"):
                found.update(name for each in page if (name := each.subject.rpartition(".")[2]) in self._killed_at)
                after = page[-1].seq
        finally:
            await fabric.close()
        return found

    def _recorded(self) -> set[str]:
        """The tasks that the record holds as done, once it has caught up."""

        def look() -> set[str]:
            done, after = set(), ""
            with self._installation.http() as http:
                while True:
                    params = {"state": "done", "limit": "1000", **({"after": after} if after else {})}
                    page = http.get("/api/v1/tasks", params=params).raise_for_status().json()
                    done |= {item["id"] for item in page["items"]}
                    after = page["next"]
                    if not after:
                        return done

        with contextlib.suppress(AssertionError):
            until(lambda: set(self._killed_at) <= look(), what="the record has caught up", limit_s=10, every_s=0.2)
        return look()


async def all_answer(program: Client) -> list[int]:
    """The pids of the agents, once all are there and at leisure."""

    async def look() -> list[int]:
        try:
            return [await program.ask(f"noop/{n}", "pid", timeout_s=1.0) for n in range(AGENTS)]
        except (PaddockError, TimeoutError):
            return []

    pids = await soon(look, what="all agents answer", limit_s=30)
    await asyncio.sleep(SETTLE_S)
    return pids


if __name__ == "__main__":
    run(main)
