"""Known-answer tasks: whether an agent is not only up, but right. Asked along the path of direct questions, as any
caller asks; the answer is judged by the probe's rule.

One loop and one heap for all; at most AT_ONCE questions are under way.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from paddock.control.health import HealthKeeper
from paddock.control.mirror import Mirror
from paddock.control.owner import Owner
from paddock.decide.competence import wrong
from paddock.decide.redact import said
from paddock.fabric import subjects
from paddock.model.agent import AgentState, AgentStatus
from paddock.model.errors import NoResponders, PaddockError
from paddock.model.health import Probe, ProbeFact
from paddock.ports.clock import Clock
from paddock.ports.fabric import Fabric

AT_ONCE = 64
LOOK_S = 1.0
NEVER = float("inf")
RUNS = (AgentState.READY, AgentState.DEGRADED)


class Answer(msgspec.Struct, frozen=True):
    """The answer to `ask.F.A`; see docs/protocol.md."""

    ok: Any = None
    error: dict[str, Any] = {}


@dataclass
class _Held:
    fails: int = 0
    """In a row."""
    since: float = 0.0
    """When the first of them was."""
    epoch: int = 0
    """Of the incarnation that was asked last."""
    due: float = NEVER


class Competence:
    def __init__(
        self, fabric: Fabric, clock: Clock, mirror: Mirror, health: HealthKeeper, dice: Callable[[], float]
    ) -> None:
        self._fabric, self._clock, self._mirror, self._health, self._dice = fabric, clock, mirror, health, dice
        self._owner: Owner | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._due: list[tuple[float, str, str]] = []
        """(when, agent, probe); one whose time is not that of `_known` any more counts for nothing."""
        self._known: dict[str, dict[str, _Held]] = {}
        """agent → probe → how it stands."""
        mirror.on_agent.append(self._agent_changed)
        mirror.on_gone.append(self._forget)

    async def run(self, owner: Owner) -> None:
        """For ever: ask who is due."""
        self._owner = owner
        for status in list(self._mirror.agents.values()):
            self._agent_changed(status)
        while True:
            now = self._clock.monotonic()
            while self._due and self._due[0][0] <= now:
                when, agent, name = heapq.heappop(self._due)
                held = self._known.get(agent, {}).get(name)
                if held is None or held.due != when:
                    continue
                if not owner.job(f"probe {agent}", self._ask(agent, name, held)):
                    self._at(now + LOOK_S, agent, name, held)
                    break
            left_s = self._due[0][0] - now if self._due else LOOK_S
            await self._clock.sleep(min(max(left_s, 0.0), LOOK_S))

    def _agent_changed(self, status: AgentStatus) -> None:
        """Of every agent that runs each probe is on the heap; of others it falls off when it is due. One that was wrong
        and lives anew is asked soon: whether that helped is waited for."""
        wanted = self._mirror.fleets.get(status.fleet)
        if wanted is None or status.state not in RUNS:
            return
        for probe in wanted.spec.health.probes:
            if probe.kind != "task":
                continue
            held = self._known.setdefault(status.id, {}).setdefault(probe.name, _Held(epoch=status.epoch))
            if held.fails and status.epoch > held.epoch:
                held.epoch = status.epoch
                self._at(self._clock.monotonic() + LOOK_S, status.id, probe.name, held)
            elif held.due == NEVER:
                self._again(status.id, probe, held)

    def _forget(self, agent: str) -> None:
        self._known.pop(agent, None)

    def _again(self, agent: str, probe: Probe, held: _Held) -> None:
        """Spread by lot, so that a thousand that started together are not asked together."""
        self._at(self._clock.monotonic() + probe.every_s * (0.5 + self._dice()), agent, probe.name, held)

    def _at(self, when: float, agent: str, name: str, held: _Held) -> None:
        held.due = when
        heapq.heappush(self._due, (when, agent, name))

    def _probe(self, agent: str, name: str) -> Probe | None:
        status = self._mirror.agents.get(agent)
        wanted = self._mirror.fleets.get(agent.partition("/")[0])
        if status is None or wanted is None or status.state not in RUNS:
            return None
        probes = wanted.spec.health.probes
        return next((probe for probe in probes if probe.name == name and probe.kind == "task"), None)

    async def _ask(self, agent: str, name: str, held: _Held) -> None:
        probe = self._probe(agent, name)
        if probe is None:
            held.due = NEVER
            return
        due, held.epoch = held.due, self._mirror.agents[agent].epoch
        async with self._slots:
            before = self._clock.monotonic()
            why = said(await self._answer(agent, probe), self._mirror.secrets(agent.partition("/")[0]))
            took_s = self._clock.monotonic() - before
        now = self._clock.now()
        held.since = (held.since if held.fails else now) if why else 0.0
        held.fails = held.fails + 1 if why else 0
        fact = ProbeFact(held.fails, probe.fails, probe.phase, took_s, now, why, held.since)
        self._health.answered(agent, name, fact)
        if held.due == due:  # else it is to be asked again already
            self._again(agent, probe, held)

    async def _answer(self, agent: str, probe: Probe) -> str:
        """What is wrong with its answer; empty when it is right."""
        fleet, _, own = agent.partition("/")
        question = msgspec.json.encode({"method": probe.method, "args": probe.args})
        try:
            reply = await self._fabric.request(subjects.ask(fleet, own), question, timeout_s=probe.timeout_s)
            answer = msgspec.json.decode(reply.data, type=Answer)
        except NoResponders:
            return f"{probe.method}: it does not listen to questions"
        except PaddockError as error:
            return f"{probe.method}: {error.message}"
        except msgspec.MsgspecError:
            return f"{probe.method}: its answer is not of the protocol's form"
        if answer.error:
            return f"{probe.method}: {str(answer.error.get('message', 'an error without a message'))[:200]}"
        return wrong(probe.expect, answer.ok)
