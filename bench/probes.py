"""What probes and vitals of 5,000 agents cost a node: processor time of this process, against a bare asyncio GET.

The server that is asked runs in a process of its own; what it costs is not counted. Nothing is timed by the wall.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import cast

import uvloop
from _bench import row

from paddock.agent.clock import HostClock
from paddock.agent.owner import Owner
from paddock.model.fleet import FleetSpec
from paddock.model.health import Probe, ProbeFact, Vitals
from paddock.node.deadlines import Deadlines
from paddock.node.journal import Row
from paddock.node.launching import Paths
from paddock.node.leftovers import Leftovers
from paddock.node.probes import Prober
from paddock.node.vitals import BATCH_MAX, Meter, VitalsTeller
from paddock.ports.runtime import Handle, Usage
from paddock.runtimes import process
from paddock.testing.fabric import FakeBroker

AGENTS = 5_000
EVERY_S = 30.0
ROUND_S = 10.0
"""The round that is measured: so many seconds instead of EVERY_S; the cost of a probe does not depend on it."""
BARE = 2_000
SHARE_MAX = 0.10
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{"status":"ok"}'


class Asked(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)
        self.transport.close()


def serve(told: Connection) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Asked, "127.0.0.1", 0, backlog=1024)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


async def bare(port: int) -> None:
    """What anybody would write."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    line = await reader.readline()
    assert b"200" in line
    writer.close()


class OneAgent:
    """An agent as the prober and the teller see it."""

    def __init__(self, number: int, port: int, live: process.Process, probe: Probe) -> None:
        self.id = f"bots/{number}"
        self.running = FleetSpec(name="bots", runtime="exec")
        self.row = Row(ports={"port": port})
        self.paths = Paths("", "", "")
        self.ready_at: float | None = 0.0
        self.probes: dict[str, ProbeFact] = {}
        self.said = 0
        self.meter = Meter(live, HostClock())

    def usage(self) -> Usage | None:
        return self.meter.read()

    def said_probe(self, probe: Probe, fact: ProbeFact) -> None:
        assert not fact.fails, fact.text
        self.probes[probe.name] = fact
        self.said += 1

    def vitals(self, now: float) -> Vitals | None:
        used = self.usage()
        assert used is not None
        return Vitals(
            self.id, 1, now, dict(self.probes), True, 0.1, used.memory_bytes, used.cpus, used.open_files, used.threads
        )


async def cost(work: Callable[[], Awaitable[None]]) -> float:
    """Seconds of processor time of this process."""
    before = time.process_time()
    await work()
    return time.process_time() - before


async def one_round(agents: list[OneAgent], probe: Probe) -> float:
    """All agents are probed once or more in ROUND_S; processor time for each probe."""
    deadlines = Deadlines(HostClock())
    owner = Owner(lambda name, error: print(name, repr(error)))
    leftovers = Leftovers(owner, HostClock(), subreaper=False)
    prober = Prober(deadlines, owner, HostClock(), HostClock().dice, leftovers)
    for agent in agents:
        prober.watch(agent, [probe])

    async def rest() -> None:
        await asyncio.sleep(ROUND_S)

    spent = await cost(rest)
    for agent in agents:
        prober.forget(agent)
    await owner.close()
    deadlines.close()
    return spent / sum(agent.said for agent in agents)


async def measure(port: int) -> None:
    live = process.Process(
        Handle(runtime="exec", pid=os.getpid(), start_ticks=process.first_ticks(os.getpid()), epoch=1),
        os.pidfd_open(os.getpid()),
        watch=False,
    )
    for _ in range(200):
        await bare(port)

    async def bares() -> None:
        """At the pace of the probes: who wakes for each one pays more for it than who does many at once."""
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        for number in range(BARE):
            loop.call_later(number * ROUND_S / AGENTS, lambda: tasks.append(loop.create_task(bare(port), name="bare")))
        await asyncio.sleep(BARE * ROUND_S / AGENTS + 0.5)
        await asyncio.gather(*tasks)

    bare_s = await cost(bares) / BARE
    row("bare asyncio GET, at the same pace", f"{bare_s * 1e6:.0f} µs of processor", who="asyncio streams")
    total = 0.0
    for name, match in (("", ""), (" with a pattern for the body", '"status": ?"ok"')):
        probe = Probe(name="up", kind="http", url="http://127.0.0.1:{port}/health", match=match, every_s=ROUND_S)
        agents = [OneAgent(number, port, live, probe) for number in range(AGENTS)]
        each_s = await one_round(agents, probe)
        share = each_s * AGENTS / EVERY_S
        total = max(total, share)
        row(
            f"{AGENTS} http probes every {EVERY_S:g} s{name}",
            f"{share:.1%} of a core: {each_s * 1e6:.0f} µs a probe, {each_s / bare_s:.2f} of a bare GET",
            target=f"< {SHARE_MAX:.0%}",
            met=share < SHARE_MAX,
        )
    teller = VitalsTeller("bench", FakeBroker().connect("node"), HostClock(), lambda: agents)

    async def tell() -> None:
        for _ in range(int(EVERY_S) + 1):
            teller.tick()

    spent = await cost(tell)
    row(
        f"vitals of {AGENTS} agents every {EVERY_S:g} s, in batches of ≤ {BATCH_MAX}",
        f"{spent / EVERY_S:.2%} of a core: {spent / AGENTS * 1e6:.0f} µs an agent",
    )
    both = total + spent / EVERY_S
    row("both together", f"{both:.1%} of a core", target=f"< {SHARE_MAX:.0%}", met=both < SHARE_MAX)
    live.let_go()


def main() -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        uvloop.run(measure(ours.recv()))
    finally:
        server.kill()
        server.join()


if __name__ == "__main__":
    main()
