"""Health probes over HTTP: one scheduler for all agents, a bounded number under way at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from paddock.agent.owner import Owner
from paddock.model.fleet import FleetSpec
from paddock.node.deadlines import Deadlines
from paddock.node.journal import Row

AT_ONCE = 64
FIRST_S = 0.1
GROWTH = 1.5
TIMEOUT_S_MAX = 5.0
_HOLE = re.compile(r"\{port(?:\.([a-z0-9_-]+))?\}")


class Probed(Protocol):
    """An agent that is probed."""

    id: str
    running: FleetSpec
    row: Row
    ready_at: float | None

    def said_probe(self, problem: str, fails: int) -> None: ...


class Prober:
    """Until an agent is ready it is asked often, then every `every_s`, spread by lot."""

    def __init__(self, deadlines: Deadlines, owner: Owner, dice: Callable[[], float]) -> None:
        self._deadlines, self._owner, self._dice = deadlines, owner, dice
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._watched: dict[str, _Watch] = {}

    def watch(self, agent: Probed) -> None:
        watch = self._watched[agent.id] = _Watch(agent)
        self._deadlines.set((agent.id, "probe"), FIRST_S, lambda late_s: self._due(watch))

    def forget(self, agent: Probed) -> None:
        self._watched.pop(agent.id, None)
        self._deadlines.drop((agent.id, "probe"))

    def _due(self, watch: _Watch) -> None:
        self._owner.start(f"probe {watch.agent.id}", self._probe(watch))

    async def _probe(self, watch: _Watch) -> None:
        agent, health = watch.agent, watch.agent.running.health
        async with self._slots:
            url = fill(health.http, agent.row.ports)
            problem = await ask(url, min(max(health.every_s, 0.2), TIMEOUT_S_MAX))
        if self._watched.get(agent.id) is not watch:
            return  # it has ended meanwhile
        watch.fails = watch.fails + 1 if problem else 0
        agent.said_probe(problem, watch.fails)
        if agent.ready_at is None:
            watch.every_s = min(watch.every_s * GROWTH, max(health.every_s, FIRST_S))
        else:
            watch.every_s = health.every_s * (0.8 + 0.4 * self._dice())
        self._deadlines.set((agent.id, "probe"), watch.every_s, lambda late_s: self._due(watch))


class _Watch:
    def __init__(self, agent: Probed) -> None:
        self.agent = agent
        self.fails = 0
        self.every_s = FIRST_S


def fill(url: str, ports: Mapping[str, int]) -> str:
    """Replace `{port}` and `{port.name}`; a port that there is not stays as it is, and the probe says so."""
    return _HOLE.sub(lambda hole: str(ports.get(hole[1] or "port", hole[0])), url)


async def ask(url: str, timeout_s: float) -> str:
    """GET `url`; empty when the answer is below 400, else what is wrong."""
    try:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls or None, limit=8192)
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                head = (
                    f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: paddock\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode())
                line = await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        return f"{url} did not answer within {timeout_s:g} s"
    except (OSError, ValueError) as error:
        return f"{url}: {error}"
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"{url} did not answer with HTTP"
    status = int(words[1])
    return "" if status < 400 else f"{url} answered {status}"
