"""The HTTP API while tasks run: one page of 5,000 agents, one agent, alive; each asked again and again by one caller.

The 5,000 agents are what a node would tell of them, written to the fabric by this program: to the server they are the
same as living ones, and the machine's memory is left to what is measured. Two living agents do the tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from _bench import PAYLOAD, client, manifest, percentiles, row, running

from paddock.fabric import subjects
from paddock.fabric.client import connect
from paddock.fabric.identity import Identities
from paddock.model.agent import AgentState, AgentStatus
from paddock.ports.fabric import Fabric
from paddock.testing.installation import Installation
from paddock.testing.wait import until

AGENTS = int(os.environ.get("BENCH_AGENTS", "5000"))
TASKS_PER_S = int(os.environ.get("BENCH_TASKS_PER_S", "500"))
CALLS = int(os.environ.get("BENCH_CALLS", "1000"))
BURST_S = 0.01

Ask = Callable[[str], bytes]
"""From a path to the body of its answer."""


def main() -> None:
    with running(manifest("noop", replicas=2, concurrency=128)) as installation:
        asyncio.run(tell(installation))
        with caller(installation) as ask:
            page = f"/api/v1/agents?fleet=told&limit={AGENTS}"
            until(
                lambda: len(msgspec.json.decode(ask(page))["items"]) == AGENTS,
                what=f"the server knows {AGENTS} agents on one page",
                limit_s=60,
                every_s=0.2,
            )
            with load(installation):
                for name, path, calls in (
                    (f"one page of {AGENTS:,} agents", page, CALLS // 5),
                    ("one agent", "/api/v1/agents/told/2500", CALLS),
                    ("/healthz", "/healthz", CALLS),
                ):
                    before = done(ask), time.perf_counter()
                    taken = percentiles([timed(ask, path) for _ in range(calls)])
                    rate = (done(ask) - before[0]) / (time.perf_counter() - before[1])
                    row(f"API, {name}, {rate:,.0f} tasks/s meanwhile", taken)


def done(ask: Ask) -> int:
    """Tasks that have ended so far, as the server counts them."""
    states = msgspec.json.decode(ask("/status"))["tasks"].get("noop", {})
    return int(states.get("done", 0))


def timed(ask: Ask, path: str) -> float:
    before = time.perf_counter()
    ask(path)
    taken = time.perf_counter() - before
    time.sleep(0.005)  # people and probes ask one at a time, not as fast as they can
    return taken


@contextlib.contextmanager
def caller(installation: Installation) -> Iterator[Ask]:
    """A function from a path to the body of its answer, over one connection: no client library's time is measured."""
    where = urlsplit(installation.running("server")["url"])
    headers = {"Authorization": f"Bearer {(installation.data / 'token').read_text().strip()}"}
    held = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)

    def ask(path: str) -> bytes:
        held.request("GET", path, headers=headers)
        answer = held.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body

    yield ask
    held.close()


async def tell(installation: Installation) -> None:
    """Write the status of AGENTS agents of a fleet `told` on a node `bench`."""
    creds = Identities.open(installation.data / "fabric/keys").minter("node").creds("bench", {"node": "bench"})
    url = installation.running("fabric")["url"]
    fabric = await connect(url, creds=creds, inbox="_INBOX.node.bench", name="bench")
    try:
        for first in range(0, AGENTS, 250):
            await asyncio.gather(*(tell_one(fabric, str(n)) for n in range(first, min(AGENTS, first + 250))))
    finally:
        await fabric.close()


async def tell_one(fabric: Fabric, name: str) -> None:
    status = AgentStatus(
        id=f"told/{name}",
        fleet="told",
        state=AgentState.READY,
        pid=1,
        epoch=1_700_000_000_000,
        health=100,
        node="bench",
        started_at=1_700_000_000.0,
        template="0123456789ab",
    )
    subject = f"$KV.now.{subjects.now_agent('bench', 'told', name)}"
    await fabric.store(subject, msgspec.json.encode(status))


@contextlib.contextmanager
def load(installation: Installation) -> Iterator[None]:
    """TASKS_PER_S tasks by a program of its own, from when the first were done."""
    command = [sys.executable, __file__, "load", str(installation.data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"running\n"
            yield
        finally:
            program.terminate()


async def submit(data: Path) -> None:
    async with client(Installation(data)) as program:
        await program.run("noop", "noop", payload=PAYLOAD)
        print("running", flush=True)
        due, under_way = time.perf_counter(), set[asyncio.Task[object]]()
        while True:
            due += BURST_S
            for _ in range(int(TASKS_PER_S * BURST_S)):
                under_way.add(task := asyncio.ensure_future(program.run("noop", "noop", payload=PAYLOAD)))
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        asyncio.run(submit(Path(sys.argv[2])))
    else:
        main()
