"""When each agent is probed: one heap for all, a bounded number under way, nothing per agent in between.

    started ──> startup probes, `health.http`: often, until they pass ──> ready
    ready ──> liveness, readiness, `health.http`: every `every_s` at the latest, spread by lot
                 └── failed ──> asked again sooner, so that the verdict is there within about one interval more

Times are counted from one question to the next, however long its answer takes: what hangs is found within `every_s` and
`fails` times `timeout_s`.

What follows from an outcome is not decided here: the agent is told. Task probes are the server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from paddock.agent.owner import Owner
from paddock.decide.redact import said, secrets_of
from paddock.model.fleet import FleetSpec, Health
from paddock.model.health import Probe, ProbeFact
from paddock.node import checks, launching, web
from paddock.node.deadlines import Deadlines
from paddock.node.journal import Row
from paddock.node.launching import Paths
from paddock.node.leftovers import Leftovers
from paddock.ports.clock import Clock
from paddock.ports.runtime import Usage
from paddock.runtimes import process

AT_ONCE = 512
"""Connections of probes under way."""
EXEC_AT_ONCE = 8
FIRST_S = 0.05
GROWTH = 1.25
SOON_S_MAX = 1.0
"""What is ready is asked first within this time, spread by lot: many may be ready together."""
EARLY = 0.1
"""A probe is asked up to this share of its interval before that is over, by lot."""
AGAIN_S_MIN = 0.2
TIMEOUT_S_MAX = 5.0

SHORTHAND = "health.http"
"""The name under which the outcome of `health.http` is told; no probe of a manifest can have it."""


class Probed(Protocol):
    """An agent that is probed."""

    id: str
    running: FleetSpec
    row: Row
    paths: Paths
    ready_at: float | None
    probes: dict[str, ProbeFact]

    def usage(self) -> Usage | None: ...
    def said_probe(self, probe: Probe, fact: ProbeFact) -> None: ...


def shorthand(health: Health) -> Probe:
    """What `health.http` means: it makes ready, degrades at once, and the node itself replaces whom it failed."""
    return Probe(
        name=SHORTHAND,
        kind="http",
        url=health.http,
        every_s=health.every_s,
        timeout_s=min(max(health.every_s, 0.2), TIMEOUT_S_MAX),
        fails=health.fails,
    )


def first_s(agent: Probed) -> float:
    """Within which time one that has just become ready is asked first. At once when it takes the place of another: that
    is waited for. Unless nothing but its start made it ready: then it may well not listen yet."""
    spec = agent.running
    said = spec.runtime == "python" or spec.health.http or any(p.phase == "startup" for p in spec.health.probes)
    return 0.0 if agent.row.restarts and said else SOON_S_MAX


class _Watch:
    """One probe of one incarnation."""

    __slots__ = ("agent", "asked", "every_s", "log", "probe")

    def __init__(self, agent: Probed, probe: Probe) -> None:
        self.agent, self.probe = agent, probe
        self.every_s = FIRST_S
        self.asked = 0
        self.log = checks.LogWatch(agent.paths.log) if probe.kind == "log" else None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.agent.id, "probe", self.probe.name


class Prober:
    def __init__(
        self, deadlines: Deadlines, owner: Owner, clock: Clock, dice: Callable[[], float], leftovers: Leftovers
    ) -> None:
        self._deadlines, self._owner, self._clock, self._dice = deadlines, owner, clock, dice
        self._leftovers = leftovers
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._exec_slots = asyncio.Semaphore(EXEC_AT_ONCE)
        self._watched: dict[str, list[_Watch]] = {}

    def watch(self, agent: Probed, probes: Sequence[Probe], *, first_s: float | None = None) -> None:
        """Begin to ask these of its running incarnation, the first time within `first_s` (without: at some time within
        each one's interval); what is asked already goes on."""
        watches = self._watched.setdefault(agent.id, [])
        known = {watch.probe.name for watch in watches}
        for probe in probes:
            if probe.kind == "task" or probe.name in known:
                continue
            watch = _Watch(agent, probe)
            watches.append(watch)
            within_s = probe.every_s if first_s is None else min(first_s, probe.every_s)
            self._set(watch, FIRST_S if agent.ready_at is None else within_s * self._dice())

    def forget(self, agent: Probed) -> None:
        for watch in self._watched.pop(agent.id, ()):
            self._deadlines.drop(watch.key)

    def _set(self, watch: _Watch, delay_s: float) -> None:
        self._deadlines.set(watch.key, delay_s, lambda late_s: self._due(watch))

    def _due(self, watch: _Watch) -> None:
        probe, agent = watch.probe, watch.agent
        if probe.kind == "log" and watch.log is not None:
            self._took(watch, watch.log.look(probe.match, secrets_of(agent.running)))
        elif probe.kind == "metric":
            self._took(watch, checks.metric(probe, agent.usage()))
        else:
            self._owner.start(f"probe {agent.id} {probe.name}", self._ask(watch))

    async def _ask(self, watch: _Watch) -> None:
        async with self._exec_slots if watch.probe.kind == "exec" else self._slots:
            if not self._asked_still(watch):
                return
            begun = self._clock.monotonic()
            problem = await ask(watch.probe, watch.agent, self._leftovers)
        self._took(watch, problem, self._clock.monotonic() - begun)

    def _asked_still(self, watch: _Watch) -> bool:
        return watch in self._watched.get(watch.agent.id, ())

    def _took(self, watch: _Watch, problem: str, latency_s: float = 0.0) -> None:
        agent, probe = watch.agent, watch.probe
        if not self._asked_still(watch):
            return  # it has ended meanwhile
        before = agent.probes.get(probe.name)
        fails = (before.fails if before is not None else 0) + 1 if problem else 0
        watch.asked += 1
        now, since = self._clock.now(), 0.0
        if problem:
            since = before.since if before is not None and before.fails else now
        agent.said_probe(probe, ProbeFact(fails, probe.fails, probe.phase, round(latency_s, 6), now, problem, since))
        if not self._asked_still(watch):
            return  # that was the last word on it
        if probe.phase == "startup" and not problem:
            self._watched[agent.id].remove(watch)
        elif agent.ready_at is None:
            watch.every_s = min(watch.every_s * GROWTH, max(probe.every_s, FIRST_S))
            self._set(watch, watch.every_s)
        elif fails and probe.name != SHORTHAND:
            self._set(watch, max(probe.every_s / probe.fails, min(AGAIN_S_MIN, probe.every_s)) - latency_s)
        elif watch.asked == 1:
            # What became ready together is asked together once; from now on by lot.
            self._set(watch, probe.every_s * max(EARLY, self._dice()) - latency_s)
        else:
            self._set(watch, probe.every_s * (1 - EARLY * self._dice()) - latency_s)


async def ask(probe: Probe, agent: Probed, leftovers: Leftovers) -> str:
    """Ask one http, tcp or exec probe now; empty when it passed, else what is wrong."""
    ports, spec = agent.row.ports, agent.running
    if probe.kind == "exec":
        # Not its PADDOCK_ variables: who has those is taken for the agent itself by a node that lost its journal.
        run = leftovers.probe_begins()
        env = process.base_env() | spec.env | launching.port_env(ports) | {"PADDOCK_PROBED": agent.id} | run
        check = checks.Check(
            command=[checks.fill(word, ports) for word in probe.command],
            cwd=spec.cwd or agent.paths.folder,
            env=env,
            user=spec.user,
            timeout_s=probe.timeout_s,
            secrets=secrets_of(spec),
        )
        try:
            return await checks.run(check)
        finally:
            leftovers.probe_ended(run)
    url = checks.fill(probe.url, ports)
    if probe.kind == "tcp":
        problem = await checks.tcp(url, probe.timeout_s)
    else:
        problem = await web.get(url, probe.timeout_s, match=probe.match, follow=probe.name != SHORTHAND)
    return said(problem, secrets_of(spec)) if problem else ""
